#include <immintrin.h>

#include <algorithm>

#include "kvplane/base/endian.h"
#include "kvplane/kernel/pack/pack.h"
#include "kvplane/kernel/prefetch.h"
#include "kvplane/kernel/quantize/affine_definition.h"

// A vector of 32 bf16 is worked on as two vectors of 16 floats: the even lanes ("even", shifted into place)
// and the odd lanes ("odd", masked in place). That needs no permutation on either way, and the packed code
// of an even lane and its odd neighbour lie side by side.
//
// bf16 rounding is done in integers: vcvtneps2bf16 flushes subnormals, which would break byte equality.

#define KVPLANE_INLINE_AVX512 KVPLANE_TARGET_AVX512 inline __attribute__((always_inline))

namespace kvplane::kernel::internal {
namespace {

constexpr uint32_t kLanes = 32;
constexpr uint32_t kMaxChunks = 4;  // 128 channels at a time: two parameter vectors per chunk and half fit

struct Halves {
  __m512 even, odd;
};

KVPLANE_INLINE_AVX512 __m512i HighHalves(__m512i x) {
  return _mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
}
KVPLANE_INLINE_AVX512 Halves Widen(__m512i x) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)), _mm512_castsi512_ps(HighHalves(x))};
}
KVPLANE_INLINE_AVX512 __m512i OrderedKeys(__m512i x) {
  // x ^ (sign | 0x8000)
  return _mm512_ternarylogic_epi32(x, _mm512_srai_epi16(x, 15), _mm512_set1_epi16(-0x8000), 0x1e);
}
KVPLANE_INLINE_AVX512 __m512i OrderedValues(__m512i key) {
  // key ^ (~sign | 0x8000)
  return _mm512_ternarylogic_epi32(key, _mm512_srai_epi16(key, 15), _mm512_set1_epi16(-0x8000), 0x4b);
}

// The lanes of `mask` from memory, 0 elsewhere; nothing outside them is touched.
KVPLANE_INLINE_AVX512 __m512i LoadLanes(const void* from, __mmask32 mask) {
  return _mm512_maskz_loadu_epi16(mask, from);
}
KVPLANE_INLINE_AVX512 __mmask32 LaneMask(uint32_t lanes) {
  return lanes >= kLanes ? 0xffffffffu : (1u << lanes) - 1;
}
constexpr uint64_t CodeMask(uint32_t lanes, uint32_t bits) {
  const size_t bytes = PackedRowBytes(lanes, bits);
  return (uint64_t{1} << bytes) - 1;
}

// Scales of (largest - smallest) as binary32 patterns in the high halves, and their reciprocals.
KVPLANE_INLINE_AVX512 __m512i Scales(__m512 smallest, __m512 largest, Levels levels, __m512& inverse) {
  const __m512 exact = _mm512_mul_ps(_mm512_sub_ps(largest, smallest), _mm512_set1_ps(levels.inverse));
  const __m512i up = HighHalves(_mm512_add_epi32(_mm512_castps_si512(exact), _mm512_set1_epi32(0xffff)));
  const __mmask16 nonzero = _mm512_test_epi32_mask(up, up);
  const __m512i scale = _mm512_maskz_max_epu32(nonzero, up, _mm512_set1_epi32(kSmallestScale << 16));
  inverse = _mm512_maskz_div_ps(nonzero, _mm512_set1_ps(1.0f), _mm512_castsi512_ps(scale));
  return scale;
}

KVPLANE_INLINE_AVX512 __m512i Codes(__m512 x, __m512 zero, __m512 inverse, Levels levels) {
  const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_sub_ps(x, zero), inverse));
  return _mm512_min_epi32(code, _mm512_set1_epi32(static_cast<int>(levels.top)));
}

