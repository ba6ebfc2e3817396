// Groups of each token, and of a whole tensor. The parameters of many rows are found first, then their rows
// are coded: each pass alone fills the reorder window, which one after the other for a few rows does not.
#include <immintrin.h>

#include <algorithm>

#include "kvplane/base/endian.h"
#include "kvplane/kernel/pack/pack.h"
#include "kvplane/kernel/prefetch.h"
#include "kvplane/kernel/quantize/quantize_lanes_avx512.h"

namespace kvplane::kernel::internal {
namespace {

constexpr uint32_t kRowBatch = 16;   // rows whose parameters fill a vector
constexpr uint32_t kRowBlock = 64;   // rows between parameters and codes: they stay in the nearest cache
constexpr uint32_t kGroupBlock = 4;  // likewise of groups

// What the groups of a row are. Where `kVectors` is not 0, all are that many whole vectors.
struct TokenGroups {
  TokenGroups(uint32_t channels_in, uint32_t group_in)
      : channels(channels_in), group(group_in), count((channels_in + group_in - 1) / group_in) {}
  uint32_t first(uint32_t g) const { return g * group; }
  uint32_t width(uint32_t g) const { return std::min(group, channels - first(g)); }
  // 1, 2 or 4, or 0 for any other width.
  uint32_t vectors() const {
    const uint32_t whole = group / kLanes;
    return channels % group != 0 || group % kLanes != 0 || whole == 3 || whole > 4 ? 0 : whole;
  }

  uint32_t channels;
  uint32_t group;
  uint32_t count;
};

template <bool kGreatest>
KVPLANE_INLINE_AVX512 __m512i Better(__m512i a, __m512i b) {
  return kGreatest ? _mm512_max_epu16(a, b) : _mm512_min_epu16(a, b);
}

// Ordered keys: bounds of many values, word by word.
struct Range {
  __m512i least, greatest;
};

template <uint32_t kVectors>
KVPLANE_INLINE_AVX512 Range RangeOf(const uint16_t* values, uint32_t count) {
  if constexpr (kVectors > 0) {
    const __m512i first = OrderedKeys(_mm512_loadu_si512(values));
    Range range = {first, first};
#pragma GCC unroll 4
    for (uint32_t i = 1; i < kVectors; ++i) {
      const __m512i keys = OrderedKeys(_mm512_loadu_si512(values + i * kLanes));
      range = {_mm512_min_epu16(range.least, keys), _mm512_max_epu16(range.greatest, keys)};
    }
    return range;
  }
  Range range = {_mm512_set1_epi16(-1), _mm512_setzero_si512()};
  for (uint32_t i = 0; i < count; i += kLanes) {
    const __mmask32 mask = LaneMask(count - i);
    const __m512i keys = OrderedKeys(LoadLanes(values + i, mask));
    range.least = _mm512_mask_min_epu16(range.least, mask, range.least, keys);
    range.greatest = _mm512_mask_max_epu16(range.greatest, mask, range.greatest, keys);
  }
  return range;
}

// Lane i of 128 bits: the better words of x[i].
template <bool kGreatest>
KVPLANE_INLINE_AVX512 __m512i FoldFour(const __m512i (&x)[4]) {
  const __m512i low =
      Better<kGreatest>(_mm512_shuffle_i64x2(x[0], x[1], 0x44), _mm512_shuffle_i64x2(x[0], x[1], 0xee));
  const __m512i high =
      Better<kGreatest>(_mm512_shuffle_i64x2(x[2], x[3], 0x44), _mm512_shuffle_i64x2(x[2], x[3], 0xee));
  return Better<kGreatest>(_mm512_shuffle_i64x2(low, high, 0x88), _mm512_shuffle_i64x2(low, high, 0xdd));
}
// Word i of lane j: the best word of lane j of x[i], for i < 4.
template <bool kGreatest>
KVPLANE_INLINE_AVX512 __m512i FoldLanes(const __m512i (&x)[4]) {
  const __m512i low = Better<kGreatest>(_mm512_unpacklo_epi16(x[0], x[1]), _mm512_unpackhi_epi16(x[0], x[1]));
  const __m512i high =
      Better<kGreatest>(_mm512_unpacklo_epi16(x[2], x[3]), _mm512_unpackhi_epi16(x[2], x[3]));
  const __m512i both = Better<kGreatest>(_mm512_unpacklo_epi32(low, high), _mm512_unpackhi_epi32(low, high));
  return Better<kGreatest>(both, _mm512_shuffle_epi32(both, _MM_PERM_BADC));
}

// The bounds of kRowBatch groups on the way to one word each.
struct BatchRange {
  KVPLANE_INLINE_AVX512 void Take(uint32_t four, const Range (&ranges)[4]) {
    const __m512i low[4] = {ranges[0].least, ranges[1].least, ranges[2].least, ranges[3].least};
    const __m512i high[4] = {ranges[0].greatest, ranges[1].greatest, ranges[2].greatest, ranges[3].greatest};
    least[four] = FoldFour<false>(low);
    greatest[four] = FoldFour<true>(high);
  }
  // Word i: the least key of group i; word kRowBatch + i: its greatest.
  KVPLANE_INLINE_AVX512 __m512i Keys() const {
    // Group 4 i + j is word i of lane j.
    const __m512i pick = _mm512_set_epi16(59, 51, 43, 35, 58, 50, 42, 34, 57, 49, 41, 33, 56, 48, 40, 32,  //
                                          27, 19, 11, 3, 26, 18, 10, 2, 25, 17, 9, 1, 24, 16, 8, 0);
    return _mm512_permutex2var_epi16(FoldLanes<false>(least), pick, FoldLanes<true>(greatest));
  }
  __m512i least[4], greatest[4];
};

// Parameters of a batch, one group per lane.
struct BatchParams {
  __m256i zero_words, scale_words;
  __m512 zero, inverse;
};

// worst: the largest magnitudes so far.
KVPLANE_INLINE_AVX512 BatchParams ParamsOf(__m512i keys, Levels levels, __m512i& worst) {
  const __m512i bounds = OrderedValues(keys);
  worst = _mm512_max_epu16(worst, _mm512_and_si512(bounds, _mm512_set1_epi16(0x7fff)));
  BatchParams params;
  params.zero_words = _mm512_castsi512_si256(bounds);
  const __m256i largest = _mm512_extracti64x4_epi64(bounds, 1);
  params.zero = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(params.zero_words), 16));
  const __m512 top = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(largest), 16));
  const __m512i scale = Scales(params.zero, top, levels, params.inverse);
  params.scale_words = _mm512_cvtepi32_epi16(_mm512_srli_epi32(scale, 16));
  return params;
}

