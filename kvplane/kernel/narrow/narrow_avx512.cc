#include <immintrin.h>

#include "kvplane/kernel/narrow/narrow_definition.h"
#include "kvplane/kernel/prefetch.h"

// Encoding takes 32 bf16 as 16 even and 16 odd floats (see quantize_avx512.cc); the codes of a pair lie in
// the low bytes of one word. What is left to the loops of the definition is as fast as the memory.

#define KVPLANE_INLINE_AVX512 KVPLANE_TARGET_AVX512 inline __attribute__((always_inline))

namespace kvplane::kernel::internal {
namespace {

constexpr uint32_t kLanes = 32;

KVPLANE_INLINE_AVX512 __mmask32 LaneMask(uint32_t lanes) {
  return lanes >= kLanes ? 0xffffffffu : (1u << lanes) - 1;
}

// The largest magnitudes of a row, in the words of a register.
KVPLANE_INLINE_AVX512 __m512i LargestWords(const uint16_t* row, uint32_t channels) {
  __m512i largest = _mm512_setzero_si512();
  uint32_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    const __m512i x = _mm512_and_si512(_mm512_loadu_si512(row + c), _mm512_set1_epi16(0x7fff));
    largest = _mm512_max_epu16(largest, x);
  }
  if (c == channels) return largest;
  const __m512i rest = _mm512_maskz_loadu_epi16(LaneMask(channels - c), row + c);
  return _mm512_max_epu16(largest, _mm512_and_si512(rest, _mm512_set1_epi16(0x7fff)));
}

KVPLANE_INLINE_AVX512 uint16_t LargestWord(__m512i words) {
  const __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(words), _mm512_extracti64x4_epi64(words, 1));
  const __m128i quarter = _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  // vphminposuw finds the least.
  const __m128i least = _mm_minpos_epu16(_mm_xor_si128(quarter, _mm_set1_epi16(-1)));
  return static_cast<uint16_t>(~_mm_cvtsi128_si32(least));
}

KVPLANE_TARGET_AVX512 uint16_t LargestMagnitude(const uint16_t* const* rows, uint32_t tokens,
                                                uint32_t channels) {
  __m512i largest = _mm512_setzero_si512();
  for (uint32_t t = 0; t < tokens; ++t) {
    if (t + kPrefetchRows < tokens) PrefetchRow(rows[t + kPrefetchRows], channels);
    largest = _mm512_max_epu16(largest, LargestWords(rows[t], channels));
  }
  return LargestWord(largest);
}

KVPLANE_TARGET_AVX512 void LargestOfTokens(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                           uint16_t* largest) {
  for (uint32_t t = 0; t < tokens; ++t) {
    if (t + kPrefetchRows < tokens) PrefetchRow(rows[t + kPrefetchRows], channels);
    largest[t] = LargestWord(LargestWords(rows[t], channels));
  }
}

// Format::Code() of 16 floats; what is above the low byte is undefined.
template <typename Format>
struct Coder {
  static KVPLANE_INLINE_AVX512 __m512i Codes(__m512 x) {
    const __m512i pattern = _mm512_castps_si512(x);
    const __m512 magnitude = _mm512_castsi512_ps(_mm512_and_si512(pattern, _mm512_set1_epi32(0x7fffffff)));
    const __m512 clamped = _mm512_min_ps(magnitude, _mm512_set1_ps(Format::kLargest));
    const __m512i bits = _mm512_castps_si512(clamped);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, Format::kShift), _mm512_set1_epi32(1));
    // The rounding and the new bias in one addend: the bias lies above the bits that are cut off.
    constexpr uint32_t kRound = (1u << (Format::kShift - 1)) - 1 - (Format::kRebias << Format::kShift);
    const __m512i rounded =
        _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(static_cast<int>(kRound)));
    const __m512i normal = _mm512_srli_epi32(rounded, Format::kShift);
    const __m512 sum = _mm512_add_ps(_mm512_mul_ps(clamped, _mm512_set1_ps(Format::kSubnormalInverse)),
                                     _mm512_set1_ps(kRoundToInteger));
    const __mmask16 small = _mm512_cmp_ps_mask(clamped, _mm512_set1_ps(Format::kSmallestNormal), _CMP_LT_OQ);
    const __m512i code = _mm512_mask_mov_epi32(normal, small, _mm512_castps_si512(sum));
    // The sign in bit 7: (code & 0x7f) | (pattern >> 24 & 0x80)
    return _mm512_ternarylogic_epi32(_mm512_set1_epi32(0x7f), code, _mm512_srli_epi32(pattern, 24), 0xca);
  }
};

template <>
struct Coder<Int8Format> {
  static KVPLANE_INLINE_AVX512 __m512i Codes(__m512 x) {
    const __m512 above = _mm512_max_ps(x, _mm512_set1_ps(-Int8Format::kLargest));
    const __m512 clamped = _mm512_min_ps(above, _mm512_set1_ps(Int8Format::kLargest));
    return _mm512_castps_si512(_mm512_add_ps(clamped, _mm512_set1_ps(kRoundToInteger)));
  }
};

