#include <immintrin.h>

#include <cmath>

#include "kvplane/kernel/norm/norm.h"

namespace kvplane::kernel {
namespace {

// Lanes of a vector of 16 that hold elements when `left` are left.
KVPLANE_TARGET_AVX512 inline __mmask16 TailMask(size_t left) {
  return left >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1u << left) - 1u);
}

KVPLANE_TARGET_AVX512 float InverseRms(const float* x, size_t n, float epsilon) {
  __m512 even = _mm512_setzero_ps();
  __m512 odd = _mm512_setzero_ps();
  for (size_t i = 0; i < n; i += 32) {
    const __m512 a = _mm512_maskz_loadu_ps(TailMask(n - i), x + i);
    even = _mm512_fmadd_ps(a, a, even);
    if (i + 16 < n) {
      const __m512 b = _mm512_maskz_loadu_ps(TailMask(n - i - 16), x + i + 16);
      odd = _mm512_fmadd_ps(b, b, odd);
    }
  }
  const float squares = _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
  return 1.0f / std::sqrt(squares / static_cast<float>(n) + epsilon);
}

KVPLANE_TARGET_AVX512 inline __m512 Scaled(const float* x, const float* weight, __mmask16 mask,
                                           __m512 scale) {
  const __m512 value = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x), scale);
  return _mm512_mul_ps(value, _mm512_maskz_loadu_ps(mask, weight));
}

KVPLANE_TARGET_AVX512 void RmsNormF32(const float* x, const float* weight, size_t n, float epsilon,
                                      float* y) {
  const __m512 scale = _mm512_set1_ps(InverseRms(x, n, epsilon));
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 mask = TailMask(n - i);
    _mm512_mask_storeu_ps(y + i, mask, Scaled(x + i, weight + i, mask, scale));
  }
}

KVPLANE_TARGET_AVX512 void RmsNormBf16(const float* x, const float* weight, size_t n, float epsilon,
                                       uint16_t* y) {
  const __m512 scale = _mm512_set1_ps(InverseRms(x, n, epsilon));
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 mask = TailMask(n - i);
    const __m256bh rounded = _mm512_cvtneps_pbh(Scaled(x + i, weight + i, mask, scale));
    _mm256_mask_storeu_epi16(y + i, mask, reinterpret_cast<__m256i>(rounded));
  }
}

KVPLANE_TARGET_AVX512 void Add(float* x, const float* delta, size_t n) {
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 mask = TailMask(n - i);
    const __m512 sum =
        _mm512_add_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_maskz_loadu_ps(mask, delta + i));
    _mm512_mask_storeu_ps(x + i, mask, sum);
  }
}

}  // namespace

const NormKernels kNormAvx512 = {RmsNormF32, RmsNormBf16, Add};

}  // namespace kvplane::kernel
