// Internal: one rANS step of 32 lanes in AVX2, shared by the class form (rans_avx2.cc) and the form with
// tables of the caller (rans_symbols_avx2.cc).
//
// Two vectors of 16 states per stream; symbols, frequencies and starts are bytes, all 32 lanes in one vector.
// Packing two vectors of words leaves "packed order": lanes 0-7, 16-23, 8-15, 24-31; unpacking undoes it.
// A slot's symbol is found by counting the symbols that start at or below it, so there are no 128-entry
// tables; bytes are spread to lanes and gathered from them by 256-entry shuffles, eight lanes at a time.
// All of it is always inlined, so each source has its own copy (the names are those of rans_lanes_avx512.h).
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvplane/kernel/rans/rans_driver.h"

#define KVPLANE_INLINE_AVX2 KVPLANE_TARGET_AVX2 inline __attribute__((always_inline))

namespace kvplane::kernel::internal {
namespace {

constexpr uint32_t kEight = 8;

struct alignas(64) Shuffles {
  // [mask]: words of the set lanes take the next byte in lane order, others 0.
  std::array<std::array<uint8_t, 16>, 256> spread;
  // [mask]: bytes of the set lanes, right-aligned in 8 bytes.
  std::array<std::array<uint8_t, 8>, 256> gather;
};
constexpr Shuffles MakeShuffles() {
  Shuffles shuffles = {};
  for (uint32_t mask = 0; mask < 256; ++mask) {
    uint8_t next = 0;
    auto slot = static_cast<uint32_t>(kEight - static_cast<uint32_t>(std::popcount(mask)));
    for (uint32_t lane = 0; lane < kEight; ++lane) {
      const bool set = (mask >> lane & 1) != 0;
      shuffles.spread[mask][2 * lane] = set ? next++ : 0x80;
      shuffles.spread[mask][2 * lane + 1] = 0x80;
      if (set) shuffles.gather[mask][slot++] = static_cast<uint8_t>(lane);
    }
  }
  return shuffles;
}
constexpr Shuffles kShuffles = MakeShuffles();

// Packed order of a mask's bytes to lane order and back.
constexpr uint32_t SwapMiddleBytes(uint32_t mask) {
  return (mask & 0xff0000ffu) | (mask & 0xff00u) << 8 | (mask & 0xff0000u) >> 8;
}

// 32 words: lanes 0-15 and 16-31.
struct Pair {
  __m256i low, high;
};

KVPLANE_INLINE_AVX2 __m256i Words(int value) { return _mm256_set1_epi16(static_cast<short>(value)); }
KVPLANE_INLINE_AVX2 Pair LoadPair(const void* from) {
  const auto* at = static_cast<const __m256i*>(from);
  return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
KVPLANE_INLINE_AVX2 void StorePair(void* to, const Pair& x) {
  auto* at = static_cast<__m256i*>(to);
  _mm256_storeu_si256(at, x.low);
  _mm256_storeu_si256(at + 1, x.high);
}
KVPLANE_INLINE_AVX2 Pair Unpack(__m256i bytes) {
  const __m256i zero = _mm256_setzero_si256();
  return {_mm256_unpacklo_epi8(bytes, zero), _mm256_unpackhi_epi8(bytes, zero)};
}
KVPLANE_INLINE_AVX2 __m256i AtLeast(__m256i a, __m256i b) {
  return _mm256_cmpeq_epi16(_mm256_max_epu16(a, b), a);
}
// One bit per lane of two word masks, in lane order.
KVPLANE_INLINE_AVX2 uint32_t LaneBits(__m256i low, __m256i high) {
  return SwapMiddleBytes(static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_packs_epi16(low, high))));
}
// All ones in the words of the set bits.
KVPLANE_INLINE_AVX2 __m256i WordMask(uint32_t bits) {
  const __m256i lane = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384,
                                         static_cast<short>(0x8000));
  return _mm256_cmpeq_epi16(_mm256_and_si256(Words(static_cast<int>(bits & 0xffff)), lane), lane);
}
KVPLANE_INLINE_AVX2 Pair LaneMasks(uint32_t bits) { return {WordMask(bits), WordMask(bits >> 16)}; }

