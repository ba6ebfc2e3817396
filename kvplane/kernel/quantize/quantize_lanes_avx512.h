// Internal: 32 values of affine quantisation in AVX-512, shared by groups of channels (quantize_avx512.cc)
// and groups of tokens (quantize_tokens_avx512.cc). All of it is always inlined, so each source has its own
// copy.
//
// A vector of 32 bf16 is worked on as two vectors of 16 floats: the even lanes ("even", shifted into place)
// and the odd lanes ("odd", masked in place). That needs no permutation on either way, and the packed code
// of an even lane and its odd neighbour lie side by side.
//
// bf16 rounding is done in integers: vcvtneps2bf16 flushes subnormals, which would break byte equality.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/pack/pack.h"
#include "kvplane/kernel/quantize/affine_definition.h"

#define KVPLANE_INLINE_AVX512 KVPLANE_TARGET_AVX512 inline __attribute__((always_inline))

namespace kvplane::kernel::internal {
namespace {

constexpr uint32_t kLanes = 32;

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
// How rows are written: lanes of a mask, whole vectors, or whole vectors around the caches.
enum class RowStore { kMasked, kFull, kStream };
template <RowStore kStore>
KVPLANE_INLINE_AVX512 void StoreValues(uint16_t* out, __mmask32 mask, __m512i values) {
  if constexpr (kStore == RowStore::kStream) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(out), values);
  } else if constexpr (kStore == RowStore::kFull) {
    _mm512_storeu_si512(out, values);
  } else {
    _mm512_mask_storeu_epi16(out, mask, values);
  }
}
// Whether every row begins with a whole vector of memory.
bool RowsAligned(const uint16_t* const* rows, uint32_t tokens) {
  uintptr_t misaligned = 0;
  for (uint32_t t = 0; t < tokens; ++t) misaligned |= reinterpret_cast<uintptr_t>(rows[t]) % sizeof(__m512i);
  return misaligned == 0;
}

KVPLANE_INLINE_AVX512 bool AllCodable(__m512i smallest, __m512i largest) {
  const __m512i magnitude = _mm512_set1_epi16(0x7fff);
  const __m512i worst =
      _mm512_max_epu16(_mm512_and_si512(smallest, magnitude), _mm512_and_si512(largest, magnitude));
  return _mm512_cmpge_epu16_mask(worst, _mm512_set1_epi16(static_cast<short>(kAffineMagnitudeLimit))) == 0;
}

}  // namespace

// Of quantize_tokens_avx512.cc; kBits is 2, 4 or 8.
template <uint32_t kBits>
bool EncodeTokensAvx512(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, uint32_t group,
                        uint32_t top, size_t ahead, std::byte* zeros, std::byte* scales, std::byte* codes);
template <uint32_t kBits>
void DecodeTokensAvx512(const std::byte* zeros, const std::byte* scales, const std::byte* codes,
                        uint32_t tokens, uint32_t channels, uint32_t group, bool streaming_stores,
                        uint16_t* const* rows);
bool EncodeTensorAvx512(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, uint32_t top,
                        std::byte* zero, std::byte* scale, std::byte* codes);

}  // namespace kvplane::kernel::internal
