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
      : count(shape.groups()), last_live(LiveMask(shape.channels - (count - 1) * kRansLanes)) {}
  __mmask32 Live(uint32_t g) const { return g + 1 == count ? last_live : 0xffffffffu; }
  uint32_t count;
  __mmask32 last_live;
};

// One call's streams, the first kWidth from `first` on.
struct EncodeCall {
  const TernaryShape& shape;
  const uint8_t* const* tables;
  const int16_t* const* parents;
  const int16_t* const* levels;
  std::byte* const* ends;
  size_t* sizes;
};

KVPLANE_INLINE_AVX512 __m512i EntryOf(__m512i parent, __m512i level) {
  const __m512i rest = _mm512_sub_epi16(level, Thrice(parent));
  const __mmask32 negative = _mm512_movepi16_mask(parent);
  const __m512i folded = _mm512_mask_sub_epi16(rest, negative, _mm512_setzero_si512(), rest);
  return _mm512_add_epi16(_mm512_slli_epi16(ContextOf(parent), 2), _mm512_add_epi16(folded, Words(1)));
}

template <uint32_t kWidth>
KVPLANE_TARGET_AVX512 void EncodeLockstep(const EncodeCall& call, uint32_t first) {
  const Groups groups(call.shape);
  __m512i x[kWidth];
  std::byte* at[kWidth];
#pragma GCC unroll 4
  for (uint32_t v = 0; v < kWidth; ++v) {
    x[v] = Words(kRansLowerBound);
    at[v] = call.ends[first + v];
  }
  for (uint32_t t = call.shape.tokens; t-- > 0;) {
    for (uint32_t g = groups.count; g-- > 0;) {
      const __mmask32 live = groups.Live(g);
      const size_t place = (size_t{t} * groups.count + g) * kRansLanes;
#pragma GCC unroll 4
      for (uint32_t v = 0; v < kWidth; ++v) {
        const __m512i parent = _mm512_maskz_loadu_epi16(live, call.parents[first + v] + place);
        const __m512i level = _mm512_maskz_loadu_epi16(live, call.levels[first + v] + place);
        Push<true, false>(x[v], at[v], EntryOf(parent, level), Load(kEntries[call.tables[first + v][g]]),
                          live);
      }
    }
  }
#pragma GCC unroll 4
  for (uint32_t v = 0; v < kWidth; ++v) {
    at[v] -= kRansStateBytes;
    _mm512_storeu_si512(at[v], x[v]);
    call.sizes[first + v] = static_cast<size_t>(call.ends[first + v] - at[v]);
  }
}

void Encode(const TernaryShape& shape, uint32_t streams, const uint8_t* const* tables,
            const int16_t* const* parents, const int16_t* const* levels, std::byte* const* ends,
            size_t* sizes) {
  const EncodeCall call = {shape, tables, parents, levels, ends, sizes};
  uint32_t first = 0;
  for (; first + 4 <= streams; first += 4) EncodeLockstep<4>(call, first);
  switch (streams - first) {
    case 3:
      return EncodeLockstep<3>(call, first);
    case 2:
      return EncodeLockstep<2>(call, first);
    case 1:
      return EncodeLockstep<1>(call, first);
    default:
      break;
  }
}

// choose ? a : b, bit by bit.
KVPLANE_INLINE_AVX512 __m512i Choose(__m512i choose, __m512i a, __m512i b) {
  return _mm512_ternarylogic_epi32(choose, a, b, 0xca);
}

// Comparisons are signs of differences: words stay words, which is a shorter way than by mask registers.
template <bool kFast>
KVPLANE_INLINE_AVX512 __m512i Refine(__m512i& x, Cursor& cursor, __m512i parent, __m512i bounds,
                                     __mmask32 live) {
  const __m512i context = ContextOf(parent);
  const __m512i first = _mm512_permutexvar_epi16(context, bounds);
  const __m512i second = _mm512_permutexvar_epi16(_mm512_add_epi16(context, Words(kSecondBound)), bounds);
  const __m512i slot = _mm512_and_si512(x, Words(kRansTotal - 1));
  const __m512i below_first = _mm512_srai_epi16(_mm512_sub_epi16(slot, first), 15);
  const __m512i below_second = _mm512_srai_epi16(_mm512_sub_epi16(slot, second), 15);
  const __m512i upper =
      Choose(below_second, _mm512_sub_epi16(second, first), _mm512_sub_epi16(Words(kRansTotal), second));
  const __m512i frequency = Choose(below_first, first, upper);
  const __m512i start = _mm512_andnot_si512(below_first, Choose(below_second, first, second));
  const __m512i product = _mm512_mullo_epi16(frequency, _mm512_srli_epi16(x, 7));
  const __m512i y = _mm512_mask_add_epi16(x, live, product, _mm512_sub_epi16(slot, start));
  Refill<kFast>(x, y, cursor);
  const __m512i rest = _mm512_add_epi16(_mm512_add_epi16(below_first, below_second), Words(1));
  const __m512i sign = _mm512_srai_epi16(parent, 15);
  return _mm512_add_epi16(Thrice(parent), _mm512_sub_epi16(_mm512_xor_si512(rest, sign), sign));
}

