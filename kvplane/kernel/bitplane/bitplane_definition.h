// Internal: the bit plane kernels on the end of an array; the scalar kernels are built from it, the vector
// kernels use it for what does not fill a vector.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/bitplane/bitplane.h"

namespace kvplane::kernel::internal {

inline uint8_t Fold(uint8_t symbol, uint32_t alphabet) {
  const int32_t d = symbol - static_cast<int32_t>(alphabet / 2);
  return static_cast<uint8_t>(d < 0 ? -2 * d - 1 : 2 * d);
}
inline uint8_t Unfold(uint8_t folded, uint32_t alphabet) {
  const int32_t d = folded % 2 == 0 ? folded / 2 : -(folded / 2) - 1;
  return static_cast<uint8_t>(d + static_cast<int32_t>(alphabet / 2));
}

// The symbols from `first` (a multiple of 8) on.
inline void SplitFrom(size_t first, const uint8_t* symbols, size_t count, uint32_t alphabet, uint32_t bits,
                      std::byte* planes) {
  const size_t plane_bytes = PlaneBytes(count);
  for (size_t i = first; i < count; i += 8) {
    for (uint32_t j = 0; j < bits; ++j) {
      uint32_t byte = 0;
      for (size_t k = i; k < std::min(count, i + 8); ++k) {
        byte |= (uint32_t{Fold(symbols[k], alphabet)} >> j & 1u) << (k - i);
      }
      planes[j * plane_bytes + i / 8] = static_cast<std::byte>(byte);
    }
  }
}

inline uint8_t JoinFrom(size_t first, const std::byte* planes, size_t count, uint32_t alphabet, uint32_t bits,
                        uint8_t* symbols) {
  const size_t plane_bytes = PlaneBytes(count);
  uint8_t largest = 0;
  for (size_t i = first; i < count; ++i) {
    uint32_t folded = 0;
    for (uint32_t j = 0; j < bits; ++j) {
      folded |= (static_cast<uint32_t>(planes[j * plane_bytes + i / 8]) >> i % 8 & 1u) << j;
    }
    largest = std::max(largest, static_cast<uint8_t>(folded));
    symbols[i] = Unfold(static_cast<uint8_t>(folded), alphabet);
  }
  return largest;
}

inline size_t CountKeptFrom(size_t first, const std::byte* in, size_t size, std::byte filler) {
  size_t kept = 0;
  for (size_t i = first; i < size; ++i) kept += in[i] != filler ? 1u : 0u;
  return kept;
}

// The bytes from `first` (a multiple of 8) on; `kept` moves on.
inline void GatherFrom(size_t first, const std::byte* in, size_t size, std::byte filler, std::byte* marks,
                       std::byte*& kept) {
  for (size_t i = first; i < size; ++i) {
    if (i % 8 == 0) marks[i / 8] = std::byte{0};
    if (in[i] == filler) continue;
    marks[i / 8] |= static_cast<std::byte>(1u << i % 8);
    *kept++ = in[i];
  }
}
inline bool ScatterFrom(size_t first, const std::byte* marks, size_t size, std::byte filler,
                        const std::byte*& kept, const std::byte* end, std::byte* out) {
  for (size_t i = first; i < size; ++i) {
    const bool marked = (static_cast<uint32_t>(marks[i / 8]) >> i % 8 & 1u) != 0;
    if (marked && kept == end) return false;
    out[i] = marked ? *kept++ : filler;
  }
  return true;
}

extern const BitplaneKernels kBitplaneScalar;
extern const BitplaneKernels kBitplaneAvx2;
extern const BitplaneKernels kBitplaneAvx512;

}  // namespace kvplane::kernel::internal
