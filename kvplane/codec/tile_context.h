// TileContext: where a tile stands in its model and sequence, for stages that treat places differently.
//
// Thread safety: a value.
#pragma once

#include <cstdint>

namespace kvplane::codec {

struct TileContext {
  uint32_t layer = 0;
  uint32_t layers = 1;          // of the model
  uint32_t first_head = 0;      // the KV head of the model that head 0 of the tile is
  uint32_t kv_heads = 0;        // of the model; 0: those of the tile
  uint32_t first_position = 0;  // position in its sequence of token 0 of the tile: what RoPE rotated it by
  uint32_t end_position = 0;    // one past the last position of the object or transfer; 0: unknown
  uint8_t quality = 0;  // shifts the step of `ecsq`, in 1/16 octaves around 128; 0: as the strategy says
};

}  // namespace kvplane::codec
