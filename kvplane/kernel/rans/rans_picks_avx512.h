// Internal: rows of bf16 and rows of lanes in AVX-512: permuting one into the other, and binary32 to the
// words of a row. Shared by the coders that take rows (rans_avx512.cc) and those that make levels of them
// (ecsq/nested_rows_avx512.cc).
//
// All of it is always inlined or anonymous, so each source has its own copy.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvplane/kernel/rans/rans_driver.h"
#include "kvplane/kernel/rans/rans_lanes_avx512.h"

namespace kvplane::kernel::internal {
namespace {

// RNE; subnormals become zeros of their sign: vcvtne2ps2bf16 is the definition's Bf16().
KVPLANE_INLINE_AVX512 __m512i Bf16Words(__m512 even, __m512 odd, __m512i interleave) {
  return _mm512_permutexvar_epi16(interleave, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}
// Word 2 i is word i, word 2 i + 1 is word 16 + i.
KVPLANE_INLINE_AVX512 __m512i InterleaveIndex() {
  const __m512i even = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  return _mm512_add_epi32(_mm512_or_si512(even, _mm512_slli_epi32(even, 16)), _mm512_set1_epi32(16 << 16));
}

using Window = __m512i[4];  // 128 elements

KVPLANE_INLINE_AVX512 __m512i Permute(const RansPick& pick, const Window& window) {
  const __m512i index = _mm512_load_si512(pick.index);
  const __m512i low = _mm512_maskz_permutex2var_epi16(pick.live, window[0], index, window[1]);
  return _mm512_mask_mov_epi16(low, pick.upper, _mm512_permutex2var_epi16(window[2], index, window[3]));
}

// What a core of AVX-512 has for staging rows (rans_driver.h).
struct RansPicksAvx512 {
  static constexpr bool kPicksRows = true;

  KVPLANE_TARGET_AVX512 static void Pick(const RansPick* picks, const uint32_t* sources, uint32_t count,
                                         const uint16_t* absent, const uint16_t* from, uint16_t* to) {
    for (uint32_t first = 0; first < count; first += kRansLanes, ++picks) {
      const uint32_t lanes = std::min(kRansLanes, count - first);
      const uint16_t* others = absent == nullptr ? nullptr : absent + first;
      if (!picks->local) {
        PickOne(sources + first, lanes, others, from, to + first);
        continue;
      }
      const uint16_t* at = from + picks->base;
      const Window window = {_mm512_loadu_si512(at), _mm512_loadu_si512(at + 32), _mm512_loadu_si512(at + 64),
                             _mm512_loadu_si512(at + 96)};
      __m512i values = Permute(*picks, window);
      if (others != nullptr) {
        const __mmask32 none = ~picks->live & LiveMask(lanes);
        values = _mm512_mask_loadu_epi16(values, none, others);
      }
      _mm512_storeu_si512(to + first, values);
    }
  }

  // From a row of pages to its lanes: picks of one window share its loads.
  KVPLANE_TARGET_AVX512 static void PickIn(const RansRows& layout, uint32_t groups, const uint16_t* row,
                                           uint16_t* lanes) {
    const RansPick* picks = layout.order->lane_picks;
    Window window = {};
    uint32_t base = kRansNoLane;
    for (uint32_t g = 0; g < groups; ++g) {
      if (picks[g].base != base) {
        base = picks[g].base;
        uint32_t h = base / layout.head_dim;
        uint32_t c = base % layout.head_dim;
        for (__m512i& part : window) {
          if (h < layout.heads) part = _mm512_loadu_si512(row + h * layout.head_stride + c);
          c += kRansLanes;
          if (c == layout.head_dim) {
            c = 0;
            ++h;
          }
        }
      }
      _mm512_store_si512(lanes + size_t{g} * kRansLanes, Permute(picks[g], window));
    }
  }

  KVPLANE_TARGET_AVX512 static void Copy(const uint16_t* from, uint32_t count, bool streaming, uint16_t* to) {
    constexpr uintptr_t kVector = 64;
    uint32_t i = 0;
    if (streaming && reinterpret_cast<uintptr_t>(to) % kVector == 0) {
      for (; i + kRansLanes <= count; i += kRansLanes) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
      }
    }
    std::memcpy(to + i, from + i, (count - i) * sizeof(uint16_t));
  }
};

}  // namespace
}  // namespace kvplane::kernel::internal