// Packs the codes of the even and odd lanes and stores the bytes of `mask` (all when kFull).
template <uint32_t kBits, bool kFull>
KVPLANE_INLINE_AVX512 void StoreCodes(__m512i even, __m512i odd, std::byte* out, uint64_t mask) {
  __m512i pairs = _mm512_or_si512(even, _mm512_slli_epi32(odd, kBits));
  if constexpr (kBits == 8) {
    const __m256i bytes = _mm512_cvtepi32_epi16(pairs);
    if constexpr (kFull) return _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), bytes);
    _mm256_mask_storeu_epi8(out, static_cast<__mmask32>(mask), bytes);
  } else if constexpr (kBits == 4) {
    const __m128i bytes = _mm512_cvtepi32_epi8(pairs);
    if constexpr (kFull) return _mm_storeu_si128(reinterpret_cast<__m128i*>(out), bytes);
    _mm_mask_storeu_epi8(out, static_cast<__mmask16>(mask), bytes);
  } else {
    pairs = _mm512_or_si512(pairs, _mm512_srli_epi64(pairs, 28));
    const __m128i bytes = _mm512_cvtepi64_epi8(pairs);
    if constexpr (kFull) return _mm_storel_epi64(reinterpret_cast<__m128i*>(out), bytes);
    _mm_mask_storeu_epi8(out, static_cast<__mmask16>(mask), bytes);
  }
}

// The inverse: codes of 32 values as two vectors.
template <uint32_t kBits, bool kFull>
KVPLANE_INLINE_AVX512 void LoadCodes(const std::byte* in, uint64_t mask, __m512i& even, __m512i& odd) {
  const __m512i levels = _mm512_set1_epi32((1 << kBits) - 1);
  __m512i pairs;
  if constexpr (kBits == 8) {
    pairs = _mm512_cvtepu16_epi32(kFull ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in))
                                        : _mm256_maskz_loadu_epi8(static_cast<__mmask32>(mask), in));
  } else if constexpr (kBits == 4) {
    pairs = _mm512_cvtepu8_epi32(kFull ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(in))
                                       : _mm_maskz_loadu_epi8(static_cast<__mmask16>(mask), in));
  } else {
    const __m512i quads =
        _mm512_cvtepu8_epi64(kFull ? _mm_loadl_epi64(reinterpret_cast<const __m128i*>(in))
                                   : _mm_maskz_loadu_epi8(static_cast<__mmask16>(mask), in));
    pairs = _mm512_or_si512(quads, _mm512_slli_epi64(quads, 28));
  }
  even = _mm512_and_si512(pairs, levels);
  odd = _mm512_and_si512(_mm512_srli_epi32(pairs, kBits), levels);
}

KVPLANE_INLINE_AVX512 __m512i RoundToHighHalf(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  return _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
}
KVPLANE_INLINE_AVX512 __m512i Values(__m512i even, __m512i odd, const Halves& zero, const Halves& scale) {
  const __m512 e = _mm512_fmadd_ps(_mm512_cvtepi32_ps(even), scale.even, zero.even);
  const __m512 o = _mm512_fmadd_ps(_mm512_cvtepi32_ps(odd), scale.odd, zero.odd);
  const __m512i low = _mm512_srli_epi32(RoundToHighHalf(e), 16);
  // low | (high & 0xffff0000)
  return _mm512_ternarylogic_epi32(low, RoundToHighHalf(o), _mm512_set1_epi32(static_cast<int>(0xffff0000u)),
                                   0xf8);
}
template <bool kFull>
KVPLANE_INLINE_AVX512 void StoreValues(uint16_t* out, __mmask32 mask, __m512i values) {
  if constexpr (kFull) return _mm512_storeu_si512(out, values);
  _mm512_mask_storeu_epi16(out, mask, values);
}

KVPLANE_INLINE_AVX512 bool AllCodable(__m512i smallest, __m512i largest) {
  const __m512i magnitude = _mm512_set1_epi16(0x7fff);
  const __m512i worst =
      _mm512_max_epu16(_mm512_and_si512(smallest, magnitude), _mm512_and_si512(largest, magnitude));
  return _mm512_cmpge_epu16_mask(worst, _mm512_set1_epi16(static_cast<short>(kAffineMagnitudeLimit))) == 0;
}

