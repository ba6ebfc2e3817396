// Stages `ecsq` and `ternary`: uniform quantisation with one slope for all lanes, entropy-coded by
// rans(table=class). spec.md in this folder is normative.
//
// Entropy-constrained scalar quantisation (Gish and Pierce, "Asymptotically efficient quantizing", 1968): at
// equal squared error a uniform quantiser behind an ideal entropy coder is within 0.25 bits a value of the
// rate-distortion bound at high rate and closer at low rate, where every fixed-width format loses 0.4 to 1.4.
// One step for all lanes is reverse water-filling by itself: lanes of little variance take few bits or none.
// `ternary` codes the same levels in sections of rising quality: a base at 3^layers times the step, then
// refinements that split every bin in three.
//
// Thread safety: constant data, pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/tile_coder.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

enum class EcsqWeight : uint32_t { kUniform = 0, kModel = 1 };
enum class EcsqScale : uint32_t { kProfile = 0, kTile = 1 };

inline constexpr std::string_view kEcsqWeights[] = {"uniform", "model"};
inline constexpr std::string_view kEcsqScales[] = {"profile", "tile"};

inline constexpr ParamSpec kEcsqParams[] = {
    {.name = "snr",
     .meaning = "signal-to-noise ratio in dB at which a layer side is quantised",
     .choices = {},
     .allowed = {},
     .min = 0,
     .max = 60,
     .default_of_side = {21, 21}},
    {.name = "low",
     .meaning = "dB less in the low band of `heads` or `layers`",
     .choices = {},
     .allowed = {},
     .min = 0,
     .max = 40,
     .default_of_side = {0, 0}},
    {.name = "weight",
     .meaning = "what a step is worth: plain squared error, or the profile's error of the model's outputs",
     .choices = kEcsqWeights,
     .allowed = {}},
    {.name = "scale",
     .meaning = "where steps come from: the profile, or the root mean square of each head of a tile",
     .choices = kEcsqScales,
     .allowed = {}},
};
inline constexpr ParamSpec kTernaryParams[] = {
    {.name = "layers",
     .meaning = "refinements above the base; each adds 9.54 dB",
     .choices = {},
     .allowed = {},
     .min = 1,
     .max = 3,
     .default_of_side = {2, 2}},
    {.name = "snr",
     .meaning = "signal-to-noise ratio in dB with all refinements",
     .choices = {},
     .allowed = {},
     .min = 0,
     .max = 60,
     .default_of_side = {21, 21}},
    {.name = "weight",
     .meaning = "what a step is worth: plain squared error, or the profile's error of the model's outputs",
     .choices = kEcsqWeights,
     .allowed = {}},
};

extern const StageFunctions kEcsqFunctions;
extern const StageFunctions kTernaryFunctions;

// Binds a legal chain that ends in ecsq | rans(table=class) or ternary | rans(table=class); the chain
// outlives the coder. `profile` may be null when the chain needs none. kFailedPrecondition: the profile lacks
// the space or basis.
base::Result<std::unique_ptr<TileCoder>> BindEcsqCoder(Chain chain, tensor::Side side,
                                                       std::shared_ptr<const ModelProfile> profile);

// Cuts a whole payload of `ternary` (what stands behind the tile's method byte, protected rows and side
// information) down to its first `sections`, the base counted, and marks it as such; decoders take it like
// the whole one. Returns its new length: all of it lies in front. kInvalidArgument: no such section.
// kCorrupt.
base::Result<size_t> TruncateNested(std::span<std::byte> payload, uint32_t sections);

}  // namespace kvplane::codec
