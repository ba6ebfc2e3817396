// A profile of the synthetic generator, so that strategies that take one can be measured without a model.
//
// Fitted by the profiler's own code on another draw of the same constants, as a profile of a model is fitted
// on other text than it is used on. Attention reads all directions alike here (unit metrics: nothing is known
// of queries), so attention bases are the plain ones. All layers have the same constants and share what was
// fitted on one.
//
// Thread safety: pure function; the pool is used for the call.
#pragma once

#include <memory>

#include "apps/cli/codec_bench/synthetic_kv.h"
#include "kvplane/base/status.h"
#include "kvplane/base/thread_pool.h"
#include "kvplane/codec/model_profile.h"

namespace kvplane::cli {

// What a basis over all heads may be wide: its eigenproblem takes about a second at 1,024.
constexpr uint32_t kMaxGeneratorLayerWidth = 1024;

// Wider layers get no layer basis, nor does anybody who does not ask for it. Requires: a valid spec. Errors
// are the fit's.
base::Result<std::shared_ptr<const codec::ModelProfile>> FitGeneratorProfile(const SyntheticSpec& spec,
                                                                             base::ThreadPool& pool,
                                                                             bool layer_basis = true);

}  // namespace kvplane::cli
