// KV that a model computed on text, as the codec benchmark takes it.
//
// Thread safety: none; the model's (one step at a time).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "apps/cli/codec_bench/distortion.h"
#include "apps/cli/kv_sample.h"
#include "kvplane/base/status.h"
#include "kvplane/model/model.h"

namespace kvplane::cli {

struct CapturedKv {
  PagedKv kv;
  SampledQueries queries;  // none: the values came without a model
};

// Prefills `tokens` (1 .. the model's max_context) in steps of `step_tokens` and keeps its KV, and the
// queries of `queries` tokens spread evenly over the second half: those attend to much of what is compressed.
base::Result<CapturedKv> CaptureKv(model::Model& model, std::span<const int32_t> tokens, uint32_t step_tokens,
                                   uint32_t queries);

// The positions of those queries, ascending; fewer when the half has fewer tokens.
std::vector<uint32_t> QueryPositions(uint32_t tokens, uint32_t queries);

}  // namespace kvplane::cli
