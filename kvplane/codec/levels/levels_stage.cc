#include "kvplane/codec/levels/levels_stage.h"

#include <algorithm>

#include "kvplane/codec/affine/affine_stage.h"
#include "kvplane/codec/select/bands.h"
#include "kvplane/kernel/quantize/quantize.h"

namespace kvplane::codec {
namespace {

base::Status Validate(Chain chain, size_t at) {
  const uint32_t m = chain[at].params[0];
  const uint32_t low = chain[at].params[1];
  const auto axis = static_cast<LevelAxis>(chain[at].params[2]);
  if (low == 1 || low > m) {
    return base::InvalidArgument("levels: low = {} is neither 0 nor in 2..m = {}", low, m);
  }
  KVPLANE_RETURN_IF_ERROR(CheckLowHasBand(chain, at, low));
  if (axis == LevelAxis::kTensor && chain[at].params[3] != 0) {
    return base::InvalidArgument("levels: axis = tensor has one group per head; group must be 0");
  }
  return base::Status::Ok();
}

class LevelsQuantizer final : public HeadwiseQuantizer {
 public:
  LevelsQuantizer(const LevelsConfig& config, Chain chain, std::shared_ptr<const ModelProfile> profile)
      : config_(config), chain_(chain), profile_(std::move(profile)) {}

  uint32_t Alphabet(const TileContext& context, uint32_t head) const override {
    return TopOf(context, head) + 1;
  }
  uint32_t MaxAlphabet() const override { return std::max(config_.top, config_.low_top) + 1; }
  uint32_t MinAlphabet() const override { return std::min(config_.top, config_.low_top) + 1; }
  size_t SideBytes(const TileContext&, const TileShape& shape) const override {
    return 2 * PlaneBytes(shape);
  }

  bool EncodeHead(const TileContext& context, const TileShape& shape, uint32_t head,
                  const TileRows<const uint16_t>& rows, std::byte* side, uint8_t* symbols) const override {
    const Planes planes(*this, shape);
    return config_.groups.Encode(rows, TopOf(context, head), 8, 0, side + planes.zeros(head),
                                 side + planes.scales(head), reinterpret_cast<std::byte*>(symbols));
  }

  base::Status CheckSide(const TileContext& context, const TileShape& shape,
                         const std::byte* side) const override {
    const Planes planes(*this, shape);
    for (uint32_t head = 0; head < shape.heads; ++head) {
      if (!kernel::Quantize().params_valid(side + planes.zeros(head), side + planes.scales(head),
                                           config_.groups.PerHead(shape),
                                           kernel::AffineScaleLimit(TopOf(context, head)))) {
        return base::Corrupt("levels: a zero or scale lies outside the format's range");
      }
    }
    return base::Status::Ok();
  }

  void DecodeHead(const TileContext&, const TileShape& shape, uint32_t head, const std::byte* side,
                  const uint8_t* symbols, const TileRows<uint16_t>& rows) const override {
    const Planes planes(*this, shape);
    config_.groups.Decode(side + planes.zeros(head), side + planes.scales(head),
                          reinterpret_cast<const std::byte*>(symbols), 8, false, rows);
  }

 private:
  // Where the parts of a head lie.
  struct Planes {
    Planes(const LevelsQuantizer& quantizer, const TileShape& shape)
        : head_bytes(quantizer.config_.groups.PerHead(shape) * sizeof(uint16_t)),
          plane_bytes(quantizer.PlaneBytes(shape)) {}
    size_t zeros(size_t head) const { return head * head_bytes; }
    size_t scales(size_t head) const { return plane_bytes + head * head_bytes; }
    size_t head_bytes, plane_bytes;
  };

  size_t PlaneBytes(const TileShape& shape) const {
    return config_.groups.PerHead(shape) * shape.heads * sizeof(uint16_t);
  }
  uint32_t TopOf(const TileContext& context, uint32_t head) const {
    if (config_.top == config_.low_top) return config_.top;
    return InLowBand(chain_, profile_.get(), context, head) ? config_.low_top : config_.top;
  }

  LevelsConfig config_;
  Chain chain_;  // of the codec that owns this quantizer
  std::shared_ptr<const ModelProfile> profile_;
};

}  // namespace

LevelsConfig LevelsConfig::Of(const StageCall& call) {
  if (call.stage_id == kStageAffine) {
    const AffineConfig affine = AffineConfig::Of(call);
    return {affine.Top(), affine.Top(), affine.groups};
  }
  const uint32_t low = call.params[1] == 0 ? call.params[0] : call.params[1];
  return {call.params[0] - 1, low - 1, {static_cast<LevelAxis>(call.params[2]), call.params[3]}};
}

constinit const StageFunctions kLevelsFunctions = {Validate, nullptr, nullptr, nullptr};

std::unique_ptr<SymbolQuantizer> MakeLevelsQuantizer(const LevelsConfig& config, Chain chain,
                                                     std::shared_ptr<const ModelProfile> profile) {
  return std::make_unique<LevelsQuantizer>(config, chain, std::move(profile));
}

}  // namespace kvplane::codec
