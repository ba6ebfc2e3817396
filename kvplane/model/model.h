// Model: a decoder-only transformer on the CPU that reads and writes a paged KV cache.
//
// One call of Forward runs one ragged step: any mix of prefill chunks and single decode tokens. A row's
// result depends neither on the other rows of the step, nor on how the prompt was cut into chunks, nor on the
// number of threads: bitwise. (GEMM rows are computed alike for every row count, attention works in key tiles
// aligned to absolute positions; model_test.cc holds both to it.)
//
// K in the cache is after RoPE; K and V are bf16. Logits and the residual stream are f32.
//
// Thread safety: none; one step at a time. The pool must outlive the model, and nobody else may use it during
// a step. Ownership: the model owns weights and activation buffers; pages belong to the caller.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/base/thread_pool.h"
#include "kvplane/model/model_config.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::model {

// The type of GEMM inputs (accumulation is always f32) and of attention's products. kAuto: bf16 where the
// weights are stored in bf16 and a short measurement at load finds it the faster one, else f32.
enum class ComputeType { kAuto, kBf16, kF32 };
std::string_view Name(ComputeType type);  // "auto", "bf16", "f32"

struct ModelOptions {
  ComputeType compute = ComputeType::kAuto;
  // Rows of one step, summed over its sequences; bounds the activation buffers. More is an error of Forward.
  uint32_t max_step_tokens = 8192;
};

// One sequence's share of a step. K and V of its tokens are written into `layers` pages, then attended.
struct SequenceInput {
  std::span<const int32_t> tokens;  // [n] n >= 1
  uint32_t first_position = 0;      // position of tokens[0]; KV of [0, first_position) is in the pages
  std::span<const tensor::LayerPages> layers;  // [layers]; pages cover first_position + n tokens
  bool all_logits = false;                     // logits for every token, not only the last
  bool no_logits = false;                      // a prefill chunk that is not the last one
};

// Called on the thread that calls Forward, but for OnProjections.
class LayerObserver {
 public:
  virtual ~LayerObserver() = default;
  // KV of this layer of earlier tokens is about to be read: may wait for its loads. An error ends the step.
  virtual base::Status BeforeAttention(uint32_t layer) = 0;
  // K and V of this layer of all sequences of the step are in the pages.
  virtual void AfterKvWrite(uint32_t layer) = 0;

  // Whether OnProjections is to be called; asked once per step.
  virtual bool WantsProjections() const { return false; }
  // Query, key and value of one row of the step before RoPE (biases and head norms applied), for calibration.
  // qkv: [(heads + 2 kv_heads) * head_dim] f32, valid during the call. Rows count the step's tokens in the
  // order of its sequences. Called from the workers, each row once per layer, all before AfterKvWrite(layer).
  virtual void OnProjections(uint32_t /*layer*/, uint32_t /*row*/, std::span<const float> /*qkv*/) {}
};

// One weight matrix of the model: y [rows, n] = x [rows, k] * w^T.
struct GemmShape {
  uint32_t n = 0;
  uint32_t k = 0;
  uint32_t per_forward = 0;  // how many such products one forward pass makes
};

class Model {
 public:
  // gemm_s and attention_s are summed over the workers, total_s is wall time inside Forward.
  struct Counters {
    double gemm_s = 0;
    double attention_s = 0;
    double total_s = 0;
    uint64_t tokens = 0;
  };

  // Reads config.json and the safetensors of `folder`, checks them, packs the weights. Corrupt or
  // InvalidArgument name the file and the tensor; Unimplemented names the unsupported setting.
  static base::Result<std::unique_ptr<Model>> Load(const std::filesystem::path& folder,
                                                   const ModelOptions& options, base::ThreadPool& pool);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const ModelConfig& config() const;
  tensor::KvGeometry kv_geometry() const;
  // SHA-256 over the config fields that change the arithmetic and over every weight's name, shape and bytes.
  const std::array<std::byte, 32>& fingerprint() const;
  ComputeType compute() const;  // never kAuto

  // logits: [rows, vocab] f32, rows in the order of the sequences (1 each; n with all_logits; 0 with
  // no_logits). InvalidArgument: an id outside the vocabulary, pages that do not cover the tokens, a position
  // beyond max_context; ResourceExhausted: more rows than max_step_tokens. Nothing is written in either case.
  // After an observer's error the pages of the step's tokens are undefined.
  base::Status Forward(std::span<const SequenceInput> sequences, LayerObserver* observer,
                       std::vector<float>& logits);

  const Counters& counters() const;
  void ResetCounters();
  // The shapes behind gemm_s, LM head last.
  std::vector<GemmShape> gemm_shapes() const;

 private:
  struct State;
  explicit Model(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace kvplane::model
