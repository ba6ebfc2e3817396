// Affine group quantisation of bf16, fused with fixed-width packing: rows of a page to packed codes and back,
// without a staging copy. The scheme is KIVI's (Liu et al., ICML 2024, section 3): asymmetric uniform, keys
// by channel, values by token.
//
// One group of values shares a zero z and a scale s, both bf16. With L the greatest code (1 .. 2^bits - 1),
// all arithmetic in binary32, round to nearest even, subnormals kept:
//
//   z = the smallest value of the group, m = the largest (order of the patterns: -0 before +0)
//   s = (m - z) * RN(1 / L), rounded up to bf16; a scale above 0 is at least 2^-126
//   code(x)   = min(L, RN((x - z) * RN(1 / s)));  0 when s is 0
//   value(q)  = RN_bf16(z + q * s)       (q * s is exact: 8 by 8 significant bits)
//
// Rounding the scale up keeps m inside the code range, so that |x - (z + q s)| <= s / 2 up to binary32
// rounding. Every instruction set gives the same bytes. Groups with a value of magnitude 2^126 or more, an
// infinity or a NaN are not coded: the encoders return false (and leave their output undefined).
//
// axis = channel: one group per channel, over the tokens of the call.
// axis = token: each row is cut into groups of `group` channels; the last may be short.
// axis = tensor: one group over all values of the call.
//
// Codes: one packed row (pack/pack.h) per token, PackedRowBytes(channels, bits) apart. Zeros and scales are
// separate little-endian bf16 planes without alignment: [channels] for axis = channel,
// [tokens, ceil(channels / group)] for axis = token, [1] for axis = tensor. With 8 bits the codes are byte
// symbols, [tokens, channels].
//
// Preconditions of all: tokens >= 1, channels >= 1, group a multiple of 8, 1 <= top < 2^bits. Thread safety:
// pure functions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/isa.h"

namespace kvplane::kernel {

// Coded magnitudes are below this bf16 pattern (2^126): ranges and sums cannot overflow.
constexpr uint16_t kAffineMagnitudeLimit = 0x7e80;

// The largest legal scale of codes up to `top`: 2^127 / top rounded up to bf16. top 1..255.
constexpr uint16_t AffineScaleLimit(uint32_t top) {
  return static_cast<uint16_t>((std::bit_cast<uint32_t>(0x1p127f / static_cast<float>(top)) + 0xffffu) >> 16);
}
static_assert(AffineScaleLimit(3) == 0x7e2b && AffineScaleLimit(15) == 0x7d09 &&
              AffineScaleLimit(255) == 0x7b01);

struct QuantizeKernels {
  // rows[t]: [channels] bf16 of token t. top: the greatest code. ahead: what is encoded next lies that many
  // elements behind each row and is fetched meanwhile; 0: nothing does.
  using EncodeChannels = bool (*)(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                  uint32_t top, size_t ahead, std::byte* zeros, std::byte* scales,
                                  std::byte* codes);
  using EncodeTokens = bool (*)(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                uint32_t group, uint32_t top, size_t ahead, std::byte* zeros,
                                std::byte* scales, std::byte* codes);
  using EncodeTensor = bool (*)(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, uint32_t top,
                                std::byte* zero, std::byte* scale, std::byte* codes);
  // streaming_stores: write around the caches where rows are whole aligned vectors. Pays for rows that nobody
  // reads soon.
  using DecodeChannels = void (*)(const std::byte* zeros, const std::byte* scales, const std::byte* codes,
                                  uint32_t tokens, uint32_t channels, bool streaming_stores,
                                  uint16_t* const* rows);
  using DecodeTokens = void (*)(const std::byte* zeros, const std::byte* scales, const std::byte* codes,
                                uint32_t tokens, uint32_t channels, uint32_t group, bool streaming_stores,
                                uint16_t* const* rows);

  // One entry per width, see WidthIndex().
  EncodeChannels encode_channels[3];
  EncodeTokens encode_tokens[3];
  DecodeChannels decode_channels[3];
  DecodeTokens decode_tokens[3];
  // 8-bit codes. Decoded by decode_tokens with the zero and the scale repeated for every token.
  EncodeTensor encode_tensor;

  // Whether every zero is below kAffineMagnitudeLimit in magnitude and every scale is in [0, scale_limit]:
  // what decoders require of bytes they did not make. [count] each.
  bool (*params_valid)(const std::byte* zeros, const std::byte* scales, size_t count, uint16_t scale_limit);

  static constexpr size_t WidthIndex(uint32_t bits) { return bits == 2 ? 0 : bits == 4 ? 1 : 2; }
};

const QuantizeKernels& Quantize(Isa isa);  // requires: `isa` is available
const QuantizeKernels& Quantize();         // the active one

}  // namespace kvplane::kernel
