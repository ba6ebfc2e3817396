// The code of `rans(table=stream)`: a plane of symbols as up to eight rANS-B streams with tables made for it
// (docs/formats/rans.md, section 11; spec.md in this folder has the frame). Alphabets of at most 32.
//
// Also behind `exponent(mode=rans)`, whose exponents are such a plane.
#pragma once

#include "kvplane/codec/symbol_plane.h"

namespace kvplane::codec {

class StreamCode final : public SymbolPlaneCode {
 public:
  size_t LeastBytes(const TileShape& shape) const override;
  size_t Encode(const SymbolPlane& plane, const uint8_t* symbols, Workspace& workspace,
                std::span<std::byte> out) const override;
  base::Status Decode(const SymbolPlane& plane, std::span<const std::byte> in, Workspace& workspace,
                      uint8_t* symbols) const override;
};

}  // namespace kvplane::codec
