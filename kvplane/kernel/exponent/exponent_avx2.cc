#include <immintrin.h>

#include <array>
#include <bit>

#include "kvplane/kernel/exponent/exponent_definition.h"

// 32 values at a time, as the AVX-512 file; escapes are rare and moved one by one. The end of a row (fewer
// than 32 values) is the definition's.

#define KVPLANE_INLINE_AVX2 KVPLANE_TARGET_AVX2 inline __attribute__((always_inline))

namespace kvplane::kernel::internal {
namespace {

constexpr uint32_t kLanes = 32;

struct Planes {
  __m256i rest, exponent;
};

KVPLANE_INLINE_AVX2 __m256i Load(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
KVPLANE_INLINE_AVX2 void Store(void* to, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(to), x); }

// The low bytes of 16 + 16 words, in order. Words are at most 255.
KVPLANE_INLINE_AVX2 __m256i Narrow(__m256i a, __m256i b) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi16(a, b), 0xd8);
}
// Bit 7 of `top`, the other bits of `rest`.
KVPLANE_INLINE_AVX2 __m256i TopBit(__m256i top, __m256i rest) {
  const __m256i bit = _mm256_set1_epi8(-0x80);
  return _mm256_or_si256(_mm256_and_si256(bit, top), _mm256_andnot_si256(bit, rest));
}

KVPLANE_INLINE_AVX2 Planes LoadPlanes(const uint16_t* row) {
  const __m256i a = Load(row);
  const __m256i b = Load(row + 16);
  const __m256i byte = _mm256_set1_epi16(0xff);
  const __m256i low = Narrow(_mm256_and_si256(a, byte), _mm256_and_si256(b, byte));
  const __m256i high = Narrow(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
  // The sign bit of a low byte is the low bit of the exponent; a comparison gives it as -1.
  const __m256i lowest = _mm256_cmpgt_epi8(_mm256_setzero_si256(), low);
  return {TopBit(high, low), _mm256_sub_epi8(_mm256_add_epi8(high, high), lowest)};
}

KVPLANE_INLINE_AVX2 void StoreValues(const Planes& planes, uint16_t* row) {
  const __m256i high = TopBit(planes.rest, _mm256_srli_epi16(planes.exponent, 1));
  const __m256i low = TopBit(_mm256_slli_epi16(planes.exponent, 7), planes.rest);
  const __m256i a = _mm256_unpacklo_epi8(low, high);
  const __m256i b = _mm256_unpackhi_epi8(low, high);
  Store(row, _mm256_permute2x128_si256(a, b, 0x20));
  Store(row + 16, _mm256_permute2x128_si256(a, b, 0x31));
}

KVPLANE_TARGET_AVX2 void Split(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                               std::byte* rests, std::byte* exponents) {
  for (uint32_t t = 0; t < tokens; ++t, rests += channels, exponents += channels) {
    uint32_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      const Planes planes = LoadPlanes(rows[t] + c);
      Store(rests + c, planes.rest);
      Store(exponents + c, planes.exponent);
    }
    for (; c < channels; ++c) {
      rests[c] = RestOf(rows[t][c]);
      exponents[c] = static_cast<std::byte>(ExponentOf(rows[t][c]));
    }
  }
}

KVPLANE_TARGET_AVX2 void Join(const std::byte* rests, const std::byte* exponents, uint32_t tokens,
                              uint32_t channels, uint16_t* const* rows) {
  for (uint32_t t = 0; t < tokens; ++t, rests += channels, exponents += channels) {
    uint32_t c = 0;
    for (; c + kLanes <= channels; c += kLanes)
      StoreValues({Load(rests + c), Load(exponents + c)}, rows[t] + c);
    for (; c < channels; ++c) rows[t][c] = ValueOf(rests[c], static_cast<uint8_t>(exponents[c]));
  }
}

