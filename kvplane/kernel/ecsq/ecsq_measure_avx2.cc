#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kvplane/kernel/ecsq/ecsq_measure.h"
#include "kvplane/kernel/rans/rans.h"

namespace kvplane::kernel::internal {
namespace {

#define KVPLANE_INLINE_AVX2 KVPLANE_TARGET_AVX2 inline __attribute__((always_inline))

constexpr uint32_t kVector = 8;  // floats

// Slots [at, at + 8) of one token.
KVPLANE_INLINE_AVX2 void Add(__m256i bits, bool fresh, size_t at, const EcsqLanes& lanes,
                             const EcsqMeasures& measures) {
  const __m256 centred = _mm256_sub_ps(_mm256_castsi256_ps(bits), _mm256_load_ps(lanes.mean + at));
  const __m256 level = _mm256_mul_ps(centred, _mm256_load_ps(lanes.inverse_step + at));
  const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), level);
  const __m256 square = _mm256_mul_ps(level, level);
  const __m256 largest = fresh ? _mm256_setzero_ps() : _mm256_load_ps(measures.largest + at);
  const __m256 energy = fresh ? _mm256_setzero_ps() : _mm256_load_ps(measures.energy + at);
  _mm256_store_ps(measures.largest + at, _mm256_max_ps(largest, size));
  _mm256_store_ps(measures.energy + at, _mm256_add_ps(energy, square));
}

// 16 elements: their even ones are slots [at, at + 8), their odd ones [at + 16, at + 24).
KVPLANE_INLINE_AVX2 void AddHalf(__m256i row, bool fresh, size_t at, const EcsqLanes& lanes,
                                 const EcsqMeasures& measures, __m256i& magnitude) {
  magnitude = _mm256_max_epu16(magnitude, _mm256_and_si256(row, _mm256_set1_epi16(0x7fff)));
  Add(_mm256_slli_epi32(row, 16), fresh, at, lanes, measures);
  const __m256i odd = _mm256_and_si256(row, _mm256_set1_epi32(static_cast<int>(0xffff0000u)));
  Add(odd, fresh, at + 2 * kVector, lanes, measures);
}

}  // namespace

KVPLANE_TARGET_AVX2 bool EcsqMeasureAvx2(const EcsqRows& shape, const uint16_t* const* rows,
                                         const EcsqLanes& lanes, const EcsqMeasures& measures) {
  __m256i magnitude = _mm256_setzero_si256();
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    size_t slot = 0;
    for (uint32_t h = 0; h < shape.heads; ++h) {
      for (uint32_t c = 0; c < shape.head_dim; c += EcsqRows::kGroup, slot += EcsqRows::kGroup) {
        const uint16_t* row = rows[t] + h * shape.head_stride + c;
        alignas(32) uint16_t padded[EcsqRows::kGroup];
        if (const uint32_t live = shape.head_dim - c; live < EcsqRows::kGroup) {
          std::memcpy(padded, row, live * sizeof(uint16_t));
          std::memset(padded + live, 0, (EcsqRows::kGroup - live) * sizeof(uint16_t));
          row = padded;
        }
        const auto* vectors = reinterpret_cast<const __m256i*>(row);
        AddHalf(_mm256_loadu_si256(vectors), t == 0, slot, lanes, measures, magnitude);
        AddHalf(_mm256_loadu_si256(vectors + 1), t == 0, slot + kVector, lanes, measures, magnitude);
      }
    }
  }
  alignas(32) uint16_t most[16];
  _mm256_store_si256(reinterpret_cast<__m256i*>(most), magnitude);
  return *std::max_element(most, most + 16) < kRansMagnitudeLimit;
}

}  // namespace kvplane::kernel::internal
