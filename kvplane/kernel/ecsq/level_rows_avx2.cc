#include <algorithm>
#include <bit>

#include "kvplane/kernel/ecsq/level_rows.h"
#include "kvplane/kernel/permute_bytes_avx2.h"

// A window of 128 elements at a time, all tokens of it, as in level_rows_avx512.cc; what belongs to its
// elements is brought into the order of the arithmetic once.

namespace kvplane::kernel::internal {
namespace {

static_assert(kByteWindow == kLevelWindow);

constexpr uint32_t kWindowGroups = kLevelWindow / kLevelGroup;
constexpr uint32_t kSixteen = 16;
constexpr uint32_t kTokensAhead = 16;

KVPLANE_INLINE_AVX2 __m256i LoadBytes(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

// --- Values to levels ---

// Where element i of a group lies once its levels are words, then bytes: bf16 widens to even and odd
// elements, and packing works within halves of 128 bits.
constexpr uint32_t PackedPlace(uint32_t i) {
  const uint32_t word = i % 8 / 2 + (i & 1) * 4;
  return i % kSixteen / 8 * kSixteen + i / kSixteen * 8 + word;
}

// What belongs to the elements and lanes of one window.
struct alignas(32) WindowPlan {
  WindowPlan(const LevelRows& shape, const ToLevels& how, uint32_t window) {
    const uint32_t first = window * kLevelWindow;
    for (uint32_t g = 0; g < kWindowGroups; ++g) {
      const uint32_t element = first + g * kLevelGroup;
      at[g] = element / shape.head_dim * shape.head_stride + element % shape.head_dim;
    }
    for (uint32_t i = 0; i < kLevelWindow; ++i) {
      const uint32_t split = i / kSixteen * kSixteen + (i & 1) * 8 + i % kSixteen / 2;
      mean[split] = how.mean[first + i];
      inverse_step[split] = how.inverse_step[first + i];
      const uint32_t element = how.element_of_lane[first + i];
      source[i] =
          static_cast<uint8_t>(element / kLevelGroup * kLevelGroup + PackedPlace(element % kLevelGroup));
    }
  }
  float mean[kLevelWindow];  // of every 16 elements the even ones first
  float inverse_step[kLevelWindow];
  uint8_t source[kLevelWindow];  // [lanes]
  size_t at[kWindowGroups];      // where the groups lie in a row
};

KVPLANE_INLINE_AVX2 __m256i LevelsOf(__m256i high_bf16, const float* mean, const float* inverse_step) {
  const __m256 centred = _mm256_sub_ps(_mm256_castsi256_ps(high_bf16), _mm256_load_ps(mean));
  return _mm256_cvtps_epi32(_mm256_mul_ps(centred, _mm256_load_ps(inverse_step)));
}
// 16 levels as words.
KVPLANE_INLINE_AVX2 __m256i LevelWords(__m256i row, const float* mean, const float* inverse_step) {
  const __m256i high_halves = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return _mm256_packs_epi32(LevelsOf(_mm256_slli_epi32(row, 16), mean, inverse_step),
                            LevelsOf(_mm256_and_si256(row, high_halves), mean + 8, inverse_step + 8));
}

KVPLANE_INLINE_AVX2 void LevelsOfToken(const WindowPlan& plan, const uint16_t* row,
                                       __m256i (&levels)[kByteVectors]) {
  alignas(32) uint8_t packed[kLevelWindow];
#pragma GCC unroll 4
  for (uint32_t g = 0; g < kWindowGroups; ++g) {
    const uint16_t* const from = row + plan.at[g];
    const float* const mean = plan.mean + g * kLevelGroup;
    const float* const inverse_step = plan.inverse_step + g * kLevelGroup;
    const __m256i low = LevelWords(LoadBytes(from), mean, inverse_step);
    const __m256i high = LevelWords(LoadBytes(from + kSixteen), mean + kSixteen, inverse_step + kSixteen);
    _mm256_store_si256(reinterpret_cast<__m256i*>(packed) + g, _mm256_packs_epi16(low, high));
  }
  PermuteBytes(packed, plan.source, levels);
}

KVPLANE_INLINE_AVX2 uint32_t SumOf(__m256i lanes) {
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
  sum = _mm_add_epi32(sum, _mm_unpackhi_epi64(sum, sum));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(sum));
}

KVPLANE_TARGET_AVX2 void LevelsFromRows(const LevelRows& shape, const ToLevels& how,
                                        const uint16_t* const* rows, int8_t* levels, uint32_t* sums) {
  const size_t lanes = shape.elements();
  for (uint32_t window = 0; window < shape.windows(); ++window) {
    const size_t first = size_t{window} * kLevelWindow;
    const WindowPlan plan(shape, how, window);
    __m256i sum[kWindowGroups] = {};
    for (uint32_t t = 0; t < shape.tokens; ++t) {
      const uint16_t* const ahead = rows[std::min(t + kTokensAhead, shape.tokens - 1)];
#pragma GCC unroll 4
      for (const size_t at : plan.at) _mm_prefetch(reinterpret_cast<const char*>(ahead + at), _MM_HINT_T0);
      __m256i of_token[kByteVectors];
      LevelsOfToken(plan, rows[t], of_token);
#pragma GCC unroll 4
      for (uint32_t g = 0; g < kWindowGroups; ++g) {
        const size_t at = first + g * kLevelGroup;
        _mm256_store_si256(reinterpret_cast<__m256i*>(levels + t * lanes + at), of_token[g]);
        const __m256i size = _mm256_min_epu8(_mm256_abs_epi8(of_token[g]), LoadBytes(how.cap + at));
        // Two products of at most 127 * 127 fit a word.
        const __m256i weighted = _mm256_maddubs_epi16(size, LoadBytes(how.weight + at));
        sum[g] = _mm256_add_epi32(sum[g], _mm256_madd_epi16(weighted, _mm256_set1_epi16(1)));
      }
    }
    for (uint32_t g = 0; g < kWindowGroups; ++g) sums[first / kLevelGroup + g] = SumOf(sum[g]);
  }
}

// --- Levels beyond their group's range ---

KVPLANE_TARGET_AVX2 size_t FindAbove(const LevelRows& shape, const uint8_t* highest, const int8_t* levels,
                                     size_t room, uint32_t* positions) {
  const uint32_t lanes = shape.elements();
  size_t count = 0;
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    // Of many vectors only those with such levels are looked at: a branch a vector would be guessed wrong.
    constexpr uint32_t kChunk = 64;
    for (uint32_t begin = 0; begin < lanes; begin += kChunk * kLevelGroup) {
      const uint32_t end = std::min(lanes, begin + kChunk * kLevelGroup);
      uint32_t above[kChunk];
      uint32_t first[kChunk];
      uint32_t kept = 0;
      for (uint32_t lane = begin; lane < end; lane += kLevelGroup, levels += kLevelGroup) {
        const __m256i size = _mm256_abs_epi8(LoadBytes(levels));
        const __m256i limit = LoadBytes(highest + lane);
        const __m256i within = _mm256_cmpeq_epi8(_mm256_max_epu8(size, limit), limit);
        above[kept] = ~static_cast<uint32_t>(_mm256_movemask_epi8(within));
        first[kept] = LevelPosition(t, lane);
        kept += above[kept] != 0 ? 1 : 0;
      }
      for (uint32_t i = 0; i < kept; ++i) {
        for (uint32_t mask = above[i]; mask != 0; mask &= mask - 1, ++count) {
          if (count < room) positions[count] = first[i] + static_cast<uint32_t>(std::countr_zero(mask));
        }
      }
    }
  }
  return count;
}

}  // namespace

const LevelRowKernels kLevelRowsAvx2 = {LevelsFromRows, FindAbove};

}  // namespace kvplane::kernel::internal
