#include <algorithm>

#include "kvplane/codec/object.h"
#include "kvplane/codec/object_layout.h"

namespace kvplane::codec {

base::Status ObjectInfo::Validate() const {
  if (geometry.dtype != tensor::DType::kBf16) {
    return base::InvalidArgument("object: dtype {} is not bf16", tensor::Name(geometry.dtype));
  }
  if (geometry.layers < 1 || geometry.layers > kMaxObjectLayers) {
    return base::InvalidArgument("object: {} layers, legal are 1..{}", geometry.layers, kMaxObjectLayers);
  }
  if (geometry.kv_heads < 1 || geometry.kv_heads > kMaxTileHeads) {
    return base::InvalidArgument("object: {} kv heads, legal are 1..{}", geometry.kv_heads, kMaxTileHeads);
  }
  if (geometry.head_dim < 1 || geometry.head_dim > kMaxTileHeadDim) {
    return base::InvalidArgument("object: head_dim {}, legal are 1..{}", geometry.head_dim, kMaxTileHeadDim);
  }
  if (tokens < 1 || tokens > kMaxObjectTokens || first_token > UINT32_MAX - tokens) {
    return base::InvalidArgument("object: {} tokens from {}, legal are 1..{}", tokens, first_token,
                                 kMaxObjectTokens);
  }
  if (geometry.kv_heads % heads_per_tile() != 0) {
    return base::InvalidArgument("object: head group {} does not divide {} kv heads", head_group,
                                 geometry.kv_heads);
  }
  return base::Status::Ok();
}

TileShape ShapeOf(const ObjectInfo& info, const TileRef& tile) {
  const uint32_t first = tile.token_tile * tensor::kTileTokens;
  return {std::min(tensor::kTileTokens, info.tokens - first), info.heads_per_tile(), info.geometry.head_dim};
}

size_t TileIndex(const ObjectInfo& info, const TileRef& tile) {
  const size_t group = static_cast<size_t>(tile.side) * info.head_groups() + tile.head_group;
  return group * info.token_tiles() + tile.token_tile;
}

TileRef TileAt(const ObjectInfo& info, size_t index) {
  const size_t group = index / info.token_tiles();
  return {static_cast<tensor::Side>(group / info.head_groups()),
          static_cast<uint32_t>(group % info.head_groups()),
          static_cast<uint32_t>(index % info.token_tiles())};
}

TileContext ContextOf(const ObjectInfo& info, uint32_t layer, const TileRef& tile) {
  TileContext context;
  context.layer = layer;
  context.layers = info.geometry.layers;
  context.first_head = tile.head_group * info.heads_per_tile();
  context.kv_heads = info.geometry.kv_heads;
  context.first_position = info.first_token + tile.token_tile * tensor::kTileTokens;
  context.end_position = info.first_token + info.tokens;
  context.quality = info.quality[static_cast<size_t>(tile.side)];
  return context;
}

uint64_t OverheadBytes(const ObjectInfo& info) {
  const size_t text_bytes = info.strategy.side(tensor::Side::kKey).ToString().size() +
                            info.strategy.side(tensor::Side::kValue).ToString().size();
  return layout::PrefixBytes(text_bytes, info.geometry.layers) +
         uint64_t{info.geometry.layers} * layout::IndexBytes(info.tiles_per_layer());
}

uint64_t MaxObjectBytes(const ObjectInfo& info) {
  return OverheadBytes(info) + info.raw_bytes() + uint64_t{info.geometry.layers} * info.tiles_per_layer();
}

}  // namespace kvplane::codec
