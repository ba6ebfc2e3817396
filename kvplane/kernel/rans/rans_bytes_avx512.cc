#include <algorithm>
#include <array>
#include <utility>

#include "kvplane/kernel/rans/rans_bytes.h"
#include "kvplane/kernel/rans/rans_driver.h"
#include "kvplane/kernel/rans/rans_lanes_avx512.h"

// Tables are by rung, not by class: what a step does between levels and symbols is in them.

namespace kvplane::kernel::internal {
namespace {

constexpr uint32_t kRungs = kRansClasses * (kRansMaxBypass + 1);
constexpr int32_t kBias = 128;
constexpr uint32_t RungIndex(RansRung rung) { return rung.bypass() * kRansClasses + rung.rans_class(); }

// By slot: the level less its bypass bits and 128 more, low byte.
struct alignas(64) LevelTable {
  uint8_t level[kRansTotal];
};

constexpr auto kLevels = [] {
  std::array<LevelTable, kRungs> tables{};
  for (uint32_t b = 0; b <= kRansMaxBypass; ++b) {
    for (uint32_t k = 0; k < kRansClasses; ++k) {
      const RansClass& rans_class = kRansClassTable[k];
      uint32_t slot = 0;
      for (uint32_t s = 0; s <= 2u * rans_class.half_range; ++s) {
        const int32_t level = (static_cast<int32_t>(s) - rans_class.half_range) * (1 << b) - ((1 << b) >> 1);
        for (uint32_t i = 0; i < rans_class.frequency[s]; ++i) {
          tables[b * kRansClasses + k].level[slot++] = static_cast<uint8_t>((level + kBias) & 0xff);
        }
      }
    }
  }
  return tables;
}();

// --- Decoding ---

struct LevelTables {
  __m512i level[2], frequency[2], offset[2];
};
KVPLANE_INLINE_AVX512 LevelTables LoadLevels(RansRung rung) {
  const RansDecodeTable& states = kRansDecode[rung.rans_class()];
  const LevelTable& levels = kLevels[RungIndex(rung)];
  return {{_mm512_load_si512(levels.level), _mm512_load_si512(levels.level + 64)},
          {_mm512_load_si512(states.frequency), _mm512_load_si512(states.frequency + 64)},
          {_mm512_load_si512(states.offset), _mm512_load_si512(states.offset + 64)}};
}

// The bypass sections of a lockstep, which advance together.
template <uint32_t kWidth>
struct BypassWords {
  KVPLANE_INLINE_AVX512 explicit BypassWords(const DecodeJob& job) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kWidth; ++v) begin[v] = job.bypass[v];
  }
  KVPLANE_INLINE_AVX512 __mmask32 Plane(uint32_t v, uint32_t j) const {
    return base::LoadLe<uint32_t>(begin[v] + at + j * sizeof(uint32_t));
  }
  KVPLANE_INLINE_AVX512 void Prefetch() const {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kWidth; ++v) _mm_prefetch(begin[v] + at + kRansBytesAhead, _MM_HINT_T0);
  }
  const std::byte* begin[kWidth];
  size_t at = 0;
};

// One group of one token of all streams: levels, biased, in the low bytes of words.
template <uint32_t kWidth, bool kFast, uint32_t kBypass>
KVPLANE_INLINE_AVX512 void DecodeGroup(Decoder<kWidth>& decoder, BypassWords<kWidth>& bypass, RansRung rung,
                                       __m512i (&levels)[kWidth]) {
  const LevelTables tables = LoadLevels(rung);
#pragma GCC unroll 8
  for (uint32_t v = 0; v < kWidth; ++v) {
    levels[v] = _mm512_permutex2var_epi8(tables.level[0], decoder.x[v], tables.level[1]);
    Advance<kFast, false>(decoder.x[v], decoder.cursor[v], tables.frequency, tables.offset, 0);
#pragma GCC unroll 4
    for (uint32_t j = 0; j < kBypass; ++j) {
      levels[v] = _mm512_mask_add_epi16(levels[v], bypass.Plane(v, j), levels[v], Words(1 << j));
    }
  }
  bypass.at += kBypass * sizeof(uint32_t);
}

