// Stage `exponent`: lossless; few bits for the exponent, sign and mantissa as they are. spec.md in this
// folder is normative.
#pragma once

#include <cstdint>
#include <string_view>

#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {

enum class ExponentMode : uint32_t { kWindow = 0, kRans = 1 };
inline constexpr std::string_view kExponentModeNames[] = {"window", "rans"};
inline constexpr ParamSpec kExponentParams[] = {
    {.name = "mode",
     .meaning =
         "how exponents are coded: window: 4 bits in a window of 15, the others escape; rans: entropy-coded",
     .choices = kExponentModeNames,
     .allowed = {}},
};

extern const StageFunctions kExponentFunctions;

}  // namespace kvplane::codec