// Streams in lockstep while they run.
template <uint32_t kWidth>
struct Refiner {
  KVPLANE_INLINE_AVX512 bool Fast(size_t steps) const {
    bool fast = true;
#pragma GCC unroll 4
    for (uint32_t v = 0; v < kWidth; ++v) {
      fast &= cursor[v].end - cursor[v].at >= static_cast<ptrdiff_t>(steps * kRansLanes);
    }
    return fast;
  }
  __m512i x[kWidth];
  Cursor cursor[kWidth];
  const uint8_t* tables[kWidth];
  int16_t* levels[kWidth];  // of the token
};

template <uint32_t kWidth, bool kFast>
KVPLANE_INLINE_AVX512 void RefineToken(const Groups& groups, Refiner<kWidth>& refiner) {
  for (uint32_t g = 0; g < groups.count; ++g) {
    const __mmask32 live = groups.Live(g);
#pragma GCC unroll 4
    for (uint32_t v = 0; v < kWidth; ++v) {
      const __m512i bounds = _mm512_load_si512(kBounds[refiner.tables[v][g]].word);
      const __m512i parent = _mm512_loadu_si512(refiner.levels[v]);
      _mm512_storeu_si512(refiner.levels[v],
                          Refine<kFast>(refiner.x[v], refiner.cursor[v], parent, bounds, live));
      refiner.levels[v] += kRansLanes;
    }
  }
}

struct DecodeCall {
  const TernaryShape& shape;
  const uint8_t* const* tables;
  const std::span<const std::byte>* in;
  int16_t* const* levels;
};

// The streams `which`; returns the corrupt ones.
template <uint32_t kWidth>
KVPLANE_TARGET_AVX512 uint32_t DecodeLockstep(const DecodeCall& call, const uint32_t* which) {
  const Groups groups(call.shape);
  Refiner<kWidth> refiner;
#pragma GCC unroll 4
  for (uint32_t v = 0; v < kWidth; ++v) {
    const std::span<const std::byte> stream = call.in[which[v]];
    refiner.x[v] = _mm512_loadu_si512(stream.data());
    refiner.cursor[v] = {stream.data() + kRansStateBytes, stream.data() + stream.size(), false};
    refiner.tables[v] = call.tables[which[v]];
    refiner.levels[v] = call.levels[which[v]];
  }
  for (uint32_t t = 0; t < call.shape.tokens; ++t) {
    if (refiner.Fast(groups.count)) {
      RefineToken<kWidth, true>(groups, refiner);
    } else {
      RefineToken<kWidth, false>(groups, refiner);
    }
  }
  uint32_t corrupt = 0;
  for (uint32_t v = 0; v < kWidth; ++v) {
    const Cursor& cursor = refiner.cursor[v];
    const bool whole = !cursor.overrun && cursor.at == cursor.end &&
                       _mm512_cmpneq_epi16_mask(refiner.x[v], Words(kRansLowerBound)) == 0;
    corrupt |= whole ? 0 : 1u << which[v];
  }
  return corrupt;
}

uint32_t Decode(const TernaryShape& shape, uint32_t streams, const uint8_t* const* tables,
                const std::span<const std::byte>* in, int16_t* const* levels) {
  uint32_t corrupt = 0;
  uint32_t which[kTernaryMaxStreams];
  uint32_t count = 0;
  for (uint32_t v = 0; v < streams; ++v) {
    if (Plausible(in[v], 0)) {
      which[count++] = v;
    } else {
      corrupt |= 1u << v;
    }
  }
  const DecodeCall call = {shape, tables, in, levels};
  uint32_t first = 0;
  for (; first + 4 <= count; first += 4) corrupt |= DecodeLockstep<4>(call, which + first);
  switch (count - first) {
    case 3:
      return corrupt | DecodeLockstep<3>(call, which + first);
    case 2:
      return corrupt | DecodeLockstep<2>(call, which + first);
    case 1:
      return corrupt | DecodeLockstep<1>(call, which + first);
    default:
      return corrupt;
  }
}

}  // namespace

const TernaryKernels kTernaryAvx512 = {Encode, Decode};

}  // namespace kvplane::kernel::internal