// kChunks chunks of 32 channels of all rows; `last` masks the lanes of the last chunk.
template <uint32_t kBits, uint32_t kChunks, bool kFull>
KVPLANE_TARGET_AVX512 bool EncodeBlock(const uint16_t* const* rows, uint32_t tokens, uint32_t first,
                                       uint32_t last, size_t row_bytes, Levels levels, std::byte* zeros,
                                       std::byte* scales, std::byte* codes) {
  __mmask32 masks[kChunks];
  __m512i low[kChunks], high[kChunks];
  for (uint32_t c = 0; c < kChunks; ++c) {
    masks[c] = kFull ? 0xffffffffu : LaneMask(c + 1 == kChunks ? last : kLanes);
    low[c] = _mm512_set1_epi16(-1);
    high[c] = _mm512_setzero_si512();
  }
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t c = 0; c < kChunks; ++c) {
      const __m512i keys = OrderedKeys(LoadLanes(rows[t] + first + c * kLanes, masks[c]));
      low[c] = _mm512_min_epu16(low[c], keys);
      high[c] = _mm512_max_epu16(high[c], keys);
    }
  }
  Halves zero[kChunks], inverse[kChunks];
  for (uint32_t c = 0; c < kChunks; ++c) {
    const __m512i smallest = OrderedValues(low[c]);
    const __m512i largest = OrderedValues(high[c]);
    if (!AllCodable(smallest, largest)) return false;
    zero[c] = Widen(smallest);
    const Halves top = Widen(largest);
    const __m512i even = Scales(zero[c].even, top.even, levels, inverse[c].even);
    const __m512i odd = Scales(zero[c].odd, top.odd, levels, inverse[c].odd);
    const size_t at = (first + c * kLanes) * sizeof(uint16_t);
    _mm512_mask_storeu_epi16(zeros + at, masks[c], smallest);
    _mm512_mask_storeu_epi16(scales + at, masks[c], _mm512_or_si512(_mm512_srli_epi32(even, 16), odd));
  }
  codes += first * kBits / 8;
  for (uint32_t t = 0; t < tokens; ++t, codes += row_bytes) {
    for (uint32_t c = 0; c < kChunks; ++c) {
      const Halves x = Widen(LoadLanes(rows[t] + first + c * kLanes, masks[c]));
      StoreCodes<kBits, kFull>(Codes(x.even, zero[c].even, inverse[c].even, levels),
                               Codes(x.odd, zero[c].odd, inverse[c].odd, levels),
                               codes + c * (kLanes * kBits / 8),
                               CodeMask(c + 1 == kChunks ? last : kLanes, kBits));
    }
  }
  return true;
}

template <uint32_t kBits, uint32_t kChunks, bool kFull>
KVPLANE_TARGET_AVX512 void DecodeBlock(const std::byte* zeros, const std::byte* scales,
                                       const std::byte* codes, uint32_t tokens, uint32_t first, uint32_t last,
                                       size_t row_bytes, uint16_t* const* rows) {
  Halves zero[kChunks], scale[kChunks];
  __mmask32 masks[kChunks];
  for (uint32_t c = 0; c < kChunks; ++c) {
    masks[c] = kFull ? 0xffffffffu : LaneMask(c + 1 == kChunks ? last : kLanes);
    const size_t at = (first + c * kLanes) * sizeof(uint16_t);
    zero[c] = Widen(LoadLanes(zeros + at, masks[c]));
    scale[c] = Widen(LoadLanes(scales + at, masks[c]));
  }
  codes += first * kBits / 8;
  for (uint32_t t = 0; t < tokens; ++t, codes += row_bytes) {
    for (uint32_t c = 0; c < kChunks; ++c) {
      __m512i even, odd;
      LoadCodes<kBits, kFull>(codes + c * (kLanes * kBits / 8),
                              CodeMask(c + 1 == kChunks ? last : kLanes, kBits), even, odd);
      StoreValues<kFull>(rows[t] + first + c * kLanes, masks[c], Values(even, odd, zero[c], scale[c]));
    }
  }
}

