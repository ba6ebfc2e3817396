// Stage `zstd`: the byte planes of a tile, lossless, or the symbols of a quantiser through zstd (RFC 8878).
// spec.md in this folder is normative.
#pragma once

#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {

// Levels above 19 need memory out of proportion ("ultra").
inline constexpr ParamSpec kZstdParams[] = {
    {.name = "level",
     .meaning = "effort of the encoder; the decoder does not need it",
     .choices = {},
     .allowed = {},
     .min = 1,
     .max = 19,
     .default_of_side = {1, 1}},
};

extern const StageFunctions kZstdFunctions;

}  // namespace kvplane::codec
