#include <immintrin.h>

#include <array>

#include "kvplane/kernel/exponent/exponent_definition.h"
#include "kvplane/kernel/prefetch.h"

// 64 values at a time: their low and high bytes are gathered into one vector each, so that exponents, rests
// and codes are whole vectors of bytes. The end of a row is the same code under narrower masks.

#define KVPLANE_INLINE_AVX512 KVPLANE_TARGET_AVX512 inline __attribute__((always_inline))

namespace kvplane::kernel::internal {
namespace {

constexpr uint32_t kLanes = 64;

struct Planes {
  __m512i rest, exponent;
};

constexpr uint64_t FirstBits(size_t bits) { return bits >= 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1; }

// Byte 2i (kOffset 0) or 2i + 1 (kOffset 1) of a pair of vectors, and the inverse: byte i / 2 of either.
template <uint8_t kOffset>
KVPLANE_INLINE_AVX512 __m512i GatherIndex() {
  alignas(64) static constexpr auto kIndex = [] {
    std::array<uint8_t, 64> index{};
    for (uint8_t i = 0; i < 64; ++i) index[i] = static_cast<uint8_t>(2 * i + kOffset);
    return index;
  }();
  return _mm512_load_si512(kIndex.data());
}
template <uint8_t kHalf>
KVPLANE_INLINE_AVX512 __m512i InterleaveIndex() {
  alignas(64) static constexpr auto kIndex = [] {
    std::array<uint8_t, 64> index{};
    for (uint8_t i = 0; i < 64; ++i)
      index[i] = static_cast<uint8_t>(32 * kHalf + i / 2 + (i % 2 == 0 ? 0 : 64));
    return index;
  }();
  return _mm512_load_si512(kIndex.data());
}

// The values of `mask`, 0 elsewhere.
KVPLANE_INLINE_AVX512 Planes LoadPlanes(const uint16_t* row, uint64_t mask) {
  const __m512i a = _mm512_maskz_loadu_epi16(static_cast<__mmask32>(mask), row);
  const __m512i b = _mm512_maskz_loadu_epi16(static_cast<__mmask32>(mask >> 32), row + 32);
  const __m512i low = _mm512_permutex2var_epi8(a, GatherIndex<0>(), b);
  const __m512i high = _mm512_permutex2var_epi8(a, GatherIndex<1>(), b);
  const __m512i twice = _mm512_add_epi8(high, high);
  const __m512i minus_one = _mm512_set1_epi8(-1);
  // The sign bit of a low byte is the low bit of the exponent.
  const __m512i exponent = _mm512_mask_sub_epi8(twice, _mm512_movepi8_mask(low), twice, minus_one);
  // Bit 7 from the high byte, the others from the low byte.
  return {_mm512_ternarylogic_epi32(_mm512_set1_epi8(-0x80), high, low, 0xca), exponent};
}

// How rows are written: lanes of a mask, whole vectors, or whole vectors around the caches.
enum class RowStore { kMasked, kFull, kStream };

template <RowStore kStore = RowStore::kMasked>
KVPLANE_INLINE_AVX512 void StoreValues(const Planes& planes, uint16_t* row, uint64_t mask) {
  const __m512i half = _mm512_srli_epi16(planes.exponent, 1);
  const __m512i lowest = _mm512_slli_epi16(planes.exponent, 7);
  const __m512i high = _mm512_ternarylogic_epi32(_mm512_set1_epi8(-0x80), planes.rest, half, 0xca);
  const __m512i low = _mm512_ternarylogic_epi32(_mm512_set1_epi8(-0x80), lowest, planes.rest, 0xca);
  const __m512i a = _mm512_permutex2var_epi8(low, InterleaveIndex<0>(), high);
  const __m512i b = _mm512_permutex2var_epi8(low, InterleaveIndex<1>(), high);
  if constexpr (kStore == RowStore::kStream) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(row), a);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(row + 32), b);
  } else if constexpr (kStore == RowStore::kFull) {
    _mm512_storeu_si512(row, a);
    _mm512_storeu_si512(row + 32, b);
  } else {
    _mm512_mask_storeu_epi16(row, static_cast<__mmask32>(mask), a);
    _mm512_mask_storeu_epi16(row + 32, static_cast<__mmask32>(mask >> 32), b);
  }
}

