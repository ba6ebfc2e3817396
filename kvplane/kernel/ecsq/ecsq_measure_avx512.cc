#include <immintrin.h>

#include <algorithm>

#include "kvplane/kernel/ecsq/ecsq_measure.h"
#include "kvplane/kernel/rans/rans.h"

namespace kvplane::kernel::internal {
namespace {

#define KVPLANE_INLINE_AVX512 KVPLANE_TARGET_AVX512 inline __attribute__((always_inline))

struct Accumulator {
  __m512 largest, energy;
};

KVPLANE_INLINE_AVX512 void Add(Accumulator& to, __m512i bits, __m512 mean, __m512 inverse_step) {
  const __m512 level = _mm512_mul_ps(_mm512_sub_ps(_mm512_castsi512_ps(bits), mean), inverse_step);
  to.largest = _mm512_max_ps(to.largest, _mm512_abs_ps(level));
  to.energy = _mm512_add_ps(to.energy, _mm512_mul_ps(level, level));
}

// kTokens tokens into the measures, which pass through registers once for all of them. The rows behind them,
// `ahead` of them, are fetched meanwhile: rows of a few KiB at a stride are too short for the hardware to
// see.
template <uint32_t kTokens>
KVPLANE_TARGET_AVX512 void MeasureTokens(const EcsqRows& shape, const uint16_t* const* rows, uint32_t ahead,
                                         bool fresh, const EcsqLanes& lanes, const EcsqMeasures& measures,
                                         __m512i& magnitude) {
  const __m512i odd_mask = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  const __m512i magnitude_mask = _mm512_set1_epi16(0x7fff);
  size_t slot = 0;
  for (uint32_t h = 0; h < shape.heads; ++h) {
    for (uint32_t c = 0; c < shape.head_dim; c += EcsqRows::kGroup, slot += EcsqRows::kGroup) {
      const uint32_t live = std::min(EcsqRows::kGroup, shape.head_dim - c);
      const __mmask32 mask = _bzhi_u32(0xffffffffu, live);
      const __m512 even_mean = _mm512_load_ps(lanes.mean + slot);
      const __m512 odd_mean = _mm512_load_ps(lanes.mean + slot + 16);
      const __m512 even_inverse = _mm512_load_ps(lanes.inverse_step + slot);
      const __m512 odd_inverse = _mm512_load_ps(lanes.inverse_step + slot + 16);
      Accumulator even{_mm512_setzero_ps(), _mm512_setzero_ps()};
      Accumulator odd = even;
      if (!fresh) {
        even = {_mm512_load_ps(measures.largest + slot), _mm512_load_ps(measures.energy + slot)};
        odd = {_mm512_load_ps(measures.largest + slot + 16), _mm512_load_ps(measures.energy + slot + 16)};
      }
#pragma GCC unroll 4
      for (uint32_t t = 0; t < kTokens; ++t) {
        const __m512i row = _mm512_maskz_loadu_epi16(mask, rows[t] + h * shape.head_stride + c);
        magnitude = _mm512_max_epu16(magnitude, _mm512_and_si512(row, magnitude_mask));
        Add(even, _mm512_slli_epi32(row, 16), even_mean, even_inverse);
        Add(odd, _mm512_and_si512(row, odd_mask), odd_mean, odd_inverse);
        if (t < ahead) _mm_prefetch(rows[kTokens + t] + h * shape.head_stride + c, _MM_HINT_T0);
      }
      _mm512_store_ps(measures.largest + slot, even.largest);
      _mm512_store_ps(measures.largest + slot + 16, odd.largest);
      _mm512_store_ps(measures.energy + slot, even.energy);
      _mm512_store_ps(measures.energy + slot + 16, odd.energy);
    }
  }
}

}  // namespace

KVPLANE_TARGET_AVX512 bool EcsqMeasureAvx512(const EcsqRows& shape, const uint16_t* const* rows,
                                             const EcsqLanes& lanes, const EcsqMeasures& measures) {
  __m512i magnitude = _mm512_setzero_si512();
  uint32_t t = 0;
  for (; t + 4 <= shape.tokens; t += 4) {
    MeasureTokens<4>(shape, rows + t, shape.tokens - t - 4, t == 0, lanes, measures, magnitude);
  }
  for (; t < shape.tokens; ++t)
    MeasureTokens<1>(shape, rows + t, shape.tokens - t - 1, t == 0, lanes, measures, magnitude);
  const __m512i limit = _mm512_set1_epi16(static_cast<short>(kRansMagnitudeLimit));
  return _mm512_cmpge_epu16_mask(magnitude, limit) == 0;
}

}  // namespace kvplane::kernel::internal
