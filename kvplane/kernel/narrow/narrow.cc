#include "kvplane/kernel/narrow/narrow.h"

#include <algorithm>
#include <bit>

#include "kvplane/kernel/narrow/narrow_definition.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

constexpr uint16_t kSmallestScale = 0x0080;  // 2^-126: its reciprocal is finite

constexpr float LargestOf(NarrowFormat format) {
  switch (format) {
    case NarrowFormat::kE4m3:
      return internal::E4m3Format::kLargest;
    case NarrowFormat::kE5m2:
      return internal::E5m2Format::kLargest;
    case NarrowFormat::kInt8:
      break;
  }
  return internal::Int8Format::kLargest;
}
static_assert(LargestOf(NarrowFormat::kE4m3) == 448.0f && LargestOf(NarrowFormat::kE5m2) == 57344.0f);

}  // namespace

uint16_t SymmetricScaleOf(float top, uint16_t largest) {
  const float exact = tensor::Bf16ToFloat(largest) * (1.0f / top);
  const auto up = static_cast<uint16_t>((std::bit_cast<uint32_t>(exact) + 0xffffu) >> 16);
  return up == 0 ? up : std::max(up, kSmallestScale);
}

uint16_t NarrowScaleOf(NarrowFormat format, uint16_t largest) {
  return SymmetricScaleOf(LargestOf(format), largest);
}

uint16_t NarrowScaleLimit(NarrowFormat format) { return NarrowScaleOf(format, kNarrowMagnitudeLimit); }

float NarrowInverseOf(uint16_t scale) { return scale == 0 ? 0.0f : 1.0f / tensor::Bf16ToFloat(scale); }

uint16_t NarrowLargest(NarrowFormat format) { return tensor::FloatToBf16(LargestOf(format)); }

const NarrowKernels& Narrow(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return internal::kNarrowAvx512;
    case Isa::kAvx2:
      return internal::kNarrowAvx2;
    case Isa::kScalar:
      break;
  }
  return internal::kNarrowScalar;
}

const NarrowKernels& Narrow() { return Narrow(ActiveIsa()); }

}  // namespace kvplane::kernel