template <uint32_t kVectors>
KVPLANE_INLINE_AVX512 BatchParams ParamsOfRows(const uint16_t* const* rows, uint32_t count, uint32_t c,
                                               uint32_t width, Levels levels, __m512i& worst) {
  BatchRange batch;
#pragma GCC unroll 4
  for (uint32_t four = 0; four < 4; ++four) {
    Range ranges[4];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; ++i) {
      ranges[i] = RangeOf<kVectors>(rows[std::min(4 * four + i, count - 1)] + c, width);
    }
    batch.Take(four, ranges);
  }
  return ParamsOf(batch.Keys(), levels, worst);
}

// words[g]: of `count` rows and group g of `groups`. To a plane of [tokens, stride], of which it is at the
// first row and group.
KVPLANE_INLINE_AVX512 void StoreParams(const __m256i (&words)[kGroupBlock], uint32_t count, uint32_t groups,
                                       size_t stride, std::byte* plane) {
  if (stride == 1) {
    _mm256_mask_storeu_epi16(plane, static_cast<__mmask16>(LaneMask(count)), words[0]);
  } else if (stride == 2) {
    const __m512i first = _mm512_cvtepu16_epi32(words[0]);
    const __m512i second = _mm512_slli_epi32(_mm512_cvtepu16_epi32(words[1]), 16);
    _mm512_mask_storeu_epi32(plane, static_cast<__mmask16>(LaneMask(count)), _mm512_or_si512(first, second));
  } else {
    alignas(32) uint16_t spread[kRowBatch];
    for (uint32_t g = 0; g < groups; ++g, plane += sizeof(uint16_t)) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(spread), words[g]);
      for (uint32_t r = 0; r < count; ++r) base::StoreLe(plane + r * stride * sizeof(uint16_t), spread[r]);
    }
  }
}

template <uint32_t kBits, uint32_t kVectors>
KVPLANE_INLINE_AVX512 void EncodeRun(const uint16_t* values, uint32_t count, __m512 zero, __m512 inverse,
                                     Levels levels, std::byte* out) {
  constexpr uint32_t kBytes = kLanes * kBits / 8;
  if constexpr (kVectors > 0) {
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kVectors; ++i) {
      const Halves x = Widen(_mm512_loadu_si512(values + i * kLanes));
      StoreCodes<kBits, true>(Codes(x.even, zero, inverse, levels), Codes(x.odd, zero, inverse, levels),
                              out + i * kBytes, 0);
    }
    return;
  }
  for (; count >= kLanes; count -= kLanes, values += kLanes, out += kBytes) {
    EncodeRun<kBits, 1>(values, kLanes, zero, inverse, levels, out);
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

template <uint32_t kBits, uint32_t kVectors, RowStore kStore>
KVPLANE_INLINE_AVX512 void DecodeRun(const std::byte* in, uint32_t count, const Halves& zero,
                                     const Halves& scale, uint16_t* values) {
  constexpr uint32_t kBytes = kLanes * kBits / 8;
  __m512i even, odd;
  if constexpr (kVectors > 0) {
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kVectors; ++i) {
      LoadCodes<kBits, true>(in + i * kBytes, 0, even, odd);
      StoreValues<kStore>(values + i * kLanes, 0, Values(even, odd, zero, scale));
    }
    return;
  }
  for (; count >= kLanes; count -= kLanes, values += kLanes, in += kBytes) {
    DecodeRun<kBits, 1, RowStore::kFull>(in, kLanes, zero, scale, values);
  }
  if (count == 0) return;
  LoadCodes<kBits, false>(in, CodeMask(count, kBits), even, odd);
  StoreValues<RowStore::kMasked>(values, LaneMask(count), Values(even, odd, zero, scale));
}

