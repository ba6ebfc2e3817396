#include <immintrin.h>

#include "kvplane/kernel/activation/activation.h"
#include "kvplane/kernel/exp2_coefficients.h"

namespace kvplane::kernel {
namespace {

KVPLANE_TARGET_AVX512 inline __mmask16 TailMask(size_t left) {
  return left >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1u << left) - 1u);
}

// exp(x) for |x| up to 87; beyond, the ends of the normal range.
KVPLANE_TARGET_AVX512 inline __m512 Exp(__m512 x) {
  x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.0f)), _mm512_set1_ps(87.0f));
  const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(kLog2E)), 0x08);
  // ln 2 in two parts: x - whole * ln2 keeps the bits that x * log2(e) has lost for large x.
  __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x);
  rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), rest);
  rest = _mm512_mul_ps(rest, _mm512_set1_ps(kLog2E));
  __m512 y = _mm512_set1_ps(kExp2Coefficients[7]);
  for (int i = 6; i >= 0; --i) y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(kExp2Coefficients[i]));
  return _mm512_scalef_ps(y, whole);
}

KVPLANE_TARGET_AVX512 inline __m512 Swiglu(__m512 gate, __m512 up) {
  const __m512 denominator =
      _mm512_add_ps(_mm512_set1_ps(1.0f), Exp(_mm512_sub_ps(_mm512_setzero_ps(), gate)));
  return _mm512_mul_ps(_mm512_div_ps(gate, denominator), up);
}

KVPLANE_TARGET_AVX512 void SwigluF32(const float* gate, const float* up, size_t n, float* y) {
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 mask = TailMask(n - i);
    const __m512 value = Swiglu(_mm512_maskz_loadu_ps(mask, gate + i), _mm512_maskz_loadu_ps(mask, up + i));
    _mm512_mask_storeu_ps(y + i, mask, value);
  }
}

KVPLANE_TARGET_AVX512 void SwigluBf16(const float* gate, const float* up, size_t n, uint16_t* y) {
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 mask = TailMask(n - i);
    const __m512 value = Swiglu(_mm512_maskz_loadu_ps(mask, gate + i), _mm512_maskz_loadu_ps(mask, up + i));
    _mm256_mask_storeu_epi16(y + i, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
  }
}

KVPLANE_TARGET_AVX512 void RoundToBf16(const float* x, size_t n, uint16_t* y) {
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 mask = TailMask(n - i);
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + i));
    _mm256_mask_storeu_epi16(y + i, mask, reinterpret_cast<__m256i>(rounded));
  }
}

}  // namespace

const ActivationKernels kActivationAvx512 = {SwigluF32, SwigluBf16, RoundToBf16};

}  // namespace kvplane::kernel