KVPLANE_TARGET_AVX2 uint8_t LargestExponent(const uint16_t* const* rows, uint32_t tokens, uint32_t channels) {
  const __m256i magnitude_bits = _mm256_set1_epi16(0x7fff);
  const __m256i infinity = _mm256_set1_epi16(0x7f80);
  __m256i vector = _mm256_setzero_si256();
  uint16_t largest = 0;
  for (uint32_t t = 0; t < tokens; ++t) {
    uint32_t c = 0;
    for (; c + 16 <= channels; c += 16) {
      const __m256i x = _mm256_and_si256(Load(rows[t] + c), magnitude_bits);
      // Magnitudes are below 2^15, so signed comparison orders them.
      vector = _mm256_max_epi16(vector, _mm256_and_si256(x, _mm256_cmpgt_epi16(infinity, x)));
    }
    for (; c < channels; ++c) {
      const auto x = static_cast<uint16_t>(rows[t][c] & 0x7fffu);
      if (x < 0x7f80 && x > largest) largest = x;
    }
  }
  std::array<uint16_t, 16> lanes;
  Store(lanes.data(), vector);
  for (const uint16_t x : lanes) largest = x > largest ? x : largest;
  return ExponentOf(largest);
}

KVPLANE_TARGET_AVX2 size_t Encode(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                  uint8_t base, size_t /*ahead*/, std::byte* rests, std::byte* codes,
                                  std::byte* escapes, size_t room) {
  const __m256i bases = _mm256_set1_epi8(static_cast<char>(base));
  const __m256i escape_code = _mm256_set1_epi8(kEscapeCode);
  std::byte* at = escapes;
  const std::byte* end = escapes + room;
  for (uint32_t t = 0; t < tokens; ++t, rests += channels, codes += WindowRowBytes(channels)) {
    uint32_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      const Planes planes = LoadPlanes(rows[t] + c);
      const __m256i code = _mm256_min_epu8(_mm256_sub_epi8(planes.exponent, bases), escape_code);
      Store(rests + c, planes.rest);
      // code 2i + 16 * code 2i+1
      const __m256i pairs = _mm256_maddubs_epi16(code, _mm256_set1_epi16(0x1001));
      const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi16(pairs, pairs), 0xd8);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + c / 2), _mm256_castsi256_si128(packed));
      auto escape = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(code, escape_code)));
      if (escape == 0) continue;
      if (static_cast<ptrdiff_t>(std::popcount(escape)) > end - at) return kNoEscapeRoom;
      for (; escape != 0; escape &= escape - 1) {
        *at++ =
            static_cast<std::byte>(ExponentOf(rows[t][c + static_cast<uint32_t>(std::countr_zero(escape))]));
      }
    }
    if (!EncodeWindowRow(rows[t], c, channels, base, rests, codes, at, end)) return kNoEscapeRoom;
  }
  return static_cast<size_t>(at - escapes);
}

KVPLANE_TARGET_AVX2 size_t CountEscapes(const std::byte* codes, size_t count) {
  const __m256i low_half = _mm256_set1_epi8(0x0f);
  const __m256i high_half = _mm256_set1_epi8(-0x10);
  size_t escapes = 0;
  size_t i = 0;
  for (; i + 64 <= count; i += 64) {
    const __m256i pairs = Load(codes + i / 2);
    const __m256i low = _mm256_cmpeq_epi8(_mm256_and_si256(pairs, low_half), low_half);
    const __m256i high = _mm256_cmpeq_epi8(_mm256_and_si256(pairs, high_half), high_half);
    escapes += static_cast<size_t>(std::popcount(static_cast<uint32_t>(_mm256_movemask_epi8(low))) +
                                   std::popcount(static_cast<uint32_t>(_mm256_movemask_epi8(high))));
  }
  return escapes + CountEscapesFrom(i, codes, count);
}

