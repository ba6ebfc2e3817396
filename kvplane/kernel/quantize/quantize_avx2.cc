#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kvplane/base/endian.h"
#include "kvplane/kernel/pack/pack.h"
#include "kvplane/kernel/quantize/affine_definition.h"

// Sixteen bf16 at a time as eight even and eight odd floats (see quantize_avx512.cc); channels that do not
// fill a vector go through the scalar definition.

#define KVPLANE_INLINE_AVX2 KVPLANE_TARGET_AVX2 inline __attribute__((always_inline))

namespace kvplane::kernel::internal {
namespace {

constexpr uint32_t kLanes = 16;

struct Halves {
  __m256 even, odd;
};

KVPLANE_INLINE_AVX2 __m256i Load(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
KVPLANE_INLINE_AVX2 void Store(void* to, __m256i value) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), value);
}
KVPLANE_INLINE_AVX2 __m256i HighHalves(__m256i x) {
  return _mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xffff0000u)));
}
KVPLANE_INLINE_AVX2 Halves Widen(__m256i x) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(x, 16)), _mm256_castsi256_ps(HighHalves(x))};
}
KVPLANE_INLINE_AVX2 __m256i OrderedKeys(__m256i x) {
  return _mm256_xor_si256(x, _mm256_or_si256(_mm256_srai_epi16(x, 15), _mm256_set1_epi16(-0x8000)));
}
KVPLANE_INLINE_AVX2 __m256i OrderedValues(__m256i key) {
  const __m256i flip = _mm256_xor_si256(_mm256_srai_epi16(key, 15), _mm256_set1_epi16(-1));
  return _mm256_xor_si256(key, _mm256_or_si256(flip, _mm256_set1_epi16(-0x8000)));
}

KVPLANE_INLINE_AVX2 __m256i Scales(__m256 smallest, __m256 largest, Levels levels, __m256& inverse) {
  const __m256 exact = _mm256_mul_ps(_mm256_sub_ps(largest, smallest), _mm256_set1_ps(levels.inverse));
  const __m256i up = HighHalves(_mm256_add_epi32(_mm256_castps_si256(exact), _mm256_set1_epi32(0xffff)));
  const __m256i is_zero = _mm256_cmpeq_epi32(up, _mm256_setzero_si256());
  const __m256i scale =
      _mm256_andnot_si256(is_zero, _mm256_max_epu32(up, _mm256_set1_epi32(kSmallestScale << 16)));
  inverse = _mm256_andnot_ps(_mm256_castsi256_ps(is_zero),
                             _mm256_div_ps(_mm256_set1_ps(1.0f), _mm256_castsi256_ps(scale)));
  return scale;
}

KVPLANE_INLINE_AVX2 __m256i Codes(__m256 x, __m256 zero, __m256 inverse, Levels levels) {
  const __m256i code = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_sub_ps(x, zero), inverse));
  return _mm256_min_epi32(code, _mm256_set1_epi32(static_cast<int>(levels.top)));
}

template <uint32_t kBits>
KVPLANE_INLINE_AVX2 void StoreCodes(__m256i even, __m256i odd, std::byte* out) {
  __m256i pairs = _mm256_or_si256(even, _mm256_slli_epi32(odd, kBits));
  if constexpr (kBits == 2) pairs = _mm256_or_si256(pairs, _mm256_srli_epi64(pairs, 28));
  // Gathers the bytes that hold codes to the front of each 128-bit half.
  if constexpr (kBits == 8) {
    const __m256i words = _mm256_packus_epi32(pairs, pairs);
    const __m256i joined = _mm256_permute4x64_epi64(words, 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(joined));
  } else {
    constexpr int8_t kStep = kBits == 4 ? 4 : 8;
    const __m256i gather = _mm256_set1_epi32(kBits == 4 ? (0 | kStep << 8 | 2 * kStep << 16 | 3 * kStep << 24)
                                                        : (0 | kStep << 8));
    const __m256i bytes = _mm256_shuffle_epi8(pairs, gather);
    const auto low = static_cast<uint32_t>(_mm256_extract_epi32(bytes, 0));
    const auto high = static_cast<uint32_t>(_mm256_extract_epi32(bytes, 4));
    if constexpr (kBits == 4) {
      base::StoreLe(out, static_cast<uint64_t>(high) << 32 | low);
    } else {
      base::StoreLe(out, (high << 16) | (low & 0xffffu));
    }
  }
}

