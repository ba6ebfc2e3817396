// SymbolQuantizer: a bound quantiser that makes byte symbols, for the code stages that take any alphabet
// (pack, rans(stream), bitplane_rle, zstd, lz4). Fused pairs such as `affine | pack` go their own, faster way
// (pack/pack_stage.h).
//
// Thread safety: immutable; shared by all threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/codec/tile_context.h"
#include "kvplane/codec/tile_rows.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

class HeadwiseQuantizer;

class SymbolQuantizer {
 public:
  SymbolQuantizer() = default;
  SymbolQuantizer(const SymbolQuantizer&) = delete;
  SymbolQuantizer& operator=(const SymbolQuantizer&) = delete;
  virtual ~SymbolQuantizer() = default;

  // How many symbols head `head` of the tile uses, 2..256: symbols are below it.
  virtual uint32_t Alphabet(const TileContext& context, uint32_t head) const = 0;
  // The most any context can give: what legality is judged by.
  virtual uint32_t MaxAlphabet() const = 0;
  // The least any context can give: what lower bounds of lengths are made of.
  virtual uint32_t MinAlphabet() const { return MaxAlphabet(); }
  // Bytes of side information (zeros, scales, norms), a function of shape and context alone.
  virtual size_t SideBytes(const TileContext& context, const TileShape& shape) const = 0;

  // side: [SideBytes()]; symbols: [heads, tokens, head_dim]. False: these values cannot be held faithfully.
  virtual bool Encode(const TileContext& context, const tensor::ConstTileView& in, Workspace& workspace,
                      std::byte* side, uint8_t* symbols) const = 0;
  // Requires: symbols are below their alphabet (coders check). kCorrupt: illegal side information; it is
  // checked before the first write.
  virtual base::Status Decode(const TileContext& context, const std::byte* side, const uint8_t* symbols,
                              Workspace& workspace, const tensor::TileView& out) const = 0;

  // This quantiser when it can work head by head, or null: coders then keep the symbols of one head in the
  // nearest cache.
  virtual const HeadwiseQuantizer* headwise() const { return nullptr; }
};

// A quantiser whose heads do not depend on each other.
class HeadwiseQuantizer : public SymbolQuantizer {
 public:
  // side: of the whole tile; symbols: [tokens, head_dim] of head `head`. False: as Encode().
  virtual bool EncodeHead(const TileContext& context, const TileShape& shape, uint32_t head,
                          const TileRows<const uint16_t>& rows, std::byte* side, uint8_t* symbols) const = 0;
  // kCorrupt: illegal side information.
  virtual base::Status CheckSide(const TileContext& context, const TileShape& shape,
                                 const std::byte* side) const = 0;
  // Requires: CheckSide(), symbols below their alphabet.
  virtual void DecodeHead(const TileContext& context, const TileShape& shape, uint32_t head,
                          const std::byte* side, const uint8_t* symbols,
                          const TileRows<uint16_t>& rows) const = 0;

  bool Encode(const TileContext& context, const tensor::ConstTileView& in, Workspace& workspace,
              std::byte* side, uint8_t* symbols) const final;
  base::Status Decode(const TileContext& context, const std::byte* side, const uint8_t* symbols,
                      Workspace& workspace, const tensor::TileView& out) const final;
  const HeadwiseQuantizer* headwise() const final { return this; }
};

// Whether the chain has a quantiser that makes byte symbols: what a code stage validates by.
bool MakesSymbols(Chain chain);

// The quantiser of a legal chain, or null when its quantize slot is empty or makes no byte symbols (ecsq,
// ternary). `profile` may be null when the chain needs none. The chain outlives the quantiser.
std::unique_ptr<SymbolQuantizer> BindSymbolQuantizer(Chain chain,
                                                     std::shared_ptr<const ModelProfile> profile);

}  // namespace kvplane::codec
