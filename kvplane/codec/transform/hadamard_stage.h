// Stage `hadamard`: a randomised Hadamard rotation of every head. spec.md in this folder is normative.
//
// Spreads outlier channels over all of them, which helps quantisers of fixed width (QuaRot, NeurIPS 2024) and
// costs entropy coders what they knew about single channels.
//
// Thread safety: constant data.
#pragma once

#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {

inline constexpr ParamSpec kHadamardParams[] = {
    {.name = "seed",
     .meaning = "of the signs, which differ by layer and KV head",
     .choices = {},
     .allowed = {},
     .min = 0,
     .max = 65535,
     .default_of_side = {13107, 13107}},
};

extern const StageFunctions kHadamardFunctions;

}  // namespace kvplane::codec
