// Stages `int8` and `fp8`: 8-bit formats with a scale per token and head, per head of a tile, or none.
// spec.md in this folder is normative.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "kvplane/codec/pack/pack_stage.h"
#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/symbol_quantizer.h"

namespace kvplane::codec {

// What shares a scale. `one`: no scale is stored, it is 1.
enum class NarrowScale : uint32_t { kTokenHead = 0, kHead = 1, kOne = 2 };

inline constexpr std::string_view kInt8ScaleNames[] = {"token_head", "head"};
inline constexpr std::string_view kFp8ScaleNames[] = {"token_head", "head", "one"};
inline constexpr std::string_view kFp8FormatNames[] = {"e4m3", "e5m2"};

inline constexpr ParamSpec kInt8Params[] = {
    {.name = "scale",
     .meaning = "what shares a scale: a token of a head, or a head of a tile",
     .choices = kInt8ScaleNames,
     .allowed = {}},
};
inline constexpr ParamSpec kFp8Params[] = {
    {.name = "format", .meaning = "exponent and mantissa bits", .choices = kFp8FormatNames, .allowed = {}},
    {.name = "scale",
     .meaning = "what shares a scale: a token of a head, a head of a tile, or no scale at all",
     .choices = kFp8ScaleNames,
     .allowed = {},
     .default_of_side = {1, 1}},
};

extern const StageFunctions kNarrowFunctions;
extern const PackedQuantizer kInt8Packed;
extern const PackedQuantizer kFp8Packed;

// Symbols of `int8`: the code + 127; of `fp8`: the code. Side information: the scales, [heads, S] bf16.
std::unique_ptr<SymbolQuantizer> MakeNarrowQuantizer(const StageCall& call);

}  // namespace kvplane::codec
