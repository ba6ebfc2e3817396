// Stages `heads` and `layers`: put some (layer, head) into the low precision band, where a quantiser takes
// its parameter `low`. spec.md in this folder is normative.
//
// Heads differ in what an error in them costs; which ones are cheap is known offline (DuoAttention, ICLR
// 2025; as a precision split: KVServe, SIGCOMM 2026, "split_type"). The layer split is CacheGen's (SIGCOMM
// 2024).
//
// Thread safety: constant data, pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/tile_context.h"

namespace kvplane::codec {

inline constexpr ParamSpec kHeadsParams[] = {
    {.name = "ratio",
     .meaning = "percent of all (layer, head) of the model in the low band, the least important first",
     .choices = {},
     .allowed = {},
     .min = 0,
     .max = 100,
     .default_of_side = {50, 50}},
};

inline constexpr std::string_view kLayersLowNames[] = {"last", "first"};
inline constexpr ParamSpec kLayersParams[] = {
    {.name = "low", .meaning = "which layers are in the low band", .choices = kLayersLowNames, .allowed = {}},
    {.name = "ratio",
     .meaning = "percent of the layers in the low band",
     .choices = {},
     .allowed = {},
     .min = 0,
     .max = 100,
     .default_of_side = {33, 33}},
};

extern const StageFunctions kHeadsFunctions;
extern const StageFunctions kLayersFunctions;

// Whether the chain splits heads or layers into bands at all.
bool HasBands(Chain chain);

// The rule `bands` of the quantiser chain[at] with that `low`: kInvalidArgument where it has one and no band.
base::Status CheckLowHasBand(Chain chain, size_t at, uint32_t low);

// kFailedPrecondition: the chain ranks heads and the profile does not.
base::Status CheckBands(Chain chain, const ModelProfile* profile);

// Whether head `head` of a tile is in the low band. False for chains without bands. Requires: CheckBands() of
// chain and profile, a context that fits the profile.
bool InLowBand(Chain chain, const ModelProfile* profile, const TileContext& context, uint32_t head);

}  // namespace kvplane::codec
