#include "kvplane/codec/transform/tile_transform.h"

#include "kvplane/codec/transform/bound_transforms.h"
#include "kvplane/codec/transform/centre_stage.h"
#include "kvplane/codec/transform/tile_geometry.h"

namespace kvplane::codec {

base::Result<std::unique_ptr<TileTransform>> BindTransform(Chain chain, tensor::Side side,
                                                           std::shared_ptr<const ModelProfile> profile) {
  const StageCall* transform = FindCall(chain, Slot::kTransform);
  if (transform == nullptr && FindCall(chain, Slot::kGeometry) == nullptr) {
    return std::unique_ptr<TileTransform>();
  }
  if (CoderTakesStaticMeans(chain)) return std::unique_ptr<TileTransform>();
  KVPLANE_ASSIGN_OR_RETURN(TileGeometry geometry, TileGeometry::Bind(chain, side, std::move(profile)));
  if (transform == nullptr) return MakeFrameTransform(std::move(geometry));
  switch (transform->stage_id) {
    case kStageHadamard:
      return MakeHadamardTransform(std::move(geometry), transform->params[0]);
    case kStagePca:
      return MakePcaTransform(std::move(geometry), *transform);
    case kStageDelta:
      return MakeDeltaTransform(std::move(geometry), transform->params[1]);
    default:
      return base::Unimplemented("'{}' has no transform", StageOf(*transform).name);
  }
}

}  // namespace kvplane::codec
