// Stage `levels`: asymmetric uniform quantisation with any number of levels, 2..256: KVServe's quantiser
// (SIGCOMM 2026), in the arithmetic of `affine`. spec.md in this folder is normative.
//
// A number of levels that is no power of two is worth fractional bits behind an entropy coder; behind `pack`
// it takes whole ones.
#pragma once

#include <cstdint>
#include <memory>

#include "kvplane/codec/levels/level_groups.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/symbol_quantizer.h"

namespace kvplane::codec {

inline constexpr ParamSpec kLevelsParams[] = {
    {.name = "m",
     .meaning = "levels per value",
     .choices = {},
     .allowed = {},
     .min = 2,
     .max = 256,
     .default_of_side = {16, 16}},
    {.name = "low",
     .meaning = "levels in the low precision band (heads, layers); 0: as m",
     .choices = {},
     .allowed = {},
     .min = 0,
     .max = 256,
     .default_of_side = {0, 0}},
    {.name = "axis",
     .meaning = "whose groups: of each channel, of each token and head, or one per head of a tile",
     .choices = kLevelAxisNames,
     .allowed = {},
     .default_of_side = {0, 1}},
    {.name = "group",
     .meaning = "values that share a zero and a scale: tokens of a channel, or channels of a token; 0: all",
     .choices = {},
     .allowed = {},
     .min = 0,
     .max = 128,
     .multiple_of = 8,
     .default_of_side = {0, 0}},
};

struct LevelsConfig {
  uint32_t top = 0;      // the greatest code
  uint32_t low_top = 0;  // in the low band
  LevelGroups groups;

  // Of a call of `levels` or `affine`.
  static LevelsConfig Of(const StageCall& call);
};

extern const StageFunctions kLevelsFunctions;

// Symbols of `levels` and `affine`: the codes. Side information: zeros, then scales, each [heads, groups]
// bf16.
std::unique_ptr<SymbolQuantizer> MakeLevelsQuantizer(const LevelsConfig& config, Chain chain,
                                                     std::shared_ptr<const ModelProfile> profile);

}  // namespace kvplane::codec
