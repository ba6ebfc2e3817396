// What coding did to the KV of a sequence: signal to noise by side, and the error of attention's output.
//
// Attention error: for queries the model really asked, o = softmax(q K^T / sqrt(head_dim)) V over the causal
// prefix (within the layer's window), once with the KV as it was and once as it came back; per layer the
// relative error is sqrt(sum |o' - o|^2 / sum |o|^2) over all queries and heads. Softmax and sums are in
// binary64. The mean over layers says how much a strategy costs, the worst layer whether one layer fails.
//
// Thread safety: functions are pure; an AttentionJudge is immutable after construction. The pool is used for
// the call.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "apps/cli/kv_sample.h"
#include "kvplane/base/thread_pool.h"

namespace kvplane::cli {

// Sums of squares, by tensor::Side: the signal's over finite values; the noise is infinite where one of them
// came back as none, or the other way round.
struct SquaredError {
  std::array<double, 2> signal{};
  std::array<double, 2> noise{};

  void Add(const SquaredError& other);
  double SnrDb(size_t side) const;  // infinite when there is no noise; NaN without a signal
};

// decoded against original, all values. Requires: the same geometry and tokens.
SquaredError CompareValues(const PagedKv& original, const PagedKv& decoded, base::ThreadPool& pool);

// Queries of some tokens of one sequence, as attention takes them: after RoPE and norms.
struct SampledQueries {
  uint32_t heads = 0;               // query heads, a multiple of the KV heads; 0: none
  std::vector<uint32_t> positions;  // ascending, of tokens of the sequence
  std::vector<float> values;        // [layers, positions, heads, head_dim]
  std::vector<uint32_t> windows;    // [layers] keys a token sees, itself included; 0: all; empty: all

  const float* row(uint32_t layer, size_t position_index, uint32_t head, uint32_t head_dim) const {
    return values.data() + ((size_t{layer} * positions.size() + position_index) * heads + head) * head_dim;
  }
};

// By layer: sums over queries and heads.
struct AttentionError {
  std::vector<double> signal;  // [layers]
  std::vector<double> noise;   // [layers]

  void Add(const AttentionError& other);
  bool empty() const { return signal.empty(); }
  double Mean() const;                   // of the layers' relative errors
  double Worst() const;                  // the largest of them
  std::vector<double> PerLayer() const;  // [layers] relative errors
};

class AttentionJudge {
 public:
  // Computes the outputs on `original`. Requires: queries.heads a multiple of the KV heads, positions below
  // the sequence's tokens. Both are borrowed and must outlive the judge.
  AttentionJudge(const PagedKv& original, const SampledQueries& queries, base::ThreadPool& pool);

  AttentionError Judge(const PagedKv& decoded, base::ThreadPool& pool) const;

 private:
  // [positions, heads, head_dim] of one layer.
  void Attend(const PagedKv& kv, uint32_t layer, uint32_t kv_head, std::span<float> outputs) const;
  size_t layer_values() const;

  const PagedKv& original_;
  const SampledQueries& queries_;
  std::vector<float> outputs_;  // [layers, kv_heads, positions, group, head_dim]
};

}  // namespace kvplane::cli
