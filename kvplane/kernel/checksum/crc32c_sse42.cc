#include <immintrin.h>

#include <cstring>

#include "kvplane/kernel/checksum/crc32c_scalar.h"

#define KVPLANE_TARGET_CRC __attribute__((target("sse4.2,pclmul")))

namespace kvplane::kernel::internal {
namespace {

// Bytes per chain and round. Long rounds amortise the joins; short ones catch what is left of a small tile.
constexpr size_t kLongChain = 4096;
constexpr size_t kShortChain = 256;

// Advancing a CRC over n zero bytes multiplies it by x^(8n). The reflected product carries an extra factor x
// and the crc32 instruction that reduces it another x^32, hence the exponent 8n - 33.
template <size_t kZeroBytes>
constexpr uint32_t kAdvance = PowerOfX(8 * kZeroBytes - 33);

template <uint32_t kFactor>
KVPLANE_TARGET_CRC inline uint32_t MultiplyMod(uint32_t crc) {
  const __m128i product = _mm_clmulepi64_si128(_mm_cvtsi32_si128(static_cast<int>(crc)),
                                               _mm_cvtsi32_si128(static_cast<int>(kFactor)), 0);
  return static_cast<uint32_t>(_mm_crc32_u64(0, static_cast<uint64_t>(_mm_cvtsi128_si64(product))));
}

inline uint64_t Load64(const std::byte* from) {
  uint64_t value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// Consumes as many rounds of three chains as fit. `crc` is the inverted running value.
template <size_t kChain>
KVPLANE_TARGET_CRC uint32_t ThreeChains(uint32_t crc, const std::byte*& at, size_t& left) {
  while (left >= 3 * kChain) {
    uint64_t a = crc, b = 0, c = 0;
    for (size_t i = 0; i < kChain; i += 8) {
      a = _mm_crc32_u64(a, Load64(at + i));
      b = _mm_crc32_u64(b, Load64(at + kChain + i));
      c = _mm_crc32_u64(c, Load64(at + 2 * kChain + i));
    }
    crc = MultiplyMod<kAdvance<2 * kChain>>(static_cast<uint32_t>(a)) ^
          MultiplyMod<kAdvance<kChain>>(static_cast<uint32_t>(b)) ^ static_cast<uint32_t>(c);
    at += 3 * kChain;
    left -= 3 * kChain;
  }
  return crc;
}

}  // namespace

KVPLANE_TARGET_CRC uint32_t Crc32cSse42(uint32_t crc, std::span<const std::byte> bytes) {
  const std::byte* at = bytes.data();
  size_t left = bytes.size();
  crc = ~crc;
  crc = ThreeChains<kLongChain>(crc, at, left);
  crc = ThreeChains<kShortChain>(crc, at, left);
  for (; left >= 8; at += 8, left -= 8) crc = static_cast<uint32_t>(_mm_crc32_u64(crc, Load64(at)));
  for (; left > 0; ++at, --left) crc = _mm_crc32_u8(crc, static_cast<uint8_t>(*at));
  return ~crc;
}

}  // namespace kvplane::kernel::internal
