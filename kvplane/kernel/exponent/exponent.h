// bf16 values split into their exponent and the rest, exactly: the kernels of lossless stages.
//
// A bf16 pattern is sign (bit 15), exponent (bits 14..7), mantissa (bits 6..0). The byte `rest` of a value is
// its sign above its mantissa; nothing compresses it. Exponents of one head lie close together:
//
//   Split / Join    two byte planes, rest and exponent, for a general compressor
//   Encode / Decode a window of 15 exponents in 4 bits (SplitZip, 2026: 16 exponents by a table and escapes
//                   with positions; a contiguous window needs no table, and escapes in order no positions):
//                   code = exponent - base if that is 0..14, else 15 and the exponent itself as a byte
//   EncodeWide / DecodeWide the same with a window of any width and a code per byte, for an entropy coder
//
// Every pattern, NaN included, comes back. All instruction sets give the same bytes.
//
// Thread safety: pure functions. Memory is borrowed for the call; nothing outside the stated sizes is read or
// written. rows: [tokens], each [channels] bf16, anywhere.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/isa.h"

namespace kvplane::kernel {

constexpr uint8_t kEscapeCode = 15;
// Largest base: base + 14 is the last exponent of finite values.
constexpr uint8_t kMaxWindowBase = 240;
// A window must not end beyond the last exponent.
constexpr uint32_t kExponents = 256;
// An encoder ran out of room for escapes, a decoder out of escapes.
constexpr size_t kNoEscapeRoom = ~size_t{0};

// A row of window codes takes ceil(channels / 2) bytes: code 2i in the low, 2i + 1 in the high half of byte
// i, the unused half 0.
constexpr size_t WindowRowBytes(size_t channels) { return (channels + 1) / 2; }

struct ExponentKernels {
  // rests, exponents: [tokens, channels] bytes.
  void (*split)(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, std::byte* rests,
                std::byte* exponents);
  void (*join)(const std::byte* rests, const std::byte* exponents, uint32_t tokens, uint32_t channels,
               uint16_t* const* rows);

  // The largest exponent of finite values; 0 when there are none.
  uint8_t (*largest_exponent)(const uint16_t* const* rows, uint32_t tokens, uint32_t channels);

  // rests: [tokens, channels] bytes; codes: [tokens, WindowRowBytes(channels)]; escapes: at most `room`
  // bytes. base <= kMaxWindowBase. Returns the number of escapes, or kNoEscapeRoom with undefined outputs.
  // ahead: what is encoded next lies that many elements behind each row and is fetched meanwhile; 0: nothing
  // does.
  size_t (*encode)(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, uint8_t base,
                   size_t ahead, std::byte* rests, std::byte* codes, std::byte* escapes, size_t room);
  // Escape codes among `count` codes that lie as one row.
  size_t (*count_escapes)(const std::byte* codes, size_t count);
  // The inverse of encode(); returns the number of escapes it took. What count_escapes() says must be there.
  // streaming_stores: write around the caches where rows are whole aligned vectors. Pays for rows that nobody
  // reads soon.
  size_t (*decode)(const std::byte* rests, const std::byte* codes, const std::byte* escapes, uint8_t base,
                   uint32_t tokens, uint32_t channels, bool streaming_stores, uint16_t* const* rows);

  // As encode() with codes [tokens, channels], one per byte: exponent - base if that is below `width`, else
  // `width`. 1 <= width <= kExponents - base.
  size_t (*encode_wide)(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, uint8_t base,
                        uint8_t width, std::byte* rests, uint8_t* codes, std::byte* escapes, size_t room);
  // The inverse of encode_wide(), for codes up to `width`; returns the number of escapes it took, or
  // kNoEscapeRoom (rows are garbage then) when more than `available` are needed.
  size_t (*decode_wide)(const std::byte* rests, const uint8_t* codes, const std::byte* escapes,
                        size_t available, uint8_t base, uint8_t width, uint32_t tokens, uint32_t channels,
                        bool streaming_stores, uint16_t* const* rows);
};

const ExponentKernels& Exponent(Isa isa);
const ExponentKernels& Exponent();  // of ActiveIsa()

}  // namespace kvplane::kernel
