// Stage `store`: bf16 values as they are. spec.md in this folder is normative.
//
// The payload is also that of the raw method, to which every strategy falls back tile by tile.
#pragma once

#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {

extern const StageFunctions kStoreFunctions;

// [heads, tokens, head_dim] bf16, little-endian.
void EncodeRaw(const tensor::ConstTileView& in, std::byte* out);
void DecodeRaw(const std::byte* in, const tensor::TileView& out);

}  // namespace kvplane::codec
