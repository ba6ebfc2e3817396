// What the stages `zstd` and `lz4` share: the two byte planes of a tile (rests, then exponents) handed to a
// general compressor, and the frame around its output. lz/spec.md is normative.
//
// Exponents on their own are what such compressors find something in; the rests stay as they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {

struct PlaneCompressor {
  std::string_view name;
  // Compresses `planes` into `out` and returns the bytes written; 0 when they do not fit.
  size_t (*compress)(std::span<const std::byte> planes, uint32_t level, std::span<std::byte> out);
  // Decompresses `in` to exactly planes.size() bytes; takes no memory that `in` asks for. kCorrupt.
  base::Status (*decompress)(std::span<const std::byte> in, std::span<std::byte> planes);
};

size_t LeastPlaneBytes(const TileShape& shape);
size_t EncodePlanes(const PlaneCompressor& compressor, uint32_t level, const tensor::ConstTileView& in,
                    Workspace& workspace, std::span<std::byte> out);
base::Status DecodePlanes(const PlaneCompressor& compressor, std::span<const std::byte> in,
                          Workspace& workspace, const tensor::TileView& out);

}  // namespace kvplane::codec
