#include <immintrin.h>

#include <array>
#include <cstring>

#include "kvplane/kernel/pack/pack.h"

// 64 codes at a time: 8 * bits bytes. Unpacking moves the bytes of eight codes into one word (vpermb) and
// their bits into bytes (vpmultishiftqb); packing multiplies neighbours together and drops the empty bytes.

#define KVPLANE_INLINE_AVX512 KVPLANE_TARGET_AVX512 inline __attribute__((always_inline))

namespace kvplane::kernel::internal {
namespace {

constexpr size_t kStep = 64;

struct alignas(64) Indices {
  std::array<uint8_t, 64> of;
};

// Byte i of the eight codes of word w, from the packed bytes; of eight codes, up to `bits` bytes are there.
template <uint32_t kBits>
constexpr Indices SpreadIndices() {
  Indices indices{};
  for (uint32_t i = 0; i < 64; ++i) {
    const uint32_t byte = i % 8 < kBits ? i % 8 : 0;
    indices.of[i] = static_cast<uint8_t>(i / 8 * kBits + byte);
  }
  return indices;
}
// The other way: the first `bits` bytes of every word, side by side.
template <uint32_t kBits>
constexpr Indices GatherIndices() {
  Indices indices{};
  for (uint32_t i = 0; i < 8 * kBits; ++i) indices.of[i] = static_cast<uint8_t>(i / kBits * 8 + i % kBits);
  return indices;
}
template <uint32_t kBits>
constexpr Indices Shifts() {
  Indices indices{};
  for (uint32_t i = 0; i < 64; ++i) indices.of[i] = static_cast<uint8_t>(i % 8 * kBits);
  return indices;
}

template <uint32_t kBits>
constexpr Indices kSpread = SpreadIndices<kBits>();
template <uint32_t kBits>
constexpr Indices kGather = GatherIndices<kBits>();
template <uint32_t kBits>
constexpr Indices kShifts = Shifts<kBits>();

KVPLANE_INLINE_AVX512 __m512i LoadIndices(const Indices& indices) {
  return _mm512_load_si512(indices.of.data());
}
constexpr uint64_t Mask(size_t bytes) { return bytes >= 64 ? ~uint64_t{0} : (uint64_t{1} << bytes) - 1; }

template <uint32_t kBits>
KVPLANE_INLINE_AVX512 __m512i Join(__m512i codes) {
  // The multipliers are the unsigned operand: 2^7 is no signed byte, a code of seven bits is.
  const __m512i pairs =
      _mm512_maddubs_epi16(_mm512_set1_epi16(static_cast<short>(1 | 1 << (kBits + 8))), codes);
  const __m512i quads = _mm512_madd_epi16(pairs, _mm512_set1_epi32(1 | 1 << (2 * kBits + 16)));
  const __m512i upper = _mm512_slli_epi64(_mm512_srli_epi64(quads, 32), 4 * kBits);
  // (quads & low half) | upper
  const __m512i words = _mm512_ternarylogic_epi64(quads, _mm512_set1_epi64(0xffffffff), upper, 0xea);
  return _mm512_permutexvar_epi8(LoadIndices(kGather<kBits>), words);
}

template <uint32_t kBits>
KVPLANE_TARGET_AVX512 void Pack(const uint8_t* codes, size_t count, std::byte* out) {
  constexpr size_t kBytes = 8 * kBits;
  size_t left = PackedRowBytes(count, kBits);
  // Whole vectors while there is room for them: what is written too far is written again.
  for (; left >= 64 && count >= kStep; left -= kBytes, count -= kStep, codes += kStep, out += kBytes) {
    _mm512_storeu_si512(out, Join<kBits>(_mm512_loadu_si512(codes)));
  }
  for (; count >= kStep; left -= kBytes, count -= kStep, codes += kStep, out += kBytes) {
    _mm512_mask_storeu_epi8(out, Mask(kBytes), Join<kBits>(_mm512_loadu_si512(codes)));
  }
  if (count == 0) return;
  _mm512_mask_storeu_epi8(out, Mask(left), Join<kBits>(_mm512_maskz_loadu_epi8(Mask(count), codes)));
}

template <uint32_t kBits>
KVPLANE_INLINE_AVX512 __m512i Split(__m512i packed) {
  const __m512i words = _mm512_permutexvar_epi8(LoadIndices(kSpread<kBits>), packed);
  const __m512i shifted = _mm512_multishift_epi64_epi8(LoadIndices(kShifts<kBits>), words);
  return _mm512_and_si512(shifted, _mm512_set1_epi8((1 << kBits) - 1));
}

KVPLANE_INLINE_AVX512 uint8_t LargestByte(__m512i bytes) {
  const __m256i half = _mm256_max_epu8(_mm512_castsi512_si256(bytes), _mm512_extracti64x4_epi64(bytes, 1));
  const __m128i quarter = _mm_max_epu8(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  // The least of the complements, bytes paired into words first.
  const __m128i inverted = _mm_xor_si128(quarter, _mm_set1_epi8(-1));
  const __m128i least = _mm_min_epu8(inverted, _mm_srli_epi16(inverted, 8));
  const __m128i words = _mm_and_si128(least, _mm_set1_epi16(0xff));
  return static_cast<uint8_t>(~_mm_extract_epi16(_mm_minpos_epu16(words), 0) & 0xff);
}

template <uint32_t kBits>
KVPLANE_TARGET_AVX512 uint8_t Unpack(const std::byte* in, size_t count, uint8_t* codes) {
  constexpr size_t kBytes = 8 * kBits;
  size_t left = PackedRowBytes(count, kBits);
  __m512i largest = _mm512_setzero_si512();
  for (; left >= 64 && count >= kStep; left -= kBytes, count -= kStep, codes += kStep, in += kBytes) {
    const __m512i split = Split<kBits>(_mm512_loadu_si512(in));
    largest = _mm512_max_epu8(largest, split);
    _mm512_storeu_si512(codes, split);
  }
  for (; count >= kStep; left -= kBytes, count -= kStep, codes += kStep, in += kBytes) {
    const __m512i split = Split<kBits>(_mm512_maskz_loadu_epi8(Mask(kBytes), in));
    largest = _mm512_max_epu8(largest, split);
    _mm512_storeu_si512(codes, split);
  }
  if (count > 0) {
    const __m512i split = Split<kBits>(_mm512_maskz_loadu_epi8(Mask(left), in));
    largest = _mm512_mask_max_epu8(largest, Mask(count), largest, split);
    _mm512_mask_storeu_epi8(codes, Mask(count), split);
  }
  return LargestByte(largest);
}

KVPLANE_TARGET_AVX512 void PackBytes(const uint8_t* codes, size_t count, std::byte* out) {
  if (count > 0) std::memcpy(out, codes, count);
}

KVPLANE_TARGET_AVX512 uint8_t UnpackBytes(const std::byte* in, size_t count, uint8_t* codes) {
  __m512i largest = _mm512_setzero_si512();
  for (; count >= kStep; count -= kStep, in += kStep, codes += kStep) {
    const __m512i bytes = _mm512_loadu_si512(in);
    largest = _mm512_max_epu8(largest, bytes);
    _mm512_storeu_si512(codes, bytes);
  }
  if (count > 0) {
    const __m512i bytes = _mm512_maskz_loadu_epi8(Mask(count), in);
    largest = _mm512_max_epu8(largest, bytes);
    _mm512_mask_storeu_epi8(codes, Mask(count), bytes);
  }
  return LargestByte(largest);
}

void PackAny(const uint8_t* codes, size_t count, uint32_t bits, std::byte* out) {
  using Kernel = void (*)(const uint8_t*, size_t, std::byte*);
  constexpr Kernel kKernels[] = {Pack<1>, Pack<2>, Pack<3>, Pack<4>, Pack<5>, Pack<6>, Pack<7>, PackBytes};
  kKernels[bits - 1](codes, count, out);
}

uint8_t UnpackAny(const std::byte* in, size_t count, uint32_t bits, uint8_t* codes) {
  using Kernel = uint8_t (*)(const std::byte*, size_t, uint8_t*);
  constexpr Kernel kKernels[] = {Unpack<1>, Unpack<2>, Unpack<3>, Unpack<4>,
                                 Unpack<5>, Unpack<6>, Unpack<7>, UnpackBytes};
  return kKernels[bits - 1](in, count, codes);
}

}  // namespace

constinit const PackKernels kPackAvx512 = {PackAny, UnpackAny};

}  // namespace kvplane::kernel::internal