// 32 bytes looked up by symbol; only alphabets beyond 16 need the upper half.
struct ByteLookup {
  __m256i low, high;
};
KVPLANE_INLINE_AVX2 ByteLookup LoadLookup(const uint8_t* table) {
  const auto* at = reinterpret_cast<const __m128i*>(table);
  return {_mm256_broadcastsi128_si256(_mm_load_si128(at)),
          _mm256_broadcastsi128_si256(_mm_load_si128(at + 1))};
}
KVPLANE_INLINE_AVX2 __m256i Look(const ByteLookup& table, __m256i symbols, bool wide) {
  const __m256i low = _mm256_shuffle_epi8(table.low, symbols);
  if (!wide) return low;
  const __m256i upper = _mm256_slli_epi16(symbols, 3);  // bit 4 becomes the byte's sign
  return _mm256_blendv_epi8(low, _mm256_shuffle_epi8(table.high, symbols), upper);
}

// The table of one step and the lanes that take part in it.
struct Alphabet {
  const RansByteTable* bytes = nullptr;
  const uint8_t* symbol_at = nullptr;  // [slot]
  int symbols = 0;
  bool wide = false;  // more than 16 symbols
  uint32_t live = 0xffffffffu;
};

// --- Decoding ---

struct Cursor {
  const std::byte* at;
  const std::byte* end;
  bool overrun;
};

// Spreads the next bytes to the refilling lanes. `from` has 32 readable bytes.
KVPLANE_INLINE_AVX2 Pair Spread(const std::byte* from, uint32_t refill, uint32_t& used) {
  __m128i parts[4];
  for (uint32_t block = 0; block < 4; ++block) {
    const uint32_t mask = refill >> (kEight * block) & 0xff;
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + used));
    const __m128i shuffle = _mm_load_si128(reinterpret_cast<const __m128i*>(kShuffles.spread[mask].data()));
    parts[block] = _mm_shuffle_epi8(bytes, shuffle);
    used += static_cast<uint32_t>(std::popcount(mask));
  }
  return {_mm256_set_m128i(parts[1], parts[0]), _mm256_set_m128i(parts[3], parts[2])};
}
template <bool kFast>
KVPLANE_INLINE_AVX2 Pair Refill(Cursor& cursor, uint32_t refill) {
  uint32_t used = 0;
  if constexpr (kFast) {
    const Pair bytes = Spread(cursor.at, refill, used);
    cursor.at += used;
    return bytes;
  }
  std::byte padded[kRansLanes] = {};
  const auto left = static_cast<size_t>(cursor.end - cursor.at);
  std::memcpy(padded, cursor.at, std::min<size_t>(left, kRansLanes));
  const Pair bytes = Spread(padded, refill, used);
  cursor.overrun |= used > left;
  cursor.at += std::min<size_t>(left, used);
  return bytes;
}

KVPLANE_INLINE_AVX2 __m256i NextState(__m256i y, __m256i refill, __m256i bytes) {
  return _mm256_or_si256(_mm256_blendv_epi8(y, _mm256_slli_epi16(y, 8), refill), bytes);
}

// Of each byte, a slot, the symbol.
KVPLANE_INLINE_AVX2 __m256i SymbolsAt(__m256i slot, const Alphabet& alphabet) {
  // From the last symbol down: those that start beyond the slot come off, as -1 each.
  if (!alphabet.wide) {
    __m256i symbol = _mm256_set1_epi8(static_cast<char>(alphabet.symbols - 1));
    for (int s = 1; s < alphabet.symbols; ++s) {
      const __m256i first = _mm256_set1_epi8(static_cast<char>(alphabet.bytes->start[s]));
      symbol = _mm256_add_epi8(symbol, _mm256_cmpgt_epi8(first, slot));
    }
    return symbol;
  }
  // All 128 slots in eight shuffles: fewer operations than two a symbol.
  __m256i symbol = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (uint32_t first = 0; first < kRansTotal; first += 16) {
    const auto* table = reinterpret_cast<const __m128i*>(alphabet.symbol_at + first);
    const __m256i place = _mm256_xor_si256(slot, _mm256_set1_epi8(static_cast<char>(first)));
    const __m256i pick = _mm256_adds_epu8(place, _mm256_set1_epi8(0x70));
    symbol = _mm256_or_si256(symbol,
                             _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_load_si128(table)), pick));
  }
  return symbol;
}

