#include "kvplane/profile/profile_fit.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "kvplane/base/check.h"
#include "kvplane/model/rope_table.h"
#include "kvplane/model/safetensors.h"
#include "kvplane/model/weights.h"
#include "kvplane/profile/basis_fit.h"
#include "kvplane/profile/lane_rate.h"

namespace kvplane::profile {
namespace {

using codec::Basis;
using codec::KvSpace;

constexpr Basis kAllBases[] = {Basis::kChannel, Basis::kHead, Basis::kLayer, Basis::kHeadAttention,
                               Basis::kLayerAttention};
constexpr KvSpace kSpaceOf[] = {KvSpace::kKeyUnrotated, KvSpace::kValue};
// A head whose noise the output hardly shows still costs this share of the layer sides' geometric mean, and
// at most its inverse: beyond it the measurement is noise itself.
constexpr double kSensitivityRange = 64;

using FittedLayer = std::array<std::array<std::optional<FittedBasis>, codec::kBases>, codec::kKvSpaces>;

const Covariance& MomentsOf(const LayerMoments& layer, size_t space) {
  switch (static_cast<KvSpace>(space)) {
    case KvSpace::kKeyRotated:
      return layer.key_rotated;
    case KvSpace::kKeyUnrotated:
      return layer.key_unrotated;
    case KvSpace::kValue:
      break;
  }
  return layer.value;
}

double MeanVariance(const FittedBasis& basis) {
  double sum = 0;
  for (const double deviation : basis.deviations) sum += deviation * deviation;
  return sum / static_cast<double>(basis.deviations.size());
}

double UniformStep(const FittedBasis& basis) { return std::sqrt(12 * MeanVariance(basis)); }

// Channels that attention does not read would take steps without bound.
double WeightedStep(double slope, double cost, double mean_cost) {
  return slope / std::sqrt(std::max(cost, kMetricFloor * mean_cost));
}

double MeanCost(const FittedBasis& basis) {
  return std::accumulate(basis.costs.begin(), basis.costs.end(), 0.0) /
         static_cast<double>(basis.costs.size());
}

// c of profile_fit.h, out of unrotated keys and values; an attention basis where there is one.
double FindSlope(std::span<const FittedLayer> layers) {
  double sum = 0;
  double count = 0;
  for (const FittedLayer& layer : layers) {
    for (const KvSpace space : kSpaceOf) {
      const auto& bases = layer[static_cast<size_t>(space)];
      const auto& attention = bases[static_cast<size_t>(Basis::kLayerAttention)];
      const FittedBasis& basis = attention ? *attention : *bases[static_cast<size_t>(Basis::kChannel)];
      if (!(MeanVariance(basis) > 0) || !(MeanCost(basis) > 0)) continue;
      sum += std::log2(UniformStep(basis)) + 0.5 * std::log2(MeanCost(basis));
      ++count;
    }
  }
  return count > 0 ? std::exp2(sum / count) : 1.0;
}

void SetSteps(double slope, FittedBasis& basis) {
  const int16_t uniform = LaneLog(UniformStep(basis));
  const double mean_cost = MeanCost(basis);
  for (size_t i = 0; i < basis.data.lanes.size(); ++i) {
    codec::LaneScale& lane = basis.data.lanes[i];
    lane.uniform_step = uniform;
    lane.weighted_step = LaneLog(WeightedStep(slope, basis.costs[i], mean_cost));
  }
}

base::Result<FittedLayer> FitLayer(const LayerMoments& moments, const SpaceMetrics& metrics,
                                   std::span<const Basis> kinds, uint32_t max_rank) {
  FittedLayer layer;
  for (size_t space = 0; space < codec::kKvSpaces; ++space) {
    const BasisInput input{MomentsOf(moments, space), metrics[space], max_rank};
    for (const Basis kind : kinds) {
      KVPLANE_ASSIGN_OR_RETURN(layer[space][static_cast<size_t>(kind)], FitBasis(input, kind));
    }
  }
  return layer;
}

std::optional<codec::RopeData> RopeOf(const model::ModelConfig& config) {
  codec::RopeData rope;
  rope.magnitude = static_cast<float>(config.rope.attention_factor);
  rope.inverse_frequencies = model::RopeFrequencies(config.rope, config.head_dim);
  return rope;
}

base::Result<std::vector<SpaceMetrics>> ReadMetrics(const model::Model& model, const KvMoments& moments,
                                                    const std::filesystem::path& folder) {
  KVPLANE_ASSIGN_OR_RETURN(const model::Safetensors files, model::Safetensors::Open(folder));
  KVPLANE_RETURN_IF_ERROR(model::CheckWeights(files, model.config()));
  std::vector<SpaceMetrics> metrics;
  for (uint32_t layer = 0; layer < moments.geometry.layers; ++layer) {
    metrics.push_back(MetricsOf(model.config(), moments.layers[layer],
                                model::ReadOutputProjection(files, model.config(), layer)));
  }
  return metrics;
}

// From units of the layer's mean eigenvalue, in which sensitivities are measured, to nats.
void ScaleToNats(const SensitivityTable& sensitivities, std::vector<SpaceMetrics>& metrics) {
  double log_sum = 0;
  double count = 0;
  for (const auto& layer : sensitivities) {
    for (const auto& side : layer) {
      for (const Sensitivity& head : side) {
        if (!(head.per_error() > 0)) continue;
        log_sum += std::log(head.per_error());
        ++count;
      }
    }
  }
  const double mean = count > 0 ? std::exp(log_sum / count) : 1.0;
  for (size_t layer = 0; layer < metrics.size(); ++layer) {
    const double scale[] = {MeanEigenvalue(metrics[layer][static_cast<size_t>(KvSpace::kKeyUnrotated)]),
                            MeanEigenvalue(metrics[layer][static_cast<size_t>(KvSpace::kValue)])};
    for (size_t space = 0; space < codec::kKvSpaces; ++space) {
      const size_t side = space == static_cast<size_t>(KvSpace::kValue) ? 1 : 0;
      std::vector<double> factors;
      for (const Sensitivity& head : sensitivities[layer][side]) {
        factors.push_back(std::clamp(head.per_error(), mean / kSensitivityRange, mean * kSensitivityRange) /
                          scale[side]);
      }
      ScaleHeads(factors, metrics[layer][space]);
    }
  }
}

double MeanBits(const codec::BasisData& basis, size_t width, bool weighted) {
  double bits = 0;
  for (const codec::LaneScale& lane : basis.lanes) {
    const int16_t step = weighted ? lane.weighted_step : lane.uniform_step;
    const double ratio = static_cast<double>(lane.deviation - step) / codec::kOctave +
                         kPredictedSnrDb / (20 * std::log10(2.0));
    bits += lane.deviation == codec::kMinLaneLog ? 0 : GaussianBits(std::exp2(ratio), 1.0);
  }
  return bits / static_cast<double>(width);
}

FitRow DescribeRow(const codec::SpaceData& space, const Covariance& moments,
                   std::span<const Sensitivity> sensitivities) {
  const codec::BasisData& basis = *space.bases[static_cast<size_t>(Basis::kLayerAttention)];
  FitRow row;
  row.deviation = std::sqrt(moments.Central().Trace() / static_cast<double>(moments.size()));
  row.uniform_bits = MeanBits(basis, moments.size(), false);
  row.weighted_bits = MeanBits(basis, moments.size(), true);
  for (const Sensitivity& head : sensitivities) row.sensitivity += head.per_error();
  row.sensitivity /= static_cast<double>(sensitivities.size());
  return row;
}

}  // namespace

base::Result<codec::ModelProfileData> AssembleProfile(const KvMoments& moments,
                                                      std::span<const SpaceMetrics> metrics,
                                                      std::span<const Basis> kinds, uint32_t max_rank) {
  KVPLANE_CHECK(metrics.size() == moments.layers.size());
  std::vector<FittedLayer> layers;
  for (size_t layer = 0; layer < metrics.size(); ++layer) {
    KVPLANE_ASSIGN_OR_RETURN(layers.emplace_back(),
                             FitLayer(moments.layers[layer], metrics[layer], kinds, max_rank));
  }
  const double slope = FindSlope(layers);
  codec::ModelProfileData data;
  data.geometry = moments.geometry;
  data.layers.resize(layers.size());
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    for (size_t space = 0; space < codec::kKvSpaces; ++space) {
      codec::SpaceData& out = data.layers[layer][space].emplace();
      out.mean = FitMean(MomentsOf(moments.layers[layer], space));
      for (size_t kind = 0; kind < codec::kBases; ++kind) {
        std::optional<FittedBasis>& basis = layers[layer][space][kind];
        if (!basis) continue;
        SetSteps(slope, *basis);
        out.bases[kind] = std::move(basis->data);
      }
    }
  }
  return data;
}