template <uint32_t kBits>
KVPLANE_INLINE_AVX2 void LoadCodes(const std::byte* in, __m256i& even, __m256i& odd) {
  const __m256i levels = _mm256_set1_epi32((1 << kBits) - 1);
  __m256i pairs;
  if constexpr (kBits == 8) {
    pairs = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in)));
  } else if constexpr (kBits == 4) {
    pairs = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(in)));
  } else {
    const __m256i quads = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(base::LoadLe<int32_t>(in)));
    pairs = _mm256_or_si256(quads, _mm256_slli_epi64(quads, 28));
  }
  even = _mm256_and_si256(pairs, levels);
  odd = _mm256_and_si256(_mm256_srli_epi32(pairs, kBits), levels);
}

KVPLANE_INLINE_AVX2 __m256i RoundToHighHalf(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
}
KVPLANE_INLINE_AVX2 __m256i Values(__m256i even, __m256i odd, const Halves& zero, const Halves& scale) {
  const __m256 e = _mm256_fmadd_ps(_mm256_cvtepi32_ps(even), scale.even, zero.even);
  const __m256 o = _mm256_fmadd_ps(_mm256_cvtepi32_ps(odd), scale.odd, zero.odd);
  return _mm256_blend_epi16(_mm256_srli_epi32(RoundToHighHalf(e), 16), RoundToHighHalf(o), 0xaa);
}

KVPLANE_INLINE_AVX2 bool NoneAbove(__m256i words, uint16_t limit) {
  const __m256i bound = _mm256_set1_epi16(static_cast<short>(limit));
  const __m256i within = _mm256_cmpeq_epi16(_mm256_max_epu16(words, bound), bound);
  return _mm256_movemask_epi8(within) == -1;
}
KVPLANE_INLINE_AVX2 bool AllCodable(__m256i smallest, __m256i largest) {
  const __m256i magnitude = _mm256_set1_epi16(0x7fff);
  return NoneAbove(
      _mm256_max_epu16(_mm256_and_si256(smallest, magnitude), _mm256_and_si256(largest, magnitude)),
      kAffineMagnitudeLimit - 1);
}

template <uint32_t kBits>
KVPLANE_TARGET_AVX2 bool EncodeChannels(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                        uint32_t top, size_t /*ahead*/, std::byte* zeros, std::byte* scales,
                                        std::byte* codes) {
  const Levels levels(top);
  const size_t row_bytes = PackedRowBytes(channels, kBits);
  uint32_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    __m256i low = _mm256_set1_epi16(-1);
    __m256i high = _mm256_setzero_si256();
    for (uint32_t t = 0; t < tokens; ++t) {
      const __m256i keys = OrderedKeys(Load(rows[t] + c));
      low = _mm256_min_epu16(low, keys);
      high = _mm256_max_epu16(high, keys);
    }
    const __m256i smallest = OrderedValues(low);
    const __m256i largest = OrderedValues(high);
    if (!AllCodable(smallest, largest)) return false;
    const Halves zero = Widen(smallest);
    const Halves ceiling = Widen(largest);
    Halves inverse;
    const __m256i even = Scales(zero.even, ceiling.even, levels, inverse.even);
    const __m256i odd = Scales(zero.odd, ceiling.odd, levels, inverse.odd);
    Store(zeros + c * sizeof(uint16_t), smallest);
    Store(scales + c * sizeof(uint16_t), _mm256_or_si256(_mm256_srli_epi32(even, 16), odd));
    std::byte* out = codes + c * kBits / 8;
    for (uint32_t t = 0; t < tokens; ++t, out += row_bytes) {
      const Halves x = Widen(Load(rows[t] + c));
      StoreCodes<kBits>(Codes(x.even, zero.even, inverse.even, levels),
                        Codes(x.odd, zero.odd, inverse.odd, levels), out);
    }
  }
  return c == channels || EncodeChannelsFrom<kBits>(c, rows, tokens, channels, levels, zeros, scales, codes);
}

