// Stage `affine`: asymmetric uniform quantisation of groups (KIVI, ICML 2024). spec.md in this folder is
// normative.
#pragma once

#include <cstdint>

#include "kvplane/codec/levels/level_groups.h"
#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/strategy.h"

namespace kvplane::codec {

inline constexpr uint32_t kAffineBits[] = {2, 4, 8};
inline constexpr std::string_view kAffineAxisNames[] = {"channel", "token"};
// The defaults: 4 bits, groups of 64, KIVI's axes (keys by channel, values by token).
inline constexpr ParamSpec kAffineParams[] = {
    {.name = "bits",
     .meaning = "bits per code",
     .choices = {},
     .allowed = kAffineBits,
     .default_of_side = {4, 4}},
    {.name = "group",
     .meaning = "values that share a zero and a scale: tokens of a channel, or channels of a token",
     .choices = {},
     .allowed = {},
     .min = 8,
     .max = 128,
     .multiple_of = 8,
     .default_of_side = {64, 64}},
    {.name = "axis",
     .meaning = "whose groups: of each channel, or of each token and head",
     .choices = kAffineAxisNames,
     .allowed = {},
     .default_of_side = {0, 1}},
};

struct AffineConfig {
  uint32_t bits = 0;
  LevelGroups groups;

  // Whether a call is this stage, by its name or as `levels` with 4, 16 or 256 levels everywhere.
  static bool Covers(const StageCall& call);
  // Requires: Covers(call).
  static AffineConfig Of(const StageCall& call);
  uint32_t Top() const { return (1u << bits) - 1; }  // the greatest code
};

extern const StageFunctions kAffineFunctions;

}  // namespace kvplane::codec
