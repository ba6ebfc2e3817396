#include "kvplane/profile/sensitivity.h"

#include <fmt/format.h>

#include <cmath>
#include <memory>

#include "kvplane/base/rng.h"
#include "kvplane/profile/basis_noise.h"

namespace kvplane::profile {
namespace {

constexpr codec::KvSpace kSpaceOf[] = {codec::KvSpace::kKeyUnrotated, codec::KvSpace::kValue};

float StepOf(const codec::LaneScale& lane, double snr_db) {
  const double octaves = static_cast<double>(lane.uniform_step) / codec::kOctave;
  return static_cast<float>(std::exp2(octaves) * std::pow(10.0, -snr_db / 20));
}

NoisePart HeadPart(const codec::ModelProfileData& data, uint32_t layer, tensor::Side side, uint32_t head,
                   double snr_db) {
  const codec::SpaceData& space =
      *data.layers[layer][static_cast<size_t>(kSpaceOf[static_cast<size_t>(side)])];
  const codec::BasisData& basis = *space.bases[static_cast<size_t>(codec::Basis::kHeadAttention)];
  NoisePart part{.layer = layer,
                 .side = side,
                 .mean = &space.mean,
                 .basis = codec::Basis::kHeadAttention,
                 .data = &basis,
                 .steps = std::vector<float>(basis.lanes.size())};
  for (size_t i = size_t{head} * basis.rank; i < size_t{head + 1} * basis.rank; ++i) {
    part.steps[i] = StepOf(basis.lanes[i], snr_db);
  }
  return part;
}

double MeanKl(std::span<const SequenceScore> scores) {
  double sum = 0;
  for (const SequenceScore& score : scores) sum += score.kl;
  return sum / static_cast<double>(scores.size());
}

}  // namespace

base::Result<std::vector<ScoredSequence>> MakeProbes(std::span<const std::vector<int32_t>> prompts,
                                                     const ProbeOptions& options) {
  const size_t needed = size_t{options.prefix_tokens} + options.scored_tokens + 1;
  if (options.scored_tokens >= options.prefix_tokens || options.sequences < 2) {
    return base::InvalidArgument("{} probes of {} tokens behind {}: at least 2, shorter than the prefix",
                                 options.sequences, options.scored_tokens, options.prefix_tokens);
  }
  if (prompts.empty()) return base::InvalidArgument("there are no prompts to probe with");
  base::Rng rng(options.seed);
  std::vector<ScoredSequence> probes;
  for (uint32_t i = 0; i < options.sequences; ++i) {
    const std::vector<int32_t>& prompt = prompts[i % prompts.size()];
    if (prompt.size() < needed) {
      return base::InvalidArgument("a prompt of {} tokens is too short for a probe of {}", prompt.size(),
                                   needed);
    }
    ScoredSequence probe{{prompt.begin(), prompt.begin() + static_cast<ptrdiff_t>(needed)},
                         options.prefix_tokens};
    if (i >= options.sequences / 2) {
      // The beginning of the sequence is no text.
      const size_t first = 1 + rng.Below(options.prefix_tokens - options.scored_tokens - 1);
      std::copy_n(prompt.begin() + static_cast<ptrdiff_t>(first), options.scored_tokens + 1,
                  probe.tokens.begin() + options.prefix_tokens);
    }
    probes.push_back(std::move(probe));
  }
  return probes;
}

base::Result<SensitivityTable> MeasureSensitivity(model::Model& model, base::ThreadPool& pool,
                                                  const codec::ModelProfileData& data,
                                                  std::span<const ScoredSequence> probes,
                                                  const ProbeOptions& options) {
  model::RopeTable rope(model.config().rope, model.config().head_dim);
  rope.Reserve(options.prefix_tokens);
  std::vector<std::unique_ptr<BasisNoise>> owned;
  std::vector<const KvTreatment*> treatments;
  const tensor::KvGeometry& geometry = data.geometry;
  for (uint32_t layer = 0; layer < geometry.layers; ++layer) {
    for (const tensor::Side side : tensor::kSides) {
      for (uint32_t head = 0; head < geometry.kv_heads; ++head) {
        std::vector<NoisePart> parts;
        parts.push_back(HeadPart(data, layer, side, head, options.snr_db));
        owned.push_back(
            std::make_unique<BasisNoise>(fmt::format("layer {}, {} of head {}", layer,
                                                     side == tensor::Side::kKey ? "keys" : "values", head),
                                         std::move(parts), rope, options.skip_tokens));
        treatments.push_back(owned.back().get());
      }
    }
  }
  KVPLANE_ASSIGN_OR_RETURN(const PairedScores scores,
                           PairedRun(model, pool, options.step_tokens).Run(probes, treatments));
  SensitivityTable table(geometry.layers);
  size_t at = 0;
  for (auto& layer : table) {
    for (auto& side : layer) {
      for (uint32_t head = 0; head < geometry.kv_heads; ++head, ++at) {
        side.push_back({MeanKl(scores[1 + at]), owned[at]->error_per_token()});
      }
    }
  }
  return table;
}

}  // namespace kvplane::profile