template <bool kFast, bool kGeneral>
KVPLANE_INLINE_AVX2 Pair Pop(Pair& x, Cursor& cursor, const Alphabet& alphabet) {
  const __m256i low_bits = Words(kRansTotal - 1);
  const __m256i slot =
      _mm256_packus_epi16(_mm256_and_si256(x.low, low_bits), _mm256_and_si256(x.high, low_bits));
  const __m256i symbol = SymbolsAt(slot, alphabet);
  const Pair f = Unpack(Look(LoadLookup(alphabet.bytes->frequency), symbol, alphabet.wide));
  const Pair offset =
      Unpack(_mm256_sub_epi8(slot, Look(LoadLookup(alphabet.bytes->start), symbol, alphabet.wide)));
  Pair y = {_mm256_add_epi16(_mm256_mullo_epi16(f.low, _mm256_srli_epi16(x.low, 7)), offset.low),
            _mm256_add_epi16(_mm256_mullo_epi16(f.high, _mm256_srli_epi16(x.high, 7)), offset.high)};
  if constexpr (kGeneral) {
    if (alphabet.live != 0xffffffffu) {
      const Pair live = LaneMasks(alphabet.live);
      y = {_mm256_blendv_epi8(x.low, y.low, live.low), _mm256_blendv_epi8(x.high, y.high, live.high)};
    }
  }
  const __m256i zero = _mm256_setzero_si256();
  const Pair refill = {_mm256_cmpeq_epi16(_mm256_srli_epi16(y.low, 8), zero),
                       _mm256_cmpeq_epi16(_mm256_srli_epi16(y.high, 8), zero)};
  const Pair bytes = Refill<kFast>(cursor, LaneBits(refill.low, refill.high));
  x = {NextState(y.low, refill.low, bytes.low), NextState(y.high, refill.high, bytes.high)};
  return Unpack(symbol);
}

template <uint32_t kWidth>
struct Decoder {
  KVPLANE_INLINE_AVX2 explicit Decoder(const auto& job) {
    for (uint32_t v = 0; v < kWidth; ++v) {
      x[v] = LoadPair(StatesOf(job, v));
      cursor[v] = {job.at[v], job.end[v], false};
    }
  }
  KVPLANE_INLINE_AVX2 bool Fast(size_t steps) const {
    bool fast = true;
    for (uint32_t v = 0; v < kWidth; ++v) {
      fast &= cursor[v].end - cursor[v].at >= static_cast<ptrdiff_t>(steps * kRansLanes);
    }
    return fast;
  }
  KVPLANE_INLINE_AVX2 void Finish(DecodeJob& job) const {
    const __m256i bound = Words(kRansLowerBound);
    for (uint32_t v = 0; v < kWidth; ++v) {
      const uint32_t whole =
          LaneBits(_mm256_cmpeq_epi16(x[v].low, bound), _mm256_cmpeq_epi16(x[v].high, bound));
      job.corrupt[v] = whole != 0xffffffffu || cursor[v].overrun || cursor[v].at != cursor[v].end;
    }
  }

  Pair x[kWidth];
  Cursor cursor[kWidth];
};

// --- Encoding ---

