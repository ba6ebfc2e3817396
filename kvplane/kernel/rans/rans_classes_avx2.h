// Internal: groups of a class in AVX2, shared by the forms on words (rans_avx2.cc) and on bytes
// (rans_bytes_avx2.cc): symbols to levels and back, levels to bf16.
// All of it is always inlined, so each source has its own copy.
#pragma once

#include "kvplane/kernel/rans/rans_lanes_avx2.h"

namespace kvplane::kernel::internal {
namespace {

struct Group : Alphabet {
  RansRung rung;
  int half_range = 0;
};
KVPLANE_INLINE_AVX2 Group GroupOf(const RansShape& shape, uint32_t g) {
  Group group;
  group.rung = shape.rungs[g];
  group.bytes = &kRansBytes[group.rung.rans_class()];
  group.symbol_at = kRansDecode[group.rung.rans_class()].symbol;
  group.half_range = kRansClassTable[group.rung.rans_class()].half_range;
  group.symbols = 2 * group.half_range + 1;
  group.wide = group.symbols > 16;
  group.live = LiveMask(LiveLanes(shape, g));
  return group;
}

// --- Decoding ---

KVPLANE_INLINE_AVX2 __m256i AddPlane(__m256i level, uint32_t plane, int bit) {
  return _mm256_add_epi16(level, _mm256_and_si256(WordMask(plane), Words(bit)));
}
template <bool kGeneral>
KVPLANE_INLINE_AVX2 Pair LevelsOf(const Pair& symbols, const Group& group, const std::byte* words) {
  const __m256i middle = Words(group.half_range);
  Pair level = {_mm256_sub_epi16(symbols.low, middle), _mm256_sub_epi16(symbols.high, middle)};
  if constexpr (kGeneral) {
    const uint32_t bits = group.rung.bypass();
    if (bits == 0) return level;
    const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(bits));
    const __m256i half = Words(1 << bits >> 1);
    level = {_mm256_sub_epi16(_mm256_sll_epi16(level.low, shift), half),
             _mm256_sub_epi16(_mm256_sll_epi16(level.high, shift), half)};
    for (uint32_t j = 0; j < bits; ++j) {
      const auto plane = base::LoadLe<uint32_t>(words + j * sizeof(uint32_t));
      level = {AddPlane(level.low, plane, 1 << j), AddPlane(level.high, plane >> 16, 1 << j)};
    }
  }
  return level;
}

// bf16 in the high halves. The sum is finite, so there is no NaN to keep.
KVPLANE_INLINE_AVX2 __m256i HighBf16(__m256i levels, const float* step, const float* mean) {
  const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(levels), _mm256_load_ps(step));
  const __m256i bits = _mm256_castps_si256(_mm256_add_ps(scaled, _mm256_load_ps(mean)));
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i exponent = _mm256_and_si256(bits, _mm256_set1_epi32(0x7f800000));
  const __m256i subnormal = _mm256_cmpeq_epi32(exponent, _mm256_setzero_si256());
  const __m256i sign = _mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(0x80000000u)));
  return _mm256_blendv_epi8(rounded, sign, subnormal);
}

// --- Encoding ---

template <bool kGeneral>
KVPLANE_INLINE_AVX2 Pair SymbolsOf(Pair levels, const Group& group, std::byte* words) {
  if constexpr (kGeneral) {
    const uint32_t bits = group.rung.bypass();
    if (bits != 0) {
      const __m256i half = Words(1 << bits >> 1);
      levels = {_mm256_add_epi16(levels.low, half), _mm256_add_epi16(levels.high, half)};
      for (uint32_t j = 0; j < bits; ++j) {
        const __m128i to_sign = _mm_cvtsi32_si128(static_cast<int>(15 - j));
        const uint32_t plane =
            LaneBits(_mm256_sll_epi16(levels.low, to_sign), _mm256_sll_epi16(levels.high, to_sign));
        base::StoreLe(words + j * sizeof(uint32_t), plane & group.live);
      }
      const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(bits));
      levels = {_mm256_sra_epi16(levels.low, shift), _mm256_sra_epi16(levels.high, shift)};
    }
  }
  const __m256i middle = Words(group.half_range);
  return {_mm256_add_epi16(levels.low, middle), _mm256_add_epi16(levels.high, middle)};
}

template <uint32_t kWidth>
struct Encoder {
  KVPLANE_INLINE_AVX2 explicit Encoder(const EncodeJob& job) {
    for (uint32_t v = 0; v < kWidth; ++v) {
      x[v] = {Words(kRansLowerBound), Words(kRansLowerBound)};
      at[v] = job.at[v];
    }
  }
  KVPLANE_INLINE_AVX2 void Finish(EncodeJob& job) const {
    for (uint32_t v = 0; v < kWidth; ++v) {
      job.at[v] = at[v] - kRansStateBytes;
      StorePair(job.at[v], x[v]);
    }
  }

  Pair x[kWidth];
  std::byte* at[kWidth];
};

KVPLANE_INLINE_AVX2 __m256i Clamp(__m256i x, int lowest, int highest) {
  return _mm256_max_epi16(Words(lowest), _mm256_min_epi16(Words(highest), x));
}

}  // namespace
}  // namespace kvplane::kernel::internal
