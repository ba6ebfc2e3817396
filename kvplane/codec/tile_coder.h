// TileCoder: the bound end of a chain (quantize and code slots): bf16 tile to payload and back.
//
// What `bind` of a code stage returns (stage_registry.h). It keeps what can be worked out once from the chain
// and the profile. Thread safety: immutable, or locked inside; shared by all threads of a TileCodec.
#pragma once

#include <cstddef>
#include <span>

#include "kvplane/base/status.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/codec/tile_context.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

class TileCoder {
 public:
  TileCoder() = default;
  TileCoder(const TileCoder&) = delete;
  TileCoder& operator=(const TileCoder&) = delete;
  virtual ~TileCoder() = default;

  // The fewest payload bytes a coded tile of this shape can have (method byte excluded), whatever the
  // context.
  virtual size_t LeastBytes(const TileShape& shape) const = 0;

  // Writes the payload to `out`, which has the tile's raw bytes, and returns its length; 0: these values
  // cannot be held faithfully or take no less than raw, code them raw.
  virtual size_t Encode(const TileContext& context, const tensor::ConstTileView& in, Workspace& workspace,
                        std::span<std::byte> out) const = 0;

  // Decodes exactly `in`. On an error the values of `out` are unspecified; nothing else is written.
  virtual base::Status Decode(const TileContext& context, std::span<const std::byte> in, Workspace& workspace,
                              const tensor::TileView& out) const = 0;
};

}  // namespace kvplane::codec
