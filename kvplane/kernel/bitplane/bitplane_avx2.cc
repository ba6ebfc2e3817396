#include <immintrin.h>

#include <bit>

#include "kvplane/base/endian.h"
#include "kvplane/kernel/bitplane/bitplane_definition.h"

// 32 symbols at a time: a plane of them is the sign bits of their bytes. Bytes are left out eight by eight:
// AVX2 cannot compress.

#define KVPLANE_INLINE_AVX2 KVPLANE_TARGET_AVX2 inline __attribute__((always_inline))

namespace kvplane::kernel::internal {
namespace {

constexpr size_t kLanes = 32;

KVPLANE_INLINE_AVX2 __m256i Load(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
KVPLANE_INLINE_AVX2 void Store(void* to, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(to), x); }
KVPLANE_INLINE_AVX2 __m256i Bytes(uint32_t value) { return _mm256_set1_epi8(static_cast<char>(value)); }

KVPLANE_TARGET_AVX2 void Split(const uint8_t* symbols, size_t count, uint32_t alphabet, uint32_t bits,
                               std::byte* planes) {
  const size_t plane_bytes = PlaneBytes(count);
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const __m256i d = _mm256_sub_epi8(Load(symbols + i), Bytes(alphabet / 2));
    const __m256i negative = _mm256_cmpgt_epi8(_mm256_setzero_si256(), d);
    __m256i folded = _mm256_xor_si256(_mm256_add_epi8(d, d), negative);
    folded = _mm256_sll_epi16(folded, _mm_cvtsi32_si128(static_cast<int>(8 - bits)));
    for (uint32_t j = bits; j-- > 0;) {
      base::StoreLe(planes + j * plane_bytes + i / 8, static_cast<uint32_t>(_mm256_movemask_epi8(folded)));
      folded = _mm256_add_epi8(folded, folded);
    }
  }
  SplitFrom(i, symbols, count, alphabet, bits, planes);
}

// All ones in the bytes of the set bits.
KVPLANE_INLINE_AVX2 __m256i ByteMask(uint32_t mask) {
  const __m256i spread = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201u));
  const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(mask)), spread);
  return _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
}

KVPLANE_TARGET_AVX2 uint8_t Join(const std::byte* planes, size_t count, uint32_t alphabet, uint32_t bits,
                                 uint8_t* symbols) {
  const size_t plane_bytes = PlaneBytes(count);
  __m256i most = _mm256_setzero_si256();
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    __m256i folded = _mm256_setzero_si256();
    for (uint32_t j = 0; j < bits; ++j) {
      const auto plane = base::LoadLe<uint32_t>(planes + j * plane_bytes + i / 8);
      folded = _mm256_or_si256(folded, _mm256_and_si256(ByteMask(plane), Bytes(1u << j)));
    }
    most = _mm256_max_epu8(most, folded);
    const __m256i half = _mm256_and_si256(_mm256_srli_epi16(folded, 1), Bytes(0x7f));
    const __m256i odd = _mm256_and_si256(folded, Bytes(1));
    const __m256i d = _mm256_xor_si256(half, _mm256_sub_epi8(_mm256_setzero_si256(), odd));
    Store(symbols + i, _mm256_add_epi8(d, Bytes(alphabet / 2)));
  }
  alignas(32) uint8_t lanes[kLanes];
  Store(lanes, most);
  return std::max(*std::max_element(lanes, lanes + kLanes),
                  JoinFrom(i, planes, count, alphabet, bits, symbols));
}

KVPLANE_TARGET_AVX2 size_t CountKept(const std::byte* in, size_t size, std::byte filler) {
  const __m256i fill = Bytes(static_cast<uint32_t>(filler));
  size_t fillers = 0;
  size_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    const auto same = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(Load(in + i), fill)));
    fillers += static_cast<size_t>(std::popcount(same));
  }
  return i - fillers + CountKeptFrom(i, in, size, filler);
}

KVPLANE_TARGET_AVX2 size_t Gather(const std::byte* in, size_t size, std::byte filler, std::byte* marks,
                                  std::byte* kept) {
  const __m256i fill = Bytes(static_cast<uint32_t>(filler));
  std::byte* at = kept;
  size_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    auto mark = ~static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(Load(in + i), fill)));
    base::StoreLe(marks + i / 8, mark);
    for (; mark != 0; mark &= mark - 1) *at++ = in[i + static_cast<size_t>(std::countr_zero(mark))];
  }
  GatherFrom(i, in, size, filler, marks, at);
  return static_cast<size_t>(at - kept);
}

KVPLANE_TARGET_AVX2 size_t Scatter(const std::byte* marks, size_t size, std::byte filler,
                                   const std::byte* kept, size_t available, std::byte* out) {
  const __m256i fill = Bytes(static_cast<uint32_t>(filler));
  const std::byte* at = kept;
  const std::byte* const end = kept + available;
  size_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    auto mark = base::LoadLe<uint32_t>(marks + i / 8);
    if (end - at < static_cast<ptrdiff_t>(std::popcount(mark))) return kNoBytesLeft;
    Store(out + i, fill);
    for (; mark != 0; mark &= mark - 1) out[i + static_cast<size_t>(std::countr_zero(mark))] = *at++;
  }
  if (!ScatterFrom(i, marks, size, filler, at, end, out)) return kNoBytesLeft;
  return static_cast<size_t>(at - kept);
}

}  // namespace

constinit const BitplaneKernels kBitplaneAvx2 = {Split, Join, CountKept, Gather, Scatter};

}  // namespace kvplane::kernel::internal