template <uint32_t kBits>
bool EncodeChannels(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, uint32_t top,
                    std::byte* zeros, std::byte* scales, std::byte* codes) {
  using Block = bool (*)(const uint16_t* const*, uint32_t, uint32_t, uint32_t, size_t, Levels, std::byte*,
                         std::byte*, std::byte*);
  constexpr Block kFullBlocks[] = {EncodeBlock<kBits, 1, true>, EncodeBlock<kBits, 2, true>,
                                   EncodeBlock<kBits, 3, true>, EncodeBlock<kBits, 4, true>};
  constexpr Block kCutBlocks[] = {EncodeBlock<kBits, 1, false>, EncodeBlock<kBits, 2, false>,
                                  EncodeBlock<kBits, 3, false>, EncodeBlock<kBits, 4, false>};
  const size_t row_bytes = PackedRowBytes(channels, kBits);
  for (uint32_t first = 0; first < channels; first += kMaxChunks * kLanes) {
    const uint32_t width = std::min(channels - first, kMaxChunks * kLanes);
    const uint32_t chunks = (width + kLanes - 1) / kLanes;
    const uint32_t last = width - (chunks - 1) * kLanes;
    const Block block = (last == kLanes ? kFullBlocks : kCutBlocks)[chunks - 1];
    if (!block(rows, tokens, first, last, row_bytes, Levels(top), zeros, scales, codes)) return false;
  }
  return true;
}

template <uint32_t kBits>
void DecodeChannels(const std::byte* zeros, const std::byte* scales, const std::byte* codes, uint32_t tokens,
                    uint32_t channels, uint16_t* const* rows) {
  using Block = void (*)(const std::byte*, const std::byte*, const std::byte*, uint32_t, uint32_t, uint32_t,
                         size_t, uint16_t* const*);
  constexpr Block kFullBlocks[] = {DecodeBlock<kBits, 1, true>, DecodeBlock<kBits, 2, true>,
                                   DecodeBlock<kBits, 3, true>, DecodeBlock<kBits, 4, true>};
  constexpr Block kCutBlocks[] = {DecodeBlock<kBits, 1, false>, DecodeBlock<kBits, 2, false>,
                                  DecodeBlock<kBits, 3, false>, DecodeBlock<kBits, 4, false>};
  const size_t row_bytes = PackedRowBytes(channels, kBits);
  for (uint32_t first = 0; first < channels; first += kMaxChunks * kLanes) {
    const uint32_t width = std::min(channels - first, kMaxChunks * kLanes);
    const uint32_t chunks = (width + kLanes - 1) / kLanes;
    const uint32_t last = width - (chunks - 1) * kLanes;
    const Block block = (last == kLanes ? kFullBlocks : kCutBlocks)[chunks - 1];
    block(zeros, scales, codes, tokens, first, last, row_bytes, rows);
  }
}

// The rows whose parameters are computed together.
constexpr uint32_t kRowBatch = 8;

// Ordered keys of `count` values, reduced to eight words: the least in the low half, the inverted greatest in
// the high half.
template <bool kFull>
KVPLANE_INLINE_AVX512 __m256i RangeOf(const uint16_t* values, uint32_t count) {
  const __m512i ones = _mm512_set1_epi16(-1);
  __m512i least = ones;
  __m512i greatest = _mm512_setzero_si512();
  for (uint32_t i = 0; i < count; i += kLanes) {
    const __mmask32 mask = kFull ? 0xffffffffu : LaneMask(count - i);
    const __m512i keys = OrderedKeys(LoadLanes(values + i, mask));
    least = _mm512_mask_min_epu16(least, mask, least, keys);
    greatest = _mm512_mask_max_epu16(greatest, mask, greatest, keys);
  }
  const __m512i inverted = _mm512_xor_si512(greatest, ones);
  const __m256i low = _mm256_min_epu16(_mm512_castsi512_si256(least), _mm512_extracti64x4_epi64(least, 1));
  const __m256i high =
      _mm256_min_epu16(_mm512_castsi512_si256(inverted), _mm512_extracti64x4_epi64(inverted, 1));
  return _mm256_min_epu16(_mm256_permute2x128_si256(low, high, 0x20),
                          _mm256_permute2x128_si256(low, high, 0x31));
}

