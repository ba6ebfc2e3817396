#include <algorithm>

#include "kvplane/kernel/pack/pack.h"

namespace kvplane::kernel {

void PackRow(const uint8_t* codes, size_t count, uint32_t bits, std::byte* out) {
  uint32_t window = 0;
  uint32_t filled = 0;
  for (size_t i = 0; i < count; ++i) {
    window |= static_cast<uint32_t>(codes[i]) << filled;
    filled += bits;
    for (; filled >= 8; filled -= 8, window >>= 8) *out++ = static_cast<std::byte>(window & 0xffu);
  }
  if (filled > 0) *out = static_cast<std::byte>(window & 0xffu);
}

void UnpackRow(const std::byte* in, size_t count, uint32_t bits, uint8_t* codes) {
  uint32_t window = 0;
  uint32_t filled = 0;
  for (size_t i = 0; i < count; ++i) {
    if (filled < bits) {
      window |= static_cast<uint32_t>(*in++) << filled;
      filled += 8;
    }
    codes[i] = static_cast<uint8_t>(window & ((1u << bits) - 1));
    window >>= bits;
    filled -= bits;
  }
}

namespace internal {
namespace {

uint8_t Unpack(const std::byte* in, size_t count, uint32_t bits, uint8_t* codes) {
  UnpackRow(in, count, bits, codes);
  return count == 0 ? uint8_t{0} : *std::max_element(codes, codes + count);
}

}  // namespace

constinit const PackKernels kPackScalar = {PackRow, Unpack};

}  // namespace internal
}  // namespace kvplane::kernel
