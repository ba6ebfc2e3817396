// Causal attention of the query heads that share one KV head, over paged bf16 K and V.
//
// Online softmax over tiles of keys (Dao et al., "FlashAttention", 2022; Milakov and Gimelshein, "Online
// normalizer calculation for softmax", 2018). Tiles are kAttentionTile keys, aligned to absolute positions,
// and every query row goes through the same operations in the same order whatever shares the call with it. So
// a token's result is bitwise the same in a prefill of any chunking and in a decode step. What calls share is
// only the unpacking of K and V, which is why more rows per call are faster: pass all heads of a group and
// many tokens.
//
//   score(t, j) = scale * (q_t . k_j)           j in (t - window, t]; all j <= t where window is 0
//   out_t       = sum_j softmax(score)_j * v_j
//
// Numerics: sums are f32. `f32` multiplies f32 by bf16; `bf16` rounds q and the unnormalised probabilities to
// bf16 first (twice as fast on CPUs with bf16 dot products) and rounds its output to bf16.
//
// Thread safety: pure functions given distinct `scratch` and output. Nothing is allocated.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/isa.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::kernel {

constexpr uint32_t kAttentionTile = 64;  // keys
constexpr uint32_t kMaxHeadDim = 1024;   // bounds scratch; the largest published head_dim is 512

struct AttentionArgs {
  const float* q = nullptr;  // [tokens, group, head_dim] f32 after RoPE, heads of this KV head only
  size_t q_stride = 0;       // elements from one token to the next; heads are head_dim apart
  const tensor::LayerPages* layer = nullptr;  // covers first_position + tokens; K is after RoPE
  uint32_t kv_head = 0;
  uint32_t group = 1;  // query heads per KV head
  uint32_t head_dim = 0;
  uint32_t tokens = 0;
  uint32_t first_position = 0;  // of q's first token
  uint32_t window = 0;          // keys a token sees, itself included; 0: all
  float scale = 1.0f;
  size_t out_stride = 0;         // elements from one token's output to the next; [tokens, group, head_dim]
  std::byte* scratch = nullptr;  // AttentionScratchBytes(head_dim, tokens * group), 64-byte aligned
};

// Bytes of scratch a call with `rows` = tokens * group rows needs, enough for every instruction set.
constexpr size_t AttentionScratchBytes(uint32_t head_dim, uint32_t rows) {
  const size_t width = (size_t{head_dim} + 15) / 16 * 16;
  const size_t tiles = 2 * kAttentionTile * width;                  // K and V of one tile as f32
  const size_t per_row = 2 * width + 2 * 16 + kAttentionTile + 16;  // q, output, running sum and maximum
  return (tiles + per_row * (size_t{rows} + 8)) * sizeof(float);
}

struct AttentionKernels {
  void (*f32)(const AttentionArgs& args, float* out);
  void (*bf16)(const AttentionArgs& args, uint16_t* out);
};

// Requires: `isa` is one of AvailableIsas().
const AttentionKernels& AttentionKernelsFor(Isa isa);

// The tables of the instruction sets; use AttentionKernelsFor.
extern const AttentionKernels kAttentionScalar;
extern const AttentionKernels kAttentionAvx2;
extern const AttentionKernels kAttentionAvx512;

// First and one-past-last key that a query at `position` sees.
struct KeyRange {
  uint32_t begin = 0;
  uint32_t end = 0;
};
constexpr KeyRange VisibleKeys(uint32_t position, uint32_t window) {
  const uint32_t end = position + 1;
  return {window != 0 && end > window ? end - window : 0, end};
}

}  // namespace kvplane::kernel
