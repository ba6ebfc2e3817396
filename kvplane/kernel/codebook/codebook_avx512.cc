#include <immintrin.h>

#include <algorithm>

#include "kvplane/kernel/codebook/codebook_definition.h"
#include "kvplane/kernel/prefetch.h"

// 32 values at a time. Magnitudes are found by binary search in the thresholds, which lie in one register
// (vpermw); two blocks of 16 have theirs side by side. Decoding is a table look-up in scaled magnitudes.

#define KVPLANE_INLINE_AVX512 KVPLANE_TARGET_AVX512 inline __attribute__((always_inline))

namespace kvplane::kernel::internal {
namespace {

constexpr uint32_t kLanes = 32;

KVPLANE_INLINE_AVX512 __mmask32 LaneMask(uint32_t lanes) {
  return lanes >= kLanes ? 0xffffffffu : (1u << lanes) - 1;
}
// The lanes of `mask` from memory, 0 elsewhere; nothing outside them is touched.
KVPLANE_INLINE_AVX512 __m512i LoadValues(const uint16_t* from, __mmask32 mask) {
  return _mm512_maskz_loadu_epi16(mask, from);
}
KVPLANE_INLINE_AVX512 __m512i LoadSymbols(const uint8_t* from, __mmask32 mask) {
  return _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, from));
}
KVPLANE_INLINE_AVX512 void StoreSymbols(uint8_t* to, __mmask32 mask, __m512i words) {
  if (mask == 0xffffffffu) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi16_epi8(words));
  } else {
    _mm256_mask_storeu_epi8(to, mask, _mm512_cvtepi16_epi8(words));
  }
}
KVPLANE_INLINE_AVX512 void StoreValues(uint16_t* to, __mmask32 mask, __m512i words) {
  if (mask == 0xffffffffu) {
    _mm512_storeu_si512(to, words);
  } else {
    _mm512_mask_storeu_epi16(to, mask, words);
  }
}

KVPLANE_INLINE_AVX512 __m512i Absolute(__m512i x) { return _mm512_and_si512(x, _mm512_set1_epi16(0x7fff)); }

// An array of eight, twice: for the lower and the upper eight lanes.
template <typename Word>
KVPLANE_INLINE_AVX512 __m512i Twice(const std::array<Word, 8>& values) {
  static_assert(sizeof(values) == 32);
  return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values.data())));
}
KVPLANE_INLINE_AVX512 __m512 Twice(const Magnitudes& values) {
  return _mm512_castsi512_ps(Twice<float>(values));
}
// Eight words, the others 0.
KVPLANE_INLINE_AVX512 __m512i Words(const std::array<uint16_t, 8>& values) {
  return _mm512_zextsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values.data())));
}
KVPLANE_INLINE_AVX512 __m512i UpperHalves(__m512i patterns) {
  return _mm512_zextsi256_si512(_mm512_cvtepi32_epi16(_mm512_srli_epi32(patterns, 16)));
}
KVPLANE_INLINE_AVX512 __m512i RoundToWords(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  return UpperHalves(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))));
}

// Words base + j, j in 1..7, of `thresholds` are those of a lane; returns base + the magnitude. `base` is 0
// or a multiple of 8.
KVPLANE_INLINE_AVX512 __m512i Search(__m512i magnitudes, __m512i thresholds, __m512i base) {
  __m512i index = base;
  for (const short bit : {short{4}, short{2}, short{1}}) {
    const __m512i next = _mm512_or_si512(index, _mm512_set1_epi16(bit));
    const __m512i threshold = _mm512_permutexvar_epi16(next, thresholds);
    index = _mm512_mask_mov_epi16(index, _mm512_cmpge_epu16_mask(magnitudes, threshold), next);
  }
  return index;
}

// ---- lloyd

