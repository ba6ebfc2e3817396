// The exponent kernels on single values and on the end of a row: the scalar kernels are built from it, the
// vector kernels use it for what does not fill a vector.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/exponent/exponent.h"

namespace kvplane::kernel::internal {

inline uint8_t ExponentOf(uint16_t x) { return static_cast<uint8_t>(x >> 7); }
inline std::byte RestOf(uint16_t x) { return static_cast<std::byte>((x >> 8 & 0x80u) | (x & 0x7fu)); }
inline uint16_t ValueOf(std::byte rest, uint8_t exponent) {
  const auto r = static_cast<uint32_t>(rest);
  return static_cast<uint16_t>((r & 0x80u) << 8 | uint32_t{exponent} << 7 | (r & 0x7fu));
}
inline uint8_t WindowCodeOf(uint8_t exponent, uint8_t base) {
  const auto code = static_cast<uint8_t>(exponent - base);
  return code < kEscapeCode ? code : kEscapeCode;
}

// The channels from `first` (even) on of one row. `escapes` moves on; false: `end` is reached.
inline bool EncodeWindowRow(const uint16_t* row, uint32_t first, uint32_t channels, uint8_t base,
                            std::byte* rests, std::byte* codes, std::byte*& escapes, const std::byte* end) {
  for (uint32_t c = first; c < channels; ++c) {
    const uint8_t exponent = ExponentOf(row[c]);
    const uint8_t code = WindowCodeOf(exponent, base);
    rests[c] = RestOf(row[c]);
    codes[c / 2] =
        c % 2 == 0 ? static_cast<std::byte>(code) : codes[c / 2] | static_cast<std::byte>(code << 4);
    if (code == kEscapeCode) {
      if (escapes == end) return false;
      *escapes++ = static_cast<std::byte>(exponent);
    }
  }
  return true;
}

inline const std::byte* DecodeWindowRow(const std::byte* rests, const std::byte* codes,
                                        const std::byte* escapes, uint8_t base, uint32_t first,
                                        uint32_t channels, uint16_t* row) {
  for (uint32_t c = first; c < channels; ++c) {
    const auto code = static_cast<uint8_t>(static_cast<uint32_t>(codes[c / 2]) >> (c % 2 * 4) & 15u);
    const auto exponent =
        code == kEscapeCode ? static_cast<uint8_t>(*escapes++) : static_cast<uint8_t>(base + code);
    row[c] = ValueOf(rests[c], exponent);
  }
  return escapes;
}

inline size_t CountEscapesFrom(size_t first, const std::byte* codes, size_t count) {
  size_t escapes = 0;
  for (size_t i = first; i < count; ++i) {
    escapes +=
        (static_cast<uint32_t>(codes[i / 2]) >> (i % 2 * 4) & 15u) == kEscapeCode ? size_t{1} : size_t{0};
  }
  return escapes;
}

// The channels from `first` on of one row of wide codes; as EncodeWindowRow().
inline bool EncodeWideRow(const uint16_t* row, uint32_t first, uint32_t channels, uint8_t base, uint8_t width,
                          std::byte* rests, uint8_t* codes, std::byte*& escapes, const std::byte* end) {
  for (uint32_t c = first; c < channels; ++c) {
    const uint8_t exponent = ExponentOf(row[c]);
    const auto code = static_cast<uint8_t>(exponent - base);
    rests[c] = RestOf(row[c]);
    codes[c] = code < width ? code : width;
    if (codes[c] == width) {
      if (escapes == end) return false;
      *escapes++ = static_cast<std::byte>(exponent);
    }
  }
  return true;
}

inline bool DecodeWideRow(const std::byte* rests, const uint8_t* codes, const std::byte*& escapes,
                          const std::byte* end, uint8_t base, uint8_t width, uint32_t first,
                          uint32_t channels, uint16_t* row) {
  for (uint32_t c = first; c < channels; ++c) {
    if (codes[c] == width && escapes == end) return false;
    const auto exponent =
        codes[c] == width ? static_cast<uint8_t>(*escapes++) : static_cast<uint8_t>(base + codes[c]);
    row[c] = ValueOf(rests[c], exponent);
  }
  return true;
}

extern const ExponentKernels kExponentScalar;
extern const ExponentKernels kExponentAvx2;
extern const ExponentKernels kExponentAvx512;

}  // namespace kvplane::kernel::internal
