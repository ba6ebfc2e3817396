// TileTransform: the bound geometry and transform slots of a chain: a bf16 tile to the bf16 tile that is
// quantised, and back. unrope, centre, hadamard, pca, delta.
//
// Arithmetic is binary32 between the two roundings to bf16, so that every quantiser behind it is the same
// bf16 kernel with and without a transform. The rounding costs about -50 dB, far below any quantiser here.
//
// Thread safety: immutable, or locked inside; shared by all threads of a TileCodec.
#pragma once

#include <cstdint>
#include <memory>

#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/codec/tile_context.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

class TileTransform {
 public:
  TileTransform() = default;
  TileTransform(const TileTransform&) = delete;
  TileTransform& operator=(const TileTransform&) = delete;
  virtual ~TileTransform() = default;

  // The shape that is quantised: as many tokens; heads and head_dim may differ (pca of rank r: heads x r, or
  // 1 x r for a layer).
  virtual TileShape CodedShape(const TileShape& shape) const = 0;
  // Bytes of side information per tile (block means, anchors): coded as they are, before the payload.
  virtual size_t SideBytes(const TileShape& shape) const = 0;

  // side: [SideBytes()]; out: contiguous [tokens, heads, head_dim] of CodedShape(). False: the tile holds
  // values that cannot be transformed (not finite, or 2^120 and more), or the profile has nothing for its
  // layer and heads: it is coded raw.
  virtual bool Forward(const TileContext& context, const tensor::ConstTileView& in, Workspace& workspace,
                       std::byte* side, uint16_t* out) const = 0;
  // kCorrupt: illegal side information. kFailedPrecondition: the profile does not fit the tile.
  virtual base::Status Inverse(const TileContext& context, const std::byte* side, const uint16_t* coded,
                               Workspace& workspace, const tensor::TileView& out) const = 0;
};

// Binds the geometry and transform stages of a legal chain, which outlives the transform; null when it has
// none, or when its quantiser does their work itself (ecsq takes the static means). `profile` may be null
// when the chain needs none. kFailedPrecondition: the profile lacks what a stage needs (a basis, the rope).
base::Result<std::unique_ptr<TileTransform>> BindTransform(Chain chain, tensor::Side side,
                                                           std::shared_ptr<const ModelProfile> profile);

}  // namespace kvplane::codec