// Whether every row begins with a whole vector of memory.
bool RowsAligned(const uint16_t* const* rows, uint32_t tokens) {
  uintptr_t misaligned = 0;
  for (uint32_t t = 0; t < tokens; ++t) misaligned |= reinterpret_cast<uintptr_t>(rows[t]) % sizeof(__m512i);
  return misaligned == 0;
}

KVPLANE_TARGET_AVX512 void Split(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                 std::byte* rests, std::byte* exponents) {
  for (uint32_t t = 0; t < tokens; ++t, rests += channels, exponents += channels) {
    for (uint32_t c = 0; c < channels; c += kLanes) {
      const uint64_t mask = FirstBits(channels - c);
      const Planes planes = LoadPlanes(rows[t] + c, mask);
      _mm512_mask_storeu_epi8(rests + c, mask, planes.rest);
      _mm512_mask_storeu_epi8(exponents + c, mask, planes.exponent);
    }
  }
}

KVPLANE_TARGET_AVX512 void Join(const std::byte* rests, const std::byte* exponents, uint32_t tokens,
                                uint32_t channels, uint16_t* const* rows) {
  for (uint32_t t = 0; t < tokens; ++t, rests += channels, exponents += channels) {
    for (uint32_t c = 0; c < channels; c += kLanes) {
      const uint64_t mask = FirstBits(channels - c);
      StoreValues({_mm512_maskz_loadu_epi8(mask, rests + c), _mm512_maskz_loadu_epi8(mask, exponents + c)},
                  rows[t] + c, mask);
    }
  }
}

KVPLANE_TARGET_AVX512 uint8_t LargestExponent(const uint16_t* const* rows, uint32_t tokens,
                                              uint32_t channels) {
  const __m512i magnitude_bits = _mm512_set1_epi16(0x7fff);
  const __m512i infinity = _mm512_set1_epi16(0x7f80);
  __m512i largest = _mm512_setzero_si512();
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t c = 0; c < channels; c += 32) {
      const auto mask = static_cast<__mmask32>(FirstBits(channels - c));
      const __m512i x = _mm512_and_si512(_mm512_maskz_loadu_epi16(mask, rows[t] + c), magnitude_bits);
      largest = _mm512_mask_max_epu16(largest, _mm512_cmplt_epu16_mask(x, infinity), largest, x);
    }
  }
  // Of each 32-bit lane the larger half.
  const __m512i even = _mm512_and_si512(largest, _mm512_set1_epi32(0xffff));
  const __m512i odd = _mm512_srli_epi32(largest, 16);
  return static_cast<uint8_t>(_mm512_reduce_max_epu32(_mm512_max_epu32(even, odd)) >> 7);
}

