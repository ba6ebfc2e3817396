// Stage `pack`: codes of fixed width. spec.md in this folder is normative.
#pragma once

#include <cstddef>

#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {

// What a quantiser gives `pack`: quantising and packing are one pass, codes never lie in memory unpacked.
struct PackedQuantizer {
  // Payload bytes of a tile, a function of parameters and shape alone.
  size_t (*payload_bytes)(const StageCall& call, const TileShape& shape);
  // Writes payload_bytes() to `out`. False: these values cannot be held faithfully.
  bool (*encode)(const StageCall& call, const tensor::ConstTileView& in, std::byte* out);
  // Decodes payload_bytes() of `in`, all or nothing. kCorrupt. streaming_stores: around the caches, where the
  // kernels can.
  base::Status (*decode)(const StageCall& call, const std::byte* in, bool streaming_stores,
                         const tensor::TileView& out);
};

extern const StageFunctions kPackFunctions;

}  // namespace kvplane::codec
