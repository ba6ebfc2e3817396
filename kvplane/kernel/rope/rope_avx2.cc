#include <immintrin.h>

#include "kvplane/kernel/rope/rope.h"

namespace kvplane::kernel {
namespace {

struct Pair {
  __m128 low;
  __m128 high;
};

// Four pairs at a time: half is a multiple of 4, not of 8.
KVPLANE_TARGET_AVX2 inline Pair Rotated(const float* x, const float* cos, const float* sin, size_t half) {
  const __m128 low = _mm_loadu_ps(x);
  const __m128 high = _mm_loadu_ps(x + half);
  const __m128 c = _mm_loadu_ps(cos);
  const __m128 s = _mm_loadu_ps(sin);
  return {_mm_fmsub_ps(low, c, _mm_mul_ps(high, s)), _mm_fmadd_ps(high, c, _mm_mul_ps(low, s))};
}

// Round to nearest even as tensor::FloatToBf16 does, NaN made quiet.
KVPLANE_TARGET_AVX2 inline void StoreBf16(uint16_t* y, __m128 x) {
  const __m128i bits = _mm_castps_si128(x);
  const __m128i even = _mm_and_si128(_mm_srli_epi32(bits, 16), _mm_set1_epi32(1));
  const __m128i rounded =
      _mm_srli_epi32(_mm_add_epi32(bits, _mm_add_epi32(even, _mm_set1_epi32(0x7fff))), 16);
  const __m128i quiet = _mm_or_si128(_mm_srli_epi32(bits, 16), _mm_set1_epi32(0x40));
  const __m128i nan = _mm_castps_si128(_mm_cmpunord_ps(x, x));
  const __m128i words = _mm_blendv_epi8(rounded, quiet, nan);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(y), _mm_packus_epi32(words, words));
}

KVPLANE_TARGET_AVX2 void Rotate(float* x, const float* cos, const float* sin, size_t half) {
  for (size_t i = 0; i < half; i += 4) {
    const Pair pair = Rotated(x + i, cos + i, sin + i, half);
    _mm_storeu_ps(x + i, pair.low);
    _mm_storeu_ps(x + i + half, pair.high);
  }
}

KVPLANE_TARGET_AVX2 void RotateToBf16(const float* x, const float* cos, const float* sin, size_t half,
                                      uint16_t* y) {
  for (size_t i = 0; i < half; i += 4) {
    const Pair pair = Rotated(x + i, cos + i, sin + i, half);
    StoreBf16(y + i, pair.low);
    StoreBf16(y + i + half, pair.high);
  }
}

}  // namespace

const RopeKernels kRopeAvx2 = {Rotate, RotateToBf16};

}  // namespace kvplane::kernel
