#include <immintrin.h>

#include <cmath>

#include "kvplane/kernel/norm/norm.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

KVPLANE_TARGET_AVX2 float InverseRms(const float* x, size_t n, float epsilon) {
  __m256 even = _mm256_setzero_ps();
  __m256 odd = _mm256_setzero_ps();
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256 a = _mm256_loadu_ps(x + i);
    const __m256 b = _mm256_loadu_ps(x + i + 8);
    even = _mm256_fmadd_ps(a, a, even);
    odd = _mm256_fmadd_ps(b, b, odd);
  }
  float lanes[8];
  _mm256_storeu_ps(lanes, _mm256_add_ps(even, odd));
  float squares =
      ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
  for (; i < n; ++i) squares += x[i] * x[i];
  return 1.0f / std::sqrt(squares / static_cast<float>(n) + epsilon);
}

KVPLANE_TARGET_AVX2 void RmsNormF32(const float* x, const float* weight, size_t n, float epsilon, float* y) {
  const float inverse = InverseRms(x, n, epsilon);
  const __m256 scale = _mm256_set1_ps(inverse);
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + i), scale);
    _mm256_storeu_ps(y + i, _mm256_mul_ps(scaled, _mm256_loadu_ps(weight + i)));
  }
  for (; i < n; ++i) y[i] = x[i] * inverse * weight[i];
}

// An AVX2-only CPU computes in f32 (oneDNN has no bf16 GEMM there), so this one need not be fast.
KVPLANE_TARGET_AVX2 void RmsNormBf16(const float* x, const float* weight, size_t n, float epsilon,
                                     uint16_t* y) {
  const float inverse = InverseRms(x, n, epsilon);
  for (size_t i = 0; i < n; ++i) y[i] = tensor::FloatToBf16(x[i] * inverse * weight[i]);
}

KVPLANE_TARGET_AVX2 void Add(float* x, const float* delta, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(x + i, _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(delta + i)));
  }
  for (; i < n; ++i) x[i] += delta[i];
}

}  // namespace

const NormKernels kNormAvx2 = {RmsNormF32, RmsNormBf16, Add};

}  // namespace kvplane::kernel
