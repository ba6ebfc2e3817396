// Stage `protect`: the first tokens of a sequence (attention sinks) and the most recent ones stay raw.
// spec.md in this folder is normative.
//
// Coding sinks or the recent window collapses quality at high ratios (KVTC, ICLR 2026, ablation;
// StreamingLLM, ICLR 2024, on sinks). The counts stand in the tile, so that decoding needs no knowledge of
// the sequence.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/tile_context.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

inline constexpr ParamSpec kProtectParams[] = {
    {.name = "sinks",
     .meaning = "tokens at the start of the sequence that stay raw",
     .choices = {},
     .allowed = {},
     .min = 0,
     .max = 64,
     .default_of_side = {4, 4}},
    {.name = "recent",
     .meaning = "tokens at the end of the object or transfer that stay raw",
     .choices = {},
     .allowed = {},
     .min = 0,
     .max = 1024,
     .default_of_side = {0, 0}},
};

extern const StageFunctions kProtectFunctions;

// Rows of a tile that are coded raw: the first `front` and the last `back`.
struct ProtectedRows {
  uint8_t front = 0;
  uint8_t back = 0;
  uint32_t total() const { return uint32_t{front} + back; }
  // Of the head of the payload: both counts, then the rows.
  size_t Bytes(const TileShape& shape) const {
    return 2 + total() * size_t{shape.heads} * shape.head_dim * sizeof(uint16_t);
  }
};

ProtectedRows ProtectedRowsOf(const StageCall& call, uint32_t tokens, const TileContext& context);

// Writes counts and rows; 0 when no token is left to code or they do not fit. Else the bytes written.
size_t WriteProtected(const ProtectedRows& rows, const tensor::ConstTileView& in, std::span<std::byte> out);
// Reads what WriteProtected() wrote: at least one token is left to decode. kCorrupt.
base::Result<ProtectedRows> ReadProtected(std::span<const std::byte> in, const tensor::TileView& out);

}  // namespace kvplane::codec
