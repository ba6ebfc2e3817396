#include <cmath>

#include "kvplane/kernel/activation/activation.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

float Swiglu(float gate, float up) { return gate / (1.0f + std::exp(-gate)) * up; }

void SwigluF32(const float* gate, const float* up, size_t n, float* y) {
  for (size_t i = 0; i < n; ++i) y[i] = Swiglu(gate[i], up[i]);
}

void SwigluBf16(const float* gate, const float* up, size_t n, uint16_t* y) {
  for (size_t i = 0; i < n; ++i) y[i] = tensor::FloatToBf16(Swiglu(gate[i], up[i]));
}

void RoundToBf16(const float* x, size_t n, uint16_t* y) {
  for (size_t i = 0; i < n; ++i) y[i] = tensor::FloatToBf16(x[i]);
}

}  // namespace

const ActivationKernels kActivationScalar = {SwigluF32, SwigluBf16, RoundToBf16};

const ActivationKernels& ActivationKernelsFor(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kActivationAvx512;
    case Isa::kAvx2:
      return kActivationAvx2;
    case Isa::kScalar:
      break;
  }
  return kActivationScalar;
}

}  // namespace kvplane::kernel