template <uint32_t kWidth, bool kFast>
KVPLANE_INLINE_AVX512 void DecodeGroup(Decoder<kWidth>& decoder, BypassWords<kWidth>& bypass, RansRung rung,
                                       __m512i (&levels)[kWidth]) {
  switch (rung.bypass()) {
    case 0:
      return DecodeGroup<kWidth, kFast, 0>(decoder, bypass, rung, levels);
    case 1:
      return DecodeGroup<kWidth, kFast, 1>(decoder, bypass, rung, levels);
    case 2:
      return DecodeGroup<kWidth, kFast, 2>(decoder, bypass, rung, levels);
    case 3:
      return DecodeGroup<kWidth, kFast, 3>(decoder, bypass, rung, levels);
    default:
      return DecodeGroup<kWidth, kFast, 4>(decoder, bypass, rung, levels);
  }
}

// The even bytes of two vectors.
KVPLANE_INLINE_AVX512 __m512i LowBytes() {
  alignas(64) static constexpr auto kEven = [] {
    std::array<uint8_t, 64> even{};
    for (uint32_t i = 0; i < even.size(); ++i) even[i] = static_cast<uint8_t>(2 * i);
    return even;
  }();
  return _mm512_load_si512(kEven.data());
}

// The values of 16 elements of the 128 whose levels are `low` and `high`.
KVPLANE_INLINE_AVX512 __m512 ValuesOf(__m512i low, __m512i high, __m512i pick, __m512 step, __m512 mean) {
  constexpr __mmask64 kLowest = 0x1111111111111111u;
  const __m512i biased = _mm512_mask2_permutex2var_epi8(low, pick, kLowest, high);
  const __m512 level = _mm512_sub_ps(_mm512_castsi512_ps(biased), _mm512_set1_ps(0x1p23f + kBias));
  return _mm512_add_ps(_mm512_mul_ps(level, step), mean);
}

// vcvtne2ps2bf16 is the definition's Bf16(): nearest even, subnormals become zeros of their sign.
template <bool kStream>
KVPLANE_INLINE_AVX512 void StoreValues(uint16_t* to, __m512 odd, __m512 even) {
  if constexpr (kStream) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), (__m512i)_mm512_cvtne2ps_pbh(odd, even));
  } else {
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
  }
}

// Windows of levels on their way to rows. They are scaled one behind, a piece after each piece decoded:
// values are made while states wait for each other, and their stores go their way meanwhile.
template <uint32_t kWidth>
struct alignas(64) Window {
  uint8_t level[kWidth][kRansByteWindow];
};
template <uint32_t kWidth>
struct RowsBehind {
  // Before the first window comes one of zeros for its place.
  KVPLANE_INLINE_AVX512 RowsBehind(const DecodeJob& job, Window<kWidth>* memory)
      : layout(*job.byte_rows), now(memory), before(memory + 1) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kWidth; ++v) {
      rows[v] = job.rows[v];
      row[v] = rows[v][0];
      _mm512_store_si512(before->level[v], _mm512_setzero_si512());
      _mm512_store_si512(before->level[v] + 64, _mm512_setzero_si512());
    }
  }
  // The window that is decoded next is whole, of token t from element `first`.
  KVPLANE_INLINE_AVX512 void Advance(uint32_t t, uint32_t next_element) {
    if (next_element == 0) {
#pragma GCC unroll 8
      for (uint32_t v = 0; v < kWidth; ++v) row[v] = rows[v][t];
      offset = channel = 0;
    }
    element = next_element;
    std::swap(now, before);
  }
  // Elements [at, at + 64) of the window before.
  template <bool kStream>
  KVPLANE_INLINE_AVX512 void Scale(uint32_t at) {
    ScaleGroup<kStream>(element + at);
    ScaleGroup<kStream>(element + at + kRansLanes);
  }
  KVPLANE_INLINE_AVX512 uint8_t* Levels(uint32_t v) const { return now->level[v]; }

 private:
  template <bool kStream>
  KVPLANE_INLINE_AVX512 void ScaleGroup(size_t even) {
    const size_t odd = even + kRansLanes / 2;
    const __m512i even_pick = _mm512_load_si512(layout.pick + even);
    const __m512i odd_pick = _mm512_load_si512(layout.pick + odd);
    const __m512 even_step = _mm512_load_ps(layout.step + even);
    const __m512 odd_step = _mm512_load_ps(layout.step + odd);
    const __m512 even_mean = _mm512_load_ps(layout.mean + even);
    const __m512 odd_mean = _mm512_load_ps(layout.mean + odd);
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kWidth; ++v) {
      const __m512i low = _mm512_load_si512(before->level[v]);
      const __m512i high = _mm512_load_si512(before->level[v] + 64);
      StoreValues<kStream>(row[v] + offset, ValuesOf(low, high, odd_pick, odd_step, odd_mean),
                           ValuesOf(low, high, even_pick, even_step, even_mean));
    }
    offset += kRansLanes;
    channel += kRansLanes;
    if (channel == layout.head_dim) {
      channel = 0;
      offset += layout.head_stride - layout.head_dim;
    }
  }

  const RansByteRows layout;
  Window<kWidth>* now;
  Window<kWidth>* before;
  uint16_t* const* rows[kWidth];
  uint16_t* row[kWidth];  // of the window that is scaled, whose first element is `element`
  uint32_t element = 0;
  uint32_t channel = 0;  // what is scaled next
  size_t offset = 0;
};