template <uint32_t kBits>
KVPLANE_TARGET_AVX2 void DecodeChannels(const std::byte* zeros, const std::byte* scales,
                                        const std::byte* codes, uint32_t tokens, uint32_t channels,
                                        bool /*streaming_stores*/, uint16_t* const* rows) {
  const size_t row_bytes = PackedRowBytes(channels, kBits);
  uint32_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    const Halves zero = Widen(Load(zeros + c * sizeof(uint16_t)));
    const Halves scale = Widen(Load(scales + c * sizeof(uint16_t)));
    const std::byte* in = codes + c * kBits / 8;
    for (uint32_t t = 0; t < tokens; ++t, in += row_bytes) {
      __m256i even, odd;
      LoadCodes<kBits>(in, even, odd);
      Store(rows[t] + c, Values(even, odd, zero, scale));
    }
  }
  if (c != channels) DecodeChannelsFrom<kBits>(c, zeros, scales, codes, tokens, channels, rows);
}

KVPLANE_INLINE_AVX2 uint16_t SmallestWord(__m256i x) {
  const __m128i half = _mm_min_epu16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  return static_cast<uint16_t>(_mm_extract_epi16(_mm_minpos_epu16(half), 0));
}

// Smallest and largest value of a run; count >= 1.
KVPLANE_INLINE_AVX2 void RangeOf(const uint16_t* values, uint32_t count, uint16_t& smallest,
                                 uint16_t& largest) {
  const __m256i ones = _mm256_set1_epi16(-1);
  __m256i least = ones;
  __m256i most = _mm256_setzero_si256();
  uint32_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const __m256i keys = OrderedKeys(Load(values + i));
    least = _mm256_min_epu16(least, keys);
    most = _mm256_max_epu16(most, keys);
  }
  uint16_t low = SmallestWord(least);
  auto high = static_cast<uint16_t>(~SmallestWord(_mm256_xor_si256(most, ones)));
  for (; i < count; ++i) {
    low = std::min(low, OrderedKey(values[i]));
    high = std::max(high, OrderedKey(values[i]));
  }
  smallest = OrderedValue(low);
  largest = OrderedValue(high);
}

template <uint32_t kBits>
KVPLANE_INLINE_AVX2 void EncodeRun(const uint16_t* values, uint32_t count, float zero, float inverse,
                                   Levels levels, std::byte* out) {
  const __m256 z = _mm256_set1_ps(zero);
  const __m256 k = _mm256_set1_ps(inverse);
  for (; count >= kLanes; count -= kLanes, values += kLanes, out += kLanes * kBits / 8) {
    const Halves x = Widen(Load(values));
    StoreCodes<kBits>(Codes(x.even, z, k, levels), Codes(x.odd, z, k, levels), out);
  }
  uint8_t rest[kLanes];
  for (uint32_t i = 0; i < count; ++i) rest[i] = CodeOf(values[i], zero, inverse, levels);
  PackRow(rest, count, kBits, out);
}

template <uint32_t kBits>
KVPLANE_INLINE_AVX2 void DecodeRun(const std::byte* in, uint32_t count, float zero, float scale,
                                   uint16_t* values) {
  const __m256 z = _mm256_set1_ps(zero);
  const __m256 s = _mm256_set1_ps(scale);
  for (; count >= kLanes; count -= kLanes, values += kLanes, in += kLanes * kBits / 8) {
    __m256i even, odd;
    LoadCodes<kBits>(in, even, odd);
    Store(values, Values(even, odd, {z, z}, {s, s}));
  }
  uint8_t rest[kLanes];
  UnpackRow(in, count, kBits, rest);
  for (uint32_t i = 0; i < count; ++i) values[i] = ValueOf(rest[i], zero, scale);
}

