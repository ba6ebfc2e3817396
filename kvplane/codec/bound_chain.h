// BoundChain: the geometry, transform, quantize and code slots of one chain of one side, bound to code: a
// tile to its payload and back. Protected rows, method bytes and padding are TileCodec's.
//
// Also here: the chain that stands in where a tile does not fit its profile.
//
// Thread safety: immutable; shared by all threads of a TileCodec.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>

#include "kvplane/base/status.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/codec/tile_coder.h"
#include "kvplane/codec/transform/tile_transform.h"

namespace kvplane::codec {

class BoundChain {
 public:
  // `profile` may be null when the chain takes none. Errors as TileCodec::Create().
  static base::Result<std::unique_ptr<const BoundChain>> Create(SideStrategy strategy, tensor::Side side,
                                                                std::shared_ptr<const ModelProfile> profile);

  const SideStrategy& strategy() const { return strategy_; }

  // As TileCoder's, for the tile in its own coordinates and with the transform's side information.
  size_t LeastBytes(const TileShape& shape) const;
  size_t Encode(const TileContext& context, const tensor::ConstTileView& in, Workspace& workspace,
                std::span<std::byte> out) const;
  base::Status Decode(const TileContext& context, std::span<const std::byte> in, Workspace& workspace,
                      const tensor::TileView& out) const;

 private:
  explicit BoundChain(SideStrategy strategy) : strategy_(std::move(strategy)) {}

  SideStrategy strategy_;                     // transform and coder borrow its stages
  std::unique_ptr<TileTransform> transform_;  // null: the coder takes the values themselves
  std::unique_ptr<TileCoder> coder_;
};

// What codes a tile without the profile where the chain's steps do not suit it (docs/formats/object.md,
// section 5, is normative): centre(block) | ecsq(scale=tile) | rans(class), at 6 dB more than the chain asks
// for and 21 at least. Nothing for chains whose steps are not the profile's.
std::optional<SideStrategy> StandInFor(const SideStrategy& strategy, tensor::Side side);

// About the bits per value that a stand-in takes, as a tile that fits takes less: an encoder tries the
// stand-in above this.
double StandInBits(const SideStrategy& stand_in);

}  // namespace kvplane::codec
