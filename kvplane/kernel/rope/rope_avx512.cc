#include <immintrin.h>

#include "kvplane/kernel/rope/rope.h"

namespace kvplane::kernel {
namespace {

struct Pair {
  __m512 low;
  __m512 high;
};

KVPLANE_TARGET_AVX512 inline __mmask16 TailMask(size_t left) {
  return left >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1u << left) - 1u);
}

KVPLANE_TARGET_AVX512 inline Pair Rotated(const float* x, const float* cos, const float* sin, size_t half,
                                          __mmask16 mask) {
  const __m512 low = _mm512_maskz_loadu_ps(mask, x);
  const __m512 high = _mm512_maskz_loadu_ps(mask, x + half);
  const __m512 c = _mm512_maskz_loadu_ps(mask, cos);
  const __m512 s = _mm512_maskz_loadu_ps(mask, sin);
  return {_mm512_fmsub_ps(low, c, _mm512_mul_ps(high, s)), _mm512_fmadd_ps(high, c, _mm512_mul_ps(low, s))};
}

KVPLANE_TARGET_AVX512 void Rotate(float* x, const float* cos, const float* sin, size_t half) {
  for (size_t i = 0; i < half; i += 16) {
    const __mmask16 mask = TailMask(half - i);
    const Pair pair = Rotated(x + i, cos + i, sin + i, half, mask);
    _mm512_mask_storeu_ps(x + i, mask, pair.low);
    _mm512_mask_storeu_ps(x + i + half, mask, pair.high);
  }
}

KVPLANE_TARGET_AVX512 void RotateToBf16(const float* x, const float* cos, const float* sin, size_t half,
                                        uint16_t* y) {
  for (size_t i = 0; i < half; i += 16) {
    const __mmask16 mask = TailMask(half - i);
    const Pair pair = Rotated(x + i, cos + i, sin + i, half, mask);
    _mm256_mask_storeu_epi16(y + i, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(pair.low)));
    _mm256_mask_storeu_epi16(y + i + half, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(pair.high)));
  }
}

}  // namespace

const RopeKernels kRopeAvx512 = {Rotate, RotateToBf16};

}  // namespace kvplane::kernel