// Word r of each half: the least word of that half of rows[r].
KVPLANE_INLINE_AVX512 __m256i LeastOfEach(const __m256i (&rows)[kRowBatch]) {
  __m256i pairs[4];
  for (size_t i = 0; i < 4; ++i) {
    pairs[i] = _mm256_min_epu16(_mm256_unpacklo_epi16(rows[2 * i], rows[2 * i + 1]),
                                _mm256_unpackhi_epi16(rows[2 * i], rows[2 * i + 1]));
  }
  __m256i quads[2];
  for (size_t i = 0; i < 2; ++i) {
    quads[i] = _mm256_min_epu16(_mm256_unpacklo_epi32(pairs[2 * i], pairs[2 * i + 1]),
                                _mm256_unpackhi_epi32(pairs[2 * i], pairs[2 * i + 1]));
  }
  return _mm256_min_epu16(_mm256_unpacklo_epi64(quads[0], quads[1]),
                          _mm256_unpackhi_epi64(quads[0], quads[1]));
}

template <uint32_t kBits>
KVPLANE_INLINE_AVX512 void EncodeRun(const uint16_t* values, uint32_t count, __m512 zero, __m512 inverse,
                                     Levels levels, std::byte* out) {
  for (; count >= kLanes; count -= kLanes, values += kLanes, out += kLanes * kBits / 8) {
    const Halves x = Widen(_mm512_loadu_si512(values));
    StoreCodes<kBits, true>(Codes(x.even, zero, inverse, levels), Codes(x.odd, zero, inverse, levels), out,
                            0);
  }
  if (count == 0) return;
  const __mmask32 mask = LaneMask(count);
  // Lanes beyond the run must pack as zero bits: give them the zero point.
  const __m512i zero_words = _mm512_srli_epi32(_mm512_castps_si512(zero), 16);
  const __m512i fill = _mm512_or_si512(zero_words, _mm512_slli_epi32(zero_words, 16));
  const Halves x = Widen(_mm512_mask_loadu_epi16(fill, mask, values));
  StoreCodes<kBits, false>(Codes(x.even, zero, inverse, levels), Codes(x.odd, zero, inverse, levels), out,
                           CodeMask(count, kBits));
}

template <uint32_t kBits>
KVPLANE_INLINE_AVX512 void DecodeRun(const std::byte* in, uint32_t count, const Halves& zero,
                                     const Halves& scale, uint16_t* values) {
  __m512i even, odd;
  for (; count >= kLanes; count -= kLanes, values += kLanes, in += kLanes * kBits / 8) {
    LoadCodes<kBits, true>(in, 0, even, odd);
    _mm512_storeu_si512(values, Values(even, odd, zero, scale));
  }
  if (count == 0) return;
  LoadCodes<kBits, false>(in, CodeMask(count, kBits), even, odd);
  _mm512_mask_storeu_epi16(values, LaneMask(count), Values(even, odd, zero, scale));
}

// Parameters of a batch, one row per lane. They stay in registers until the rows are coded: a detour through
// memory would stall on store forwarding and serialise the batches.
struct BatchParams {
  __m128i zero_patterns, scale_patterns;  // words
  __m512 zero, inverse;                   // the low eight lanes
  bool codable;
};

