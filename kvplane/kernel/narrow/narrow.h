// bf16 values to and from 8-bit formats with one scale per row set: int8 and the two FP8 formats of OCP
// (OFP8, rev. 1.0: E4M3 without infinities, E5M2).
//
//   scale  = largest magnitude * RN(1 / M), rounded up to bf16; M = 127, 448, 57344; at least 2^-126 unless 0
//   code   = nearest(x * RN(1 / scale)), ties to even, saturated at M
//   value  = RN_bf16(format value of code * scale)        the product is exact in binary32
//
// Arithmetic is binary32 without contraction: all instruction sets give the same bytes. Values are finite
// with magnitudes below 2^126; the caller sees to it.
//
// Thread safety: pure functions. rows: [tokens], each [channels] bf16, anywhere; codes: [tokens, channels].
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/isa.h"

namespace kvplane::kernel {

enum class NarrowFormat : uint8_t { kInt8 = 0, kE4m3 = 1, kE5m2 = 2 };
constexpr size_t kNarrowFormats = 3;

// Magnitude pattern from which on values are not codable: 2^126.
constexpr uint16_t kNarrowMagnitudeLimit = 0x7e80;

// The scale (bf16 pattern) of codes up to `top` for values up to the magnitude pattern `largest`: largest *
// RN(1 / top), rounded up to bf16, at least 2^-126 unless 0.
uint16_t SymmetricScaleOf(float top, uint16_t largest);
// The scale (bf16 pattern) for values up to the magnitude pattern `largest`.
uint16_t NarrowScaleOf(NarrowFormat format, uint16_t largest);
// Largest legal scale: that of 2^126. Decoded values then stay finite.
uint16_t NarrowScaleLimit(NarrowFormat format);
// What encode() takes for a scale: its reciprocal, 0 for 0.
float NarrowInverseOf(uint16_t scale);
// The largest magnitude of the format as bf16 pattern, exact in all three.
uint16_t NarrowLargest(NarrowFormat format);

struct NarrowKernels {
  // The largest magnitude pattern, infinities and NaN included.
  uint16_t (*largest_magnitude)(const uint16_t* const* rows, uint32_t tokens, uint32_t channels);

  // The same for each token: largest [tokens].
  void (*largest_of_tokens)(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                            uint16_t* largest);

  // One entry per format.
  void (*encode[kNarrowFormats])(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                 float inverse, std::byte* codes);
  void (*decode[kNarrowFormats])(const std::byte* codes, uint32_t tokens, uint32_t channels, float scale,
                                 uint16_t* const* rows);
  // Whether every code has a finite value; int8: and is not -128.
  bool (*codes_valid[kNarrowFormats])(const std::byte* codes, size_t count);
};

const NarrowKernels& Narrow(Isa isa);
const NarrowKernels& Narrow();  // of ActiveIsa()

}  // namespace kvplane::kernel
