// Internal: one rANS step of 32 lanes in AVX-512, shared by the class form (rans_avx512.cc) and the form with
// tables of the caller (rans_symbols_avx512.cc).
//
// One vector holds the 32 states of a stream. A decode table is six registers, an encode table three; kWidth
// streams share them in one step and hide each other's latency. All of it is always inlined, so each source
// has its own copy (the names are those of rans_lanes_avx2.h).
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/rans/rans_driver.h"

#define KVPLANE_INLINE_AVX512 KVPLANE_TARGET_AVX512 inline __attribute__((always_inline))

namespace kvplane::kernel::internal {
namespace {

constexpr __mmask64 kLowBytes = 0x5555555555555555u;

KVPLANE_INLINE_AVX512 __m512i Words(int value) { return _mm512_set1_epi16(static_cast<short>(value)); }

// --- Decoding ---

struct DecodeTables {
  __m512i symbol[2], frequency[2], offset[2];
};
KVPLANE_INLINE_AVX512 DecodeTables Load(const RansDecodeTable& table) {
  return {{_mm512_load_si512(table.symbol), _mm512_load_si512(table.symbol + 64)},
          {_mm512_load_si512(table.frequency), _mm512_load_si512(table.frequency + 64)},
          {_mm512_load_si512(table.offset), _mm512_load_si512(table.offset + 64)}};
}
KVPLANE_INLINE_AVX512 __m512i Look(const __m512i (&table)[2], __m512i slot) {
  return _mm512_maskz_permutex2var_epi8(kLowBytes, table[0], slot, table[1]);
}

// Bytes 2 i and 2 i + 1 are byte i.
KVPLANE_INLINE_AVX512 __m512i TwiceIndex() {
  const __m512i even = _mm512_cvtepu8_epi16(
      _mm256_set_epi64x(0x1f1e1d1c1b1a1918, 0x1716151413121110, 0x0f0e0d0c0b0a0908, 0x0706050403020100));
  return _mm512_or_si512(even, _mm512_slli_epi16(even, 8));
}

struct Cursor {
  const std::byte* at;
  const std::byte* end;
  bool overrun;
};

// The next up to 32 bytes, zeros beyond the end.
template <bool kFast>
KVPLANE_INLINE_AVX512 __m256i Peek(const Cursor& cursor) {
  if constexpr (kFast) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(cursor.at));
  const auto left = static_cast<uint32_t>(std::min<ptrdiff_t>(cursor.end - cursor.at, kRansLanes));
  return _mm256_maskz_loadu_epi8(_bzhi_u32(0xffffffffu, left), cursor.at);
}
template <bool kFast>
KVPLANE_INLINE_AVX512 void Skip(Cursor& cursor, uint32_t bytes) {
  if constexpr (!kFast) {
    if (cursor.end - cursor.at < static_cast<ptrdiff_t>(bytes)) {
      cursor.overrun = true;
      cursor.at = cursor.end;
      return;
    }
  }
  cursor.at += bytes;
}

// States from what a symbol left of them: a byte more for those below the interval.
template <bool kFast>
KVPLANE_INLINE_AVX512 void Refill(__m512i& x, __m512i y, Cursor& cursor) {
  const __mmask32 refill = _mm512_cmplt_epu16_mask(y, Words(kRansLowerBound));
  // The next bytes in the high halves of words, one to each refilling lane, shifted in from there.
  const __m512i twice = _mm512_permutexvar_epi8(TwiceIndex(), _mm512_castsi256_si512(Peek<kFast>(cursor)));
  x = _mm512_mask_shldi_epi16(y, refill, y, _mm512_maskz_expand_epi16(refill, twice), 8);
  Skip<kFast>(cursor, static_cast<uint32_t>(_mm_popcnt_u32(refill)));
}

// Advances 32 states by the symbol that the low seven bits of each stand for, which are all that a look-up
// sees of a byte.
template <bool kFast, bool kGeneral>
KVPLANE_INLINE_AVX512 void Advance(__m512i& x, Cursor& cursor, const __m512i (&frequency)[2],
                                   const __m512i (&offset)[2], __mmask32 live) {
  const __m512i product = _mm512_mullo_epi16(Look(frequency, x), _mm512_srli_epi16(x, 7));
  const __m512i rest = Look(offset, x);
  const __m512i y =
      kGeneral ? _mm512_mask_add_epi16(x, live, product, rest) : _mm512_add_epi16(product, rest);
  Refill<kFast>(x, y, cursor);
}

// The same; returns the symbols, garbage in dead lanes.
template <bool kFast, bool kGeneral>
KVPLANE_INLINE_AVX512 __m512i Pop(__m512i& x, Cursor& cursor, const DecodeTables& tables, __mmask32 live) {
  const __m512i symbols = Look(tables.symbol, x);
  Advance<kFast, kGeneral>(x, cursor, tables.frequency, tables.offset, live);
  return symbols;
}

// The states of a lockstep while it runs.
template <uint32_t kWidth>
struct Decoder {
  KVPLANE_INLINE_AVX512 explicit Decoder(const auto& job) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kWidth; ++v) {
      x[v] = _mm512_loadu_si512(StatesOf(job, v));
      cursor[v] = {job.at[v], job.end[v], false};
    }
  }
  // Whether `steps` steps cannot read beyond any end.
  KVPLANE_INLINE_AVX512 bool Fast(size_t steps) const {
    bool fast = true;
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kWidth; ++v) {
      fast &= cursor[v].end - cursor[v].at >= static_cast<ptrdiff_t>(steps * kRansLanes);
    }
    return fast;
  }
  KVPLANE_INLINE_AVX512 void Finish(DecodeJob& job) const {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kWidth; ++v) {
      const bool whole = _mm512_cmpneq_epi16_mask(x[v], Words(kRansLowerBound)) == 0;
      job.corrupt[v] = !whole || cursor[v].overrun || cursor[v].at != cursor[v].end;
    }
  }

  __m512i x[kWidth];
  Cursor cursor[kWidth];
};

