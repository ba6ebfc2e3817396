// What the stages of the geometry and transform slots have in common.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>

#include "kvplane/base/status.h"
#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {

// Rule L1 of a stage that changes values: its output is real numbers rounded to bf16, so a quantiser must
// stand after it; nothing lossless is left to code.
base::Status CheckBeforeQuantizer(Chain chain, size_t at);

// A row of stage functions for a stage that drives no tile.
constexpr StageFunctions TransformStage(bool (*needs_profile)(const StageCall&) = nullptr,
                                        bool (*needs_all_heads)(const StageCall&) = nullptr) {
  return {.validate = CheckBeforeQuantizer,
          .least_bytes = nullptr,
          .encode = nullptr,
          .decode = nullptr,
          .needs_profile = needs_profile,
          .needs_all_heads = needs_all_heads};
}

}  // namespace kvplane::codec
