// The definition of CRC32C: one byte at a time through a table. Also used for the ends of the fast version.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace kvplane::kernel::internal {

constexpr uint32_t kCrc32cReflectedPolynomial = 0x82f63b78u;

constexpr std::array<uint32_t, 256> MakeCrc32cTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1u) != 0 ? kCrc32cReflectedPolynomial : 0u);
    table[i] = crc;
  }
  return table;
}

inline constexpr std::array<uint32_t, 256> kCrc32cTable = MakeCrc32cTable();

// x^n mod P, bit-reflected (bit 31 is x^0).
constexpr uint32_t PowerOfX(uint64_t n) {
  uint32_t value = 0x80000000u;
  for (uint64_t i = 0; i < n; ++i) {
    value = (value >> 1) ^ ((value & 1u) != 0 ? kCrc32cReflectedPolynomial : 0u);
  }
  return value;
}

uint32_t Crc32cScalar(uint32_t crc, std::span<const std::byte> bytes);
uint32_t Crc32cSse42(uint32_t crc, std::span<const std::byte> bytes);
uint32_t Crc32cAvx512(uint32_t crc, std::span<const std::byte> bytes);  // also needs vpclmulqdq

}  // namespace kvplane::kernel::internal