// One window of one token of all streams.
template <uint32_t kWidth, bool kFast, bool kStream>
KVPLANE_INLINE_AVX512 void DecodeWindow(Decoder<kWidth>& decoder, BypassWords<kWidth>& bypass,
                                        const RansRung* rungs, RowsBehind<kWidth>& behind) {
  for (uint32_t at = 0; at < kRansByteWindow; at += 2 * kRansLanes, rungs += 2) {
    __m512i low[kWidth], high[kWidth];
    DecodeGroup<kWidth, kFast>(decoder, bypass, rungs[0], low);
    DecodeGroup<kWidth, kFast>(decoder, bypass, rungs[1], high);
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kWidth; ++v) {
      _mm512_store_si512(behind.Levels(v) + at, _mm512_permutex2var_epi8(low[v], LowBytes(), high[v]));
    }
    behind.template Scale<kStream>(at);
  }
}

// Streaming stores need whole aligned vectors.
bool Streams(const DecodeJob& job, uint32_t width) {
  constexpr uintptr_t kVector = 64;
  const RansByteRows& layout = *job.byte_rows;
  if (!layout.streaming_stores) return false;
  uintptr_t misaligned = layout.heads > 1 ? layout.head_stride * sizeof(uint16_t) % kVector : 0;
  for (uint32_t v = 0; v < width; ++v) {
    for (uint32_t t = 0; t < job.shape->tokens; ++t) {
      misaligned |= reinterpret_cast<uintptr_t>(job.rows[v][t]) % kVector;
    }
  }
  return misaligned == 0;
}

// --- Encoding ---

// By level without its bypass bits, as its low five bits say: negative ones stand in the upper half.
struct alignas(64) PushTable {
  uint16_t frequency[32];
  uint16_t start[32];
  uint16_t reciprocal[32];
  uint16_t shift[32];
};

// States are below 512 f when they are divided by f. With 2^shift <= f and the reciprocal rounded up,
// x / f = x reciprocal >> (16 + shift) for all of them while x times what rounding added stays below
// 2^(16 + shift).
struct Division {
  uint32_t reciprocal, shift;
  uint32_t missing = 0;  // what the quotient falls short of x / f
};
constexpr Division DivisionBy(uint32_t f) {
  // 2^16 does not fit, so powers of two shift once less, and 1 divides into one less.
  if (f == 1) return {65535, 0, 1};
  uint32_t shift = 0;
  while (2u << shift <= f) ++shift;
  if (f == 1u << shift) return {1u << 15, shift - 1};
  return {((1u << (16 + shift)) + f - 1) / f, shift};
}
// By how much the quotient can exceed x / f.
constexpr uint32_t Excess(uint32_t f) {
  const Division by = DivisionBy(f);
  uint32_t most = 0;
  // The ends of every run of x of one quotient q; the product rises with x.
  for (uint32_t q = 0; q < 512; ++q) {
    for (const uint32_t x : {q * f, q * f + f - 1}) {
      if (x == 0) continue;
      const uint32_t quotient = (x * by.reciprocal >> 16 >> by.shift) + by.missing;
      most = std::max(most, quotient - q);  // less than q wraps to very much
    }
  }
  return most;
}
// Classes that have a frequency (98, 108) by which some quotients come out one too large.
constexpr auto kInexact = [] {
  std::array<bool, kRansClasses> inexact{};
  for (uint32_t k = 0; k < kRansClasses; ++k) {
    const uint8_t* frequency = kRansClassTable[k].frequency;
    uint32_t excess = 0;
    for (uint32_t s = 0; s <= kRansClassTable[k].half_range; ++s) {
      excess = std::max(excess, Excess(frequency[s]));
    }
    inexact[k] = excess > 0;
  }
  return inexact;
}();

