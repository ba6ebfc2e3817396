// Stage `rans`: the entropy coder rANS-B (docs/formats/rans.md) behind a quantiser. spec.md in this folder is
// normative for table=stream, codec/ecsq/spec.md for table=class.
//
// table=class has constant tables that the profile chooses from: fused with `ecsq` and `ternary`, nothing is
// sent. table=stream makes tables for the tile at hand: any quantiser of byte symbols, no profile.
#pragma once

#include <cstdint>
#include <string_view>

#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {

enum class RansTableKind : uint32_t { kClass = 0, kStream = 1 };

inline constexpr std::string_view kRansTableNames[] = {"class", "stream"};
inline constexpr ParamSpec kRansParams[] = {
    {.name = "table",
     .meaning = "class: constants that the profile chooses from; stream: made for each tile",
     .choices = kRansTableNames,
     .allowed = {}},
};

extern const StageFunctions kRansFunctions;

}  // namespace kvplane::codec
