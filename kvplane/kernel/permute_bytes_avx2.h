// Internal: 128 bytes in any order in AVX2, which permutes only within 16.
//
// Every vector of outputs looks into all eight sixteens of the window and takes what is theirs. All of it is
// always inlined, so each source has its own copy.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kvplane/kernel/isa.h"

#define KVPLANE_INLINE_AVX2 KVPLANE_TARGET_AVX2 inline __attribute__((always_inline))

namespace kvplane::kernel::internal {
namespace {

constexpr uint32_t kByteWindow = 128;
constexpr uint32_t kByteVectors = 4;  // of a window

// sources[i]: which byte of `window` output i is, below 128. Both 32-byte aligned.
KVPLANE_INLINE_AVX2 void PermuteBytes(const uint8_t* window, const uint8_t* sources,
                                      __m256i (&out)[kByteVectors]) {
  constexpr uint32_t kSixteen = 16;
  __m256i source[kByteVectors];
#pragma GCC unroll 4
  for (uint32_t i = 0; i < kByteVectors; ++i) {
    source[i] = _mm256_load_si256(reinterpret_cast<const __m256i*>(sources) + i);
    out[i] = _mm256_setzero_si256();
  }
#pragma GCC unroll 8
  for (uint32_t first = 0; first < kByteWindow; first += kSixteen) {
    const __m256i bytes =
        _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(window + first)));
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kByteVectors; ++i) {
      // Below 16 where the source is one of these; the others get their top bit, which gives 0.
      const __m256i place = _mm256_xor_si256(source[i], _mm256_set1_epi8(static_cast<char>(first)));
      const __m256i pick = _mm256_adds_epu8(place, _mm256_set1_epi8(0x70));
      out[i] = _mm256_or_si256(out[i], _mm256_shuffle_epi8(bytes, pick));
    }
  }
}

}  // namespace
}  // namespace kvplane::kernel::internal
