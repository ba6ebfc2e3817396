// TileGeometry: the bound geometry slot of a chain: the frame (kernel/row_frame) in which the values of each
// head of a tile are transformed, and the side information that goes with it (block means).
//
// Thread safety: immutable, or locked inside; shared by all threads.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/page_stores.h"
#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/codec/tile_context.h"
#include "kvplane/codec/tile_rows.h"
#include "kvplane/codec/transform/centre_stage.h"
#include "kvplane/codec/transform/profile_tables.h"
#include "kvplane/kernel/row_frame/row_frame.h"

namespace kvplane::codec {

// Magnitude pattern from which on a tile is coded raw: 2^120, so that rotations, and sums of 64 tokens, stay
// finite.
constexpr uint16_t kTransformMagnitudeLimit = 0x7b80;

static_assert(kMaxTileHeadDim <= kernel::kMaxRowChannels);

class TileGeometry {
 public:
  // `profile` may be null when the chain needs none. kFailedPrecondition: it lacks what the stages need.
  static base::Result<TileGeometry> Bind(Chain chain, tensor::Side side,
                                         std::shared_ptr<const ModelProfile> profile);

  // The space in which the values that reach the transform slot lie.
  KvSpace space() const { return space_; }
  const std::shared_ptr<const ModelProfile>& profile() const { return profile_; }
  ProfileTables& tables() const { return *tables_; }  // Requires: there is a profile.

  size_t SideBytes(const TileShape& shape) const;

  // Whether the profile has this tile's layer and heads, and its means where they are needed. Always true
  // without a profile.
  bool Fits(const TileContext& context, const TileShape& shape) const;

  // Calls body(head, rows, frame) for every head of the tile, with side information written. False (at once):
  // the tile does not fit, or holds values that cannot be transformed.
  template <typename Body>
  bool Forward(const TileContext& context, const tensor::ConstTileView& in, std::byte* side, Body body) const;

  // Calls body(head, rows, frame) for every head of the tile that is to be written.
  template <typename Body>
  base::Status Inverse(const TileContext& context, const std::byte* side, const tensor::TileView& out,
                       Body body) const;

 private:
  using Means = std::array<float, kMaxTileHeadDim>;

  TileGeometry() = default;

  RopeAngles::Rows RopeRows(const TileContext& context, uint32_t tokens) const;
  kernel::RowFrame FrameWithoutMean(const RopeAngles::Rows& rope) const;
  void LoadStaticMeans(const TileContext& context, uint32_t head, uint32_t head_dim, Means& means) const;
  // The means of the rows, as rounded and written to `side` [head_dim] bf16.
  static void MakeBlockMeans(const TileRows<const uint16_t>& rows, const kernel::RowFrame& frame,
                             std::byte* side, Means& means);
  static bool LoadBlockMeans(const std::byte* side, uint32_t head_dim, Means& means);
  static bool CanBeTransformed(const TileRows<const uint16_t>& rows);
  base::Status DoesNotFit(const TileContext& context, const TileShape& shape) const;

  KvSpace space_ = KvSpace::kValue;
  bool unrope_ = false;
  std::optional<CentreScope> centre_;
  std::shared_ptr<const ModelProfile> profile_;
  std::shared_ptr<ProfileTables> tables_;
};

template <typename Body>
bool TileGeometry::Forward(const TileContext& context, const tensor::ConstTileView& in, std::byte* side,
                           Body body) const {
  if (!Fits(context, ShapeOf(in))) return false;
  const RopeAngles::Rows rope = RopeRows(context, in.tokens);
  alignas(64) Means means;
  for (uint32_t head = 0; head < in.heads; ++head) {
    const TileRows<const uint16_t> rows(in, head);
    if (!CanBeTransformed(rows)) return false;
    kernel::RowFrame frame = FrameWithoutMean(rope);
    frame.ahead = head + 1 < in.heads ? in.head_stride : 0;
    if (centre_ == CentreScope::kStatic) LoadStaticMeans(context, head, in.head_dim, means);
    if (centre_ == CentreScope::kBlock) {
      MakeBlockMeans(rows, frame, side + size_t{2} * head * in.head_dim, means);
    }
    if (centre_) frame.mean = means.data();
    body(head, rows, frame);
  }
  return true;
}

template <typename Body>
base::Status TileGeometry::Inverse(const TileContext& context, const std::byte* side,
                                   const tensor::TileView& out, Body body) const {
  if (!Fits(context, ShapeOf(out))) return DoesNotFit(context, ShapeOf(out));
  const RopeAngles::Rows rope = RopeRows(context, out.tokens);
  alignas(64) Means means;
  for (uint32_t head = 0; head < out.heads; ++head) {
    const TileRows<uint16_t> rows(out, head);
    kernel::RowFrame frame = FrameWithoutMean(rope);
    frame.streaming_stores = out.values() * sizeof(uint16_t) >= kStreamingBytes;
    if (centre_ == CentreScope::kStatic) LoadStaticMeans(context, head, out.head_dim, means);
    if (centre_ == CentreScope::kBlock &&
        !LoadBlockMeans(side + size_t{2} * head * out.head_dim, out.head_dim, means)) {
      return base::Corrupt("centre: a mean of head {} is not finite", head);
    }
    if (centre_) frame.mean = means.data();
    body(head, rows, frame);
  }
  return base::Status::Ok();
}

}  // namespace kvplane::codec
