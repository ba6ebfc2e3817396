// Weights: a checkpoint's tensors, matched by name and shape to a ModelConfig, packed for the compute type.
//
// Names are Hugging Face's for the Llama family. A tensor that is missing, has another shape, or that the
// architecture does not know is an error: extra weights mean another arithmetic than ours.
//
// q, k, v are one matrix, gate and up another: one GEMM each. Norm weights, biases and the embedding are
// copied, so that nothing points into the mapped files afterwards.
//
// Thread safety: plain data.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/model/matmul.h"
#include "kvplane/model/model_config.h"
#include "kvplane/model/safetensors.h"

namespace kvplane::model {

struct LayerWeights {
  std::vector<float> input_norm;      // [hidden]
  std::vector<float> post_norm;       // [hidden] before the MLP
  PackedMatrix qkv;                   // [(heads + 2 kv_heads) head_dim, hidden]
  PackedMatrix output;                // [hidden, heads head_dim]
  PackedMatrix gate_up;               // [2 intermediate, hidden]
  PackedMatrix down;                  // [hidden, intermediate]
  std::vector<float> qkv_bias;        // [(heads + 2 kv_heads) head_dim] or empty
  std::vector<float> output_bias;     // [hidden] or empty
  std::vector<float> gate_up_bias;    // [2 intermediate] or empty
  std::vector<float> down_bias;       // [hidden] or empty
  std::vector<float> q_norm, k_norm;  // [head_dim] or empty
};

struct Weights {
  tensor::DType embedding_dtype = tensor::DType::kBf16;
  std::vector<std::byte> embedding;  // [vocab, hidden] of embedding_dtype
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;  // [hidden]
  PackedMatrix lm_head;           // [vocab, hidden]
  std::array<std::byte, 32> fingerprint{};

  // to: [hidden]
  void Embed(int32_t token, std::span<float> to) const;
};

// Every weight that `config` needs is present with its shape and a float type, and there is nothing else.
base::Status CheckWeights(const Safetensors& files, const ModelConfig& config);

// True when all weight matrices are stored as bf16.
bool StoredAsBf16(const Safetensors& files, const ModelConfig& config);

// The output projection of one layer as it is stored, [hidden, heads head_dim] row-major. Requires:
// CheckWeights passed.
std::vector<float> ReadOutputProjection(const Safetensors& files, const ModelConfig& config, uint32_t layer);

// Requires: CheckWeights passed.
base::Result<Weights> LoadWeights(const Safetensors& files, const ModelConfig& config, Matmul& matmul);

}  // namespace kvplane::model
