// Packed rows of one head of a tile: [tokens] rows of head_dim symbols of fixed width, each from a byte on.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvplane/codec/tile_codec.h"

namespace kvplane::codec {

// Bits per symbol of an alphabet of 2..256 symbols.
constexpr uint32_t PackedWidth(uint32_t alphabet) {
  uint32_t bits = 1;
  while ((1u << bits) < alphabet) ++bits;
  return bits;
}

size_t PackedHeadBytes(const TileShape& shape, uint32_t bits);

// symbols: [tokens, head_dim], each below 2^bits; out: PackedHeadBytes().
void PackHead(const uint8_t* symbols, const TileShape& shape, uint32_t bits, std::byte* out);
// Returns the largest symbol.
uint8_t UnpackHead(const std::byte* in, const TileShape& shape, uint32_t bits, uint8_t* symbols);

}  // namespace kvplane::codec
