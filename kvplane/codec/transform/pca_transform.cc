#include <algorithm>

#include "kvplane/codec/transform/bound_transforms.h"
#include "kvplane/codec/transform/pca_stage.h"
#include "kvplane/kernel/project/project.h"

namespace kvplane::codec {
namespace {

// What a pca call comes to with a profile.
struct PcaPlan {
  Basis basis = Basis::kHead;
  uint32_t rank = 0;

  bool over_layer() const { return basis == Basis::kLayer || basis == Basis::kLayerAttention; }
};

class PcaTransform final : public TileTransform {
 public:
  PcaTransform(TileGeometry geometry, PcaPlan plan) : geometry_(std::move(geometry)), plan_(plan) {}

  TileShape CodedShape(const TileShape& shape) const override {
    return {shape.tokens, plan_.over_layer() ? 1 : shape.heads, plan_.rank};
  }
  size_t SideBytes(const TileShape& shape) const override { return geometry_.SideBytes(shape); }

  bool Forward(const TileContext& context, const tensor::ConstTileView& in, Workspace& workspace,
               std::byte* side, uint16_t* out) const override {
    if (!Fits(context, ShapeOf(in))) return false;
    const auto basis = Packed(context, ProjectionWay::kForward);
    return plan_.over_layer() ? ForwardLayer(context, in, *basis, workspace, side, out)
                              : ForwardHeads(context, in, *basis, workspace, side, out);
  }

  base::Status Inverse(const TileContext& context, const std::byte* side, const uint16_t* coded,
                       Workspace& workspace, const tensor::TileView& out) const override {
    const TileShape shape = ShapeOf(out);
    if (!Fits(context, shape)) {
      return base::FailedPrecondition("the profile has no basis for layer {}, KV heads {} to {}",
                                      context.layer, context.first_head,
                                      uint64_t{context.first_head} + shape.heads);
    }
    const auto basis = Packed(context, ProjectionWay::kInverse);
    const TileShape coded_shape = CodedShape(shape);
    const size_t dim = shape.head_dim;
    auto* rows_f32 = reinterpret_cast<float*>(
        workspace.Scratch(shape.tokens * dim * sizeof(float), Workspace::Use::kTransform).data());
    return geometry_.Inverse(context, side, out, [&](uint32_t head, const auto& rows, const auto& frame) {
      const kernel::Projection projection{.x = plan_.over_layer() ? coded : coded + size_t{head} * plan_.rank,
                                          .x_stride = size_t{coded_shape.heads} * plan_.rank,
                                          .tokens = shape.tokens,
                                          .depth = plan_.rank,
                                          .matrix = &(*basis)[context.first_head + head],
                                          .columns = shape.head_dim};
      kernel::Project().to_f32(projection, rows_f32, dim);
      kernel::RowFrames().Restore(rows_f32, dim, shape.tokens, shape.head_dim, frame, rows.data());
    });
  }

 private:
  std::shared_ptr<const PackedBasis> Packed(const TileContext& context, ProjectionWay way) const {
    return geometry_.tables().Packed(*geometry_.profile(),
                                     {context.layer, geometry_.space(), plan_.basis, way});
  }

  bool Fits(const TileContext& context, const TileShape& shape) const {
    if (!geometry_.Fits(context, shape)) return false;
    if (plan_.over_layer() && shape.heads != geometry_.profile()->data().geometry.kv_heads) return false;
    return geometry_.profile()->basis(context.layer, geometry_.space(), plan_.basis) != nullptr;
  }

  bool ForwardHeads(const TileContext& context, const tensor::ConstTileView& in, const PackedBasis& basis,
                    Workspace& workspace, std::byte* side, uint16_t* out) const {
    const size_t dim = in.head_dim;
    auto* centred = reinterpret_cast<uint16_t*>(
        workspace.Scratch(in.tokens * dim * sizeof(uint16_t), Workspace::Use::kTransform).data());
    return geometry_.Forward(context, in, side, [&](uint32_t head, const auto& rows, const auto& frame) {
      kernel::RowFrames().Remove(rows.data(), in.tokens, in.head_dim, frame, centred, dim);
      const kernel::Projection projection{.x = centred,
                                          .x_stride = dim,
                                          .tokens = in.tokens,
                                          .depth = in.head_dim,
                                          .matrix = &basis[context.first_head + head],
                                          .columns = plan_.rank};
      kernel::Project().to_bf16(projection, out + size_t{head} * plan_.rank, size_t{in.heads} * plan_.rank);
    });
  }

  bool ForwardLayer(const TileContext& context, const tensor::ConstTileView& in, const PackedBasis& basis,
                    Workspace& workspace, std::byte* side, uint16_t* out) const {
    const size_t channels = size_t{in.heads} * in.head_dim;
    auto* centred = reinterpret_cast<uint16_t*>(
        workspace.Scratch(in.tokens * channels * sizeof(uint16_t), Workspace::Use::kTransform).data());
    const bool framed =
        geometry_.Forward(context, in, side, [&](uint32_t head, const auto& rows, const auto& frame) {
          kernel::RowFrames().Remove(rows.data(), in.tokens, in.head_dim, frame,
                                     centred + size_t{head} * in.head_dim, channels);
        });
    if (!framed) return false;
    const kernel::Projection projection{.x = centred,
                                        .x_stride = channels,
                                        .tokens = in.tokens,
                                        .depth = static_cast<uint32_t>(channels),
                                        .matrix = &basis[0],
                                        .columns = plan_.rank};
    kernel::Project().to_bf16(projection, out, plan_.rank);
    return true;
  }

  TileGeometry geometry_;
  PcaPlan plan_;
};

// One rank for all layers, since the shape of a coded tile does not depend on its layer.
base::Result<PcaPlan> PlanOf(const TileGeometry& geometry, const StageCall& call) {
  const ModelProfile& profile = *geometry.profile();
  const PcaPlan wanted{BasisOf(call), call.params[2]};
  uint32_t least = kMaxTileHeadDim;
  uint32_t most = 0;
  for (uint32_t layer = 0; layer < profile.data().geometry.layers; ++layer) {
    const BasisData* basis = profile.basis(layer, geometry.space(), wanted.basis);
    if (basis == nullptr) continue;
    least = std::min(least, basis->rank);
    most = std::max(most, basis->rank);
  }
  if (most == 0) {
    return base::FailedPrecondition("L4: the profile has no basis for 'pca({},{})' in this space",
                                    kPcaScopes[call.params[0]], kPcaMetrics[call.params[1]]);
  }
  const uint32_t rank = wanted.rank == 0 ? std::min(most, kMaxTileHeadDim) : wanted.rank;
  if (rank > least) {
    return base::FailedPrecondition(
        "L4: 'pca' of rank {}: the profile has {} components in some layer; give a rank of {} at most", rank,
        least, least);
  }
  return PcaPlan{wanted.basis, rank};
}

}  // namespace

base::Result<std::unique_ptr<TileTransform>> MakePcaTransform(TileGeometry geometry, const StageCall& call) {
  KVPLANE_ASSIGN_OR_RETURN(const PcaPlan plan, PlanOf(geometry, call));
  return std::unique_ptr<TileTransform>(std::make_unique<PcaTransform>(std::move(geometry), plan));
}

}  // namespace kvplane::codec