KVPLANE_INLINE_AVX512 BatchParams ParamsOf(__m256i ranges, Levels levels) {
  const __m128i high_bit = _mm_set1_epi16(-0x8000);
  const __m128i low = _mm256_castsi256_si128(ranges);
  const __m128i high = _mm_xor_si128(_mm256_extracti128_si256(ranges, 1), _mm_set1_epi16(-1));
  const __m128i smallest = _mm_ternarylogic_epi32(low, _mm_srai_epi16(low, 15), high_bit, 0x4b);
  const __m128i largest = _mm_ternarylogic_epi32(high, _mm_srai_epi16(high, 15), high_bit, 0x4b);
  const __m512 top =
      _mm512_castsi512_ps(_mm512_zextsi256_si512(_mm256_slli_epi32(_mm256_cvtepu16_epi32(largest), 16)));
  BatchParams params;
  params.zero =
      _mm512_castsi512_ps(_mm512_zextsi256_si512(_mm256_slli_epi32(_mm256_cvtepu16_epi32(smallest), 16)));
  const __m512i scale = Scales(params.zero, top, levels, params.inverse);
  params.zero_patterns = smallest;
  params.scale_patterns =
      _mm512_castsi512_si128(_mm512_zextsi256_si512(_mm512_cvtepi32_epi16(_mm512_srli_epi32(scale, 16))));
  params.codable = AllCodable(_mm512_zextsi128_si512(smallest), _mm512_zextsi128_si512(largest));
  return params;
}

// Words [0, count) of `words` to a plane, `stride` params apart.
KVPLANE_INLINE_AVX512 void StoreParams(__m128i words, uint32_t count, size_t stride, std::byte* plane) {
  if (stride == 1) {
    _mm_mask_storeu_epi16(plane, static_cast<__mmask8>(LaneMask(count)), words);
    return;
  }
  alignas(16) uint16_t spread[kRowBatch];
  _mm_store_si128(reinterpret_cast<__m128i*>(spread), words);
  for (uint32_t r = 0; r < count; ++r) base::StoreLe(plane + r * stride * sizeof(uint16_t), spread[r]);
}

// Channels [c, c + width) of up to kRowBatch rows; kFull: width is a multiple of 32.
template <uint32_t kBits, bool kFull>
KVPLANE_TARGET_AVX512 bool EncodeRowBatch(const uint16_t* const* rows, uint32_t count, uint32_t c,
                                          uint32_t width, size_t groups, size_t row_bytes, Levels levels,
                                          std::byte* zeros, std::byte* scales, std::byte* codes) {
  __m256i ranges[kRowBatch];
  for (uint32_t r = 0; r < kRowBatch; ++r) {
    ranges[r] = RangeOf<kFull>(rows[std::min(r, count - 1)] + c, width);
  }
  const BatchParams params = ParamsOf(LeastOfEach(ranges), levels);
  if (!params.codable) return false;
  StoreParams(params.zero_patterns, count, groups, zeros);
  StoreParams(params.scale_patterns, count, groups, scales);
  for (uint32_t r = 0; r < count; ++r) {
    const __m512i lane = _mm512_set1_epi32(static_cast<int>(r));
    EncodeRun<kBits>(rows[r] + c, width, _mm512_permutexvar_ps(lane, params.zero),
                     _mm512_permutexvar_ps(lane, params.inverse), levels, codes + r * row_bytes);
  }
  return true;
}

template <uint32_t kBits>
bool EncodeTokens(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, uint32_t group,
                  uint32_t top, std::byte* zeros, std::byte* scales, std::byte* codes) {
  const Levels levels(top);
  const size_t row_bytes = PackedRowBytes(channels, kBits);
  const size_t groups = (channels + group - 1) / group;
  for (uint32_t t = 0; t < tokens; t += kRowBatch) {
    const uint32_t count = std::min(kRowBatch, tokens - t);
    // Too much work per row for the next batch to come into the reorder window.
    for (uint32_t next = t + kRowBatch; next < std::min(t + 2 * kRowBatch, tokens); ++next) {
      PrefetchRow(rows[next], channels);
    }
    for (uint32_t g = 0; g < groups; ++g) {
      const uint32_t c = g * group;
      const uint32_t width = std::min(group, channels - c);
      const auto encode = width % kLanes == 0 ? EncodeRowBatch<kBits, true> : EncodeRowBatch<kBits, false>;
      const size_t param = (t * groups + g) * sizeof(uint16_t);
      if (!encode(rows + t, count, c, width, groups, row_bytes, levels, zeros + param, scales + param,
                  codes + t * row_bytes + c * kBits / 8)) {
        return false;
      }
    }
  }
  return true;
}