static_assert([] {
  for (uint32_t k = 0; k < kRansClasses; ++k) {
    for (uint32_t s = 0; s <= kRansClassTable[k].half_range; ++s) {
      if (Excess(kRansClassTable[k].frequency[s]) > 1) return false;
    }
    if (kInexact[k] && RansFitsByte(RansRung::Of(k, 1))) return false;  // EncodeToken() counts on it
  }
  return true;
}());

constexpr auto kPush = [] {
  std::array<PushTable, kRansClasses> tables{};
  for (uint32_t k = 0; k < kRansClasses; ++k) {
    const RansClass& rans_class = kRansClassTable[k];
    uint32_t start = 0;
    for (uint32_t s = 0; s <= 2u * rans_class.half_range; ++s) {
      const uint32_t f = rans_class.frequency[s];
      const Division by = DivisionBy(f);
      const uint32_t at = (s + 32 - rans_class.half_range) % 32;
      tables[k].frequency[at] = static_cast<uint16_t>(f);
      tables[k].start[at] = static_cast<uint16_t>(start + by.missing * (kRansTotal - f));
      tables[k].reciprocal[at] = static_cast<uint16_t>(by.reciprocal);
      tables[k].shift[at] = static_cast<uint16_t>(by.shift);
      start += f;
    }
  }
  return tables;
}();

struct PushTables {
  __m512i frequency, start, reciprocal, shift;
};
KVPLANE_INLINE_AVX512 PushTables Load(const PushTable& table) {
  return {_mm512_load_si512(table.frequency), _mm512_load_si512(table.start),
          _mm512_load_si512(table.reciprocal), _mm512_load_si512(table.shift)};
}

// x / f * 128 + x % f + start is x + x / f * (128 - f) + start.
template <bool kInexactClass>
KVPLANE_INLINE_AVX512 void PushLevels(__m512i& x, std::byte*& at, __m512i levels, const PushTables& tables) {
  const __m512i f = _mm512_permutexvar_epi16(levels, tables.frequency);
  const __m512i start = _mm512_permutexvar_epi16(levels, tables.start);
  const __m512i reciprocal = _mm512_permutexvar_epi16(levels, tables.reciprocal);
  const __m512i shift = _mm512_permutexvar_epi16(levels, tables.shift);
  const __mmask32 emit = _mm512_cmpge_epu16_mask(x, _mm512_slli_epi16(f, 9));
  const __m256i bytes = _mm512_cvtepi16_epi8(_mm512_maskz_compress_epi16(emit, x));
  const auto count = static_cast<uint32_t>(_mm_popcnt_u32(emit));
  at -= count;
  _mm256_mask_storeu_epi8(at, _bzhi_u32(0xffffffffu, count), bytes);
  const __m512i state = _mm512_mask_srli_epi16(x, emit, x, 8);
  __m512i quotient = _mm512_srlv_epi16(_mm512_mulhi_epu16(state, reciprocal), shift);
  if constexpr (kInexactClass) {
    const __mmask32 over = _mm512_cmpgt_epu16_mask(_mm512_mullo_epi16(quotient, f), state);
    quotient = _mm512_mask_sub_epi16(quotient, over, quotient, Words(1));
  }
  const __m512i spread = _mm512_mullo_epi16(quotient, _mm512_sub_epi16(Words(kRansTotal), f));
  x = _mm512_add_epi16(spread, _mm512_add_epi16(state, start));
}

template <uint32_t kWidth, uint32_t kBypass, bool kInexactClass = false>
KVPLANE_INLINE_AVX512 void EncodeGroup(Encoder<kWidth>& encoder, const EncodeJob& job, RansRung rung,
                                       size_t at, size_t& bypass_at) {
  const PushTables tables = Load(kPush[rung.rans_class()]);
  const __m512i lowest = Words(rung.min_level());
  const __m512i highest = Words(rung.max_level());
  bypass_at -= kBypass * sizeof(uint32_t);
#pragma GCC unroll 8
  for (uint32_t v = 0; v < kWidth; ++v) {
    __m512i levels =
        _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(job.bytes[v] + at)));
    levels = _mm512_max_epi16(lowest, _mm512_min_epi16(highest, levels));
    if constexpr (kBypass > 0) {
      levels = _mm512_add_epi16(levels, Words(1 << kBypass >> 1));
#pragma GCC unroll 4
      for (uint32_t j = 0; j < kBypass; ++j) {
        const __mmask32 plane = _mm512_test_epi16_mask(levels, Words(1 << j));
        base::StoreLe(job.bypass[v] + bypass_at + j * sizeof(uint32_t), static_cast<uint32_t>(plane));
      }
      levels = _mm512_srai_epi16(levels, kBypass);
    }
    PushLevels<kInexactClass>(encoder.x[v], encoder.at[v], levels, tables);
  }
}

