#include <immintrin.h>

#include <array>
#include <bit>

#include "kvplane/kernel/rans/rans_driver.h"

// Two vectors of 16 states per stream; symbols, frequencies and starts are bytes, all 32 lanes in one vector.
// Packing two vectors of words leaves "packed order": lanes 0-7, 16-23, 8-15, 24-31; unpacking undoes it.
// A slot's symbol is found by counting the symbols that start at or below it, so there are no 128-entry
// tables; bytes are spread to lanes and gathered from them by 256-entry shuffles, eight lanes at a time.

#define KVPLANE_INLINE_AVX2 KVPLANE_TARGET_AVX2 inline __attribute__((always_inline))

namespace kvplane::kernel::internal {
namespace {

constexpr float kRoundingMagic = 0x1.8p23f;  // adding it rounds to nearest even and leaves the integer below
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

struct Group {
  const RansByteTable* bytes = nullptr;
  RansRung rung;
  int half_range = 0;
  bool wide = false;
  uint32_t live = 0xffffffffu;
};
KVPLANE_INLINE_AVX2 Group GroupOf(const RansShape& shape, uint32_t g) {
  Group group;
  group.rung = shape.rungs[g];
  group.bytes = &kRansBytes[group.rung.rans_class()];
  group.half_range = kRansClassTable[group.rung.rans_class()].half_range;
  group.wide = 2 * group.half_range + 1 > 16;
  group.live = LiveMask(LiveLanes(shape, g));
  return group;
}

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

template <bool kFast, bool kGeneral>
KVPLANE_INLINE_AVX2 Pair Pop(Pair& x, Cursor& cursor, const Group& group) {
  const __m256i low_bits = Words(kRansTotal - 1);
  const __m256i slot =
      _mm256_packus_epi16(_mm256_and_si256(x.low, low_bits), _mm256_and_si256(x.high, low_bits));
  __m256i symbol = _mm256_setzero_si256();
  const uint8_t* const start = group.bytes->start;
  for (int s = 1; s <= 2 * group.half_range; ++s) {
    const __m256i before = _mm256_set1_epi8(static_cast<char>(start[s] - 1));
    symbol = _mm256_sub_epi8(symbol, _mm256_cmpgt_epi8(slot, before));
  }
  const Pair f = Unpack(Look(LoadLookup(group.bytes->frequency), symbol, group.wide));
  const Pair offset = Unpack(_mm256_sub_epi8(slot, Look(LoadLookup(group.bytes->start), symbol, group.wide)));
  Pair y = {_mm256_add_epi16(_mm256_mullo_epi16(f.low, _mm256_srli_epi16(x.low, 7)), offset.low),
            _mm256_add_epi16(_mm256_mullo_epi16(f.high, _mm256_srli_epi16(x.high, 7)), offset.high)};
  if constexpr (kGeneral) {
    if (group.live != 0xffffffffu) {
      const Pair live = LaneMasks(group.live);
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

template <uint32_t kWidth>
struct Decoder {
  KVPLANE_INLINE_AVX2 explicit Decoder(const DecodeJob& job) {
    for (uint32_t v = 0; v < kWidth; ++v) {
      x[v] = LoadPair(job.states[v]);
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

template <uint32_t kWidth, bool kFast, bool kGeneral>
KVPLANE_INLINE_AVX2 void DecodeTokenLevels(Decoder<kWidth>& decoder, const DecodeJob& job, size_t token,
                                           size_t& bypass_at) {
  const uint32_t groups = job.shape->groups();
  for (uint32_t g = 0; g < groups; ++g) {
    const Group group = GroupOf(*job.shape, g);
    for (uint32_t v = 0; v < kWidth; ++v) {
      const Pair symbols = Pop<kFast, kGeneral>(decoder.x[v], decoder.cursor[v], group);
      Pair levels = LevelsOf<kGeneral>(symbols, group, job.bypass[v] + bypass_at);
      if constexpr (kGeneral) {
        const Pair live = LaneMasks(group.live);
        levels = {_mm256_and_si256(levels.low, live.low), _mm256_and_si256(levels.high, live.high)};
      }
      StorePair(job.levels[v] + (token * groups + g) * kRansLanes, levels);
    }
    bypass_at += group.rung.bypass() * sizeof(uint32_t);
  }
}

template <uint32_t kWidth, bool kGeneral>
KVPLANE_TARGET_AVX2 void DecodeLevelsLoop(DecodeJob& job) {
  Decoder<kWidth> decoder(job);
  size_t bypass_at = 0;
  for (uint32_t t = 0; t < job.shape->tokens; ++t) {
    if (decoder.Fast(job.shape->groups())) {
      DecodeTokenLevels<kWidth, true, kGeneral>(decoder, job, t, bypass_at);
    } else {
      DecodeTokenLevels<kWidth, false, kGeneral>(decoder, job, t, bypass_at);
    }
  }
  decoder.Finish(job);
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
// 16 lanes; `step` and `mean` point at their even lanes, the odd ones lie 16 floats on.
KVPLANE_INLINE_AVX2 __m256i Bf16Words(__m256i levels, const float* step, const float* mean) {
  const __m256i even = HighBf16(_mm256_srai_epi32(_mm256_slli_epi32(levels, 16), 16), step, mean);
  const __m256i odd = HighBf16(_mm256_srai_epi32(levels, 16), step + 16, mean + 16);
  return _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xaa);
}

template <uint32_t kWidth, bool kFast, bool kGeneral>
KVPLANE_INLINE_AVX2 void DecodeTokenRows(Decoder<kWidth>& decoder, const DecodeJob& job,
                                         uint16_t* const (&rows)[kWidth], size_t& bypass_at) {
  uint32_t g = 0;
  for (uint32_t h = 0; h < job.pieces.heads; ++h) {
    size_t at = h * job.pieces.head_stride;
    for (uint32_t i = 0; i < job.pieces.head_groups; ++i, ++g, at += kRansLanes) {
      const Group group = GroupOf(*job.shape, g);
      const RansScale& scale = job.layout->scales[g];
      for (uint32_t v = 0; v < kWidth; ++v) {
        const Pair symbols = Pop<kFast, kGeneral>(decoder.x[v], decoder.cursor[v], group);
        const Pair levels = LevelsOf<kGeneral>(symbols, group, job.bypass[v] + bypass_at);
        // Rows with dead lanes are staged: scratch has room for them.
        StorePair(rows[v] + at, {Bf16Words(levels.low, scale.step, scale.mean),
                                 Bf16Words(levels.high, scale.step + kEight, scale.mean + kEight)});
      }
      bypass_at += group.rung.bypass() * sizeof(uint32_t);
    }
  }
}

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

template <bool kGeneral>
KVPLANE_INLINE_AVX2 void Push(Pair& x, std::byte*& at, const Pair& symbols, const Group& group) {
  const __m256i symbol = _mm256_packus_epi16(symbols.low, symbols.high);
  const Pair f = Unpack(Look(LoadLookup(group.bytes->frequency), symbol, group.wide));
  const Pair start = Unpack(Look(LoadLookup(group.bytes->start), symbol, group.wide));
  const __m256i low = Look(LoadLookup(group.bytes->reciprocal_low), symbol, group.wide);
  const __m256i high = Look(LoadLookup(group.bytes->reciprocal_high), symbol, group.wide);
  Pair emit = {AtLeast(x.low, _mm256_slli_epi16(f.low, 9)), AtLeast(x.high, _mm256_slli_epi16(f.high, 9))};
  const bool partial = kGeneral && group.live != 0xffffffffu;
  Pair live = {};
  if (partial) {
    live = LaneMasks(group.live);
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

template <uint32_t kWidth, bool kGeneral>
KVPLANE_TARGET_AVX2 void EncodeLevelsLoop(EncodeJob& job) {
  const RansShape& shape = *job.shape;
  const uint32_t groups = shape.groups();
  Encoder<kWidth> encoder(job);
  size_t bypass_at = RansBypassBytes(shape);
  for (uint32_t t = shape.tokens; t-- > 0;) {
    for (uint32_t g = groups; g-- > 0;) {
      const Group group = GroupOf(shape, g);
      const int lowest = group.rung.min_level();
      const int highest = group.rung.max_level();
      bypass_at -= group.rung.bypass() * sizeof(uint32_t);
      for (uint32_t v = 0; v < kWidth; ++v) {
        const Pair raw = LoadPair(job.levels[v] + (size_t{t} * groups + g) * kRansLanes);
        const Pair levels = {Clamp(raw.low, lowest, highest), Clamp(raw.high, lowest, highest)};
        const Pair symbols = SymbolsOf<kGeneral>(levels, group, job.bypass[v] + bypass_at);
        Push<kGeneral>(encoder.x[v], encoder.at[v], symbols, group);
      }
    }
  }
  encoder.Finish(job);
}

// The rounded level in the low bits; `mean` and `inverse_step` of these 8 lanes.
KVPLANE_INLINE_AVX2 __m256i RoundedLevels(__m256i row, const float* mean, const float* inverse_step,
                                          __m256 lowest, __m256 highest) {
  const __m256 centred = _mm256_sub_ps(_mm256_castsi256_ps(row), _mm256_load_ps(mean));
  const __m256 scaled = _mm256_mul_ps(centred, _mm256_load_ps(inverse_step));
  const __m256 clamped = _mm256_min_ps(_mm256_max_ps(scaled, lowest), highest);
  return _mm256_castps_si256(_mm256_add_ps(clamped, _mm256_set1_ps(kRoundingMagic)));
}
KVPLANE_INLINE_AVX2 __m256i LevelWords(__m256i row, const RansScale& scale, uint32_t first, __m256 lowest,
                                       __m256 highest) {
  const __m256i even = RoundedLevels(_mm256_slli_epi32(row, 16), scale.mean + first,
                                     scale.inverse_step + first, lowest, highest);
  const __m256i high_halves = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  const __m256i odd = RoundedLevels(_mm256_and_si256(row, high_halves), scale.mean + 16 + first,
                                    scale.inverse_step + 16 + first, lowest, highest);
  return _mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xaa);
}

template <uint32_t kWidth, bool kGeneral>
KVPLANE_INLINE_AVX2 void EncodeTokenRows(Encoder<kWidth>& encoder, const EncodeJob& job,
                                         const uint16_t* const (&rows)[kWidth], size_t& bypass_at,
                                         __m256i& magnitude) {
  uint32_t g = job.shape->groups();
  for (uint32_t h = job.pieces.heads; h-- > 0;) {
    for (uint32_t i = job.pieces.head_groups; i-- > 0;) {
      --g;
      const size_t at = h * job.pieces.head_stride + size_t{i} * kRansLanes;
      const Group group = GroupOf(*job.shape, g);
      const RansScale& scale = job.layout->scales[g];
      const __m256 lowest = _mm256_set1_ps(static_cast<float>(group.rung.min_level()));
      const __m256 highest = _mm256_set1_ps(static_cast<float>(group.rung.max_level()));
      bypass_at -= group.rung.bypass() * sizeof(uint32_t);
      for (uint32_t v = 0; v < kWidth; ++v) {
        Pair row = LoadPair(rows[v] + at);
        if constexpr (kGeneral) {
          const Pair live = LaneMasks(group.live);
          row = {_mm256_and_si256(row.low, live.low), _mm256_and_si256(row.high, live.high)};
        }
        const __m256i positive = Words(0x7fff);
        magnitude = _mm256_max_epu16(magnitude, _mm256_max_epu16(_mm256_and_si256(row.low, positive),
                                                                 _mm256_and_si256(row.high, positive)));
        const Pair levels = {LevelWords(row.low, scale, 0, lowest, highest),
                             LevelWords(row.high, scale, kEight, lowest, highest)};
        const Pair symbols = SymbolsOf<kGeneral>(levels, group, job.bypass[v] + bypass_at);
        Push<kGeneral>(encoder.x[v], encoder.at[v], symbols, group);
      }
    }
  }
}

struct Avx2Core {
  static constexpr uint32_t kWidths[] = {2, 1};

  static bool General(const RansShape& shape) { return shape.channels % kRansLanes != 0 || HasBypass(shape); }

  static void Pick(const RansPick*, const uint32_t* sources, uint32_t count, const uint16_t* from,
                   uint16_t* to) {
    PickOne(sources, count, from, to);
  }
  static void Copy(const uint16_t* from, uint32_t count, bool /*streaming*/, uint16_t* to) {
    std::memcpy(to, from, count * sizeof(uint16_t));
  }

  template <uint32_t kWidth>
  static void EncodeLevels(EncodeJob& job) {
    if (General(*job.shape)) return EncodeLevelsLoop<kWidth, true>(job);
    EncodeLevelsLoop<kWidth, false>(job);
  }
  template <uint32_t kWidth>
  static void DecodeLevels(DecodeJob& job) {
    if (General(*job.shape)) return DecodeLevelsLoop<kWidth, true>(job);
    DecodeLevelsLoop<kWidth, false>(job);
  }
  template <uint32_t kWidth>
  static bool EncodeRows(EncodeJob& job) {
    return General(*job.shape) ? EncodeRowsLoop<kWidth, true>(job) : EncodeRowsLoop<kWidth, false>(job);
  }
  template <uint32_t kWidth>
  static void DecodeRows(DecodeJob& job) {
    if (General(*job.shape)) return DecodeRowsLoop<kWidth, true>(job);
    DecodeRowsLoop<kWidth, false>(job);
  }

 private:
  template <uint32_t kWidth, bool kGeneral>
  KVPLANE_TARGET_AVX2 static bool EncodeRowsLoop(EncodeJob& job) {
    const RansShape& shape = *job.shape;
    const bool staged = RansNeedsScratch(*job.layout);
    Encoder<kWidth> encoder(job);
    size_t bypass_at = RansBypassBytes(shape);
    __m256i magnitude = _mm256_setzero_si256();
    for (uint32_t t = shape.tokens; t-- > 0;) {
      const uint16_t* rows[kWidth];
      for (uint32_t v = 0; v < kWidth; ++v) {
        rows[v] = job.rows[v][t];
        if (!staged) continue;
        rows[v] = StageIn<Avx2Core>(shape, *job.layout, v, rows[v], t == 0 ? nullptr : job.rows[v][t - 1]);
      }
      EncodeTokenRows<kWidth, kGeneral>(encoder, job, rows, bypass_at, magnitude);
    }
    encoder.Finish(job);
    const __m256i over = AtLeast(magnitude, Words(kRansMagnitudeLimit));
    return _mm256_testz_si256(over, over) != 0;
  }

  template <uint32_t kWidth, bool kGeneral>
  KVPLANE_TARGET_AVX2 static void DecodeRowsLoop(DecodeJob& job) {
    const RansShape& shape = *job.shape;
    const bool staged = RansNeedsScratch(*job.layout);
    Decoder<kWidth> decoder(job);
    size_t bypass_at = 0;
    for (uint32_t t = 0; t < shape.tokens; ++t) {
      uint16_t* rows[kWidth];
      for (uint32_t v = 0; v < kWidth; ++v) {
        rows[v] = staged ? LaneRow(*job.layout, shape.channels, v) : job.rows[v][t];
      }
      if (decoder.Fast(shape.groups())) {
        DecodeTokenRows<kWidth, true, kGeneral>(decoder, job, rows, bypass_at);
      } else {
        DecodeTokenRows<kWidth, false, kGeneral>(decoder, job, rows, bypass_at);
      }
      if (!staged) continue;
      for (uint32_t v = 0; v < kWidth; ++v) {
        uint16_t* const next = t + 1 < shape.tokens ? job.rows[v][t + 1] : nullptr;
        StageOut<Avx2Core>(shape, *job.layout, v, job.rows[v][t], next);
      }
    }
    decoder.Finish(job);
  }
};

}  // namespace

const RansKernels kRansAvx2 = {RansDriver<Avx2Core>::EncodeLevels, RansDriver<Avx2Core>::DecodeLevels,
                               RansDriver<Avx2Core>::EncodeRows, RansDriver<Avx2Core>::DecodeRows};

}  // namespace kvplane::kernel::internal
