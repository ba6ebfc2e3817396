// The transforms of the transform slot, each over the bound geometry slot (tile_geometry.h). BindTransform()
// chooses among them.
#pragma once

#include <cstdint>
#include <memory>

#include "kvplane/base/status.h"
#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/transform/tile_geometry.h"
#include "kvplane/codec/transform/tile_transform.h"

namespace kvplane::codec {

// Geometry alone.
std::unique_ptr<TileTransform> MakeFrameTransform(TileGeometry geometry);
std::unique_ptr<TileTransform> MakeHadamardTransform(TileGeometry geometry, uint32_t seed);
std::unique_ptr<TileTransform> MakeDeltaTransform(TileGeometry geometry, uint32_t group);
// kFailedPrecondition: the profile has no such basis, or not enough of it in some layer.
base::Result<std::unique_ptr<TileTransform>> MakePcaTransform(TileGeometry geometry, const StageCall& call);

}  // namespace kvplane::codec
