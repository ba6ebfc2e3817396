// Stage `exponent`: lossless; a few bits for the exponent, sign and mantissa as they are. spec.md in this
// folder is normative.
#pragma once

#include <cstdint>
#include <string_view>

#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {

inline constexpr std::string_view kExponentModeNames[] = {"window"};
inline constexpr ParamSpec kExponentParams[] = {
    {.name = "mode",
     .meaning = "how exponents are coded: 4 bits in a window of 15, the others escape",
     .choices = kExponentModeNames,
     .allowed = {}},
};

extern const StageFunctions kExponentFunctions;

}  // namespace kvplane::codec
