#include "kvplane/codec/transform/tile_geometry.h"

#include <algorithm>

#include "kvplane/base/endian.h"
#include "kvplane/kernel/narrow/narrow.h"
#include "kvplane/kernel/row_frame/row_frame.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::codec {
namespace {

KvSpace SpaceOf(tensor::Side side, bool unrope) {
  if (side == tensor::Side::kValue) return KvSpace::kValue;
  return unrope ? KvSpace::kKeyUnrotated : KvSpace::kKeyRotated;
}

bool AnyLayerHas(const ModelProfile& profile, KvSpace space) {
  for (uint32_t layer = 0; layer < profile.data().geometry.layers; ++layer) {
    if (profile.space(layer, space) != nullptr) return true;
  }
  return false;
}

}  // namespace

base::Result<TileGeometry> TileGeometry::Bind(Chain chain, tensor::Side side,
                                              std::shared_ptr<const ModelProfile> profile) {
  TileGeometry geometry;
  geometry.unrope_ = FindCall(chain, kStageUnrope) != nullptr;
  geometry.space_ = SpaceOf(side, geometry.unrope_);
  if (geometry.unrope_ && side == tensor::Side::kValue) {
    return base::InvalidArgument("L3: 'unrope' is for keys; values are not rotated");
  }
  if (const StageCall* centre = FindCall(chain, kStageCentre); centre != nullptr) {
    geometry.centre_ = static_cast<CentreScope>(centre->params[0]);
  }
  const bool is_static = geometry.centre_ == CentreScope::kStatic;
  const bool needs_profile = geometry.unrope_ || is_static || FindCall(chain, kStagePca) != nullptr;
  if (!needs_profile) return geometry;
  if (profile == nullptr) {
    return base::FailedPrecondition("L4: transforms of this chain need a profile of the model");
  }
  if (geometry.unrope_ && !profile->data().rope) {
    return base::FailedPrecondition("L3: 'unrope' needs the RoPE of the model; the profile has none");
  }
  if (is_static && !AnyLayerHas(*profile, geometry.space_)) {
    return base::FailedPrecondition("L4: the profile has no means for 'centre(static)' in this space");
  }
  geometry.tables_ = ProfileTables::Of(profile);
  geometry.profile_ = std::move(profile);
  return geometry;
}

size_t TileGeometry::SideBytes(const TileShape& shape) const {
  return centre_ == CentreScope::kBlock ? size_t{shape.heads} * shape.head_dim * sizeof(uint16_t) : 0;
}

bool TileGeometry::Fits(const TileContext& context, const TileShape& shape) const {
  if (profile_ == nullptr) return true;
  const tensor::KvGeometry& model = profile_->data().geometry;
  if (context.layer >= model.layers || shape.head_dim != model.head_dim ||
      context.first_head > model.kv_heads || shape.heads > model.kv_heads - context.first_head) {
    return false;
  }
  return centre_ != CentreScope::kStatic || profile_->space(context.layer, space_) != nullptr;
}

base::Status TileGeometry::DoesNotFit(const TileContext& context, const TileShape& shape) const {
  return base::FailedPrecondition("the profile has nothing for layer {}, KV heads {} to {} of {} channels",
                                  context.layer, context.first_head,
                                  uint64_t{context.first_head} + shape.heads, shape.head_dim);
}

RopeAngles::Rows TileGeometry::RopeRows(const TileContext& context, uint32_t tokens) const {
  return unrope_ ? tables_->rope()->At(context.first_position, tokens) : RopeAngles::Rows();
}

kernel::RowFrame TileGeometry::FrameWithoutMean(const RopeAngles::Rows& rope) const {
  kernel::RowFrame frame;
  if (!unrope_) return frame;
  const float magnitude = tables_->rope()->magnitude();
  frame.rope = rope.data();
  frame.half = tables_->rope()->half();
  frame.scale = 1.0f / (magnitude * magnitude);
  return frame;
}

void TileGeometry::LoadStaticMeans(const TileContext& context, uint32_t head, uint32_t head_dim,
                                   Means& means) const {
  const SpaceData& space = *profile_->space(context.layer, space_);
  const uint16_t* from = space.mean.data() + size_t{context.first_head + head} * head_dim;
  std::transform(from, from + head_dim, means.begin(), tensor::Bf16ToFloat);
}

void TileGeometry::MakeBlockMeans(const TileRows<const uint16_t>& rows, const kernel::RowFrame& frame,
                                  std::byte* side, Means& means) {
  kernel::RowFrames().Sum(rows.data(), rows.tokens(), rows.head_dim(), frame, means.data());
  const float share = 1.0f / static_cast<float>(rows.tokens());
  for (uint32_t c = 0; c < rows.head_dim(); ++c, side += sizeof(uint16_t)) {
    const uint16_t mean = tensor::FloatToBf16(means[c] * share);
    base::StoreLe(side, mean);
    means[c] = tensor::Bf16ToFloat(mean);
  }
}

bool TileGeometry::LoadBlockMeans(const std::byte* side, uint32_t head_dim, Means& means) {
  uint32_t largest = 0;
  for (uint32_t c = 0; c < head_dim; ++c, side += sizeof(uint16_t)) {
    const auto mean = base::LoadLe<uint16_t>(side);
    largest = std::max<uint32_t>(largest, mean & 0x7fffu);
    means[c] = tensor::Bf16ToFloat(mean);
  }
  return largest < 0x7f80;
}

bool TileGeometry::CanBeTransformed(const TileRows<const uint16_t>& rows) {
  return kernel::Narrow().largest_magnitude(rows.data(), rows.tokens(), rows.head_dim()) <
         kTransformMagnitudeLimit;
}

}  // namespace kvplane::codec
