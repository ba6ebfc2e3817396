// AttentionMetric: what an error of keys or values costs by the attention that reads them.
//
// Keys: the second moments of what they are multiplied with (kv_moments.h), summed over the query heads of a
// KV head, over head_dim as logits are: the mean squared error of logits. Values: sum over those heads of
// W_h^T W_h, W_h the columns of the output projection that the head feeds: the squared error of what the
// layer adds to the residual stream, attention spread over one token. Both are per KV head; heads do not mix.
//
// Thread safety: pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kvplane/codec/model_profile.h"
#include "kvplane/model/model_config.h"
#include "kvplane/profile/basis_fit.h"
#include "kvplane/profile/kv_moments.h"

namespace kvplane::profile {

// Of one layer, by codec::KvSpace.
using SpaceMetrics = std::array<HeadMetrics, codec::kKvSpaces>;

// output_projection: [hidden, heads head_dim] row-major f32.
HeadMetrics ValueMetrics(const model::ModelConfig& config, std::span<const float> output_projection);

SpaceMetrics MetricsOf(const model::ModelConfig& config, const LayerMoments& moments,
                       std::span<const float> output_projection);

// Multiplies every head's metric by its factor. Requires: as many factors as heads.
void ScaleHeads(std::span<const double> factors, HeadMetrics& metrics);

}  // namespace kvplane::profile