// --- Encoding ---

struct EncodeTables {
  __m512i frequency, start, reciprocal;
};
KVPLANE_INLINE_AVX512 EncodeTables Load(const RansEncodeTable& table) {
  return {_mm512_load_si512(table.frequency), _mm512_load_si512(table.start),
          _mm512_load_si512(table.reciprocal)};
}

// kSure: a frequency may be 128 (a symbol that takes no bits), for which 512 f leaves 16 bits.
template <bool kGeneral, bool kSure>
KVPLANE_INLINE_AVX512 void Push(__m512i& x, std::byte*& at, __m512i symbols, const EncodeTables& tables,
                                __mmask32 live) {
  const __m512i f = _mm512_permutexvar_epi16(symbols, tables.frequency);
  const __m512i start = _mm512_permutexvar_epi16(symbols, tables.start);
  const __m512i reciprocal = _mm512_permutexvar_epi16(symbols, tables.reciprocal);
  __mmask32 emit = kSure ? _mm512_cmpge_epu16_mask(_mm512_srli_epi16(x, 9), f)
                         : _mm512_cmpge_epu16_mask(x, _mm512_slli_epi16(f, 9));
  if constexpr (kGeneral) emit &= live;
  const __m256i bytes = _mm512_cvtepi16_epi8(_mm512_maskz_compress_epi16(emit, x));
  const auto count = static_cast<uint32_t>(_mm_popcnt_u32(emit));
  at -= count;
  _mm256_mask_storeu_epi8(at, _bzhi_u32(0xffffffffu, count), bytes);
  const __m512i state = _mm512_mask_srli_epi16(x, emit, x, 8);
  __m512i quotient = _mm512_mulhi_epu16(state, reciprocal);
  __m512i remainder = _mm512_sub_epi16(state, _mm512_mullo_epi16(quotient, f));
  const __mmask32 over = _mm512_cmpge_epu16_mask(remainder, f);
  quotient = _mm512_mask_add_epi16(quotient, over, quotient, Words(1));
  remainder = _mm512_mask_sub_epi16(remainder, over, remainder, f);
  const __m512i low = _mm512_add_epi16(remainder, start);
  const __m512i high = _mm512_slli_epi16(quotient, 7);
  x = kGeneral ? _mm512_mask_add_epi16(x, live, high, low) : _mm512_add_epi16(high, low);
}

template <uint32_t kWidth>
struct Encoder {
  KVPLANE_INLINE_AVX512 explicit Encoder(const EncodeJob& job) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kWidth; ++v) {
      x[v] = Words(kRansLowerBound);
      at[v] = job.at[v];
    }
  }
  KVPLANE_INLINE_AVX512 void Finish(EncodeJob& job) const {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kWidth; ++v) {
      job.at[v] = at[v] - kRansStateBytes;
      _mm512_storeu_si512(job.at[v], x[v]);
    }
  }

  __m512i x[kWidth];
  std::byte* at[kWidth];
};

}  // namespace
}  // namespace kvplane::kernel::internal
