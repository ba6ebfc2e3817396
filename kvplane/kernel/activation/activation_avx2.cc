#include <immintrin.h>

#include "kvplane/kernel/activation/activation.h"
#include "kvplane/kernel/exp2_coefficients.h"

namespace kvplane::kernel {
namespace {

// exp(x) for |x| up to 87; beyond, the ends of the normal range.
KVPLANE_TARGET_AVX2 inline __m256 Exp(__m256 x) {
  x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-87.0f)), _mm256_set1_ps(87.0f));
  const __m256 scaled = _mm256_mul_ps(x, _mm256_set1_ps(kLog2E));
  const __m256 whole = _mm256_round_ps(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  // ln 2 in two parts: x - whole * ln2 keeps the bits that x * log2(e) has lost for large x.
  __m256 rest = _mm256_fnmadd_ps(whole, _mm256_set1_ps(0.693359375f), x);
  rest = _mm256_fnmadd_ps(whole, _mm256_set1_ps(-2.12194440e-4f), rest);
  rest = _mm256_mul_ps(rest, _mm256_set1_ps(kLog2E));
  __m256 y = _mm256_set1_ps(kExp2Coefficients[7]);
  for (int i = 6; i >= 0; --i) y = _mm256_fmadd_ps(y, rest, _mm256_set1_ps(kExp2Coefficients[i]));
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(whole), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), exponent));
}

KVPLANE_TARGET_AVX2 inline __m256 Swiglu(__m256 gate, __m256 up) {
  const __m256 one = _mm256_set1_ps(1.0f);
  const __m256 denominator = _mm256_add_ps(one, Exp(_mm256_sub_ps(_mm256_setzero_ps(), gate)));
  return _mm256_mul_ps(_mm256_div_ps(gate, denominator), up);
}

KVPLANE_TARGET_AVX2 inline __m128i ToBf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i high = _mm256_srli_epi32(bits, 16);
  const __m256i even = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i words = _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

// The last n % 8 elements take the same path through a padded copy, so that an element's result does not
// depend on its place in the row.
KVPLANE_TARGET_AVX2 inline __m256 LoadTail(const float* x, size_t left) {
  float padded[8] = {};
  for (size_t i = 0; i < left; ++i) padded[i] = x[i];
  return _mm256_loadu_ps(padded);
}

KVPLANE_TARGET_AVX2 void SwigluF32(const float* gate, const float* up, size_t n, float* y) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(y + i, Swiglu(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
  if (i == n) return;
  float tail[8];
  _mm256_storeu_ps(tail, Swiglu(LoadTail(gate + i, n - i), LoadTail(up + i, n - i)));
  for (size_t j = 0; i + j < n; ++j) y[i + j] = tail[j];
}

KVPLANE_TARGET_AVX2 inline void StoreBf16(uint16_t* y, __m128i words, size_t left) {
  if (left >= 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y), words);
    return;
  }
  uint16_t tail[8];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(tail), words);
  for (size_t j = 0; j < left; ++j) y[j] = tail[j];
}

KVPLANE_TARGET_AVX2 void SwigluBf16(const float* gate, const float* up, size_t n, uint16_t* y) {
  for (size_t i = 0; i < n; i += 8) {
    const bool whole = i + 8 <= n;
    const __m256 g = whole ? _mm256_loadu_ps(gate + i) : LoadTail(gate + i, n - i);
    const __m256 u = whole ? _mm256_loadu_ps(up + i) : LoadTail(up + i, n - i);
    StoreBf16(y + i, ToBf16(Swiglu(g, u)), n - i);
  }
}

KVPLANE_TARGET_AVX2 void RoundToBf16(const float* x, size_t n, uint16_t* y) {
  for (size_t i = 0; i < n; i += 8) {
    const __m256 value = i + 8 <= n ? _mm256_loadu_ps(x + i) : LoadTail(x + i, n - i);
    StoreBf16(y + i, ToBf16(value), n - i);
  }
}

}  // namespace

const ActivationKernels kActivationAvx2 = {SwigluF32, SwigluBf16, RoundToBf16};

}  // namespace kvplane::kernel
