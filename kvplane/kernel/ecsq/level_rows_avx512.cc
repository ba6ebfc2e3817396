#include <immintrin.h>

#include <algorithm>
#include <bit>

#include "kvplane/kernel/ecsq/level_rows.h"

// A window of 128 elements at a time, all tokens of it: what belongs to its elements stays in registers, rows
// are read and written in the order in which pages hold them, and 128 levels are two registers, which one
// byte permutation a half brings into any order.

namespace kvplane::kernel::internal {
namespace {

#define KVPLANE_INLINE_AVX512 KVPLANE_TARGET_AVX512 inline __attribute__((always_inline))

constexpr uint32_t kWindowGroups = kLevelWindow / kLevelGroup;
constexpr uint32_t kFloats = 16;  // in a vector
// Pieces of rows are too short for the hardware to see the next one coming: a tile from DRAM takes 6.1 us
// without fetching ahead, 4.6 with 16 tokens, 5.0 with 8 and 6.2 with 32.
constexpr uint32_t kTokensAhead = 16;

// Where the four groups of a window lie in a row.
struct WindowOffsets {
  WindowOffsets(const LevelRows& shape, uint32_t window) {
    for (uint32_t i = 0; i < kWindowGroups; ++i) {
      const uint32_t element = window * kLevelWindow + i * kLevelGroup;
      at[i] = element / shape.head_dim * shape.head_stride + element % shape.head_dim;
    }
  }
  size_t at[kWindowGroups];
};

KVPLANE_INLINE_AVX512 __m512i LoadBytes(const void* from) { return _mm512_loadu_si512(from); }

// --- Values to levels ---

// The floats of even and odd elements, which is how bf16 widens.
struct Halves {
  __m512 even, odd;
};
KVPLANE_INLINE_AVX512 Halves Split(const float* values) {
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512 low = _mm512_load_ps(values);
  const __m512 high = _mm512_load_ps(values + kFloats);
  return {_mm512_permutex2var_ps(low, even, high),
          _mm512_permutex2var_ps(low, _mm512_add_epi32(even, _mm512_set1_epi32(1)), high)};
}

// 32 levels as words: block b of eight has the even elements 8 b, 8 b + 2, .., then the odd ones.
KVPLANE_INLINE_AVX512 __m512i LevelWords(__m512i row, const Halves& mean, const Halves& inverse_step) {
  const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(row, 16));
  const __m512 odd =
      _mm512_castsi512_ps(_mm512_and_si512(row, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  return _mm512_packs_epi32(
      _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_sub_ps(even, mean.even), inverse_step.even)),
      _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_sub_ps(odd, mean.odd), inverse_step.odd)));
}

// Where element i of 64 lies after the words of its two groups are packed into bytes.
constexpr uint8_t PackedPlace(uint32_t i) {
  const uint32_t word = i % 8 / 2 + (i & 1) * 4;
  return static_cast<uint8_t>(i % kLevelGroup / 8 * 16 + i / kLevelGroup * 8 + word);
}
struct alignas(64) BytesOfWindow {
  uint8_t of[kLevelWindow];
};
constexpr BytesOfWindow kPackedPlaces = [] {
  BytesOfWindow places{};
  for (uint32_t i = 0; i < kLevelWindow; ++i) {
    places.of[i] = static_cast<uint8_t>(i / 64 * 64 + PackedPlace(i % 64));
  }
  return places;
}();

KVPLANE_INLINE_AVX512 void ToLevelsOfWindow(const LevelRows& shape, const ToLevels& how, uint32_t window,
                                            const uint16_t* const* rows, int8_t* levels, uint32_t* sums) {
  const WindowOffsets offsets(shape, window);
  const WindowOffsets next(shape, std::min(window + 1, shape.windows() - 1));
  const size_t first = size_t{window} * kLevelWindow;
  Halves mean[kWindowGroups];
  Halves inverse_step[kWindowGroups];
#pragma GCC unroll 4
  for (uint32_t i = 0; i < kWindowGroups; ++i) {
    mean[i] = Split(how.mean + first + i * kLevelGroup);
    inverse_step[i] = Split(how.inverse_step + first + i * kLevelGroup);
  }
  __m512i pick[2], cap[2], weight[2], sum[2];
#pragma GCC unroll 2
  for (uint32_t half = 0; half < 2; ++half) {
    const size_t at = first + half * 64;
    pick[half] = _mm512_permutex2var_epi8(LoadBytes(kPackedPlaces.of), LoadBytes(how.element_of_lane + at),
                                          LoadBytes(kPackedPlaces.of + 64));
    cap[half] = LoadBytes(how.cap + at);
    weight[half] = LoadBytes(how.weight + at);
    sum[half] = _mm512_setzero_si512();
  }
  const size_t lanes = shape.elements();
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    // Beyond the last token comes the next window.
    const bool wraps = t + kTokensAhead >= shape.tokens;
    const uint32_t later = wraps ? t + kTokensAhead - shape.tokens : t + kTokensAhead;
    const uint16_t* const ahead = rows[std::min(later, shape.tokens - 1)];
    const WindowOffsets& places = wraps ? next : offsets;
    __m512i words[kWindowGroups];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kWindowGroups; ++i) {
      words[i] = LevelWords(LoadBytes(rows[t] + offsets.at[i]), mean[i], inverse_step[i]);
      _mm_prefetch(ahead + places.at[i], _MM_HINT_T0);
    }
    const __m512i low = _mm512_packs_epi16(words[0], words[1]);
    const __m512i high = _mm512_packs_epi16(words[2], words[3]);