KVPLANE_TARGET_AVX512 size_t Encode(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                    uint8_t base, size_t ahead, std::byte* rests, std::byte* codes,
                                    std::byte* escapes, size_t room) {
  const __m512i bases = _mm512_set1_epi8(static_cast<char>(base));
  const __m512i escape_code = _mm512_set1_epi8(kEscapeCode);
  size_t escaped = 0;
  for (uint32_t t = 0; t < tokens; ++t, rests += channels, codes += WindowRowBytes(channels)) {
    if (ahead != 0) PrefetchRow(rows[t] + ahead, channels);
    for (uint32_t c = 0; c < channels; c += kLanes) {
      const uint64_t mask = FirstBits(channels - c);
      const Planes planes = LoadPlanes(rows[t] + c, mask);
      const __m512i code = _mm512_maskz_min_epu8(mask, _mm512_sub_epi8(planes.exponent, bases), escape_code);
      _mm512_mask_storeu_epi8(rests + c, mask, planes.rest);
      const __m512i pairs = _mm512_or_si512(code, _mm512_srli_epi16(code, 4));
      _mm256_mask_storeu_epi8(codes + c / 2, static_cast<__mmask32>(FirstBits((channels - c + 1) / 2)),
                              _mm512_cvtepi16_epi8(pairs));
      const __mmask64 escape = _mm512_mask_cmpeq_epi8_mask(mask, code, escape_code);
      if (escape == 0) continue;
      const auto count = static_cast<size_t>(_mm_popcnt_u64(escape));
      if (count > room - escaped) return kNoEscapeRoom;
      _mm512_mask_storeu_epi8(escapes + escaped, FirstBits(count),
                              _mm512_maskz_compress_epi8(escape, planes.exponent));
      escaped += count;
    }
  }
  return escaped;
}

KVPLANE_TARGET_AVX512 size_t CountEscapes(const std::byte* codes, size_t count) {
  const __m512i low_half = _mm512_set1_epi8(0x0f);
  const __m512i high_half = _mm512_set1_epi8(-0x10);
  size_t escapes = 0;
  const size_t bytes = count / 2;
  for (size_t i = 0; i < bytes; i += 64) {
    const __m512i pairs = _mm512_maskz_loadu_epi8(FirstBits(bytes - i), codes + i);
    const __mmask64 low = _mm512_cmpeq_epi8_mask(_mm512_and_si512(pairs, low_half), low_half);
    const __mmask64 high = _mm512_cmpeq_epi8_mask(_mm512_and_si512(pairs, high_half), high_half);
    escapes += static_cast<size_t>(_mm_popcnt_u64(low) + _mm_popcnt_u64(high));
  }
  return escapes + CountEscapesFrom(2 * bytes, codes, count);
}

template <RowStore kStore>
KVPLANE_TARGET_AVX512 size_t DecodeRows(const std::byte* rests, const std::byte* codes,
                                        const std::byte* escapes, uint8_t base, uint32_t tokens,
                                        uint32_t channels, uint16_t* const* rows) {
  const __m512i bases = _mm512_set1_epi8(static_cast<char>(base));
  const __m512i escape_code = _mm512_set1_epi8(kEscapeCode);
  size_t taken = 0;
  for (uint32_t t = 0; t < tokens; ++t, rests += channels, codes += WindowRowBytes(channels)) {
    for (uint32_t c = 0; c < channels; c += kLanes) {
      const uint64_t mask = kStore == RowStore::kMasked ? FirstBits(channels - c) : ~uint64_t{0};
      const auto code_mask = static_cast<__mmask32>(
          kStore == RowStore::kMasked ? FirstBits((channels - c + 1) / 2) : ~uint64_t{0});
      const __m512i pairs = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(code_mask, codes + c / 2));
      const __m512i code = _mm512_and_si512(_mm512_or_si512(pairs, _mm512_slli_epi16(pairs, 4)), escape_code);
      __m512i exponent = _mm512_add_epi8(code, bases);
      const __mmask64 escape = _mm512_mask_cmpeq_epi8_mask(mask, code, escape_code);
      if (escape != 0) {
        const auto count = static_cast<size_t>(_mm_popcnt_u64(escape));
        const __m512i dense = _mm512_maskz_loadu_epi8(FirstBits(count), escapes + taken);
        exponent = _mm512_mask_expand_epi8(exponent, escape, dense);
        taken += count;
      }
      StoreValues<kStore>({_mm512_maskz_loadu_epi8(mask, rests + c), exponent}, rows[t] + c, mask);
    }
  }
  return taken;
}

