#include "apps/cli/codec_bench/generator_profile.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "kvplane/profile/profile_fit.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::cli {
namespace {

constexpr uint32_t kFitTokens = 4096;

// Rows of one layer, all heads beside each other, without the sinks.
void AddRows(const PagedKv& kv, tensor::Side side, uint32_t first, profile::Covariance& covariance) {
  const tensor::KvGeometry& geometry = kv.geometry();
  std::vector<float> rows;
  for (uint32_t t = first; t < kv.tokens(); ++t) {
    for (uint32_t h = 0; h < geometry.kv_heads; ++h) {
      const uint16_t* row = kv.row(0, side, t, h);
      std::transform(row, row + geometry.head_dim, std::back_inserter(rows), tensor::Bf16ToFloat);
    }
  }
  covariance.Add(rows);
}

profile::KvMoments MomentsOf(SyntheticSpec spec, base::ThreadPool& pool) {
  spec.geometry.layers = 1;
  spec.tokens = spec.sinks + kFitTokens;
  spec.draw += 1;
  profile::KvMoments moments{spec.geometry, kFitTokens, {}};
  profile::LayerMoments& layer = moments.layers.emplace_back(spec.geometry);
  const PagedKv rotated = SyntheticKv(spec, pool);
  AddRows(rotated, tensor::Side::kKey, spec.sinks, layer.key_rotated);
  AddRows(rotated, tensor::Side::kValue, spec.sinks, layer.value);
  spec.rope_theta = 0;
  AddRows(SyntheticKv(spec, pool), tensor::Side::kKey, spec.sinks, layer.key_unrotated);
  return moments;
}

profile::SpaceMetrics UnitMetrics(const tensor::KvGeometry& geometry) {
  profile::SquareMatrix unit = profile::SquareMatrix::Zero(geometry.head_dim);
  for (uint32_t i = 0; i < geometry.head_dim; ++i) unit.at(i, i) = 1;
  profile::SpaceMetrics metrics;
  for (profile::HeadMetrics& space : metrics) space.assign(geometry.kv_heads, unit);
  return metrics;
}

}  // namespace

base::Result<std::shared_ptr<const codec::ModelProfile>> FitGeneratorProfile(const SyntheticSpec& spec,
                                                                             base::ThreadPool& pool,
                                                                             bool layer_basis) {
  const profile::KvMoments moments = MomentsOf(spec, pool);
  const profile::SpaceMetrics metrics = UnitMetrics(spec.geometry);
  std::vector<codec::Basis> kinds = {codec::Basis::kChannel, codec::Basis::kHead};
  if (layer_basis && spec.geometry.values_per_token_side() <= kMaxGeneratorLayerWidth)
    kinds.push_back(codec::Basis::kLayer);
  KVPLANE_ASSIGN_OR_RETURN(codec::ModelProfileData data,
                           profile::AssembleProfile(moments, {&metrics, 1}, kinds, 0));
  for (auto& space : data.layers[0]) {
    auto& bases = space->bases;
    bases[static_cast<size_t>(codec::Basis::kHeadAttention)] =
        bases[static_cast<size_t>(codec::Basis::kHead)];
    bases[static_cast<size_t>(codec::Basis::kLayerAttention)] =
        bases[static_cast<size_t>(codec::Basis::kLayer)];
  }
  data.geometry = spec.geometry;
  data.layers.resize(spec.geometry.layers, data.layers[0]);
  data.head_rank.resize(size_t{spec.geometry.layers} * spec.geometry.kv_heads);
  std::iota(data.head_rank.begin(), data.head_rank.end(), uint16_t{0});
  if (spec.rope_theta > 0) {
    data.rope = codec::RopeData{.magnitude = 1.0f, .inverse_frequencies = SyntheticRopeFrequencies(spec)};
  }
  data.note = "synthetic generator";
  return codec::ModelProfile::Create(std::move(data));
}

}  // namespace kvplane::cli
