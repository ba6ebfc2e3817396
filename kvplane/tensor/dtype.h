// Element types and exact conversions.
//
// bf16 is kept as uint16_t: the upper half of the IEEE binary32 pattern. Conversions to narrower types round
// to nearest even and keep NaN a (quiet) NaN. These are the scalar definitions every kernel is tested
// against.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kvplane/base/status.h"

namespace kvplane::tensor {

// The values are wire ids (docs/formats): never renumber.
enum class DType : uint8_t { kF32 = 1, kBf16 = 2, kF16 = 3 };

constexpr size_t SizeOf(DType type) { return type == DType::kF32 ? 4 : 2; }
std::string_view Name(DType type);                      // "f32", "bf16", "f16"
base::Result<DType> ParseDType(std::string_view name);  // also "float32", "bfloat16", "float16"
base::Result<DType> DTypeFromWire(uint8_t id);

constexpr float Bf16ToFloat(uint16_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }

constexpr uint16_t FloatToBf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);  // quiet NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float F16ToFloat(uint16_t x);

}  // namespace kvplane::tensor
