// Stage `cachegen`: CacheGen's quantiser (SIGCOMM 2024; as shipped, and with KVServe's three levels):
// symmetric, one scale per token over all heads of the tile, 32, 16 or 12 bins by where the layer stands.
// spec.md in this folder is normative. CacheGen's coder is not part of it: the code slot is free.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/symbol_quantizer.h"
#include "kvplane/codec/tile_context.h"

namespace kvplane::codec {

inline constexpr std::string_view kCachegenTierNames[] = {"key", "value"};
inline constexpr ParamSpec kCachegenParams[] = {
    {.name = "level",
     .meaning = "1: mid, then low; 2: high, then mid; 3: high in all layers",
     .choices = {},
     .allowed = {},
     .min = 1,
     .max = 3,
     .default_of_side = {2, 2}},
    {.name = "tiers",
     .meaning = "how far the finer layers reach: a third and two of the keys, 15 % of the values",
     .choices = kCachegenTierNames,
     .allowed = {},
     .default_of_side = {0, 1}},
};

extern const StageFunctions kCachegenFunctions;

// Bins of a layer: 32, 16 or 12.
uint32_t CachegenBins(const StageCall& call, uint32_t layer, uint32_t layers);

// Symbols: the code + M, M = bins / 2 - 1. Side information: scales, [tokens] bf16.
std::unique_ptr<SymbolQuantizer> MakeCachegenQuantizer(const StageCall& call);

}  // namespace kvplane::codec