KVPLANE_INLINE_AVX512 float SumOfSquares512(const uint16_t* row, uint32_t channels) {
  __m512 even = _mm512_setzero_ps();
  __m512 odd = _mm512_setzero_ps();
  for (uint32_t c = 0; c < channels; c += kLanes) {
    const __m512i x = LoadValues(row + c, LaneMask(channels - c));
    const __m512 low = _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
    const __m512 high =
        _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
    even = _mm512_add_ps(even, _mm512_mul_ps(low, low));
    odd = _mm512_add_ps(odd, _mm512_mul_ps(high, high));
  }
  const __m512 lanes = _mm512_add_ps(even, odd);
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// Rows whose norms are worked out together: roots and quotients take long, one after the other they would
// set the pace.
constexpr uint32_t kRowBatch = 8;

// The codes of one row; returns their energy.
KVPLANE_INLINE_AVX512 uint32_t EncodeLloydRow(const uint16_t* row, uint32_t channels, __m512i thresholds,
                                              __m512i energies, __m512i half, uint8_t* symbols) {
  __m512i energy = _mm512_setzero_si512();
  for (uint32_t c = 0; c < channels; c += kLanes) {
    const __mmask32 mask = LaneMask(channels - c);
    const __m512i x = LoadValues(row + c, mask);
    const __m512i magnitude = Search(Absolute(x), thresholds, _mm512_setzero_si512());
    const __m512i squared = _mm512_maskz_permutexvar_epi16(mask, magnitude, energies);
    energy = _mm512_dpwssd_epi32(energy, squared, _mm512_set1_epi16(1));
    // -1 - magnitude below zero
    const __m512i signed_index = _mm512_xor_si512(magnitude, _mm512_srai_epi16(x, 15));
    StoreSymbols(symbols + c, mask, _mm512_add_epi16(half, signed_index));
  }
  return static_cast<uint32_t>(_mm512_reduce_add_epi32(energy));
}

KVPLANE_TARGET_AVX512 bool EncodeLloyd(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                       uint32_t bits, std::byte* norms, uint8_t* symbols) {
  const __m512 midpoints = Twice(kLloydMidpoints[bits - 1]);
  const __m512i energies = Words(kLloydEnergies[bits - 1]);
  const __m512i half = _mm512_set1_epi16(static_cast<short>(1 << (bits - 1)));
  const __m256 inverse_channels = _mm256_set1_ps(1.0f / static_cast<float>(channels));
  for (uint32_t first = 0; first < tokens; first += kRowBatch) {
    const uint32_t count = std::min(kRowBatch, tokens - first);
    for (uint32_t t = first + kRowBatch; t < std::min(first + 2 * kRowBatch, tokens); ++t) {
      PrefetchRow(rows[t], channels);
    }
    alignas(32) float squares[kRowBatch] = {1, 1, 1, 1, 1, 1, 1, 1};
    alignas(32) float deviations[kRowBatch];
    alignas(32) uint32_t energy[kRowBatch] = {1, 1, 1, 1, 1, 1, 1, 1};
    for (uint32_t r = 0; r < count; ++r) squares[r] = SumOfSquares512(rows[first + r], channels);
    const __m256 sums = _mm256_load_ps(squares);
    if (_mm256_cmp_ps_mask(sums, _mm256_set1_ps(kLloydSquaresLimit), _CMP_NLT_UQ) != 0) return false;
    const __mmask8 zero = _mm256_cmp_ps_mask(sums, _mm256_set1_ps(kLloydLeastSquares), _CMP_LT_OQ);
    _mm256_store_ps(deviations, _mm256_sqrt_ps(_mm256_mul_ps(sums, inverse_channels)));
    for (uint32_t r = 0; r < count; ++r, symbols += channels) {
      const __m512 scaled = _mm512_mul_ps(midpoints, _mm512_set1_ps(deviations[r]));
      const __m512i rounded =
          _mm512_add_epi32(_mm512_castps_si512(scaled), _mm512_set1_epi32(static_cast<int>(kAtLeast)));
      const __mmask32 never = (zero >> r & 1) != 0 ? 0xffffffffu : 0;
      const __m512i thresholds = _mm512_mask_mov_epi16(UpperHalves(rounded), never, _mm512_set1_epi16(-1));
      energy[r] = EncodeLloydRow(rows[first + r], channels, thresholds, energies, half, symbols);
    }
    const __m256 totals =
        _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(energy))),
                      _mm256_set1_ps(kEnergyUnit));
    const __m512 norm = _mm512_zextps256_ps512(_mm256_sqrt_ps(_mm256_div_ps(sums, totals)));
    const __m128i words =
        _mm_maskz_mov_epi16(static_cast<__mmask8>(~zero), _mm512_castsi512_si128(RoundToWords(norm)));
    _mm_mask_storeu_epi16(norms + first * sizeof(uint16_t), static_cast<__mmask8>(LaneMask(count)), words);
  }
  return true;
}

