// Fixed-width packing of small codes: the definition.
//
// Code i of a row takes bits [i * bits, (i + 1) * bits) of the row, counted from the low bit of byte 0
// (little-endian bit order). A row begins on a byte; the bits after its last code are zero.
//
// The fast paths pack and unpack inside the quantisers (quantize/), where the codes are already in registers;
// this is what they are tested against.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvplane::kernel {

constexpr size_t PackedRowBytes(size_t codes, uint32_t bits) { return (codes * bits + 7) / 8; }

// codes: [count], each < 2^bits; out: PackedRowBytes(count, bits). bits 1..8.
void PackRow(const uint8_t* codes, size_t count, uint32_t bits, std::byte* out);
void UnpackRow(const std::byte* in, size_t count, uint32_t bits, uint8_t* codes);

}  // namespace kvplane::kernel
