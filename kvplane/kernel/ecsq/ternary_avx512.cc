#include <array>

#include "kvplane/kernel/ecsq/ecsq_tables.h"
#include "kvplane/kernel/ecsq/ternary.h"
#include "kvplane/kernel/rans/rans_lanes_avx512.h"

// The context of every lane picks its bounds by a permutation of 16-bit words; three symbols then need two
// comparisons instead of a table of slots.

namespace kvplane::kernel::internal {
namespace {

// An entry of an encode table is a pair of context and symbol.
constexpr uint32_t kSymbolPitch = 4;

struct alignas(64) Bounds {
  uint16_t word[32] = {};  // entry c: first slot of symbol 1 in context c; 8 + c: of symbol 2
};
constexpr int kSecondBound = 8;

constexpr auto kBounds = [] {
  std::array<Bounds, kTernaryTables> tables{};
  for (uint32_t k = 0; k < kTernaryTables; ++k) {
    for (uint32_t c = 0; c < 3; ++c) {
      const uint8_t* f = kTernaryFrequency[k][c];
      tables[k].word[c] = f[0];
      tables[k].word[kSecondBound + c] = static_cast<uint16_t>(f[0] + f[1]);
    }
  }
  return tables;
}();

constexpr auto kEntries = [] {
  std::array<RansEncodeTable, kTernaryTables> tables{};
  for (uint32_t k = 0; k < kTernaryTables; ++k) {
    for (uint32_t c = 0; c < 3; ++c) {
      uint32_t start = 0;
      for (uint32_t s = 0; s < 3; ++s) {
        const uint32_t f = kTernaryFrequency[k][c][s];
        const uint32_t entry = c * kSymbolPitch + s;
        tables[k].frequency[entry] = static_cast<uint16_t>(f);
        tables[k].start[entry] = static_cast<uint16_t>(start);
        tables[k].reciprocal[entry] = static_cast<uint16_t>(f == 1 ? 65535 : 65536 / f);
        start += f;
      }
    }
  }
  return tables;
}();

KVPLANE_INLINE_AVX512 __m512i ContextOf(__m512i parents) {
  return _mm512_min_epu16(_mm512_abs_epi16(parents), Words(2));
}
KVPLANE_INLINE_AVX512 __m512i Thrice(__m512i parents) {
  return _mm512_add_epi16(parents, _mm512_slli_epi16(parents, 1));
}

struct Groups {
  explicit Groups(const TernaryShape& shape)
      : count((shape.channels + kRansLanes - 1) / kRansLanes),
        last_live(LiveMask(shape.channels - (count - 1) * kRansLanes)) {}
  __mmask32 Live(uint32_t g) const { return g + 1 == count ? last_live : 0xffffffffu; }
  uint32_t count;
  __mmask32 last_live;
};

KVPLANE_TARGET_AVX512 std::byte* Encode(const TernaryShape& shape, const int16_t* parents,
                                        const int16_t* levels, std::byte* end) {
  const Groups groups(shape);
  __m512i x = Words(kRansLowerBound);
  for (uint32_t t = shape.tokens; t-- > 0;) {
    for (uint32_t g = groups.count; g-- > 0;) {
      const __mmask32 live = groups.Live(g);
      const size_t at = (size_t{t} * groups.count + g) * kRansLanes;
      const __m512i parent = _mm512_maskz_loadu_epi16(live, parents + at);
      const __m512i rest = _mm512_sub_epi16(_mm512_maskz_loadu_epi16(live, levels + at), Thrice(parent));
      const __mmask32 negative = _mm512_movepi16_mask(parent);
      const __m512i folded = _mm512_mask_sub_epi16(rest, negative, _mm512_setzero_si512(), rest);
      const __m512i entry =
          _mm512_add_epi16(_mm512_slli_epi16(ContextOf(parent), 2), _mm512_add_epi16(folded, Words(1)));
      Push<true, false>(x, end, entry, Load(kEntries[shape.tables[g]]), live);
    }
  }
  end -= kRansStateBytes;
  _mm512_storeu_si512(end, x);
  return end;
}

template <bool kFast>
KVPLANE_INLINE_AVX512 __m512i Refine(__m512i& x, Cursor& cursor, __m512i parent, __m512i bounds,
                                     __mmask32 live) {
  const __m512i context = ContextOf(parent);
  const __m512i first = _mm512_permutexvar_epi16(context, bounds);
  const __m512i second = _mm512_permutexvar_epi16(_mm512_add_epi16(context, Words(kSecondBound)), bounds);
  const __m512i slot = _mm512_and_si512(x, Words(kRansTotal - 1));
  const __mmask32 above_first = _mm512_cmpge_epu16_mask(slot, first);
  const __mmask32 above_second = _mm512_cmpge_epu16_mask(slot, second);
  __m512i start = _mm512_maskz_mov_epi16(above_first, first);
  start = _mm512_mask_mov_epi16(start, above_second, second);
  __m512i stop = _mm512_mask_mov_epi16(first, above_first, second);
  stop = _mm512_mask_mov_epi16(stop, above_second, Words(kRansTotal));
  const __m512i product = _mm512_mullo_epi16(_mm512_sub_epi16(stop, start), _mm512_srli_epi16(x, 7));
  const __m512i y = _mm512_mask_add_epi16(x, live, product, _mm512_sub_epi16(slot, start));
  const __mmask32 refill = _mm512_cmplt_epu16_mask(y, Words(kRansLowerBound));
  const __m512i bytes = _mm512_maskz_expand_epi16(refill, _mm512_cvtepu8_epi16(Peek<kFast>(cursor)));
  x = _mm512_or_si512(_mm512_mask_slli_epi16(y, refill, y, 8), bytes);
  Skip<kFast>(cursor, static_cast<uint32_t>(_mm_popcnt_u32(refill)));
  __m512i rest = _mm512_mask_mov_epi16(Words(-1), above_first, _mm512_setzero_si512());
  rest = _mm512_mask_mov_epi16(rest, above_second, Words(1));
  const __mmask32 negative = _mm512_movepi16_mask(parent);
  rest = _mm512_mask_sub_epi16(rest, negative, _mm512_setzero_si512(), rest);
  return _mm512_add_epi16(Thrice(parent), rest);
}

template <bool kFast>
KVPLANE_INLINE_AVX512 void RefineToken(const TernaryShape& shape, const Groups& groups, __m512i& x,
                                       Cursor& cursor, int16_t* levels) {
  for (uint32_t g = 0; g < groups.count; ++g, levels += kRansLanes) {
    const __m512i bounds = _mm512_load_si512(kBounds[shape.tables[g]].word);
    const __m512i parent = _mm512_loadu_si512(levels);
    _mm512_storeu_si512(levels, Refine<kFast>(x, cursor, parent, bounds, groups.Live(g)));
  }
}

KVPLANE_TARGET_AVX512 bool Decode(const TernaryShape& shape, std::span<const std::byte> in, int16_t* levels) {
  if (!Plausible(in, 0)) return false;
  const Groups groups(shape);
  __m512i x = _mm512_loadu_si512(in.data());
  Cursor cursor{in.data() + kRansStateBytes, in.data() + in.size(), false};
  for (uint32_t t = 0; t < shape.tokens; ++t, levels += size_t{groups.count} * kRansLanes) {
    if (cursor.end - cursor.at >= static_cast<ptrdiff_t>(groups.count * kRansLanes)) {
      RefineToken<true>(shape, groups, x, cursor, levels);
    } else {
      RefineToken<false>(shape, groups, x, cursor, levels);
    }
  }
  return !cursor.overrun && cursor.at == cursor.end &&
         _mm512_cmpneq_epi16_mask(x, Words(kRansLowerBound)) == 0;
}

}  // namespace

const TernaryKernels kTernaryAvx512 = {Encode, Decode};

}  // namespace kvplane::kernel::internal