KVPLANE_TARGET_AVX512 void DecodeLloyd(const std::byte* norms, const uint8_t* symbols, uint32_t tokens,
                                       uint32_t channels, uint32_t bits, uint16_t* const* rows) {
  const __m512 magnitudes = Twice(kLloydMagnitudes[bits - 1]);
  const __m512i half = _mm512_set1_epi16(static_cast<short>(1 << (bits - 1)));
  for (uint32_t t = 0; t < tokens; ++t, symbols += channels) {
    const float norm = FromPattern(base::LoadLe<uint16_t>(norms + t * sizeof(uint16_t)));
    const __m512i values = RoundToWords(_mm512_mul_ps(magnitudes, _mm512_set1_ps(norm)));
    for (uint32_t c = 0; c < channels; c += kLanes) {
      const __mmask32 mask = LaneMask(channels - c);
      const __m512i index = _mm512_sub_epi16(LoadSymbols(symbols + c, mask), half);
      const __m512i negative = _mm512_srai_epi16(index, 15);
      const __m512i value = _mm512_permutexvar_epi16(_mm512_xor_si512(index, negative), values);
      StoreValues(rows[t] + c, mask,
                  _mm512_or_si512(value, _mm512_and_si512(negative, _mm512_set1_epi16(-0x8000))));
    }
  }
}

// ---- fp4

// The greatest word of each half, in all words of it.
KVPLANE_INLINE_AVX512 __m512i LargestOfHalves(__m512i x) {
  x = _mm512_max_epu16(x, _mm512_shuffle_i64x2(x, x, 0xb1));
  x = _mm512_max_epu16(x, _mm512_shuffle_epi32(x, _MM_PERM_BADC));
  x = _mm512_max_epu16(x, _mm512_shuffle_epi32(x, _MM_PERM_CDAB));
  return _mm512_max_epu16(x, _mm512_rol_epi32(x, 16));
}

// E2M1 codes of 32 values; lanes 0..7 of `scale` belong to the lower 16, lanes 8..15 to the upper.
KVPLANE_INLINE_AVX512 __m512i E2m1Codes(__m512i x, __m512 scale) {
  const __m512i patterns = _mm512_castps_si512(_mm512_mul_ps(Twice(kE2m1Midpoints), scale));
  const __mmask16 zero = _mm512_cmp_ps_mask(scale, _mm512_setzero_ps(), _CMP_EQ_OQ);
  const __m512i rounded = _mm512_add_epi32(patterns, Twice(kE2m1Rounding));
  const __m512i thresholds = UpperHalves(_mm512_mask_mov_epi32(rounded, zero, _mm512_set1_epi32(-1)));
  const __m512i base = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(8), 1);
  const __m512i index = Search(Absolute(x), thresholds, base);
  const __m512i sign = _mm512_and_si512(_mm512_srli_epi16(x, 12), _mm512_set1_epi16(8));
  // (index & 7) | sign
  return _mm512_ternarylogic_epi32(index, _mm512_set1_epi16(7), sign, 0xea);
}