KVPLANE_TARGET_AVX512 size_t Decode(const std::byte* rests, const std::byte* codes, const std::byte* escapes,
                                    uint8_t base, uint32_t tokens, uint32_t channels, bool streaming_stores,
                                    uint16_t* const* rows) {
  if (channels % kLanes != 0) {
    return DecodeRows<RowStore::kMasked>(rests, codes, escapes, base, tokens, channels, rows);
  }
  if (!streaming_stores || !RowsAligned(rows, tokens)) {
    return DecodeRows<RowStore::kFull>(rests, codes, escapes, base, tokens, channels, rows);
  }
  const size_t taken = DecodeRows<RowStore::kStream>(rests, codes, escapes, base, tokens, channels, rows);
  _mm_sfence();
  return taken;
}

// Escapes are in every other vector of a narrow window, so no branch foresees them; whole vectors with room
// for 64 escapes go without masks.
struct WideWindow {
  __m512i base, escape_code;
};
KVPLANE_INLINE_AVX512 WideWindow WindowOf(uint8_t base, uint8_t width) {
  return {_mm512_set1_epi8(static_cast<char>(base)), _mm512_set1_epi8(static_cast<char>(width))};
}

KVPLANE_INLINE_AVX512 size_t EncodeWhole(const uint16_t* row, const WideWindow& window, std::byte* rests,
                                         uint8_t* codes, std::byte* escapes) {
  const Planes planes = LoadPlanes(row, ~uint64_t{0});
  const __m512i code = _mm512_min_epu8(_mm512_sub_epi8(planes.exponent, window.base), window.escape_code);
  _mm512_storeu_si512(rests, planes.rest);
  _mm512_storeu_si512(codes, code);
  const __mmask64 escape = _mm512_cmpeq_epi8_mask(code, window.escape_code);
  _mm512_storeu_si512(escapes, _mm512_maskz_compress_epi8(escape, planes.exponent));
  return static_cast<size_t>(_mm_popcnt_u64(escape));
}

// The values of `mask`; kNoEscapeRoom when their escapes do not fit.
KVPLANE_INLINE_AVX512 size_t EncodeMasked(const uint16_t* row, uint64_t mask, const WideWindow& window,
                                          std::byte* rests, uint8_t* codes, std::byte* escapes, size_t room) {
  const Planes planes = LoadPlanes(row, mask);
  const __m512i code = _mm512_min_epu8(_mm512_sub_epi8(planes.exponent, window.base), window.escape_code);
  _mm512_mask_storeu_epi8(rests, mask, planes.rest);
  _mm512_mask_storeu_epi8(codes, mask, code);
  const __mmask64 escape = _mm512_mask_cmpeq_epi8_mask(mask, code, window.escape_code);
  const auto count = static_cast<size_t>(_mm_popcnt_u64(escape));
  if (count > room) return kNoEscapeRoom;
  _mm512_mask_storeu_epi8(escapes, FirstBits(count), _mm512_maskz_compress_epi8(escape, planes.exponent));
  return count;
}

KVPLANE_TARGET_AVX512 size_t EncodeWide(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                        uint8_t base, uint8_t width, std::byte* rests, uint8_t* codes,
                                        std::byte* escapes, size_t room) {
  const WideWindow window = WindowOf(base, width);
  size_t escaped = 0;
  for (uint32_t t = 0; t < tokens; ++t, rests += channels, codes += channels) {
    for (uint32_t c = 0; c < channels; c += kLanes) {
      if (channels - c >= kLanes && room - escaped >= kLanes) {
        escaped += EncodeWhole(rows[t] + c, window, rests + c, codes + c, escapes + escaped);
        continue;
      }
      const size_t count = EncodeMasked(rows[t] + c, FirstBits(channels - c), window, rests + c, codes + c,
                                        escapes + escaped, room - escaped);
      if (count == kNoEscapeRoom) return kNoEscapeRoom;
      escaped += count;
    }
  }
  return escaped;
}