template <uint32_t kWidth>
KVPLANE_INLINE_AVX512 void EncodeToken(Encoder<kWidth>& encoder, const EncodeJob& job, size_t at,
                                       size_t& bypass_at) {
  const RansShape& shape = *job.shape;
  for (uint32_t g = shape.groups(); g-- > 0;) {
    const RansRung rung = shape.rungs[g];
    const size_t group = at + size_t{g} * kRansLanes;
    switch (rung.bypass()) {
      case 0:
        if (kInexact[rung.rans_class()]) {
          EncodeGroup<kWidth, 0, true>(encoder, job, rung, group, bypass_at);
        } else {
          EncodeGroup<kWidth, 0>(encoder, job, rung, group, bypass_at);
        }
        break;
      case 1:
        EncodeGroup<kWidth, 1>(encoder, job, rung, group, bypass_at);
        break;
      case 2:
        EncodeGroup<kWidth, 2>(encoder, job, rung, group, bypass_at);
        break;
      case 3:
        EncodeGroup<kWidth, 3>(encoder, job, rung, group, bypass_at);
        break;
      default:
        EncodeGroup<kWidth, 4>(encoder, job, rung, group, bypass_at);
        break;
    }
  }
}

struct ByteCore {
  static constexpr uint32_t kWidths[] = {8, 4, 2, 1};

  template <uint32_t kWidth>
  KVPLANE_TARGET_AVX512 static void EncodeLevels(EncodeJob& job) {
    const RansShape& shape = *job.shape;
    Encoder<kWidth> encoder(job);
    size_t bypass_at = RansBypassBytes(shape);
    const size_t token_lanes = size_t{shape.groups()} * kRansLanes;
    for (uint32_t t = shape.tokens; t-- > 0;) EncodeToken(encoder, job, t * token_lanes, bypass_at);
    encoder.Finish(job);
  }

  template <uint32_t kWidth, bool kStream>
  KVPLANE_TARGET_AVX512 static void DecodeRowsTo(DecodeJob& job) {
    const RansShape shape = *job.shape;
    Decoder<kWidth> decoder(job);
    Window<kWidth> windows[2];
    RowsBehind<kWidth> behind(job, windows);
    BypassWords<kWidth> bypass(job);
    for (uint32_t t = 0; t < shape.tokens; ++t) {
      const RansRung* rungs = shape.rungs;
      for (uint32_t first = 0; first < shape.channels; first += kRansByteWindow) {
#pragma GCC unroll 8
        for (uint32_t v = 0; v < kWidth; ++v) {
          _mm_prefetch(decoder.cursor[v].at + kRansBytesAhead, _MM_HINT_T0);
        }
        bypass.Prefetch();
        if (decoder.Fast(kRansByteWindow / kRansLanes)) {
          DecodeWindow<kWidth, true, kStream>(decoder, bypass, rungs, behind);
        } else {
          DecodeWindow<kWidth, false, kStream>(decoder, bypass, rungs, behind);
        }
        behind.Advance(t, first);
        rungs += kRansByteWindow / kRansLanes;
      }
    }
    for (uint32_t i = 0; i < kRansByteWindow; i += 2 * kRansLanes) behind.template Scale<kStream>(i);
    if constexpr (kStream) _mm_sfence();
    decoder.Finish(job);
  }
  template <uint32_t kWidth>
  static void DecodeLevels(DecodeJob& job) {
    if (Streams(job, kWidth)) {
      DecodeRowsTo<kWidth, true>(job);
    } else {
      DecodeRowsTo<kWidth, false>(job);
    }
  }
};

}  // namespace

const RansByteKernels kRansBytesAvx512 = {RansDriver<ByteCore>::EncodeBytes,
                                          RansDriver<ByteCore>::DecodeBytes};

}  // namespace kvplane::kernel::internal
