// The 8-bit formats, once for all instruction sets: plain loops that the compiler turns into vectors of the
// set they are inlined for. Without contraction (CMakeLists.txt) the operations are the same everywhere.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/narrow/narrow.h"

#define KVPLANE_NARROW_INLINE inline __attribute__((always_inline))

namespace kvplane::kernel::internal {

// Adding and taking away 1.5 * 2^23 rounds magnitudes below 2^22 to integers, ties to even.
constexpr float kRoundToInteger = 0x1.8p23f;

template <uint32_t kMantissaBits, uint32_t kBias, uint8_t kLargestCode>
struct FloatFormat {
  static constexpr uint32_t kShift = 23 - kMantissaBits;
  static constexpr uint32_t kRebias = (127 - kBias) << kMantissaBits;
  // The smallest normal value and the reciprocal of the smallest subnormal.
  static constexpr float kSmallestNormal = std::bit_cast<float>((128 - kBias) << 23);
  static constexpr float kSubnormalInverse = std::bit_cast<float>((127 + kBias - 1 + kMantissaBits) << 23);
  static constexpr float kLargest = std::bit_cast<float>((uint32_t{kLargestCode} + kRebias) << kShift);

  static KVPLANE_NARROW_INLINE uint8_t Code(float x) {
    const uint32_t pattern = std::bit_cast<uint32_t>(x);
    const float magnitude = std::bit_cast<float>(pattern & 0x7fffffffu);
    const float clamped = magnitude < kLargest ? magnitude : kLargest;
    const uint32_t bits = std::bit_cast<uint32_t>(clamped);
    const uint32_t odd = bits >> kShift & 1u;
    const uint32_t normal = ((bits + ((1u << (kShift - 1)) - 1) + odd) >> kShift) - kRebias;
    // The integer stands in the low bits of the sum.
    const uint32_t subnormal = std::bit_cast<uint32_t>(clamped * kSubnormalInverse + kRoundToInteger) & 0xffu;
    const uint32_t code = clamped < kSmallestNormal ? subnormal : normal;
    return static_cast<uint8_t>(code | (pattern >> 24 & 0x80u));
  }
  static KVPLANE_NARROW_INLINE float Value(uint8_t code) {
    const uint32_t magnitude = code & 0x7fu;
    // Below 1 << kMantissaBits: smallest normal + value - smallest normal, so that no subnormal is computed
    // with.
    const bool subnormal = magnitude < (1u << kMantissaBits);
    const uint32_t bits = (magnitude + kRebias + (subnormal ? 1u << kMantissaBits : 0u)) << kShift;
    const float value = std::bit_cast<float>(bits) - (subnormal ? kSmallestNormal : 0.0f);
    return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | uint32_t{code & 0x80u} << 24);
  }
  static KVPLANE_NARROW_INLINE bool Valid(uint8_t code) { return (code & 0x7fu) <= kLargestCode; }
};

struct Int8Format {
  static constexpr float kLargest = 127.0f;

  static KVPLANE_NARROW_INLINE uint8_t Code(float x) {
    const float above = x > -kLargest ? x : -kLargest;
    const float clamped = above < kLargest ? above : kLargest;
    return static_cast<uint8_t>(std::bit_cast<uint32_t>(clamped + kRoundToInteger) & 0xffu);
  }
  static KVPLANE_NARROW_INLINE float Value(uint8_t code) {
    return static_cast<float>(static_cast<int32_t>(static_cast<int8_t>(code)));
  }
  static KVPLANE_NARROW_INLINE bool Valid(uint8_t code) { return code != 0x80; }
};

using E4m3Format = FloatFormat<3, 7, 0x7e>;
using E5m2Format = FloatFormat<2, 15, 0x7b>;

KVPLANE_NARROW_INLINE uint16_t LargestMagnitudeBody(const uint16_t* const* rows, uint32_t tokens,
                                                    uint32_t channels) {
  uint16_t largest = 0;
  for (uint32_t t = 0; t < tokens; ++t) {
    const uint16_t* row = rows[t];
    for (uint32_t c = 0; c < channels; ++c) {
      const auto magnitude = static_cast<uint16_t>(row[c] & 0x7fffu);
      largest = magnitude > largest ? magnitude : largest;
    }
  }
  return largest;
}

template <typename Format>
KVPLANE_NARROW_INLINE void EncodeBody(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                      float inverse, std::byte* codes) {
  for (uint32_t t = 0; t < tokens; ++t, codes += channels) {
    const uint16_t* __restrict row = rows[t];
    auto* __restrict out = reinterpret_cast<uint8_t*>(codes);
    for (uint32_t c = 0; c < channels; ++c) {
      out[c] = Format::Code(std::bit_cast<float>(uint32_t{row[c]} << 16) * inverse);
    }
  }
}

template <typename Format>
KVPLANE_NARROW_INLINE void DecodeBody(const std::byte* codes, uint32_t tokens, uint32_t channels, float scale,
                                      uint16_t* const* rows) {
  for (uint32_t t = 0; t < tokens; ++t, codes += channels) {
    const auto* __restrict in = reinterpret_cast<const uint8_t*>(codes);
    uint16_t* __restrict row = rows[t];
    for (uint32_t c = 0; c < channels; ++c) {
      const uint32_t bits = std::bit_cast<uint32_t>(Format::Value(in[c]) * scale);
      row[c] = static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
    }
  }
}

template <typename Format>
KVPLANE_NARROW_INLINE bool CodesValidBody(const std::byte* codes, size_t count) {
  const auto* in = reinterpret_cast<const uint8_t*>(codes);
  uint8_t invalid = 0;
  for (size_t i = 0; i < count; ++i) {
    invalid = static_cast<uint8_t>(invalid | (Format::Valid(in[i]) ? 0u : 1u));
  }
  return invalid == 0;
}

extern const NarrowKernels kNarrowScalar;
extern const NarrowKernels kNarrowAvx2;
extern const NarrowKernels kNarrowAvx512;

}  // namespace kvplane::kernel::internal
