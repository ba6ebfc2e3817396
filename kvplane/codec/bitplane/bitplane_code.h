// The code of `bitplane_rle`. Alphabets of up to 256.
#pragma once

#include "kvplane/codec/symbol_plane.h"

namespace kvplane::codec {

class BitplaneCode final : public SymbolPlaneCode {
 public:
  size_t LeastBytes(const TileShape& shape) const override;
  size_t Encode(const SymbolPlane& plane, const uint8_t* symbols, Workspace& workspace,
                std::span<std::byte> out) const override;
  base::Status Decode(const SymbolPlane& plane, std::span<const std::byte> in, Workspace& workspace,
                      uint8_t* symbols) const override;
};

}  // namespace kvplane::codec
