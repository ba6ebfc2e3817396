#include <immintrin.h>

#include "kvplane/kernel/checksum/crc32c_scalar.h"

#define KVPLANE_TARGET_FOLD \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,vpclmulqdq,sse4.2,pclmul")))

namespace kvplane::kernel::internal {
namespace {

#define KVPLANE_INLINE_FOLD KVPLANE_TARGET_FOLD inline __attribute__((always_inline))

constexpr size_t kVector = 64;
constexpr size_t kVectors = 4;  // in flight: a multiplication's latency is 4 to 8 cycles
constexpr size_t kRound = kVectors * kVector;

// 128 bits of a message are the polynomial lo x^64 + hi, lo being the first eight bytes. Moving them n bits
// on multiplies that by x^n. Products of reflected numbers carry a factor x, hence the exponents one below.
struct Factors {
  int64_t lo, hi;
};
constexpr Factors MoveBy(size_t bytes) {
  const auto power = [](uint64_t n) { return static_cast<int64_t>(uint64_t{PowerOfX(n)} << 32); };
  return {power(8 * bytes + 63), power(8 * bytes - 1)};
}
constexpr Factors kByRound = MoveBy(kRound);
constexpr Factors kByVector = MoveBy(kVector);
constexpr Factors kByQuarter = MoveBy(kVector / 4);

KVPLANE_INLINE_FOLD __m512i Load(const std::byte* from) { return _mm512_loadu_si512(from); }

KVPLANE_INLINE_FOLD __m512i Wide(const Factors& factors) {
  return _mm512_broadcast_i64x2(_mm_set_epi64x(factors.hi, factors.lo));
}

// What `folded` is further on, where `bytes` lie.
KVPLANE_INLINE_FOLD __m512i Fold(__m512i folded, __m512i factors, __m512i bytes) {
  constexpr int kXor3 = 0x96;
  return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(folded, factors, 0x00),
                                   _mm512_clmulepi64_epi128(folded, factors, 0x11), bytes, kXor3);
}
KVPLANE_INLINE_FOLD __m128i Fold(__m128i folded, __m128i factors, __m128i bytes) {
  const __m128i moved =
      _mm_xor_si128(_mm_clmulepi64_si128(folded, factors, 0x00), _mm_clmulepi64_si128(folded, factors, 0x11));
  return _mm_xor_si128(moved, bytes);
}

// Of the message that leaves `folded`: the inverted running value.
KVPLANE_INLINE_FOLD uint32_t Reduce(__m512i folded) {
  const __m128i factors = _mm_set_epi64x(kByQuarter.hi, kByQuarter.lo);
  __m128i one = _mm512_castsi512_si128(folded);
  one = Fold(one, factors, _mm512_extracti64x2_epi64(folded, 1));
  one = Fold(one, factors, _mm512_extracti64x2_epi64(folded, 2));
  one = Fold(one, factors, _mm512_extracti64x2_epi64(folded, 3));
  const uint64_t crc = _mm_crc32_u64(0, static_cast<uint64_t>(_mm_cvtsi128_si64(one)));
  return static_cast<uint32_t>(_mm_crc32_u64(crc, static_cast<uint64_t>(_mm_extract_epi64(one, 1))));
}

}  // namespace

KVPLANE_TARGET_FOLD uint32_t Crc32cAvx512(uint32_t crc, std::span<const std::byte> bytes) {
  if (bytes.size() < kRound) return Crc32cSse42(crc, bytes);
  const std::byte* at = bytes.data();
  const std::byte* const end = at + bytes.size();
  __m512i folded[kVectors];
#pragma GCC unroll 4
  for (size_t i = 0; i < kVectors; ++i) folded[i] = Load(at + i * kVector);
  folded[0] = _mm512_xor_si512(folded[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(~crc))));
  const __m512i by_round = Wide(kByRound);
  for (at += kRound; end - at >= static_cast<ptrdiff_t>(kRound); at += kRound) {
#pragma GCC unroll 4
    for (size_t i = 0; i < kVectors; ++i) folded[i] = Fold(folded[i], by_round, Load(at + i * kVector));
  }
  const __m512i by_vector = Wide(kByVector);
  __m512i one = folded[0];
#pragma GCC unroll 3
  for (size_t i = 1; i < kVectors; ++i) one = Fold(one, by_vector, folded[i]);
  for (; end - at >= static_cast<ptrdiff_t>(kVector); at += kVector) one = Fold(one, by_vector, Load(at));
  return Crc32cSse42(~Reduce(one), {at, end});
}

}  // namespace kvplane::kernel::internal
