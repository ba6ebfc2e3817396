#include <immintrin.h>

#include "kvplane/base/endian.h"
#include "kvplane/kernel/bitplane/bitplane_definition.h"

// 64 symbols at a time: a plane of them is a mask register. Compress and expand leave bytes out and put them
// back. The end of an array is the definition's.

#define KVPLANE_INLINE_AVX512 KVPLANE_TARGET_AVX512 inline __attribute__((always_inline))

namespace kvplane::kernel::internal {
namespace {

constexpr size_t kLanes = 64;

KVPLANE_INLINE_AVX512 __m512i Bytes(uint32_t value) { return _mm512_set1_epi8(static_cast<char>(value)); }

// kBits planes known when compiling, so that their loop unrolls.
template <uint32_t kBits>
KVPLANE_TARGET_AVX512 void SplitBits(const uint8_t* symbols, size_t count, uint32_t alphabet,
                                     std::byte* planes) {
  const size_t plane_bytes = PlaneBytes(count);
  const __m512i middle = Bytes(alphabet / 2);
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const __m512i d = _mm512_sub_epi8(_mm512_loadu_si512(symbols + i), middle);
    const __m512i negative = _mm512_movm_epi8(_mm512_movepi8_mask(d));
    const __m512i folded = _mm512_xor_si512(_mm512_add_epi8(d, d), negative);
#pragma GCC unroll 8
    for (uint32_t j = 0; j < kBits; ++j) {
      const __mmask64 plane = _mm512_test_epi8_mask(folded, Bytes(1u << j));
      base::StoreLe(planes + j * plane_bytes + i / 8, static_cast<uint64_t>(plane));
    }
  }
  SplitFrom(i, symbols, count, alphabet, kBits, planes);
}

template <uint32_t kBits>
KVPLANE_TARGET_AVX512 uint8_t JoinBits(const std::byte* planes, size_t count, uint32_t alphabet,
                                       uint8_t* symbols) {
  const size_t plane_bytes = PlaneBytes(count);
  const __m512i middle = Bytes(alphabet / 2);
  __m512i most = _mm512_setzero_si512();
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    __m512i folded = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (uint32_t j = 0; j < kBits; ++j) {
      const __mmask64 plane = base::LoadLe<uint64_t>(planes + j * plane_bytes + i / 8);
      folded = _mm512_mask_add_epi8(folded, plane, folded, Bytes(1u << j));
    }
    most = _mm512_max_epu8(most, folded);
    const __m512i half = _mm512_and_si512(_mm512_srli_epi16(folded, 1), Bytes(0x7f));
    const __m512i odd = _mm512_movm_epi8(_mm512_test_epi8_mask(folded, Bytes(1)));
    _mm512_storeu_si512(symbols + i, _mm512_add_epi8(_mm512_xor_si512(half, odd), middle));
  }
  alignas(64) uint8_t lanes[kLanes];
  _mm512_store_si512(lanes, most);
  return std::max(*std::max_element(lanes, lanes + kLanes),
                  JoinFrom(i, planes, count, alphabet, kBits, symbols));
}

void Split(const uint8_t* symbols, size_t count, uint32_t alphabet, uint32_t bits, std::byte* planes) {
  constexpr decltype(&SplitBits<1>) kByBits[] = {SplitBits<1>, SplitBits<2>, SplitBits<3>, SplitBits<4>,
                                                 SplitBits<5>, SplitBits<6>, SplitBits<7>, SplitBits<8>};
  kByBits[bits - 1](symbols, count, alphabet, planes);
}

uint8_t Join(const std::byte* planes, size_t count, uint32_t alphabet, uint32_t bits, uint8_t* symbols) {
  constexpr decltype(&JoinBits<1>) kByBits[] = {JoinBits<1>, JoinBits<2>, JoinBits<3>, JoinBits<4>,
                                                JoinBits<5>, JoinBits<6>, JoinBits<7>, JoinBits<8>};
  return kByBits[bits - 1](planes, count, alphabet, symbols);
}

KVPLANE_TARGET_AVX512 size_t CountKept(const std::byte* in, size_t size, std::byte filler) {
  const __m512i fill = Bytes(static_cast<uint32_t>(filler));
  size_t kept = 0;
  size_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    kept += static_cast<size_t>(_mm_popcnt_u64(_mm512_cmpneq_epi8_mask(_mm512_loadu_si512(in + i), fill)));
  }
  return kept + CountKeptFrom(i, in, size, filler);
}

KVPLANE_TARGET_AVX512 size_t Gather(const std::byte* in, size_t size, std::byte filler, std::byte* marks,
                                    std::byte* kept) {
  const __m512i fill = Bytes(static_cast<uint32_t>(filler));
  std::byte* at = kept;
  size_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    const __m512i bytes = _mm512_loadu_si512(in + i);
    const __mmask64 mark = _mm512_cmpneq_epi8_mask(bytes, fill);
    base::StoreLe(marks + i / 8, static_cast<uint64_t>(mark));
    const auto count = static_cast<uint32_t>(_mm_popcnt_u64(mark));
    _mm512_mask_storeu_epi8(at, _bzhi_u64(~uint64_t{0}, count), _mm512_maskz_compress_epi8(mark, bytes));
    at += count;
  }
  GatherFrom(i, in, size, filler, marks, at);
  return static_cast<size_t>(at - kept);
}

KVPLANE_TARGET_AVX512 size_t Scatter(const std::byte* marks, size_t size, std::byte filler,
                                     const std::byte* kept, size_t available, std::byte* out) {
  const __m512i fill = Bytes(static_cast<uint32_t>(filler));
  const std::byte* at = kept;
  const std::byte* const end = kept + available;
  size_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    const auto mark = base::LoadLe<uint64_t>(marks + i / 8);
    const auto count = static_cast<uint32_t>(_mm_popcnt_u64(mark));
    if (end - at < static_cast<ptrdiff_t>(count)) return kNoBytesLeft;
    const __m512i dense = _mm512_maskz_loadu_epi8(_bzhi_u64(~uint64_t{0}, count), at);
    _mm512_storeu_si512(out + i, _mm512_mask_expand_epi8(fill, mark, dense));
    at += count;
  }
  if (!ScatterFrom(i, marks, size, filler, at, end, out)) return kNoBytesLeft;
  return static_cast<size_t>(at - kept);
}

}  // namespace

constinit const BitplaneKernels kBitplaneAvx512 = {Split, Join, CountKept, Gather, Scatter};

}  // namespace kvplane::kernel::internal
