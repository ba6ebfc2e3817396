// Sensitivity: what the model's output loses per squared error of one head's keys or values, measured.
//
// One head's keys or values of one layer at a time are quantised coarsely (basis_noise.h) in the prefix of a
// sequence; the divergence of the model's predictions behind it, over the squared error made (in the head's
// attention metric), is what an error there costs. Two kinds of sequences, half each, because they need the
// cache in different ways: text that goes on, and a stretch of the prefix that is repeated, which the model
// predicts by reading it back (the probe of KVzip: J. Kim et al., 2025). Exact recall breaks before
// perplexity does.
//
// Thread safety: none; one thread at a time, which also owns the pool meanwhile.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/base/thread_pool.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/model/model.h"
#include "kvplane/profile/paired_run.h"

namespace kvplane::profile {

struct ProbeOptions {
  uint32_t sequences = 32;  // of each kind half
  uint32_t prefix_tokens = 512;
  uint32_t scored_tokens = 64;
  uint32_t skip_tokens = 4;  // sinks: left alone
  double snr_db = 9;         // of the noise, in the metric of attention
  uint32_t step_tokens = 2048;
  uint64_t seed = 1;
};

// Probes out of prompts: the first half go on as the text does, the others repeat a stretch of their prefix.
// kInvalidArgument: prompts shorter than prefix and scored tokens together.
base::Result<std::vector<ScoredSequence>> MakeProbes(std::span<const std::vector<int32_t>> prompts,
                                                     const ProbeOptions& options);

// Of one head's side.
struct Sensitivity {
  double kl = 0;     // nats per scored token, of the noise injected
  double error = 0;  // squared error of a token, in the units of the basis' lanes
  double per_error() const { return error > 0 ? kl / error : 0; }
};

// sensitivities: [layers][side][kv_heads].
using SensitivityTable = std::vector<std::array<std::vector<Sensitivity>, 2>>;

// `data` holds kHeadAttention bases with uniform steps in the unrotated key space and the value space.
base::Result<SensitivityTable> MeasureSensitivity(model::Model& model, base::ThreadPool& pool,
                                                  const codec::ModelProfileData& data,
                                                  std::span<const ScoredSequence> probes,
                                                  const ProbeOptions& options);

}  // namespace kvplane::profile
