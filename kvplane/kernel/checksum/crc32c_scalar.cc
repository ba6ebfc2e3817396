#include "kvplane/kernel/checksum/crc32c_scalar.h"

namespace kvplane::kernel::internal {

uint32_t Crc32cScalar(uint32_t crc, std::span<const std::byte> bytes) {
  crc = ~crc;
  for (const std::byte b : bytes) crc = (crc >> 8) ^ kCrc32cTable[(crc ^ static_cast<uint32_t>(b)) & 0xffu];
  return ~crc;
}

}  // namespace kvplane::kernel::internal
