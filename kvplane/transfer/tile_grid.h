// TileGrid: how the KV of a prompt is cut into tiles, and which number each tile has.
//
// Within a layer tiles are numbered block-major: (token block, side, head group), so that the tiles of the
// first tokens come first and a chunk of a layer can leave while later chunks are still computed.
//
// Thread safety: values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/codec/tile_context.h"
#include "kvplane/tensor/kv_view.h"
#include "kvplane/transfer/transfer.h"

namespace kvplane::transfer {

// KV heads per tile: 64 tokens x 8 heads x 128 dims x 2 bytes = 128 KiB, large enough to hide per-tile cost,
// small enough to overlap encoding, wire and decoding within one layer.
constexpr uint32_t kTileGroupHeads = 8;

// Bounds of a descriptor, far above any model of today; they keep every index below in 32 bits.
constexpr uint32_t kMaxLayers = 1024;
constexpr uint32_t kMaxKvHeads = 1024;
constexpr uint32_t kMaxHeadDim = codec::kMaxTileHeadDim;
constexpr uint32_t kMaxTokens = 1 << 24;
constexpr uint64_t kMaxTiles = 1 << 26;

struct TileGrid {
  struct Tile {
    uint32_t layer = 0;
    uint32_t index = 0;  // within the layer
    uint32_t group = 0;
    tensor::Side side = tensor::Side::kKey;
    uint32_t first_token = 0;
    uint32_t tokens = 0;
    uint32_t first_head = 0;
    uint32_t heads = 0;
  };

  tensor::KvGeometry geometry;
  uint32_t tokens = 0;
  uint32_t group_heads = 0;
  uint32_t shard_first_head = 0;  // the KV head of the model that head 0 of the grid is
  uint32_t model_kv_heads = 0;

  // kInvalidArgument: a number of the descriptor beyond its bound, or a shard that its model does not have.
  // kUnimplemented: a dtype other than bf16.
  static base::Result<TileGrid> Create(const KvDescriptor& descriptor, uint32_t group_heads);

  uint32_t blocks() const { return (tokens + tensor::kTileTokens - 1) / tensor::kTileTokens; }
  uint32_t groups() const { return (geometry.kv_heads + group_heads - 1) / group_heads; }
  uint32_t tiles_per_block() const { return 2 * groups(); }
  uint32_t tiles_per_layer() const { return blocks() * tiles_per_block(); }
  uint64_t tiles() const { return uint64_t{geometry.layers} * tiles_per_layer(); }
  uint64_t raw_bytes() const { return geometry.bytes_per_token() * tokens; }

  // Tiles of a layer that are complete once its first `posted` tokens are there.
  uint32_t TilesWithin(uint32_t posted) const {
    return posted >= tokens ? tiles_per_layer() : posted / tensor::kTileTokens * tiles_per_block();
  }

  // Requires: layer and index in range.
  Tile At(uint32_t layer, uint32_t index) const;
  // The tile a frame names by its coordinates, if there is one that begins exactly there.
  std::optional<Tile> Find(uint32_t layer, tensor::Side side, uint32_t group, uint32_t first_token) const;

  // Where a tile stands, the same at both ends: positions count from the start of the prompt.
  codec::TileContext ContextOf(const Tile& tile) const {
    return {.layer = tile.layer,
            .layers = geometry.layers,
            .first_head = shard_first_head + tile.first_head,
            .kv_heads = model_kv_heads,
            .first_position = tile.first_token,
            .end_position = tokens,
            .quality = 0};
  }
  codec::TileShape ShapeOf(const Tile& tile) const { return {tile.tokens, tile.heads, geometry.head_dim}; }
  tensor::TileView ViewOf(const tensor::LayerPages& layer, const Tile& tile) const {
    return tensor::MakeTileView(layer, tile.side, tile.first_token, tile.tokens, tile.first_head, tile.heads,
                                geometry.head_dim);
  }
};

// Page addresses of all layers of one request, copied from the caller's spans.
class PageTable {
 public:
  // `first_page_head`: the head of the pages that head 0 of the grid is. kInvalidArgument: the wrong number
  // of layers, pages that do not cover the tokens, a null page, or a page format that cannot hold the
  // geometry.
  static base::Result<PageTable> Create(std::span<const tensor::LayerPages> layers, const TileGrid& grid,
                                        uint32_t first_page_head = 0);

  tensor::LayerPages layer(uint32_t index) const {
    const Layer& from = layers_[index];
    return {from.pages, from.format};
  }

 private:
  struct Layer {
    std::vector<uint16_t*> pages;
    tensor::PageFormat format;
  };
  std::vector<Layer> layers_;
};

}  // namespace kvplane::transfer
