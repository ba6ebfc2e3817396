#include "kvplane/codec/bound_chain.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kvplane/base/check.h"
#include "kvplane/codec/ecsq/ecsq_stage.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {
namespace {

// A code stage that keeps nothing: its plain functions.
class PlainCoder final : public TileCoder {
 public:
  explicit PlainCoder(Chain chain) : chain_(chain), functions_(StageOf(chain.back()).functions) {}

  size_t LeastBytes(const TileShape& shape) const override { return functions_->least_bytes(chain_, shape); }
  size_t Encode(const TileContext&, const tensor::ConstTileView& in, Workspace& workspace,
                std::span<std::byte> out) const override {
    // Where coding saves nothing (very short tiles), raw is as small and exact.
    if (LeastBytes(ShapeOf(in)) >= out.size()) return 0;
    return functions_->encode(chain_, in, workspace, out);
  }
  base::Status Decode(const TileContext&, std::span<const std::byte> in, Workspace& workspace,
                      const tensor::TileView& out) const override {
    return functions_->decode(chain_, in, workspace, out);
  }

 private:
  Chain chain_;  // of the BoundChain that owns this coder
  const StageFunctions* functions_;
};

// `chain` outlives the coder.
base::Result<std::unique_ptr<TileCoder>> BindCoder(Chain chain, tensor::Side side,
                                                   std::shared_ptr<const ModelProfile> profile) {
  const StageFunctions& functions = *StageOf(chain.back()).functions;
  if (functions.bind != nullptr) {
    base::Result<std::unique_ptr<TileCoder>> coder = functions.bind(chain, side, std::move(profile));
    if (coder.ok() || coder.status().code() != base::StatusCode::kUnimplemented) return coder;
  }
  if (functions.encode == nullptr) {
    return base::Unimplemented("'{}' has no code for this chain", StageOf(chain.back()).name);
  }
  return std::unique_ptr<TileCoder>(std::make_unique<PlainCoder>(chain));
}

// Of the stand-in, in dB. Normative.
constexpr uint32_t kStandInMoreSnr = 6;
constexpr uint32_t kStandInLeastSnr = 21;
constexpr uint32_t kStandInMostSnr = 60;

}  // namespace

base::Result<std::unique_ptr<const BoundChain>> BoundChain::Create(
    SideStrategy strategy, tensor::Side side, std::shared_ptr<const ModelProfile> profile) {
  std::unique_ptr<BoundChain> bound(new BoundChain(std::move(strategy)));
  const Chain chain = bound->strategy_.stages();
  KVPLANE_ASSIGN_OR_RETURN(bound->transform_, BindTransform(chain, side, profile));
  KVPLANE_ASSIGN_OR_RETURN(bound->coder_, BindCoder(chain, side, std::move(profile)));
  return std::unique_ptr<const BoundChain>(std::move(bound));
}

size_t BoundChain::LeastBytes(const TileShape& shape) const {
  return coder_->LeastBytes(transform_ == nullptr ? shape : transform_->CodedShape(shape));
}

size_t BoundChain::Encode(const TileContext& context, const tensor::ConstTileView& in, Workspace& workspace,
                          std::span<std::byte> out) const {
  const TileShape shape = ShapeOf(in);
  if (transform_ == nullptr) return coder_->Encode(context, in, workspace, out);
  const TileShape coded_shape = transform_->CodedShape(shape);
  const size_t side_bytes = transform_->SideBytes(shape);
  if (side_bytes >= out.size()) return 0;
  const std::span<std::byte> memory =
      workspace.Scratch(coded_shape.raw_bytes(), Workspace::Use::kTransformed);
  auto* values = reinterpret_cast<uint16_t*>(memory.data());
  if (!transform_->Forward(context, in, workspace, out.data(), values)) return 0;
  const auto view =
      tensor::ConstTileView::Contiguous(values, coded_shape.tokens, coded_shape.heads, coded_shape.head_dim);
  if (side_bytes + coded_shape.raw_bytes() <= out.size()) {
    const size_t coded = coder_->Encode(context, view, workspace, out.subspan(side_bytes));
    return coded == 0 ? 0 : side_bytes + coded;
  }
  const std::span<std::byte> payload = workspace.Scratch(coded_shape.raw_bytes(), Workspace::Use::kPayload);
  const size_t coded = coder_->Encode(context, view, workspace, payload);
  if (coded == 0 || coded > out.size() - side_bytes) return 0;
  std::copy_n(payload.data(), coded, out.data() + side_bytes);
  return side_bytes + coded;
}

base::Status BoundChain::Decode(const TileContext& context, std::span<const std::byte> in,
                                Workspace& workspace, const tensor::TileView& out) const {
  if (transform_ == nullptr) return coder_->Decode(context, in, workspace, out);
  const TileShape shape = ShapeOf(out);
  const TileShape coded_shape = transform_->CodedShape(shape);
  const size_t side_bytes = transform_->SideBytes(shape);
  if (in.size() < side_bytes) {
    return base::Corrupt("payload of {} bytes, {} of side information", in.size(), side_bytes);
  }
  const std::span<std::byte> memory =
      workspace.Scratch(coded_shape.raw_bytes(), Workspace::Use::kTransformed);
  auto* values = reinterpret_cast<uint16_t*>(memory.data());
  KVPLANE_RETURN_IF_ERROR(coder_->Decode(
      context, in.subspan(side_bytes), workspace,
      tensor::TileView::Contiguous(values, coded_shape.tokens, coded_shape.heads, coded_shape.head_dim)));
  return transform_->Inverse(context, in.data(), values, workspace, out);
}

std::optional<SideStrategy> StandInFor(const SideStrategy& strategy, tensor::Side side) {
  uint32_t snr = 0;
  if (const StageCall* ternary = FindCall(strategy.stages(), kStageTernary); ternary != nullptr) {
    snr = ternary->params[1];
  } else if (const StageCall* ecsq = FindCall(strategy.stages(), kStageEcsq);
             ecsq != nullptr && ecsq->params[3] == static_cast<uint32_t>(EcsqScale::kProfile)) {
    snr = ecsq->params[0];
  } else {
    return std::nullopt;
  }
  snr = std::clamp(snr + kStandInMoreSnr, kStandInLeastSnr, kStandInMostSnr);
  base::Result<SideStrategy> stand_in =
      SideStrategy::Parse(fmt::format("centre(block) | ecsq(snr={},scale=tile) | rans(class)", snr), side);
  KVPLANE_CHECK(stand_in.ok());
  return *std::move(stand_in);
}

double StandInBits(const SideStrategy& stand_in) {
  constexpr double kDecibelsPerBit = 6.0206;
  return 1 + FindCall(stand_in.stages(), kStageEcsq)->params[0] / kDecibelsPerBit;
}

}  // namespace kvplane::codec