// The codes of 32 values.
template <typename Format>
KVPLANE_INLINE_AVX512 __m256i CodesOf(__m512i x, __m512 inverse) {
  const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
  const __m512 odd =
      _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  const __m512i low = Coder<Format>::Codes(_mm512_mul_ps(even, inverse));
  const __m512i high = _mm512_slli_epi32(Coder<Format>::Codes(_mm512_mul_ps(odd, inverse)), 8);
  // (low & 0xff) | (high & ~0xff)
  return _mm512_cvtepi32_epi16(_mm512_ternarylogic_epi32(_mm512_set1_epi32(0xff), low, high, 0xca));
}

template <typename Format>
KVPLANE_TARGET_AVX512 void Encode(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                  float inverse, std::byte* codes) {
  const __m512 factor = _mm512_set1_ps(inverse);
  for (uint32_t t = 0; t < tokens; ++t, codes += channels) {
    uint32_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      const __m512i x = _mm512_loadu_si512(rows[t] + c);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + c), CodesOf<Format>(x, factor));
    }
    if (c == channels) continue;
    const __mmask32 mask = LaneMask(channels - c);
    const __m512i x = _mm512_maskz_loadu_epi16(mask, rows[t] + c);
    _mm256_mask_storeu_epi8(codes + c, mask, CodesOf<Format>(x, factor));
  }
}

// Format::Value() of codes without a sign, 16 at a time.
template <typename Format>
KVPLANE_INLINE_AVX512 __m512 MagnitudesOf(__m512i codes) {
  constexpr int kFirstNormal = 1 << (23 - Format::kShift);
  const __mmask16 small = _mm512_cmplt_epu32_mask(codes, _mm512_set1_epi32(kFirstNormal));
  const __m512i lifted = _mm512_mask_add_epi32(codes, small, codes, _mm512_set1_epi32(kFirstNormal));
  const __m512i rebiased = _mm512_add_epi32(lifted, _mm512_set1_epi32(Format::kRebias));
  const __m512 values = _mm512_castsi512_ps(_mm512_slli_epi32(rebiased, Format::kShift));
  return _mm512_mask_sub_ps(values, small, values, _mm512_set1_ps(Format::kSmallestNormal));
}

KVPLANE_INLINE_AVX512 __m256i RoundToWords(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}

// The scaled values of the 32 codes from `first` on.
template <typename Format>
KVPLANE_INLINE_AVX512 __m512i ScaledValues(int first, __m512 scale) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i low = _mm512_add_epi32(lanes, _mm512_set1_epi32(first));
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(16));
  const __m256i low_words = RoundToWords(_mm512_mul_ps(MagnitudesOf<Format>(low), scale));
  const __m256i high_words = RoundToWords(_mm512_mul_ps(MagnitudesOf<Format>(high), scale));
  return _mm512_inserti64x4(_mm512_castsi256_si512(low_words), high_words, 1);
}

// Floats: the 128 scaled magnitudes lie in four registers and are looked up.
template <typename Format>
KVPLANE_TARGET_AVX512 void Decode(const std::byte* codes, uint32_t tokens, uint32_t channels, float scale,
                                  uint16_t* const* rows) {
  const __m512 factor = _mm512_set1_ps(scale);
  const __m512i tables[] = {ScaledValues<Format>(0, factor), ScaledValues<Format>(32, factor),
                            ScaledValues<Format>(64, factor), ScaledValues<Format>(96, factor)};
  for (uint32_t t = 0; t < tokens; ++t, codes += channels) {
    for (uint32_t c = 0; c < channels; c += kLanes) {
      const __mmask32 mask = LaneMask(channels - c);
      const __m512i code = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, codes + c));
      const __m512i low = _mm512_permutex2var_epi16(tables[0], code, tables[1]);
      const __m512i high = _mm512_permutex2var_epi16(tables[2], code, tables[3]);
      const __mmask32 above = _mm512_test_epi16_mask(code, _mm512_set1_epi16(0x40));
      const __m512i sign = _mm512_slli_epi16(_mm512_srli_epi16(code, 7), 15);
      const __m512i value = _mm512_or_si512(_mm512_mask_mov_epi16(low, above, high), sign);
      if (mask == 0xffffffffu) {
        _mm512_storeu_si512(rows[t] + c, value);
      } else {
        _mm512_mask_storeu_epi16(rows[t] + c, mask, value);
      }
    }
  }
}

template <>
KVPLANE_TARGET_AVX512 void Decode<Int8Format>(const std::byte* codes, uint32_t tokens, uint32_t channels,
                                              float scale, uint16_t* const* rows) {
  DecodeBody<Int8Format>(codes, tokens, channels, scale, rows);
}

template <typename Format>
KVPLANE_TARGET_AVX512 bool CodesValid(const std::byte* codes, size_t count) {
  return CodesValidBody<Format>(codes, count);
}

}  // namespace

constinit const NarrowKernels kNarrowAvx512 = {
    LargestMagnitude,
    LargestOfTokens,
    {Encode<Int8Format>, Encode<E4m3Format>, Encode<E5m2Format>},
    {Decode<Int8Format>, Decode<E4m3Format>, Decode<E5m2Format>},
    {CodesValid<Int8Format>, CodesValid<E4m3Format>, CodesValid<E5m2Format>}};

}  // namespace kvplane::kernel::internal
