// Internal: the class ladder in the layouts that the coders look up. Derived from rans_class_tables.h.
#pragma once

#include <array>
#include <cstdint>

#include "kvplane/kernel/rans/rans_class_tables.h"

namespace kvplane::kernel::internal {

constexpr uint32_t kRansTotal = 128;       // sum of the frequencies of a class
constexpr uint32_t kRansLowerBound = 256;  // states are in [256, 65536)

// By slot, the low seven bits of a state.
struct alignas(64) RansDecodeTable {
  uint8_t symbol[kRansTotal];
  uint8_t frequency[kRansTotal];
  uint8_t offset[kRansTotal];  // slot - first slot of the symbol
};

// By symbol; 0 beyond the alphabet.
struct alignas(64) RansEncodeTable {
  uint16_t frequency[32];
  uint16_t start[32];       // first slot
  uint16_t reciprocal[32];  // floor(65536 / frequency), at most 65535
};

// By symbol, for byte shuffles. `start` is 127 beyond the alphabet.
struct alignas(64) RansByteTable {
  uint8_t frequency[32];
  uint8_t start[32];
  uint8_t reciprocal_low[32];
  uint8_t reciprocal_high[32];
};

extern const std::array<RansDecodeTable, kRansClasses> kRansDecode;
extern const std::array<RansEncodeTable, kRansClasses> kRansEncode;
extern const std::array<RansByteTable, kRansClasses> kRansBytes;

}  // namespace kvplane::kernel::internal