#pragma GCC unroll 2
    for (uint32_t half = 0; half < 2; ++half) {
      const __m512i level = _mm512_permutex2var_epi8(low, pick[half], high);
      _mm512_store_si512(levels + t * lanes + first + half * 64, level);
      const __m512i size = _mm512_min_epu8(_mm512_abs_epi8(level), cap[half]);
      sum[half] = _mm512_dpbusd_epi32(sum[half], size, weight[half]);
    }
  }
  for (uint32_t half = 0; half < 2; ++half) {
    uint32_t* const to = sums + first / kLevelGroup + half * 2;
    to[0] = static_cast<uint32_t>(_mm512_mask_reduce_add_epi32(0x00ff, sum[half]));
    to[1] = static_cast<uint32_t>(_mm512_mask_reduce_add_epi32(0xff00, sum[half]));
  }
}

KVPLANE_TARGET_AVX512 void LevelsFromRows(const LevelRows& shape, const ToLevels& how,
                                          const uint16_t* const* rows, int8_t* levels, uint32_t* sums) {
  for (uint32_t window = 0; window < shape.windows(); ++window) {
    ToLevelsOfWindow(shape, how, window, rows, levels, sums);
  }
}

// --- Levels beyond their group's range ---

// Of many vectors only those with such levels are looked at one by one; a branch a vector would be guessed
// wrong every other time.
KVPLANE_TARGET_AVX512 uint32_t KeepSome(uint64_t* above, uint32_t* first, uint32_t count) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < count; i += 8) {
    const __m512i masks = _mm512_loadu_si512(above + i);
    const __mmask8 some = _mm512_test_epi64_mask(masks, masks);
    const __m256i positions = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first + i));
    _mm512_storeu_si512(above + kept, _mm512_maskz_compress_epi64(some, masks));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(first + kept),
                        _mm256_maskz_compress_epi32(some, positions));
    kept += static_cast<uint32_t>(_mm_popcnt_u32(some));
  }
  return kept;
}

constexpr BytesOfWindow kCounting = [] {
  BytesOfWindow counting{};
  for (uint32_t i = 0; i < kLevelWindow; ++i) counting.of[i] = static_cast<uint8_t>(i);
  return counting;
}();

KVPLANE_TARGET_AVX512 size_t FindAbove(const LevelRows& shape, const uint8_t* highest, const int8_t* levels,
                                       size_t room, uint32_t* positions) {
  constexpr uint32_t kBytes = 64;
  constexpr uint32_t kChunk = 128;
  const uint32_t lanes = shape.elements();
  const uint32_t vectors = shape.tokens * (lanes / kBytes);
  size_t count = 0;
  uint32_t token = 0;
  uint32_t lane = 0;
  for (uint32_t begin = 0; begin < vectors; begin += kChunk) {
    const uint32_t chunk = std::min(kChunk, vectors - begin);
    uint64_t above[kChunk];
    uint32_t first[kChunk];
    for (uint32_t i = 0; i < chunk; ++i, levels += kBytes) {
      first[i] = LevelPosition(token, lane);
      const __m512i size = _mm512_abs_epi8(_mm512_load_si512(levels));
      above[i] = _mm512_cmpgt_epu8_mask(size, LoadBytes(highest + lane));
      lane += kBytes;
      token += lane == lanes ? 1 : 0;
      lane = lane == lanes ? 0 : lane;
    }
    for (uint32_t i = chunk; i % 8 != 0; ++i) above[i] = first[i] = 0;
    const uint32_t kept = KeepSome(above, first, chunk);
    for (uint32_t i = 0; i < kept; ++i) {
      const auto found = static_cast<uint32_t>(std::popcount(above[i]));
      if (found <= kFloats && room >= count + kFloats) {
        const __m512i places = _mm512_cvtepu8_epi32(
            _mm512_castsi512_si128(_mm512_maskz_compress_epi8(above[i], LoadBytes(kCounting.of))));
        _mm512_storeu_si512(positions + count,
                            _mm512_add_epi32(places, _mm512_set1_epi32(static_cast<int>(first[i]))));
        count += found;
        continue;
      }
      for (uint64_t mask = above[i]; mask != 0; mask &= mask - 1, ++count) {
        if (count < room) positions[count] = first[i] + static_cast<uint32_t>(std::countr_zero(mask));
      }
    }
  }
  return count;
}

}  // namespace

const LevelRowKernels kLevelRowsAvx512 = {LevelsFromRows, FindAbove};

}  // namespace kvplane::kernel::internal
