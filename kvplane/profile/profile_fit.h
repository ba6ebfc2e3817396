// ProfileFit: a ModelProfile out of a model and text. What `kvplane profile fit` does.
//
//   1. Moments of keys, values and queries on the prompts (kv_moments.h); metrics of attention
//      (attention_metric.h).
//   2. Sensitivities: what the output loses per error of one head's keys or values, measured (sensitivity.h).
//      They scale the metrics, so that an error costs the same nats wherever it is.
//   3. Per layer and space: means, bases and deviations (basis_fit.h), then steps. Uniform: the mean variance
//      of the lanes is 0 dB. Weighted: one slope for the model, step = c / sqrt(cost of the lane): at high
//      rate a bit more or less anywhere then buys the same divergence (reverse water-filling). c makes both
//      kinds of steps equal on average over the layers' attention bases.
//   4. Head ranks: by the divergence that coarse quantisation of the head's keys and values costs together.
//
// Deterministic for a seed and a compute type: sums are made in a fixed order.
//
// Thread safety: none; one thread at a time, which also owns the pool meanwhile.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/base/thread_pool.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/model/model.h"
#include "kvplane/profile/attention_metric.h"
#include "kvplane/profile/kv_moments.h"
#include "kvplane/profile/sensitivity.h"

namespace kvplane::profile {

struct FitOptions {
  CaptureOptions capture;
  ProbeOptions probe;
  uint32_t max_rank = 0;  // of every basis; 0: all components
  std::string note;
};

// One layer and side, in its kLayerAttention basis (unrotated keys).
struct FitRow {
  double deviation = 0;      // root mean square over the channels, of the values themselves
  double uniform_bits = 0;   // predicted b/val of `ecsq(snr=21,weight=uniform)`
  double weighted_bits = 0;  // and with weight=model
  double sensitivity = 0;    // nats per squared error in the lanes' units, mean over the heads
};

struct ProfileFit {
  std::shared_ptr<const codec::ModelProfile> profile;
  uint64_t tokens = 0;                      // keys and values went into the moments
  std::vector<std::array<FitRow, 2>> rows;  // [layers][side]
};

// The signal-to-noise ratio that FitRow predicts sizes for.
constexpr double kPredictedSnrDb = 21;

// Fits on `prompts`; the first options.probe.sequences of them also serve as probes, over and over again
// where there are fewer. `folder`: the model's, for its output projections. Errors: those of the parts;
// kInvalidArgument for prompts that cannot serve.
base::Result<ProfileFit> FitProfile(model::Model& model, base::ThreadPool& pool,
                                    const std::filesystem::path& folder,
                                    std::span<const std::vector<int32_t>> prompts, const FitOptions& options);

// Steps 3 and 4 alone, from moments and metrics in nats. `kinds`: the bases to make, kChannel always among
// them.
base::Result<codec::ModelProfileData> AssembleProfile(const KvMoments& moments,
                                                      std::span<const SpaceMetrics> metrics,
                                                      std::span<const codec::Basis> kinds, uint32_t max_rank);

// [layers * kv_heads], the least important head first.
std::vector<uint16_t> RankHeads(const SensitivityTable& sensitivities);

}  // namespace kvplane::profile