KVPLANE_TARGET_AVX2 size_t Decode(const std::byte* rests, const std::byte* codes, const std::byte* escapes,
                                  uint8_t base, uint32_t tokens, uint32_t channels, bool /*streaming_stores*/,
                                  uint16_t* const* rows) {
  const __m256i bases = _mm256_set1_epi8(static_cast<char>(base));
  const __m256i escape_code = _mm256_set1_epi8(kEscapeCode);
  const std::byte* at = escapes;
  for (uint32_t t = 0; t < tokens; ++t, rests += channels, codes += WindowRowBytes(channels)) {
    uint32_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      const __m256i pairs =
          _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + c / 2)));
      const __m256i code = _mm256_and_si256(_mm256_or_si256(pairs, _mm256_slli_epi16(pairs, 4)), escape_code);
      __m256i exponent = _mm256_add_epi8(code, bases);
      auto escape = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(code, escape_code)));
      if (escape != 0) {
        std::array<std::byte, kLanes> lanes;
        Store(lanes.data(), exponent);
        for (; escape != 0; escape &= escape - 1)
          lanes[static_cast<size_t>(std::countr_zero(escape))] = *at++;
        exponent = Load(lanes.data());
      }
      StoreValues({Load(rests + c), exponent}, rows[t] + c);
    }
    at = DecodeWindowRow(rests, codes, at, base, c, channels, rows[t]);
  }
  return static_cast<size_t>(at - escapes);
}

KVPLANE_TARGET_AVX2 size_t EncodeWide(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                      uint8_t base, uint8_t width, std::byte* rests, uint8_t* codes,
                                      std::byte* escapes, size_t room) {
  const __m256i bases = _mm256_set1_epi8(static_cast<char>(base));
  const __m256i escape_code = _mm256_set1_epi8(static_cast<char>(width));
  std::byte* at = escapes;
  const std::byte* end = escapes + room;
  for (uint32_t t = 0; t < tokens; ++t, rests += channels, codes += channels) {
    uint32_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      const Planes planes = LoadPlanes(rows[t] + c);
      const __m256i code = _mm256_min_epu8(_mm256_sub_epi8(planes.exponent, bases), escape_code);
      Store(rests + c, planes.rest);
      Store(codes + c, code);
      auto escape = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(code, escape_code)));
      if (escape == 0) continue;
      if (static_cast<ptrdiff_t>(std::popcount(escape)) > end - at) return kNoEscapeRoom;
      for (; escape != 0; escape &= escape - 1) {
        *at++ =
            static_cast<std::byte>(ExponentOf(rows[t][c + static_cast<uint32_t>(std::countr_zero(escape))]));
      }
    }
    if (!EncodeWideRow(rows[t], c, channels, base, width, rests, codes, at, end)) return kNoEscapeRoom;
  }
  return static_cast<size_t>(at - escapes);
}

KVPLANE_TARGET_AVX2 size_t DecodeWide(const std::byte* rests, const uint8_t* codes, const std::byte* escapes,
                                      size_t available, uint8_t base, uint8_t width, uint32_t tokens,
                                      uint32_t channels, bool /*streaming_stores*/, uint16_t* const* rows) {
  const __m256i bases = _mm256_set1_epi8(static_cast<char>(base));
  const __m256i escape_code = _mm256_set1_epi8(static_cast<char>(width));
  const std::byte* at = escapes;
  const std::byte* end = escapes + available;
  for (uint32_t t = 0; t < tokens; ++t, rests += channels, codes += channels) {
    uint32_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      const __m256i code = Load(codes + c);
      __m256i exponent = _mm256_add_epi8(code, bases);
      auto escape = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(code, escape_code)));
      if (escape != 0) {
        if (static_cast<ptrdiff_t>(std::popcount(escape)) > end - at) return kNoEscapeRoom;
        std::array<std::byte, kLanes> lanes;
        Store(lanes.data(), exponent);
        for (; escape != 0; escape &= escape - 1)
          lanes[static_cast<size_t>(std::countr_zero(escape))] = *at++;
        exponent = Load(lanes.data());
      }
      StoreValues({Load(rests + c), exponent}, rows[t] + c);
    }
    if (!DecodeWideRow(rests, codes, at, end, base, width, c, channels, rows[t])) return kNoEscapeRoom;
  }
  return static_cast<size_t>(at - escapes);
}

}  // namespace

constinit const ExponentKernels kExponentAvx2 = {Split,        Join,   LargestExponent, Encode,
                                                 CountEscapes, Decode, EncodeWide,      DecodeWide};

}  // namespace kvplane::kernel::internal
