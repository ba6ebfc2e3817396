#include <cmath>

#include "kvplane/kernel/norm/norm.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

float InverseRms(const float* x, size_t n, float epsilon) {
  double squares = 0;
  for (size_t i = 0; i < n; ++i) squares += double{x[i]} * double{x[i]};
  return static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(n) + double{epsilon}));
}

void RmsNormF32(const float* x, const float* weight, size_t n, float epsilon, float* y) {
  const float inverse = InverseRms(x, n, epsilon);
  for (size_t i = 0; i < n; ++i) y[i] = x[i] * inverse * weight[i];
}

void RmsNormBf16(const float* x, const float* weight, size_t n, float epsilon, uint16_t* y) {
  const float inverse = InverseRms(x, n, epsilon);
  for (size_t i = 0; i < n; ++i) y[i] = tensor::FloatToBf16(x[i] * inverse * weight[i]);
}

void Add(float* x, const float* delta, size_t n) {
  for (size_t i = 0; i < n; ++i) x[i] += delta[i];
}

}  // namespace

const NormKernels kNormScalar = {RmsNormF32, RmsNormBf16, Add};

const NormKernels& NormKernelsFor(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kNormAvx512;
    case Isa::kAvx2:
      return kNormAvx2;
    case Isa::kScalar:
      break;
  }
  return kNormScalar;
}

}  // namespace kvplane::kernel