// Up to kRowBlock rows and kGroupBlock groups from `first` on; zeros, scales and codes: of the first row.
template <uint32_t kBits, uint32_t kVectors>
KVPLANE_TARGET_AVX512 bool EncodeTokenBlock(const uint16_t* const* rows, uint32_t tokens,
                                            const TokenGroups& shape, uint32_t first, Levels levels,
                                            size_t ahead, std::byte* zeros, std::byte* scales,
                                            std::byte* codes) {
  alignas(64) float zero[kGroupBlock][kRowBlock];
  alignas(64) float inverse[kGroupBlock][kRowBlock];
  const uint32_t groups = std::min(kGroupBlock, shape.count - first);
  __m512i worst = _mm512_setzero_si512();
  for (uint32_t t = 0; t < tokens; t += kRowBatch) {
    const uint32_t count = std::min(kRowBatch, tokens - t);
    __m256i zero_words[kGroupBlock], scale_words[kGroupBlock];
    for (uint32_t g = 0; g < groups; ++g) {
      const BatchParams params = ParamsOfRows<kVectors>(rows + t, count, shape.first(first + g),
                                                        shape.width(first + g), levels, worst);
      _mm512_store_ps(zero[g] + t, params.zero);
      _mm512_store_ps(inverse[g] + t, params.inverse);
      zero_words[g] = params.zero_words;
      scale_words[g] = params.scale_words;
    }
    const size_t param = (size_t{t} * shape.count + first) * sizeof(uint16_t);
    StoreParams(zero_words, count, groups, shape.count, zeros + param);
    StoreParams(scale_words, count, groups, shape.count, scales + param);
  }
  if (!AllCodable(worst, worst)) return false;
  const size_t row_bytes = PackedRowBytes(shape.channels, kBits);
  for (uint32_t t = 0; t < tokens; ++t, codes += row_bytes) {
    if (ahead != 0) PrefetchRow(rows[t] + shape.first(first) + ahead, groups * shape.group);
    for (uint32_t g = 0; g < groups; ++g) {
      const uint32_t c = shape.first(first + g);
      EncodeRun<kBits, kVectors>(rows[t] + c, shape.width(first + g), _mm512_set1_ps(zero[g][t]),
                                 _mm512_set1_ps(inverse[g][t]), levels, codes + c * kBits / 8);
    }
  }
  return true;
}

// Parameters as binary32, so that a lane is a load that broadcasts.
constexpr uint32_t kWidened = 64;
KVPLANE_INLINE_AVX512 void WidenParams(const std::byte* plane, size_t count, float* to) {
  for (uint32_t i = 0; i < kWidened && i < count; i += 16) {
    const auto mask =
        static_cast<__mmask16>(LaneMask(static_cast<uint32_t>(std::min<size_t>(count - i, 16))));
    const __m256i words = _mm256_maskz_loadu_epi16(mask, plane + i * sizeof(uint16_t));
    _mm512_store_si512(to + i, _mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
  }
}

template <uint32_t kBits, uint32_t kVectors, RowStore kStore>
KVPLANE_TARGET_AVX512 void DecodeTokenRows(const std::byte* zeros, const std::byte* scales,
                                           const std::byte* codes, uint32_t tokens, const TokenGroups& shape,
                                           uint16_t* const* rows) {
  alignas(64) float zero[kWidened];
  alignas(64) float scale[kWidened];
  const size_t row_bytes = PackedRowBytes(shape.channels, kBits);
  size_t left = size_t{tokens} * shape.count;
  uint32_t at = kWidened;
  for (uint32_t t = 0; t < tokens; ++t, codes += row_bytes) {
    for (uint32_t g = 0; g < shape.count; ++g, ++at) {
      if (at == kWidened) {
        WidenParams(zeros, left, zero);
        WidenParams(scales, left, scale);
        zeros += kWidened * sizeof(uint16_t);
        scales += kWidened * sizeof(uint16_t);
        left -= std::min<size_t>(left, kWidened);
        at = 0;
      }
      const __m512 z = _mm512_set1_ps(zero[at]);
      const __m512 s = _mm512_set1_ps(scale[at]);
      const uint32_t c = shape.first(g);
      DecodeRun<kBits, kVectors, kStore>(codes + c * kBits / 8, shape.width(g), {z, z}, {s, s}, rows[t] + c);
    }
  }
}

}  // namespace

