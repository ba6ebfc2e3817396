#include "kvplane/transfer/tile_grid.h"

#include <algorithm>
#include <string_view>

namespace kvplane::transfer {
namespace {

base::Status CheckBound(uint64_t value, uint64_t limit, std::string_view what) {
  if (value >= 1 && value <= limit) return base::Status::Ok();
  return base::InvalidArgument("{} = {}; 1 to {} are possible", what, value, limit);
}

}  // namespace

base::Result<TileGrid> TileGrid::Create(const KvDescriptor& descriptor, uint32_t group_heads) {
  const tensor::KvGeometry& geometry = descriptor.geometry;
  KVPLANE_RETURN_IF_ERROR(CheckBound(geometry.layers, kMaxLayers, "layers"));
  KVPLANE_RETURN_IF_ERROR(CheckBound(geometry.kv_heads, kMaxKvHeads, "kv_heads"));
  KVPLANE_RETURN_IF_ERROR(CheckBound(geometry.head_dim, kMaxHeadDim, "head_dim"));
  KVPLANE_RETURN_IF_ERROR(CheckBound(descriptor.tokens, kMaxTokens, "tokens"));
  KVPLANE_RETURN_IF_ERROR(CheckBound(group_heads, geometry.kv_heads, "heads per tile"));
  if (geometry.dtype != tensor::DType::kBf16) {
    return base::Unimplemented("KV of dtype {} cannot be moved, only bf16", tensor::Name(geometry.dtype));
  }
  const uint32_t model_kv_heads = descriptor.ModelGeometry().kv_heads;
  KVPLANE_RETURN_IF_ERROR(CheckBound(model_kv_heads, kMaxKvHeads, "kv_heads of the model"));
  if (geometry.kv_heads > model_kv_heads || descriptor.first_head > model_kv_heads - geometry.kv_heads) {
    return base::InvalidArgument("heads [{}, +{}) of a model with {}", descriptor.first_head,
                                 geometry.kv_heads, model_kv_heads);
  }
  const TileGrid grid{geometry, descriptor.tokens, group_heads, descriptor.first_head, model_kv_heads};
  // Before tiles_per_layer() is used: at most 2^18 blocks x 2^11 tiles each would not fit 32 bits.
  const uint64_t tiles = uint64_t{geometry.layers} * grid.blocks() * grid.tiles_per_block();
  KVPLANE_RETURN_IF_ERROR(CheckBound(tiles, kMaxTiles, "tiles"));
  return grid;
}

TileGrid::Tile TileGrid::At(uint32_t layer, uint32_t index) const {
  const uint32_t in_block = index % tiles_per_block();
  Tile tile;
  tile.layer = layer;
  tile.index = index;
  tile.side = in_block < groups() ? tensor::Side::kKey : tensor::Side::kValue;
  tile.group = in_block % groups();
  tile.first_token = index / tiles_per_block() * tensor::kTileTokens;
  tile.tokens = std::min(tensor::kTileTokens, tokens - tile.first_token);
  tile.first_head = tile.group * group_heads;
  tile.heads = std::min(group_heads, geometry.kv_heads - tile.first_head);
  return tile;
}

std::optional<TileGrid::Tile> TileGrid::Find(uint32_t layer, tensor::Side side, uint32_t group,
                                             uint32_t first_token) const {
  if (layer >= geometry.layers || group >= groups() || first_token >= tokens) return std::nullopt;
  if (first_token % tensor::kTileTokens != 0) return std::nullopt;
  const uint32_t block = first_token / tensor::kTileTokens;
  return At(layer, block * tiles_per_block() + static_cast<uint32_t>(side) * groups() + group);
}

base::Result<PageTable> PageTable::Create(std::span<const tensor::LayerPages> layers, const TileGrid& grid,
                                          uint32_t first_page_head) {
  if (first_page_head >= kMaxKvHeads) {
    return base::InvalidArgument("head {} of the pages; less than {} are possible", first_page_head,
                                 kMaxKvHeads);
  }
  if (layers.size() != grid.geometry.layers) {
    return base::InvalidArgument("pages of {} layers for {} layers", layers.size(), grid.geometry.layers);
  }
  PageTable table;
  table.layers_.reserve(layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    const tensor::LayerPages& from = layers[i];
    const tensor::PageFormat& format = from.format;
    if (format.block_tokens == 0 || uint64_t{from.pages.size()} * format.block_tokens < grid.tokens) {
      return base::InvalidArgument("layer {}: {} pages of {} tokens do not cover {} tokens", i,
                                   from.pages.size(), format.block_tokens, grid.tokens);
    }
    const size_t last = format.offset(tensor::Side::kValue, format.block_tokens - 1,
                                      first_page_head + grid.geometry.kv_heads - 1);
    if (last + grid.geometry.head_dim > format.page_elements) {
      return base::InvalidArgument("layer {}: a page of {} elements cannot hold heads [{}, +{})", i,
                                   format.page_elements, first_page_head, grid.geometry.kv_heads);
    }
    if (std::find(from.pages.begin(), from.pages.end(), nullptr) != from.pages.end()) {
      return base::InvalidArgument("layer {}: a page is null", i);
    }
    Layer& layer = table.layers_.emplace_back(Layer{{from.pages.begin(), from.pages.end()}, format});
    for (uint16_t*& page : layer.pages) page += first_page_head * format.head_stride;
  }
  return table;
}

}  // namespace kvplane::transfer
