#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kvplane/base/endian.h"
#include "kvplane/kernel/pack/pack.h"

// Eight codes are a word: pext drops the bits between them, pdep puts them back.

namespace kvplane::kernel::internal {
namespace {

constexpr uint64_t FieldsOf(uint32_t bits) { return 0x0101010101010101u * ((1u << bits) - 1); }

KVPLANE_TARGET_AVX2 void Pack(const uint8_t* codes, size_t count, uint32_t bits, std::byte* out) {
  const uint64_t fields = FieldsOf(bits);
  const std::byte* end = out + PackedRowBytes(count, bits);
  for (; count >= 8; count -= 8, codes += 8, out += bits) {
    uint64_t eight;
    std::memcpy(&eight, codes, sizeof(eight));
    const uint64_t packed = _pext_u64(eight, fields);
    // What is written too far is written again by the next words.
    if (end - out >= 8) {
      base::StoreLe(out, packed);
    } else {
      std::memcpy(out, &packed, bits);
    }
  }
  PackRow(codes, count, bits, out);
}

KVPLANE_TARGET_AVX2 uint8_t Unpack(const std::byte* in, size_t count, uint32_t bits, uint8_t* codes) {
  const uint64_t fields = FieldsOf(bits);
  const std::byte* end = in + PackedRowBytes(count, bits);
  const uint8_t* begin = codes;
  const size_t total = count;
  for (; count >= 8; count -= 8, codes += 8, in += bits) {
    uint64_t packed = 0;
    if (end - in >= 8) {
      packed = base::LoadLe<uint64_t>(in);
    } else {
      std::memcpy(&packed, in, bits);
    }
    const uint64_t eight = _pdep_u64(packed, fields);
    std::memcpy(codes, &eight, sizeof(eight));
  }
  UnpackRow(in, count, bits, codes);
  uint8_t largest = 0;
  for (size_t i = 0; i < total; ++i) largest = std::max(largest, begin[i]);
  return largest;
}

}  // namespace

constinit const PackKernels kPackAvx2 = {Pack, Unpack};

}  // namespace kvplane::kernel::internal