KVPLANE_INLINE_AVX512 __m512i E2m1Values(__m512i symbols, __m512 scale) {
  const __m512i values = RoundToWords(_mm512_mul_ps(Twice(kE2m1Magnitudes), scale));
  const __m512i base = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(8), 1);
  // (symbol & 7) | base
  const __m512i index = _mm512_ternarylogic_epi32(symbols, _mm512_set1_epi16(7), base, 0xea);
  const __m512i sign = _mm512_slli_epi16(_mm512_srli_epi16(symbols, 3), 15);
  return _mm512_or_si512(_mm512_permutexvar_epi16(index, values), sign);
}

// E4m3Format::Code() of values that are not negative.
KVPLANE_INLINE_AVX512 __m512i E4m3Codes(__m512 x) {
  const __m512 clamped = _mm512_min_ps(x, _mm512_set1_ps(E4m3Format::kLargest));
  const __m512i bits = _mm512_castps_si512(clamped);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, E4m3Format::kShift), _mm512_set1_epi32(1));
  const __m512i half = _mm512_set1_epi32((1 << (E4m3Format::kShift - 1)) - 1);
  const __m512i normal = _mm512_sub_epi32(
      _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(half, odd)), E4m3Format::kShift),
      _mm512_set1_epi32(E4m3Format::kRebias));
  const __m512 sum = _mm512_add_ps(_mm512_mul_ps(clamped, _mm512_set1_ps(E4m3Format::kSubnormalInverse)),
                                   _mm512_set1_ps(kRoundToInteger));
  const __m512i subnormal = _mm512_and_si512(_mm512_castps_si512(sum), _mm512_set1_epi32(0xff));
  const __mmask16 small =
      _mm512_cmp_ps_mask(clamped, _mm512_set1_ps(E4m3Format::kSmallestNormal), _CMP_LT_OQ);
  return _mm512_mask_mov_epi32(normal, small, subnormal);
}

// E4m3Format::Value() of codes without a sign.
KVPLANE_INLINE_AVX512 __m512 E4m3Values(__m512i codes) {
  const __mmask16 small = _mm512_cmplt_epu32_mask(codes, _mm512_set1_epi32(8));
  const __m512i lifted = _mm512_mask_add_epi32(codes, small, codes, _mm512_set1_epi32(8));
  const __m512i bits =
      _mm512_slli_epi32(_mm512_add_epi32(lifted, _mm512_set1_epi32(E4m3Format::kRebias)), E4m3Format::kShift);
  const __m512 value = _mm512_castsi512_ps(bits);
  return _mm512_mask_sub_ps(value, small, value, _mm512_set1_ps(E4m3Format::kSmallestNormal));
}

KVPLANE_TARGET_AVX512 void EncodeNvfp4(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                       float tensor_scale, std::byte* scales, uint8_t* symbols) {
  const __m512 inverse = _mm512_set1_ps(Nvfp4InverseOf(tensor_scale));
  const __m512 tensor_scales = _mm512_set1_ps(tensor_scale);
  for (uint32_t t = 0; t < tokens; ++t, symbols += channels) {
    if (t + kPrefetchRows < tokens) PrefetchRow(rows[t + kPrefetchRows], channels);
    for (uint32_t c = 0; c < channels; c += kLanes) {
      const __mmask32 mask = LaneMask(channels - c);
      const __m512i x = LoadValues(rows[t] + c, mask);
      const __m512 largest = _mm512_castsi512_ps(_mm512_slli_epi32(LargestOfHalves(Absolute(x)), 16));
      const __m512i codes = E4m3Codes(_mm512_mul_ps(largest, inverse));
      *scales++ = static_cast<std::byte>(_mm_cvtsi128_si32(_mm512_castsi512_si128(codes)));
      if (channels - c > kNvfp4Block) {
        *scales++ = static_cast<std::byte>(_mm_cvtsi128_si32(_mm512_extracti32x4_epi32(codes, 2)));
      }
      StoreSymbols(symbols + c, mask, E2m1Codes(x, _mm512_mul_ps(E4m3Values(codes), tensor_scales)));
    }
  }
}