std::vector<uint16_t> RankHeads(const SensitivityTable& sensitivities) {
  std::vector<double> importance;
  for (const auto& layer : sensitivities) {
    for (size_t head = 0; head < layer[0].size(); ++head) {
      importance.push_back(layer[0][head].kl + layer[1][head].kl);
    }
  }
  std::vector<uint16_t> order(importance.size());
  std::iota(order.begin(), order.end(), uint16_t{0});
  // Equals by place: what std::stable_sort gives, which clang-19 does not compile with libstdc++ 12.
  std::sort(order.begin(), order.end(), [&](uint16_t a, uint16_t b) {
    return importance[a] != importance[b] ? importance[a] < importance[b] : a < b;
  });
  std::vector<uint16_t> rank(order.size());
  for (size_t place = 0; place < order.size(); ++place) rank[order[place]] = static_cast<uint16_t>(place);
  return rank;
}

base::Result<ProfileFit> FitProfile(model::Model& model, base::ThreadPool& pool,
                                    const std::filesystem::path& folder,
                                    std::span<const std::vector<int32_t>> prompts,
                                    const FitOptions& options) {
  KVPLANE_ASSIGN_OR_RETURN(const KvMoments moments, CaptureMoments(model, prompts, options.capture));
  KVPLANE_ASSIGN_OR_RETURN(std::vector<SpaceMetrics> metrics, ReadMetrics(model, moments, folder));
  constexpr Basis kProbed[] = {Basis::kChannel, Basis::kHeadAttention};
  KVPLANE_ASSIGN_OR_RETURN(const codec::ModelProfileData probed,
                           AssembleProfile(moments, metrics, kProbed, 0));
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<ScoredSequence> probes, MakeProbes(prompts, options.probe));
  KVPLANE_ASSIGN_OR_RETURN(const SensitivityTable sensitivities,
                           MeasureSensitivity(model, pool, probed, probes, options.probe));
  ScaleToNats(sensitivities, metrics);
  KVPLANE_ASSIGN_OR_RETURN(codec::ModelProfileData data,
                           AssembleProfile(moments, metrics, kAllBases, options.max_rank));
  data.model_fingerprint = model.fingerprint();
  data.rope = RopeOf(model.config());
  data.head_rank = RankHeads(sensitivities);
  data.note = options.note;
  ProfileFit fit;
  fit.tokens = moments.tokens;
  for (size_t layer = 0; layer < data.layers.size(); ++layer) {
    std::array<FitRow, 2>& row = fit.rows.emplace_back();
    for (size_t side = 0; side < 2; ++side) {
      const auto space = static_cast<size_t>(kSpaceOf[side]);
      row[side] = DescribeRow(*data.layers[layer][space], MomentsOf(moments.layers[layer], space),
                              sensitivities[layer][side]);
    }
  }
  KVPLANE_ASSIGN_OR_RETURN(fit.profile, codec::ModelProfile::Create(std::move(data)));
  return fit;
}

}  // namespace kvplane::profile