template <uint32_t kBits>
KVPLANE_TARGET_AVX512 void DecodeTokens(const std::byte* zeros, const std::byte* scales,
                                        const std::byte* codes, uint32_t tokens, uint32_t channels,
                                        uint32_t group, uint16_t* const* rows) {
  const size_t row_bytes = PackedRowBytes(channels, kBits);
  size_t param = 0;
  for (uint32_t t = 0; t < tokens; ++t, codes += row_bytes) {
    for (uint32_t c = 0; c < channels; c += group, param += sizeof(uint16_t)) {
      const __m512 z = _mm512_set1_ps(tensor::Bf16ToFloat(base::LoadLe<uint16_t>(zeros + param)));
      const __m512 s = _mm512_set1_ps(tensor::Bf16ToFloat(base::LoadLe<uint16_t>(scales + param)));
      DecodeRun<kBits>(codes + c * kBits / 8, std::min(group, channels - c), {z, z}, {s, s}, rows[t] + c);
    }
  }
}

KVPLANE_TARGET_AVX512 bool EncodeTensor(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                        uint32_t top, std::byte* zero, std::byte* scale, std::byte* codes) {
  const Levels levels(top);
  __m256i range = _mm256_set1_epi16(-1);
  for (uint32_t t = 0; t < tokens; ++t) {
    range = _mm256_min_epu16(
        range, channels % kLanes == 0 ? RangeOf<true>(rows[t], channels) : RangeOf<false>(rows[t], channels));
  }
  const __m256i ranges[kRowBatch] = {range, range, range, range, range, range, range, range};
  const BatchParams params = ParamsOf(LeastOfEach(ranges), levels);
  if (!params.codable) return false;
  StoreParams(params.zero_patterns, 1, 1, zero);
  StoreParams(params.scale_patterns, 1, 1, scale);
  for (uint32_t t = 0; t < tokens; ++t, codes += channels) {
    EncodeRun<8>(rows[t], channels, _mm512_broadcastss_ps(_mm512_castps512_ps128(params.zero)),
                 _mm512_broadcastss_ps(_mm512_castps512_ps128(params.inverse)), levels, codes);
  }
  return true;
}

KVPLANE_TARGET_AVX512 bool ParamsValid(const std::byte* zeros, const std::byte* scales, size_t count,
                                       uint16_t scale_limit) {
  __m512i worst_zero = _mm512_setzero_si512();
  __m512i worst_scale = _mm512_setzero_si512();
  for (size_t i = 0; i < count; i += kLanes) {
    const __mmask32 mask = LaneMask(static_cast<uint32_t>(std::min<size_t>(kLanes, count - i)));
    const __m512i zero = LoadLanes(zeros + i * sizeof(uint16_t), mask);
    worst_zero = _mm512_max_epu16(worst_zero, _mm512_and_si512(zero, _mm512_set1_epi16(0x7fff)));
    worst_scale = _mm512_max_epu16(worst_scale, LoadLanes(scales + i * sizeof(uint16_t), mask));
  }
  return AllCodable(worst_zero, worst_zero) &&
         _mm512_cmpgt_epu16_mask(worst_scale, _mm512_set1_epi16(static_cast<short>(scale_limit))) == 0;
}

}  // namespace

const QuantizeKernels kQuantizeAvx512 = {
    {EncodeChannels<2>, EncodeChannels<4>, EncodeChannels<8>},
    {EncodeTokens<2>, EncodeTokens<4>, EncodeTokens<8>},
    {DecodeChannels<2>, DecodeChannels<4>, DecodeChannels<8>},
    {DecodeTokens<2>, DecodeTokens<4>, DecodeTokens<8>},
    EncodeTensor,
    ParamsValid,
};

}  // namespace kvplane::kernel::internal
