// LevelGroups: which values share a zero and a scale, and the kernels that code one head of a tile by them.
// What `affine` and `levels` have in common.
//
// Thread safety: a value; pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kvplane/codec/tile_codec.h"
#include "kvplane/codec/tile_rows.h"

namespace kvplane::codec {

enum class LevelAxis : uint32_t { kChannel = 0, kToken = 1, kTensor = 2 };
inline constexpr std::string_view kLevelAxisNames[] = {"channel", "token", "tensor"};

struct LevelGroups {
  LevelAxis axis = LevelAxis::kChannel;
  uint32_t group = 0;  // a multiple of 8; 0: all tokens of a channel, all channels of a token

  // Groups of one head of a tile; each has one zero and one scale.
  size_t PerHead(const TileShape& shape) const;

  // Codes one head: zeros and scales [PerHead()] bf16, codes [tokens] packed rows of `bits` (2, 4, 8; tensor
  // only 8), up to `top`. False: values that cannot be held. ahead, streaming_stores: as the kernels take
  // them (quantize.h).
  bool Encode(const TileRows<const uint16_t>& rows, uint32_t top, uint32_t bits, size_t ahead,
              std::byte* zeros, std::byte* scales, std::byte* codes) const;
  void Decode(const std::byte* zeros, const std::byte* scales, const std::byte* codes, uint32_t bits,
              bool streaming_stores, const TileRows<uint16_t>& rows) const;
};

// Fetches the first rows of the head that lies `head_stride` further: row kernels only see one head.
void PrefetchHead(const TileRows<const uint16_t>& rows, size_t head_stride);

}  // namespace kvplane::codec