template <uint32_t kBits>
KVPLANE_TARGET_AVX2 bool EncodeTokens(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                      uint32_t group, uint32_t top, size_t /*ahead*/, std::byte* zeros,
                                      std::byte* scales, std::byte* codes) {
  const Levels levels(top);
  const size_t row_bytes = PackedRowBytes(channels, kBits);
  size_t param = 0;
  for (uint32_t t = 0; t < tokens; ++t, codes += row_bytes) {
    for (uint32_t c = 0; c < channels; c += group, param += sizeof(uint16_t)) {
      const uint32_t width = std::min(group, channels - c);
      uint16_t smallest, largest;
      RangeOf(rows[t] + c, width, smallest, largest);
      if (!Codable(smallest) || !Codable(largest)) return false;
      const uint16_t scale = ScaleOf(smallest, largest, levels);
      base::StoreLe(zeros + param, smallest);
      base::StoreLe(scales + param, scale);
      EncodeRun<kBits>(rows[t] + c, width, tensor::Bf16ToFloat(smallest), InverseOf(scale), levels,
                       codes + c * kBits / 8);
    }
  }
  return true;
}

template <uint32_t kBits>
KVPLANE_TARGET_AVX2 void DecodeTokens(const std::byte* zeros, const std::byte* scales, const std::byte* codes,
                                      uint32_t tokens, uint32_t channels, uint32_t group,
                                      bool /*streaming_stores*/, uint16_t* const* rows) {
  const size_t row_bytes = PackedRowBytes(channels, kBits);
  size_t param = 0;
  for (uint32_t t = 0; t < tokens; ++t, codes += row_bytes) {
    for (uint32_t c = 0; c < channels; c += group, param += sizeof(uint16_t)) {
      DecodeRun<kBits>(codes + c * kBits / 8, std::min(group, channels - c),
                       tensor::Bf16ToFloat(base::LoadLe<uint16_t>(zeros + param)),
                       tensor::Bf16ToFloat(base::LoadLe<uint16_t>(scales + param)), rows[t] + c);
    }
  }
}

KVPLANE_TARGET_AVX2 bool EncodeTensor(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                      uint32_t top, std::byte* zero, std::byte* scale, std::byte* codes) {
  const Levels levels(top);
  uint16_t low = 0xffff;
  uint16_t high = 0;
  for (uint32_t t = 0; t < tokens; ++t) {
    uint16_t smallest, largest;
    RangeOf(rows[t], channels, smallest, largest);
    low = std::min(low, OrderedKey(smallest));
    high = std::max(high, OrderedKey(largest));
  }
  const uint16_t smallest = OrderedValue(low);
  const uint16_t largest = OrderedValue(high);
  if (!Codable(smallest) || !Codable(largest)) return false;
  const uint16_t pattern = ScaleOf(smallest, largest, levels);
  base::StoreLe(zero, smallest);
  base::StoreLe(scale, pattern);
  for (uint32_t t = 0; t < tokens; ++t, codes += channels) {
    EncodeRun<8>(rows[t], channels, tensor::Bf16ToFloat(smallest), InverseOf(pattern), levels, codes);
  }
  return true;
}

KVPLANE_TARGET_AVX2 bool ParamsValid(const std::byte* zeros, const std::byte* scales, size_t count,
                                     uint16_t scale_limit) {
  __m256i worst_zero = _mm256_setzero_si256();
  __m256i worst_scale = _mm256_setzero_si256();
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const __m256i zero = Load(zeros + i * sizeof(uint16_t));
    worst_zero = _mm256_max_epu16(worst_zero, _mm256_and_si256(zero, _mm256_set1_epi16(0x7fff)));
    worst_scale = _mm256_max_epu16(worst_scale, Load(scales + i * sizeof(uint16_t)));
  }
  if (!AllCodable(worst_zero, worst_zero) || !NoneAbove(worst_scale, scale_limit)) return false;
  return kQuantizeScalar.params_valid(zeros + i * sizeof(uint16_t), scales + i * sizeof(uint16_t), count - i,
                                      scale_limit);
}

}  // namespace

const QuantizeKernels kQuantizeAvx2 = {
    {EncodeChannels<2>, EncodeChannels<4>, EncodeChannels<8>},
    {EncodeTokens<2>, EncodeTokens<4>, EncodeTokens<8>},
    {DecodeChannels<2>, DecodeChannels<4>, DecodeChannels<8>},
    {DecodeTokens<2>, DecodeTokens<4>, DecodeTokens<8>},
    EncodeTensor,
    ParamsValid,
};

}  // namespace kvplane::kernel::internal
