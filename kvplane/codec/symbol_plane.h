// SymbolPlane: the byte symbols of a tile, and the codes that take them (rans(stream), bitplane_rle, zstd,
// lz4): a code stage behind any quantiser is the quantiser's side information, then its symbols in the code.
//
// Thread safety: codes are immutable and shared by all threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kvplane/base/status.h"
#include "kvplane/codec/symbol_quantizer.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/codec/tile_coder.h"

namespace kvplane::codec {

// Symbols lie as [heads, tokens, head_dim]; those of head h are below alphabets[h] (2..256).
struct SymbolPlane {
  TileShape shape;
  std::span<const uint32_t> alphabets;  // [heads]

  size_t head_values() const { return size_t{shape.tokens} * shape.head_dim; }
};

class SymbolPlaneCode {
 public:
  SymbolPlaneCode() = default;
  SymbolPlaneCode(const SymbolPlaneCode&) = delete;
  SymbolPlaneCode& operator=(const SymbolPlaneCode&) = delete;
  virtual ~SymbolPlaneCode() = default;

  // The fewest bytes a plane of this shape can take.
  virtual size_t LeastBytes(const TileShape& shape) const = 0;
  // Writes the coded plane to the front of `out` and returns its length; 0: it does not fit. Uses
  // Workspace::Use::kStreams.
  virtual size_t Encode(const SymbolPlane& plane, const uint8_t* symbols, Workspace& workspace,
                        std::span<std::byte> out) const = 0;
  // Decodes exactly `in`; symbols below their alphabets, or kCorrupt (`symbols` is garbage then).
  virtual base::Status Decode(const SymbolPlane& plane, std::span<const std::byte> in, Workspace& workspace,
                              uint8_t* symbols) const = 0;
};

// Payload: side information, then the coded plane.
std::unique_ptr<TileCoder> MakeSymbolCoder(std::unique_ptr<SymbolQuantizer> quantizer,
                                           std::unique_ptr<SymbolPlaneCode> code);

}  // namespace kvplane::codec