// Writes the low bytes of the emitting lanes below `at`, in lane order.
KVPLANE_INLINE_AVX2 std::byte* Emit(const Pair& x, uint32_t emit, std::byte* at) {
  const __m256i low_byte = Words(0xff);
  const __m256i bytes =
      _mm256_packus_epi16(_mm256_and_si256(x.low, low_byte), _mm256_and_si256(x.high, low_byte));
  const __m128i outer = _mm256_castsi256_si128(bytes);       // lanes 0-7, 16-23
  const __m128i inner = _mm256_extracti128_si256(bytes, 1);  // lanes 8-15, 24-31
  const __m128i blocks[4] = {outer, inner, _mm_unpackhi_epi64(outer, outer),
                             _mm_unpackhi_epi64(inner, inner)};
  for (uint32_t block = 4; block-- > 0;) {
    const uint32_t mask = emit >> (kEight * block) & 0xff;
    const __m128i shuffle = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kShuffles.gather[mask].data()));
    // The bytes below the gathered ones are overwritten later, by the states at the latest.
    _mm_storel_epi64(reinterpret_cast<__m128i*>(at - kEight), _mm_shuffle_epi8(blocks[block], shuffle));
    at -= std::popcount(mask);
  }
  return at;
}

KVPLANE_INLINE_AVX2 __m256i Advance(__m256i x, __m256i emit, __m256i f, __m256i start, __m256i reciprocal) {
  const __m256i state = _mm256_blendv_epi8(x, _mm256_srli_epi16(x, 8), emit);
  __m256i quotient = _mm256_mulhi_epu16(state, reciprocal);
  __m256i remainder = _mm256_sub_epi16(state, _mm256_mullo_epi16(quotient, f));
  const __m256i over = AtLeast(remainder, f);
  quotient = _mm256_sub_epi16(quotient, over);
  remainder = _mm256_sub_epi16(remainder, _mm256_and_si256(over, f));
  return _mm256_add_epi16(_mm256_slli_epi16(quotient, 7), _mm256_add_epi16(remainder, start));
}

// kSure: a frequency may be 128 (a symbol that takes no bits), for which 512 f leaves 16 bits.
template <bool kGeneral, bool kSure>
KVPLANE_INLINE_AVX2 void Push(Pair& x, std::byte*& at, const Pair& symbols, const Alphabet& alphabet) {
  const __m256i symbol = _mm256_packus_epi16(symbols.low, symbols.high);
  const Pair f = Unpack(Look(LoadLookup(alphabet.bytes->frequency), symbol, alphabet.wide));
  const Pair start = Unpack(Look(LoadLookup(alphabet.bytes->start), symbol, alphabet.wide));
  const __m256i low = Look(LoadLookup(alphabet.bytes->reciprocal_low), symbol, alphabet.wide);
  const __m256i high = Look(LoadLookup(alphabet.bytes->reciprocal_high), symbol, alphabet.wide);
  Pair emit;
  if constexpr (kSure) {
    emit = {AtLeast(_mm256_srli_epi16(x.low, 9), f.low), AtLeast(_mm256_srli_epi16(x.high, 9), f.high)};
  } else {
    emit = {AtLeast(x.low, _mm256_slli_epi16(f.low, 9)), AtLeast(x.high, _mm256_slli_epi16(f.high, 9))};
  }
  const bool partial = kGeneral && alphabet.live != 0xffffffffu;
  Pair live = {};
  if (partial) {
    live = LaneMasks(alphabet.live);
    emit = {_mm256_and_si256(emit.low, live.low), _mm256_and_si256(emit.high, live.high)};
  }
  at = Emit(x, LaneBits(emit.low, emit.high), at);
  Pair next = {Advance(x.low, emit.low, f.low, start.low, _mm256_unpacklo_epi8(low, high)),
               Advance(x.high, emit.high, f.high, start.high, _mm256_unpackhi_epi8(low, high))};
  if (partial) {
    next = {_mm256_blendv_epi8(x.low, next.low, live.low), _mm256_blendv_epi8(x.high, next.high, live.high)};
  }
  x = next;
}

}  // namespace
}  // namespace kvplane::kernel::internal
