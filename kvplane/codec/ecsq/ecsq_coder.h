// EcsqCoder: ecsq | rans(table=class), fused: bf16 rows to streams and streams to bf16 rows, nothing staged.
//
// Thread safety: immutable but for its plans, which are locked inside.
#pragma once

#include <memory>

#include "kvplane/codec/ecsq/ecsq_payload.h"
#include "kvplane/codec/ecsq/ecsq_plan.h"
#include "kvplane/codec/tile_coder.h"

namespace kvplane::codec {

class EcsqCoder final : public TileCoder {
 public:
  // `chain` outlives the coder. Requires: EcsqPlans::Check().
  EcsqCoder(Chain chain, tensor::Side side, std::shared_ptr<const ModelProfile> profile);

  size_t LeastBytes(const TileShape& shape) const override;
  size_t Encode(const TileContext& context, const tensor::ConstTileView& in, Workspace& workspace,
                std::span<std::byte> out) const override;
  base::Status Decode(const TileContext& context, std::span<const std::byte> in, Workspace& workspace,
                      const tensor::TileView& out) const override;
  base::Status Check() const { return plans_.Check(); }

 private:
  Chain chain_;
  EcsqPlans plans_;
};

}  // namespace kvplane::codec
