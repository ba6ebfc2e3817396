// Fixed-width packing of small codes.
//
// Code i of a row takes bits [i * bits, (i + 1) * bits) of the row, counted from the low bit of byte 0
// (little-endian bit order). A row begins on a byte; the bits after its last code are zero.
//
// PackRow and UnpackRow are the definition. Some quantisers (quantize/) pack inside their kernels, where the
// codes are in registers already; PackKernels are for codes that lie in memory.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/isa.h"

namespace kvplane::kernel {

constexpr size_t PackedRowBytes(size_t codes, uint32_t bits) { return (codes * bits + 7) / 8; }

// codes: [count], each < 2^bits; out: PackedRowBytes(count, bits). bits 1..8.
void PackRow(const uint8_t* codes, size_t count, uint32_t bits, std::byte* out);
void UnpackRow(const std::byte* in, size_t count, uint32_t bits, uint8_t* codes);

struct PackKernels {
  // As PackRow(). No byte outside the row is written.
  void (*pack)(const uint8_t* codes, size_t count, uint32_t bits, std::byte* out);
  // As UnpackRow(); returns the largest code, so that callers can refuse those beyond their alphabet. 0 when
  // count is 0. No byte outside the row is read.
  uint8_t (*unpack)(const std::byte* in, size_t count, uint32_t bits, uint8_t* codes);
};

const PackKernels& Packing(Isa isa);  // requires: `isa` is available
const PackKernels& Packing();         // of ActiveIsa()

namespace internal {
extern const PackKernels kPackScalar;
extern const PackKernels kPackAvx2;
extern const PackKernels kPackAvx512;
}  // namespace internal

}  // namespace kvplane::kernel