template <uint32_t kBits>
bool EncodeTokensAvx512(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, uint32_t group,
                        uint32_t top, size_t ahead, std::byte* zeros, std::byte* scales, std::byte* codes) {
  const TokenGroups shape(channels, group);
  constexpr decltype(&EncodeTokenBlock<kBits, 0>) kBlocks[] = {
      EncodeTokenBlock<kBits, 0>, EncodeTokenBlock<kBits, 1>, EncodeTokenBlock<kBits, 2>, nullptr,
      EncodeTokenBlock<kBits, 4>};
  const auto block = kBlocks[shape.vectors()];
  const size_t row_bytes = PackedRowBytes(channels, kBits);
  for (uint32_t t = 0; t < tokens; t += kRowBlock) {
    const size_t param = size_t{t} * shape.count * sizeof(uint16_t);
    for (uint32_t first = 0; first < shape.count; first += kGroupBlock) {
      if (!block(rows + t, std::min(kRowBlock, tokens - t), shape, first, Levels(top), ahead, zeros + param,
                 scales + param, codes + t * row_bytes)) {
        return false;
      }
    }
  }
  return true;
}

template <uint32_t kBits>
void DecodeTokensAvx512(const std::byte* zeros, const std::byte* scales, const std::byte* codes,
                        uint32_t tokens, uint32_t channels, uint32_t group, bool streaming_stores,
                        uint16_t* const* rows) {
  using enum RowStore;
  constexpr decltype(&DecodeTokenRows<kBits, 0, kFull>) kFullRows[] = {
      DecodeTokenRows<kBits, 0, kMasked>, DecodeTokenRows<kBits, 1, kFull>, DecodeTokenRows<kBits, 2, kFull>,
      nullptr, DecodeTokenRows<kBits, 4, kFull>};
  constexpr decltype(&DecodeTokenRows<kBits, 0, kFull>) kStreamRows[] = {
      DecodeTokenRows<kBits, 0, kMasked>, DecodeTokenRows<kBits, 1, kStream>,
      DecodeTokenRows<kBits, 2, kStream>, nullptr, DecodeTokenRows<kBits, 4, kStream>};
  const TokenGroups shape(channels, group);
  const bool stream = streaming_stores && RowsAligned(rows, tokens);
  (stream ? kStreamRows : kFullRows)[shape.vectors()](zeros, scales, codes, tokens, shape, rows);
  if (stream) _mm_sfence();
}

KVPLANE_TARGET_AVX512 bool EncodeTensorAvx512(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                              uint32_t top, std::byte* zero, std::byte* scale,
                                              std::byte* codes) {
  const Levels levels(top);
  Range range = {_mm512_set1_epi16(-1), _mm512_setzero_si512()};
  for (uint32_t t = 0; t < tokens; ++t) {
    const Range row = RangeOf<0>(rows[t], channels);
    range = {_mm512_min_epu16(range.least, row.least), _mm512_max_epu16(range.greatest, row.greatest)};
  }
  BatchRange batch;
  for (uint32_t four = 0; four < 4; ++four) batch.Take(four, {range, range, range, range});
  __m512i worst = _mm512_setzero_si512();
  const BatchParams params = ParamsOf(batch.Keys(), levels, worst);
  if (!AllCodable(worst, worst)) return false;
  StoreParams({params.zero_words}, 1, 1, 1, zero);
  StoreParams({params.scale_words}, 1, 1, 1, scale);
  for (uint32_t t = 0; t < tokens; ++t, codes += channels) {
    EncodeRun<8, 0>(rows[t], channels, _mm512_broadcastss_ps(_mm512_castps512_ps128(params.zero)),
                    _mm512_broadcastss_ps(_mm512_castps512_ps128(params.inverse)), levels, codes);
  }
  return true;
}

#define KVPLANE_INSTANTIATE(bits)                                                                        \
  template bool EncodeTokensAvx512<bits>(const uint16_t* const*, uint32_t, uint32_t, uint32_t, uint32_t, \
                                         size_t, std::byte*, std::byte*, std::byte*);                    \
  template void DecodeTokensAvx512<bits>(const std::byte*, const std::byte*, const std::byte*, uint32_t, \
                                         uint32_t, uint32_t, bool, uint16_t* const*)
KVPLANE_INSTANTIATE(2);
KVPLANE_INSTANTIATE(4);
KVPLANE_INSTANTIATE(8);
#undef KVPLANE_INSTANTIATE

}  // namespace kvplane::kernel::internal
