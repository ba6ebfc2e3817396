// KvMoments: first and second moments of a model's keys, values and queries on text: what bases are fitted
// from.
//
// Keys and values are taken as the projections give them (before RoPE, biases and head norms applied), over
// all KV heads of a layer at once, so that bases of a head and of a layer come from one matrix.
//
// What a key is multiplied with. A query at position i reads the key at j <= i through RoPE: the logit is
// q^T R(j - i) k with both before rotation. So the error of an unrotated key costs by the second moment of
// R(i - j) q over queries and the keys they read; of a rotated key by that of R(i) q. Both are summed per KV
// head over the query heads that share it. j is drawn evenly from the keys that the query sees: for pairs of
// channels that turn often within a context this leaves what the average over all rotations leaves (blocks c
// I of each pair, nothing across pairs), slow pairs keep their structure.
//
// Thread safety: none; the pool must not be used by others meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/model/model.h"
#include "kvplane/profile/covariance.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::profile {

// Of one layer. W = kv_heads * head_dim, in the order (head, channel).
struct LayerMoments {
  explicit LayerMoments(const tensor::KvGeometry& geometry);

  Covariance key_rotated;                      // [W]
  Covariance key_unrotated;                    // [W]
  Covariance value;                            // [W]
  std::vector<Covariance> query_rotated;       // [kv_heads] of [head_dim]
  std::vector<Covariance> query_at_unrotated;  // [kv_heads] of [head_dim]: R(i - j) q
};

struct KvMoments {
  tensor::KvGeometry geometry;
  uint64_t tokens = 0;               // that went into the keys and values
  std::vector<LayerMoments> layers;  // [layers]
};

struct CaptureOptions {
  // Sinks: the first tokens of a sequence draw attention whatever they say and are like no others.
  uint32_t skip_tokens = 4;
  uint32_t step_tokens = 2048;  // rows of one step, at most the model's max_step_tokens
  uint64_t seed = 1;
};

// Prefills `prompts` and sums what their tokens [skip_tokens, end) make. Each prompt has at least
// skip_tokens + 1 and at most step_tokens tokens. Errors are those of Model::Forward; kInvalidArgument: no
// prompts, or one outside those bounds.
base::Result<KvMoments> CaptureMoments(model::Model& model, std::span<const std::vector<int32_t>> prompts,
                                       const CaptureOptions& options);

}  // namespace kvplane::profile