KVPLANE_TARGET_AVX512 void DecodeNvfp4(const std::byte* scales, const uint8_t* symbols, uint32_t tokens,
                                       uint32_t channels, float tensor_scale, uint16_t* const* rows) {
  const __m512 tensor_scales = _mm512_set1_ps(tensor_scale);
  for (uint32_t t = 0; t < tokens; ++t, symbols += channels) {
    for (uint32_t c = 0; c < channels; c += kLanes) {
      const __mmask32 mask = LaneMask(channels - c);
      __m512i codes = _mm512_set1_epi32(static_cast<int>(*scales++));
      if (channels - c > kNvfp4Block) {
        codes = _mm512_mask_mov_epi32(codes, 0xff00, _mm512_set1_epi32(static_cast<int>(*scales++)));
      }
      const __m512 scale = _mm512_mul_ps(E4m3Values(codes), tensor_scales);
      StoreValues(rows[t] + c, mask, E2m1Values(LoadSymbols(symbols + c, mask), scale));
    }
  }
}

KVPLANE_TARGET_AVX512 bool EncodeMxfp4(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                       std::byte* scales, uint8_t* symbols) {
  __m512i worst = _mm512_setzero_si512();
  for (uint32_t t = 0; t < tokens; ++t, symbols += channels) {
    if (t + kPrefetchRows < tokens) PrefetchRow(rows[t + kPrefetchRows], channels);
    for (uint32_t c = 0; c < channels; c += kLanes) {
      const __mmask32 mask = LaneMask(channels - c);
      const __m512i x = LoadValues(rows[t] + c, mask);
      const __m512i halves = LargestOfHalves(Absolute(x));
      const __m512i largest = _mm512_max_epu16(halves, _mm512_shuffle_i64x2(halves, halves, 0x4e));
      worst = _mm512_max_epu16(worst, largest);
      const __m512i biased = _mm512_srli_epi16(largest, 7);
      const __m512i exponent =
          _mm512_srli_epi32(_mm512_slli_epi32(_mm512_subs_epu16(biased, _mm512_set1_epi16(2)), 16), 16);
      *scales++ = static_cast<std::byte>(_mm_cvtsi128_si32(_mm512_castsi512_si128(exponent)));
      const __m512i power = _mm512_slli_epi32(exponent, 23);
      const __m512i pattern =
          _mm512_mask_mov_epi32(power, _mm512_testn_epi32_mask(power, power), _mm512_set1_epi32(0x00400000));
      StoreSymbols(symbols + c, mask, E2m1Codes(x, _mm512_castsi512_ps(pattern)));
    }
  }
  return _mm512_cmpge_epu16_mask(worst, _mm512_set1_epi16(static_cast<short>(kNarrowMagnitudeLimit))) == 0;
}

KVPLANE_TARGET_AVX512 void DecodeMxfp4(const std::byte* scales, const uint8_t* symbols, uint32_t tokens,
                                       uint32_t channels, uint16_t* const* rows) {
  for (uint32_t t = 0; t < tokens; ++t, symbols += channels) {
    for (uint32_t c = 0; c < channels; c += kLanes) {
      const __mmask32 mask = LaneMask(channels - c);
      const __m512 scale = _mm512_set1_ps(Mxfp4Scale(static_cast<uint32_t>(*scales++)));
      StoreValues(rows[t] + c, mask, E2m1Values(LoadSymbols(symbols + c, mask), scale));
    }
  }
}

}  // namespace

constinit const CodebookKernels kCodebookAvx512 = {EncodeLloyd, DecodeLloyd, EncodeNvfp4,
                                                   DecodeNvfp4, EncodeMxfp4, DecodeMxfp4};

}  // namespace kvplane::kernel::internal