template <RowStore kStore>
KVPLANE_INLINE_AVX512 size_t DecodeWhole(const std::byte* rests, const uint8_t* codes,
                                         const std::byte* escapes, const WideWindow& window, uint16_t* row) {
  const __m512i code = _mm512_loadu_si512(codes);
  const __mmask64 escape = _mm512_cmpeq_epi8_mask(code, window.escape_code);
  const __m512i exponent =
      _mm512_mask_expand_epi8(_mm512_add_epi8(code, window.base), escape, _mm512_loadu_si512(escapes));
  StoreValues<kStore>({_mm512_loadu_si512(rests), exponent}, row, ~uint64_t{0});
  return static_cast<size_t>(_mm_popcnt_u64(escape));
}

// The values of `mask`; kNoEscapeRoom when more escapes are needed than there are.
KVPLANE_INLINE_AVX512 size_t DecodeMasked(const std::byte* rests, const uint8_t* codes,
                                          const std::byte* escapes, size_t available, uint64_t mask,
                                          const WideWindow& window, uint16_t* row) {
  const __m512i code = _mm512_maskz_loadu_epi8(mask, codes);
  const __mmask64 escape = _mm512_mask_cmpeq_epi8_mask(mask, code, window.escape_code);
  const auto count = static_cast<size_t>(_mm_popcnt_u64(escape));
  if (count > available) return kNoEscapeRoom;
  const __m512i dense = _mm512_maskz_loadu_epi8(FirstBits(count), escapes);
  const __m512i exponent = _mm512_mask_expand_epi8(_mm512_add_epi8(code, window.base), escape, dense);
  StoreValues({_mm512_maskz_loadu_epi8(mask, rests), exponent}, row, mask);
  return count;
}

struct WideStreams {
  const std::byte* rests;
  const uint8_t* codes;
  const std::byte* escapes;
  size_t available;
};

template <RowStore kStore>
KVPLANE_TARGET_AVX512 size_t DecodeWideRows(WideStreams in, const WideWindow& window, uint32_t tokens,
                                            uint32_t channels, uint16_t* const* rows) {
  size_t taken = 0;
  for (uint32_t t = 0; t < tokens; ++t, in.rests += channels, in.codes += channels) {
    for (uint32_t c = 0; c < channels; c += kLanes) {
      const std::byte* const escapes = in.escapes + taken;
      if (channels - c >= kLanes && in.available - taken >= kLanes) {
        taken += DecodeWhole<kStore>(in.rests + c, in.codes + c, escapes, window, rows[t] + c);
        continue;
      }
      const size_t count = DecodeMasked(in.rests + c, in.codes + c, escapes, in.available - taken,
                                        FirstBits(channels - c), window, rows[t] + c);
      if (count == kNoEscapeRoom) return kNoEscapeRoom;
      taken += count;
    }
  }
  return taken;
}

KVPLANE_TARGET_AVX512 size_t DecodeWide(const std::byte* rests, const uint8_t* codes,
                                        const std::byte* escapes, size_t available, uint8_t base,
                                        uint8_t width, uint32_t tokens, uint32_t channels,
                                        bool streaming_stores, uint16_t* const* rows) {
  const WideStreams in = {rests, codes, escapes, available};
  const bool stream = streaming_stores && channels % kLanes == 0 && RowsAligned(rows, tokens);
  if (!stream) return DecodeWideRows<RowStore::kFull>(in, WindowOf(base, width), tokens, channels, rows);
  const size_t taken = DecodeWideRows<RowStore::kStream>(in, WindowOf(base, width), tokens, channels, rows);
  _mm_sfence();
  return taken;
}

}  // namespace

constinit const ExponentKernels kExponentAvx512 = {Split,        Join,   LargestExponent, Encode,
                                                   CountEscapes, Decode, EncodeWide,      DecodeWide};

}  // namespace kvplane::kernel::internal
