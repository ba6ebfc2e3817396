#include "kvplane/kernel/rope/rope.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

void Rotate(float* x, const float* cos, const float* sin, size_t half) {
  for (size_t i = 0; i < half; ++i) {
    const float low = x[i];
    const float high = x[i + half];
    x[i] = low * cos[i] - high * sin[i];
    x[i + half] = high * cos[i] + low * sin[i];
  }
}

void RotateToBf16(const float* x, const float* cos, const float* sin, size_t half, uint16_t* y) {
  for (size_t i = 0; i < half; ++i) {
    y[i] = tensor::FloatToBf16(x[i] * cos[i] - x[i + half] * sin[i]);
    y[i + half] = tensor::FloatToBf16(x[i + half] * cos[i] + x[i] * sin[i]);
  }
}

}  // namespace

const RopeKernels kRopeScalar = {Rotate, RotateToBf16};

const RopeKernels& RopeKernelsFor(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kRopeAvx512;
    case Isa::kAvx2:
      return kRopeAvx2;
    case Isa::kScalar:
      break;
  }
  return kRopeScalar;
}

}  // namespace kvplane::kernel
