#include "kvplane/codec/cachegen/cachegen_stage.h"

#include <algorithm>
#include <array>

#include "kvplane/base/endian.h"
#include "kvplane/codec/levels/level_groups.h"
#include "kvplane/codec/tile_rows.h"
#include "kvplane/kernel/narrow/narrow.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::codec {
namespace {

constexpr uint32_t kHigh = 32;
constexpr uint32_t kMid = 16;
constexpr uint32_t kLow = 12;

base::Status Validate(Chain, size_t) { return base::Status::Ok(); }

// How many layers, from the first, have the finer of the two tiers of a level.
uint32_t FinerLayers(const StageCall& call, uint32_t layers) {
  const uint32_t level = call.params[0];
  if (level == 3) return layers;
  const uint64_t count = layers;
  if (call.params[1] == 1) return static_cast<uint32_t>(std::max<uint64_t>(2, count * 15 / 100));
  return static_cast<uint32_t>(count * (level == 1 ? 63 : 32) / 100);
}

// What a symbol stands for is the int8 code symbol - M: the kernels are those of `int8`, with another scale.
constexpr auto kInt8 = static_cast<size_t>(kernel::NarrowFormat::kInt8);

void Shift(const uint8_t* from, size_t count, uint8_t by, uint8_t* to) {
  for (size_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(from[i] + by);
}

class CachegenQuantizer final : public SymbolQuantizer {
 public:
  explicit CachegenQuantizer(const StageCall& call) : call_(call) {}

  uint32_t Alphabet(const TileContext& context, uint32_t) const override { return 2 * TopOf(context) + 1; }
  uint32_t MaxAlphabet() const override { return (call_.params[0] == 1 ? kMid : kHigh) - 1; }
  uint32_t MinAlphabet() const override {
    return (call_.params[0] == 1 ? kLow : call_.params[0] == 2 ? kMid : kHigh) - 1;
  }
  size_t SideBytes(const TileContext&, const TileShape& shape) const override {
    return shape.tokens * sizeof(uint16_t);
  }

  bool Encode(const TileContext& context, const tensor::ConstTileView& in, Workspace&, std::byte* side,
              uint8_t* symbols) const override {
    const uint32_t top = TopOf(context);
    std::array<uint16_t, tensor::kTileTokens> largest{};
    for (uint32_t head = 0; head < in.heads; ++head) {
      const TileRows<const uint16_t> rows(in, head);
      if (head + 1 < in.heads) PrefetchHead(rows, in.head_stride);
      std::array<uint16_t, tensor::kTileTokens> of_head;
      kernel::Narrow().largest_of_tokens(rows.data(), in.tokens, in.head_dim, of_head.data());
      for (uint32_t t = 0; t < in.tokens; ++t) largest[t] = std::max(largest[t], of_head[t]);
    }
    std::array<float, tensor::kTileTokens> inverse;
    for (uint32_t t = 0; t < in.tokens; ++t) {
      if (largest[t] >= kernel::kNarrowMagnitudeLimit) return false;
      const uint16_t scale = kernel::SymmetricScaleOf(static_cast<float>(top), largest[t]);
      base::StoreLe(side + t * sizeof(uint16_t), scale);
      inverse[t] = kernel::NarrowInverseOf(scale);
    }
    auto* codes = reinterpret_cast<std::byte*>(symbols);
    for (uint32_t head = 0; head < in.heads; ++head) {
      const TileRows<const uint16_t> rows(in, head);
      for (uint32_t t = 0; t < in.tokens; ++t, codes += in.head_dim) {
        kernel::Narrow().encode[kInt8](rows.data() + t, 1, in.head_dim, inverse[t], codes);
      }
    }
    Shift(symbols, in.values(), static_cast<uint8_t>(top), symbols);
    return true;
  }

  base::Status Decode(const TileContext& context, const std::byte* side, const uint8_t* symbols,
                      Workspace& workspace, const tensor::TileView& out) const override {
    const uint32_t top = TopOf(context);
    const uint16_t limit = kernel::SymmetricScaleOf(static_cast<float>(top), kernel::kNarrowMagnitudeLimit);
    std::array<float, tensor::kTileTokens> scale;
    for (uint32_t t = 0; t < out.tokens; ++t) {
      const auto pattern = base::LoadLe<uint16_t>(side + t * sizeof(uint16_t));
      if (pattern > limit) return base::Corrupt("cachegen: a scale lies outside the format's range");
      scale[t] = tensor::Bf16ToFloat(pattern);
    }
    const std::span<std::byte> shifted = workspace.Scratch(out.values(), Workspace::Use::kQuantizer);
    Shift(symbols, out.values(), static_cast<uint8_t>(0u - top), reinterpret_cast<uint8_t*>(shifted.data()));
    const std::byte* codes = shifted.data();
    for (uint32_t head = 0; head < out.heads; ++head) {
      const TileRows<uint16_t> rows(out, head);
      for (uint32_t t = 0; t < out.tokens; ++t, codes += out.head_dim) {
        kernel::Narrow().decode[kInt8](codes, 1, out.head_dim, scale[t], rows.data() + t);
      }
    }
    return base::Status::Ok();
  }

 private:
  uint32_t TopOf(const TileContext& context) const {
    return CachegenBins(call_, context.layer, context.layers) / 2 - 1;
  }

  StageCall call_;
};

}  // namespace

constinit const StageFunctions kCachegenFunctions = {Validate, nullptr, nullptr, nullptr};

uint32_t CachegenBins(const StageCall& call, uint32_t layer, uint32_t layers) {
  const bool finer = layer < FinerLayers(call, layers);
  if (call.params[0] == 1) return finer ? kMid : kLow;
  return finer || call.params[0] == 3 ? kHigh : kMid;
}

std::unique_ptr<SymbolQuantizer> MakeCachegenQuantizer(const StageCall& call) {
  return std::make_unique<CachegenQuantizer>(call);
}

}  // namespace kvplane::codec
