#include "kvplane/tensor/dtype.h"

#include <cmath>

namespace kvplane::tensor {

std::string_view Name(DType type) {
  switch (type) {
    case DType::kF32:
      return "f32";
    case DType::kBf16:
      return "bf16";
    case DType::kF16:
      return "f16";
  }
  return "unknown";
}

base::Result<DType> ParseDType(std::string_view name) {
  if (name == "f32" || name == "float32") return DType::kF32;
  if (name == "bf16" || name == "bfloat16") return DType::kBf16;
  if (name == "f16" || name == "float16") return DType::kF16;
  return base::InvalidArgument("unknown dtype '{}': use f32, bf16 or f16", name);
}

base::Result<DType> DTypeFromWire(uint8_t id) {
  if (id < static_cast<uint8_t>(DType::kF32) || id > static_cast<uint8_t>(DType::kF16)) {
    return base::Corrupt("unknown dtype id {}", id);
  }
  return static_cast<DType>(id);
}

float F16ToFloat(uint16_t x) {
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000u) << 16;
  const uint32_t exponent = (x >> 10) & 0x1fu;
  const uint32_t mantissa = x & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

}  // namespace kvplane::tensor
