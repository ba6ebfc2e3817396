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

// Keeps a constant in a register: GCC 12 builds constants anew in every iteration, through a general
// register.
KVPLANE_INLINE_AVX512 __m512i Keep(__m512i x) {
  asm("" : "+v"(x));
  return x;
}
KVPLANE_INLINE_AVX512 __m512 Keep(__m512 x) {
  asm("" : "+v"(x));
  return x;
}
KVPLANE_INLINE_AVX512 __m512i KeepWords(int word) {
  return Keep(_mm512_set1_epi16(static_cast<short>(word)));
}

struct SearchConstants {
  __m512i magnitude, four, two, one;
};
KVPLANE_INLINE_AVX512 SearchConstants MakeSearchConstants() {
  return {KeepWords(0x7fff), KeepWords(4), KeepWords(2), KeepWords(1)};
}

KVPLANE_INLINE_AVX512 __m512i SearchStep(__m512i magnitudes, __m512i thresholds, __m512i index, __m512i bit) {
  const __m512i next = _mm512_or_si512(index, bit);
  const __mmask32 reached = _mm512_cmpge_epu16_mask(magnitudes, _mm512_permutexvar_epi16(next, thresholds));
  return _mm512_mask_mov_epi16(index, reached, next);
}

// The magnitude of every lane: words base + j, j in 1..7, of `thresholds` are those of a lane; returns base +
// the magnitude. `base` is 0 or a multiple of 8.
KVPLANE_INLINE_AVX512 __m512i Search(__m512i x, __m512i thresholds, __m512i base, const SearchConstants& k) {
  const __m512i magnitudes = _mm512_and_si512(x, k.magnitude);
  __m512i index = SearchStep(magnitudes, thresholds, base, k.four);
  index = SearchStep(magnitudes, thresholds, index, k.two);
  return SearchStep(magnitudes, thresholds, index, k.one);
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
                                              __m512i energies, __m512i half, const SearchConstants& k,
                                              uint8_t* symbols) {
  __m512i energy = _mm512_setzero_si512();
  for (uint32_t c = 0; c < channels; c += kLanes) {
    const __mmask32 mask = LaneMask(channels - c);
    const __m512i x = LoadValues(row + c, mask);
    const __m512i magnitude = Search(x, thresholds, _mm512_setzero_si512(), k);
    const __m512i squared = _mm512_maskz_permutexvar_epi16(mask, magnitude, energies);
    energy = _mm512_dpwssd_epi32(energy, squared, k.one);
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
  const SearchConstants k = MakeSearchConstants();
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
      energy[r] = EncodeLloydRow(rows[first + r], channels, thresholds, energies, half, k, symbols);
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

// Four vectors: what is worked on together, so that the scales of its blocks are one vector.
constexpr uint32_t kStripVectors = 4;
constexpr uint32_t kStrip = kStripVectors * kLanes;

struct Strip {
  __mmask32 masks[kStripVectors];
  __m512i values[kStripVectors];
};

template <bool kFull>
KVPLANE_INLINE_AVX512 Strip LoadStrip(const uint16_t* row, uint32_t left) {
  Strip strip;
  for (uint32_t v = 0; v < kStripVectors; ++v) {
    if constexpr (kFull) {
      strip.masks[v] = 0xffffffffu;
      strip.values[v] = _mm512_loadu_si512(row + v * kLanes);
      continue;
    }
    strip.masks[v] = left > v * kLanes ? LaneMask(left - v * kLanes) : 0;
    strip.values[v] = LoadValues(row + (strip.masks[v] != 0 ? v * kLanes : 0), strip.masks[v]);
  }
  return strip;
}

// The largest magnitudes of the eight half vectors, in all words of the quadwords 0, 4, 1, 5, 2, 6, 3, 7 (by
// number of the half).
KVPLANE_INLINE_AVX512 __m512i LargestOfHalves(const Strip& strip) {
  __m512i quarters[2];  // the halves of two vectors, 128 bits each
  for (uint32_t i = 0; i < 2; ++i) {
    const __m512i x = Absolute(strip.values[2 * i]);
    const __m512i y = Absolute(strip.values[2 * i + 1]);
    quarters[i] = _mm512_max_epu16(_mm512_shuffle_i64x2(x, y, 0x88), _mm512_shuffle_i64x2(x, y, 0xdd));
  }
  const __m512i quads = _mm512_max_epu16(_mm512_unpacklo_epi64(quarters[0], quarters[1]),
                                         _mm512_unpackhi_epi64(quarters[0], quarters[1]));
  const __m512i pairs = _mm512_max_epu16(quads, _mm512_shuffle_epi32(quads, _MM_PERM_CDAB));
  return _mm512_max_epu16(pairs, _mm512_rol_epi32(pairs, 16));
}

// The words of quadwords 0, 4, 1, 5, ... of `largest` as eight binary32 patterns of halves 0, 1, 2, ...
KVPLANE_INLINE_AVX512 __m512i InOrder(__m512i largest) {
  // Lane i of the result: the quadword that half i lies in, shifted to the upper half of a doubleword.
  const __m512i quadword = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
  const __m256i words = _mm512_cvtepi64_epi32(_mm512_permutexvar_epi64(quadword, largest));
  return _mm512_zextsi256_si512(_mm256_slli_epi32(words, 16));
}

struct E2m1Constants {
  SearchConstants search;
  __m512 midpoints;
  __m512i rounding, base, never, seven, eight;
};
KVPLANE_INLINE_AVX512 E2m1Constants MakeE2m1Constants() {
  return {MakeSearchConstants(),
          Keep(Twice(kE2m1Midpoints)),
          Keep(Twice(kE2m1Rounding)),
          Keep(_mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(8), 1)),
          KeepWords(-1),
          KeepWords(7),
          KeepWords(8)};
}

// E2M1 codes of 32 values; lanes 0..7 of `scale` belong to the lower 16, lanes 8..15 to the upper.
KVPLANE_INLINE_AVX512 __m512i E2m1Codes(__m512i x, __m512 scale, const E2m1Constants& k) {
  const __m512i patterns = _mm512_castps_si512(_mm512_mul_ps(k.midpoints, scale));
  const __mmask16 zero = _mm512_testn_epi32_mask(_mm512_castps_si512(scale), _mm512_castps_si512(scale));
  const __m512i rounded = _mm512_add_epi32(patterns, k.rounding);
  const __m512i thresholds = UpperHalves(_mm512_mask_mov_epi32(rounded, zero, k.never));
  const __m512i index = Search(x, thresholds, k.base, k.search);
  const __m512i sign = _mm512_and_si512(_mm512_srli_epi16(x, 12), k.eight);
  // (index & 7) | sign
  return _mm512_ternarylogic_epi32(index, k.seven, sign, 0xea);
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

// Lanes 0..7: lane 2 v of `scales`; lanes 8..15: lane 2 v + 1.
KVPLANE_INLINE_AVX512 __m512 ScalesOfVector(__m512 scales, uint32_t v) {
  const auto lower = static_cast<int>(2 * v);
  return _mm512_permutexvar_ps(
      _mm512_mask_mov_epi32(_mm512_set1_epi32(lower), 0xff00, _mm512_set1_epi32(lower + 1)), scales);
}

template <bool kFull>
KVPLANE_INLINE_AVX512 void StoreCodes(const Strip& strip, __m512 scales, const E2m1Constants& k,
                                      uint8_t* symbols) {
  for (uint32_t v = 0; v < kStripVectors; ++v) {
    if (!kFull && strip.masks[v] == 0) return;
    const __m512i codes = E2m1Codes(strip.values[v], ScalesOfVector(scales, v), k);
    StoreSymbols(symbols + v * kLanes, kFull ? 0xffffffffu : strip.masks[v], codes);
  }
}

// Stores the low bytes of the first `count` of eight lanes.
KVPLANE_INLINE_AVX512 void StoreScales(std::byte* scales, uint32_t count, __m128i bytes) {
  _mm_mask_storeu_epi8(scales, static_cast<__mmask16>((1u << count) - 1), bytes);
}

// A strip of a row; returns how many scales it has.
template <bool kFull>
KVPLANE_INLINE_AVX512 uint32_t EncodeNvfp4Strip(const uint16_t* row, uint32_t left, __m512 inverse,
                                                __m512 tensor_scale, const E2m1Constants& k,
                                                std::byte* scales, uint8_t* symbols) {
  const Strip strip = LoadStrip<kFull>(row, left);
  const __m512i largest = InOrder(LargestOfHalves(strip));
  const __m512i codes = E4m3Codes(_mm512_mul_ps(_mm512_castsi512_ps(largest), inverse));
  const uint32_t blocks = (std::min(kStrip, left) + kNvfp4Block - 1) / kNvfp4Block;
  StoreScales(scales, blocks, _mm512_cvtepi32_epi8(codes));
  StoreCodes<kFull>(strip, _mm512_mul_ps(E4m3Values(codes), tensor_scale), k, symbols);
  return blocks;
}

KVPLANE_TARGET_AVX512 void EncodeNvfp4(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                       float tensor_scale, std::byte* scales, uint8_t* symbols) {
  const __m512 inverse = _mm512_set1_ps(Nvfp4InverseOf(tensor_scale));
  const __m512 factor = _mm512_set1_ps(tensor_scale);
  const E2m1Constants k = MakeE2m1Constants();
  for (uint32_t t = 0; t < tokens; ++t, symbols += channels) {
    if (t + kPrefetchRows < tokens) PrefetchRow(rows[t + kPrefetchRows], channels);
    uint32_t c = 0;
    for (; c + kStrip <= channels; c += kStrip) {
      scales += EncodeNvfp4Strip<true>(rows[t] + c, kStrip, inverse, factor, k, scales, symbols + c);
    }
    if (c == channels) continue;
    scales += EncodeNvfp4Strip<false>(rows[t] + c, channels - c, inverse, factor, k, scales, symbols + c);
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

// As EncodeNvfp4Strip(); adds the magnitudes seen to `worst`.
template <bool kFull>
KVPLANE_INLINE_AVX512 uint32_t EncodeMxfp4Strip(const uint16_t* row, uint32_t left, const E2m1Constants& k,
                                                __m512i& worst, std::byte* scales, uint8_t* symbols) {
  const Strip strip = LoadStrip<kFull>(row, left);
  const __m512i halves = LargestOfHalves(strip);
  worst = _mm512_max_epu16(worst, halves);
  // The halves of a vector are two 128-bit neighbours.
  const __m512i largest = InOrder(_mm512_max_epu16(halves, _mm512_shuffle_i64x2(halves, halves, 0xb1)));
  const __m512i biased = _mm512_max_epu32(_mm512_srli_epi32(largest, 23), _mm512_set1_epi32(2));
  const __m512i exponents = _mm512_sub_epi32(biased, _mm512_set1_epi32(2));
  const uint32_t blocks = (std::min(kStrip, left) + kMxfp4Block - 1) / kMxfp4Block;
  StoreScales(scales, blocks, _mm512_cvtepi64_epi8(exponents));  // of every other lane
  const __m512i powers = _mm512_slli_epi32(exponents, 23);
  const __mmask16 subnormal = _mm512_testn_epi32_mask(powers, powers);
  const __m512i patterns = _mm512_mask_mov_epi32(powers, subnormal, _mm512_set1_epi32(0x00400000));
  StoreCodes<kFull>(strip, _mm512_castsi512_ps(patterns), k, symbols);
  return blocks;
}

KVPLANE_TARGET_AVX512 bool EncodeMxfp4(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                       std::byte* scales, uint8_t* symbols) {
  const E2m1Constants k = MakeE2m1Constants();
  __m512i worst = _mm512_setzero_si512();
  for (uint32_t t = 0; t < tokens; ++t, symbols += channels) {
    if (t + kPrefetchRows < tokens) PrefetchRow(rows[t + kPrefetchRows], channels);
    uint32_t c = 0;
    for (; c + kStrip <= channels; c += kStrip) {
      scales += EncodeMxfp4Strip<true>(rows[t] + c, kStrip, k, worst, scales, symbols + c);
    }
    if (c == channels) continue;
    scales += EncodeMxfp4Strip<false>(rows[t] + c, channels - c, k, worst, scales, symbols + c);
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
