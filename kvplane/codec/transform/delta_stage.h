// Stage `delta`: tokens less the anchor of their group. spec.md in this folder is normative.
//
// CacheGen (SIGCOMM 2024, section 5.1): close tokens are alike, so that differences to the first token of a
// group are smaller than the tokens; unlike chained differences they decode in parallel.
//
// Thread safety: constant data.
#pragma once

#include <string_view>

#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {

inline constexpr std::string_view kDeltaModes[] = {"anchor"};
inline constexpr ParamSpec kDeltaParams[] = {
    {.name = "mode",
     .meaning = "what is taken away: the first token of the group",
     .choices = kDeltaModes,
     .allowed = {},
     .default_of_side = {0, 0}},
    {.name = "group",
     .meaning = "tokens per group, anchor included",
     .choices = {},
     .allowed = {},
     .min = 4,
     .max = 64,
     .default_of_side = {8, 8}},
};

extern const StageFunctions kDeltaFunctions;

}  // namespace kvplane::codec
