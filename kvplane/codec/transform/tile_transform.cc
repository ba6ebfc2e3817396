#include "kvplane/codec/transform/tile_transform.h"

namespace kvplane::codec {

base::Result<std::unique_ptr<TileTransform>> BindTransform(Chain chain, tensor::Side,
                                                           std::shared_ptr<const ModelProfile>) {
  if (FindCall(chain, Slot::kGeometry) == nullptr && FindCall(chain, Slot::kTransform) == nullptr) {
    return std::unique_ptr<TileTransform>();
  }
  return base::Unimplemented("geometry and transform stages are not bound yet");
}

}  // namespace kvplane::codec
