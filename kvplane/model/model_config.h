// ModelConfig: what config.json says about a transformer, checked and brought to one spelling.
//
// Reads the keys of transformers 4 (rope_theta, rope_scaling, torch_dtype) and of transformers 5
// (rope_parameters, dtype) for Llama 2/3, Mistral, Qwen2/2.5 and Qwen3. Whatever would change the arithmetic
// and is not supported is refused by name, so that no model runs with silently wrong numbers.
//
// Thread safety: plain values.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/tensor/dtype.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::model {

// Upper bounds on what a config.json may ask for: they keep a hostile file from driving allocations. Each is
// several times what the largest published dense model uses.
constexpr uint32_t kMaxLayers = 512;
constexpr uint32_t kMaxHidden = 1u << 16;
constexpr uint32_t kMaxIntermediate = 1u << 18;
constexpr uint32_t kMaxHeads = 1024;
constexpr uint32_t kMaxVocab = 1u << 20;
constexpr uint32_t kMaxPositions = 1u << 24;

enum class Architecture { kLlama, kMistral, kQwen2, kQwen3 };
std::string_view Name(Architecture architecture);  // "LlamaForCausalLM", ...

enum class RopeType { kDefault, kLinear, kLlama3, kYarn };
std::string_view Name(RopeType type);  // "default", "linear", "llama3", "yarn"

// Rotary position embedding (Su et al., "RoFormer", 2021) and its context extensions; fields a type does not
// use keep their defaults.
struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000.0;
  double factor = 1.0;            // linear, llama3, yarn
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0;        // yarn
  double beta_slow = 1.0;         // yarn
  double attention_factor = 1.0;  // yarn: multiplies cos and sin; resolved from mscale where absent
  bool truncate = true;           // yarn: round the correction range outwards to whole dimensions
  uint32_t original_context = 0;  // llama3, yarn: original_max_position_embeddings
};

struct ModelConfig {
  Architecture architecture = Architecture::kLlama;
  uint32_t layers = 0;
  uint32_t hidden = 0;
  uint32_t intermediate = 0;
  uint32_t heads = 0;
  uint32_t kv_heads = 0;  // divides heads
  uint32_t head_dim = 0;  // a multiple of 8
  uint32_t vocab = 0;
  uint32_t max_context = 0;  // tokens; max_position_embeddings
  float norm_epsilon = 1e-6f;
  bool tied_embeddings = false;
  bool qkv_bias = false;     // q_proj, k_proj, v_proj
  bool output_bias = false;  // o_proj
  bool mlp_bias = false;     // gate_proj, up_proj, down_proj
  bool qk_norm = false;      // RMSNorm of each query and key head before RoPE
  RopeConfig rope;
  std::vector<uint32_t> windows;  // [layers] keys a token sees, itself included; 0: all
  int32_t bos_token = -1;         // -1: none
  std::vector<int32_t> eos_tokens;
  tensor::DType stored_dtype = tensor::DType::kBf16;  // what the file says; tensors are checked one by one

  tensor::KvGeometry kv_geometry() const { return {layers, kv_heads, head_dim, tensor::DType::kBf16}; }
  uint32_t query_width() const { return heads * head_dim; }
  uint32_t kv_width() const { return kv_heads * head_dim; }

  // Every field that changes the arithmetic, one `key=value` per line: part of the model's fingerprint.
  std::string Canonical() const;
};

// Parses the text of a config.json; `origin` names it in messages. InvalidArgument: not JSON, a key missing,
// of the wrong type or out of range; Unimplemented: a legal setting that is not supported, by name.
base::Result<ModelConfig> ParseModelConfig(std::string_view text, std::string_view origin);

// Reads `folder`/config.json. NotFound where it is absent.
base::Result<ModelConfig> LoadModelConfig(const std::filesystem::path& folder);

}  // namespace kvplane::model
