// The arithmetic of affine quantisation on single values: the definition that quantize.h states in formulas.
// The scalar kernels are built from it, the vector kernels use it for what does not fill a vector.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/quantize/quantize.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel::internal {

constexpr uint16_t kSmallestScale = 0x0080;  // 2^-126: its reciprocal is finite

// The greatest code L of a group and RN(1 / L).
struct Levels {
  explicit Levels(uint32_t top_in) : top(top_in), inverse(1.0f / static_cast<float>(top_in)) {}
  uint32_t top;
  float inverse;
};

// Unsigned key with the order of the values, -0 before +0; OrderedValue is its inverse.
inline uint16_t OrderedKey(uint16_t x) {
  return static_cast<uint16_t>(x ^ ((x & 0x8000u) != 0 ? 0xffffu : 0x8000u));
}
inline uint16_t OrderedValue(uint16_t key) {
  return static_cast<uint16_t>(key ^ ((key & 0x8000u) != 0 ? 0x8000u : 0xffffu));
}

inline bool Codable(uint16_t x) { return (x & 0x7fffu) < kAffineMagnitudeLimit; }

inline uint16_t ScaleOf(uint16_t smallest, uint16_t largest, Levels levels) {
  const float range = tensor::Bf16ToFloat(largest) - tensor::Bf16ToFloat(smallest);
  const auto bits = std::bit_cast<uint32_t>(range * levels.inverse);
  const auto scale = static_cast<uint16_t>((bits + 0xffffu) >> 16);
  return scale != 0 && scale < kSmallestScale ? kSmallestScale : scale;
}

inline float InverseOf(uint16_t scale) { return scale == 0 ? 0.0f : 1.0f / tensor::Bf16ToFloat(scale); }

inline uint8_t CodeOf(uint16_t x, float zero, float inverse, Levels levels) {
  const auto top = static_cast<float>(levels.top);
  const float code = std::nearbyint((tensor::Bf16ToFloat(x) - zero) * inverse);
  return static_cast<uint8_t>(code < top ? code : top);
}

inline uint16_t ValueOf(uint8_t code, float zero, float scale) {
  return tensor::FloatToBf16(zero + static_cast<float>(code) * scale);
}

// The scalar kernels over channels [first, channels); `first` is a multiple of 8, and of `group` for tokens.
template <uint32_t kBits>
bool EncodeChannelsFrom(uint32_t first, const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                        Levels levels, std::byte* zeros, std::byte* scales, std::byte* codes);
template <uint32_t kBits>
void DecodeChannelsFrom(uint32_t first, const std::byte* zeros, const std::byte* scales,
                        const std::byte* codes, uint32_t tokens, uint32_t channels, uint16_t* const* rows);

extern const QuantizeKernels kQuantizeScalar;
extern const QuantizeKernels kQuantizeAvx2;
extern const QuantizeKernels kQuantizeAvx512;

}  // namespace kvplane::kernel::internal
