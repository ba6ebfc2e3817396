// Stage `centre`: takes the mean of every channel away. spec.md in this folder is normative.
//
// Keys have channels whose mean is many times their deviation (KIVI, ICML 2024, figure 2): a quantiser with
// one step for a head, or a class table around zero, pays for it. `static` takes the means of the profile,
// `block` those of the tile, which then stand in the tile.
//
// Thread safety: constant data, pure functions.
#pragma once

#include <cstdint>
#include <string_view>

#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {

enum class CentreScope : uint32_t { kStatic = 0, kBlock = 1 };

inline constexpr std::string_view kCentreScopes[] = {"static", "block"};
inline constexpr ParamSpec kCentreParams[] = {
    {.name = "scope",
     .meaning = "whose means: the profile's, or those of each tile (2 bytes per head and channel)",
     .choices = kCentreScopes,
     .allowed = {},
     .default_of_side = {0, 0}},
};

extern const StageFunctions kCentreFunctions;

// Whether the quantiser of the chain subtracts the static means itself, in its one pass over the bf16 values:
// `centre(static)` without `unrope` and without a transform, before `ecsq` or `ternary`. BindTransform()
// returns null for such a chain.
bool CoderTakesStaticMeans(Chain chain);

}  // namespace kvplane::codec
