// Bit planes of small symbols, and bytes with one value left out: the kernels of the stage `bitplane_rle`.
//
// Split / Join: symbols below `alphabet` are folded around its middle c = alphabet / 2, so that likely ones
// are small (d = s - c becomes 2d, or -2d - 1 where d < 0), and plane j takes bit j of each: symbol i is bit
// i % 8 of byte i / 8. High planes of bell-shaped symbols are then nearly all zero. Gather / Scatter: a mark
// per byte, set where it is not the filler, and the bytes that are not.
//
// Thread safety: pure functions. Nothing outside the stated sizes is read or written.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/isa.h"

namespace kvplane::kernel {

// Scatter() ran out of bytes.
constexpr size_t kNoBytesLeft = ~size_t{0};

constexpr size_t PlaneBytes(size_t symbols) { return (symbols + 7) / 8; }

struct BitplaneKernels {
  // symbols: [count], below alphabet (2..256); planes: [bits, PlaneBytes(count)], 2^bits >= alphabet. Bits
  // behind the last symbol are 0.
  void (*split)(const uint8_t* symbols, size_t count, uint32_t alphabet, uint32_t bits, std::byte* planes);
  // The inverse; returns the largest folded symbol: when it is not below the alphabet, the symbols are
  // garbage. Bits behind the last symbol are not looked at.
  uint8_t (*join)(const std::byte* planes, size_t count, uint32_t alphabet, uint32_t bits, uint8_t* symbols);

  // How many bytes are not the filler.
  size_t (*count_kept)(const std::byte* in, size_t size, std::byte filler);
  // marks: PlaneBytes(size); kept: what count_kept() says, and is returned.
  size_t (*gather)(const std::byte* in, size_t size, std::byte filler, std::byte* marks, std::byte* kept);
  // The inverse; returns the bytes taken of `kept`, or kNoBytesLeft (`out` is garbage) when more than
  // `available` are marked. Marks behind the last byte are not looked at.
  size_t (*scatter)(const std::byte* marks, size_t size, std::byte filler, const std::byte* kept,
                    size_t available, std::byte* out);
};

const BitplaneKernels& Bitplanes(Isa isa);  // requires: `isa` is available
const BitplaneKernels& Bitplanes();         // of ActiveIsa()

}  // namespace kvplane::kernel
