#include "kvplane/codec/narrow/narrow_stage.h"

#include <array>

#include "kvplane/base/endian.h"
#include "kvplane/codec/levels/level_groups.h"
#include "kvplane/codec/tile_rows.h"
#include "kvplane/kernel/narrow/narrow.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::codec {
namespace {

constexpr uint16_t kScaleOfOne = 0x3f80;  // 1.0

struct Config {
  static Config OfInt8(const StageCall& call) {
    return {kernel::NarrowFormat::kInt8, static_cast<NarrowScale>(call.params[0])};
  }
  static Config Of(const StageCall& call) { return call.stage_id == kStageInt8 ? OfInt8(call) : OfFp8(call); }
  static Config OfFp8(const StageCall& call) {
    return {call.params[0] == 0 ? kernel::NarrowFormat::kE4m3 : kernel::NarrowFormat::kE5m2,
            static_cast<NarrowScale>(call.params[1])};
  }
  size_t index() const { return static_cast<size_t>(format); }

  kernel::NarrowFormat format;
  NarrowScale scale;
};

// Scales, then codes; each part holds the heads one after the other.
struct Layout {
  Layout(const Config& config, const TileShape& shape)
      : heads(shape.heads),
        rows_per_scale(config.scale == NarrowScale::kTokenHead ? 1 : shape.tokens),
        head_scales(config.scale == NarrowScale::kOne ? 0 : shape.tokens / rows_per_scale),
        head_values(size_t{shape.tokens} * shape.head_dim) {}

  size_t scales() const { return heads * head_scales; }
  size_t scale_bytes() const { return scales() * sizeof(uint16_t); }
  size_t scale(size_t head, size_t i) const { return (head * head_scales + i) * sizeof(uint16_t); }

  size_t heads;
  uint32_t rows_per_scale;
  size_t head_scales;
  size_t head_values;
};

size_t ScaleBytes(const Config& config, const TileShape& shape) {
  return Layout(config, shape).scale_bytes();
}

size_t PayloadBytes(const Config& config, const TileShape& shape) {
  const Layout layout(config, shape);
  return layout.scale_bytes() + layout.heads * layout.head_values;
}

// The largest magnitudes of what shares a scale, one after the other.
void LargestOf(const TileRows<const uint16_t>& rows, const Layout& layout, uint16_t* largest) {
  if (layout.rows_per_scale == 1) {
    kernel::Narrow().largest_of_tokens(rows.data(), rows.tokens(), rows.head_dim(), largest);
  } else {
    *largest = kernel::Narrow().largest_magnitude(rows.data(), rows.tokens(), rows.head_dim());
  }
}

bool EncodeTile(const Config& config, const tensor::ConstTileView& in, std::byte* scales, std::byte* codes) {
  const Layout layout(config, ShapeOf(in));
  for (uint32_t head = 0; head < in.heads; ++head) {
    const TileRows<const uint16_t> rows(in, head);
    if (head + 1 < in.heads) PrefetchHead(rows, in.head_stride);
    std::array<uint16_t, tensor::kTileTokens> largest;
    LargestOf(rows, layout, largest.data());
    for (uint32_t t = 0; t < rows.tokens(); t += layout.rows_per_scale) {
      const uint32_t i = t / layout.rows_per_scale;
      if (largest[i] >= kernel::kNarrowMagnitudeLimit) return false;
      uint16_t scale = kScaleOfOne;
      if (config.scale == NarrowScale::kOne) {
        if (largest[i] > kernel::NarrowLargest(config.format)) return false;
      } else {
        scale = kernel::NarrowScaleOf(config.format, largest[i]);
        base::StoreLe(scales + layout.scale(head, i), scale);
      }
      kernel::Narrow().encode[config.index()](rows.data() + t, layout.rows_per_scale, rows.head_dim(),
                                              kernel::NarrowInverseOf(scale), codes);
      codes += size_t{layout.rows_per_scale} * rows.head_dim();
    }
  }
  return true;
}

base::Status CheckPayload(const Config& config, const Layout& layout, const std::byte* scales,
                          const std::byte* codes) {
  const uint16_t limit = kernel::NarrowScaleLimit(config.format);
  for (size_t i = 0; i < layout.scales(); ++i) {
    if (base::LoadLe<uint16_t>(scales + i * sizeof(uint16_t)) > limit) {
      return base::Corrupt("8-bit format: a scale lies outside its range");
    }
  }
  if (!kernel::Narrow().codes_valid[config.index()](codes, layout.heads * layout.head_values)) {
    return base::Corrupt("8-bit format: a code has no finite value");
  }
  return base::Status::Ok();
}

base::Status DecodeTile(const Config& config, const std::byte* scales, const std::byte* codes,
                        const tensor::TileView& out) {
  const Layout layout(config, ShapeOf(out));
  KVPLANE_RETURN_IF_ERROR(CheckPayload(config, layout, scales, codes));
  for (uint32_t head = 0; head < out.heads; ++head) {
    const TileRows<uint16_t> rows(out, head);
    for (uint32_t t = 0; t < rows.tokens(); t += layout.rows_per_scale) {
      const uint16_t scale =
          config.scale == NarrowScale::kOne
              ? kScaleOfOne
              : base::LoadLe<uint16_t>(scales + layout.scale(head, t / layout.rows_per_scale));
      kernel::Narrow().decode[config.index()](codes, layout.rows_per_scale, rows.head_dim(),
                                              tensor::Bf16ToFloat(scale), rows.data() + t);
      codes += size_t{layout.rows_per_scale} * rows.head_dim();
    }
  }
  return base::Status::Ok();
}

// Any code stage that takes symbols may follow; those that do not say so themselves.
base::Status Validate(Chain, size_t) { return base::Status::Ok(); }

template <Config (*kConfigOf)(const StageCall&)>
constexpr PackedQuantizer PackedOf() {
  return {
      [](const StageCall& call, const TileShape& shape) { return PayloadBytes(kConfigOf(call), shape); },
      [](const StageCall& call, const tensor::ConstTileView& in, std::byte* out) {
        return EncodeTile(kConfigOf(call), in, out, out + ScaleBytes(kConfigOf(call), ShapeOf(in)));
      },
      [](const StageCall& call, const std::byte* in, bool /*streaming_stores*/, const tensor::TileView& out) {
        return DecodeTile(kConfigOf(call), in, in + ScaleBytes(kConfigOf(call), ShapeOf(out)), out);
      }};
}

// int8 codes are shifted to be unsigned: small magnitudes then differ in few bits, and -128 is no symbol.
constexpr uint8_t kInt8Shift = 127;
void Shift(const uint8_t* from, size_t count, uint8_t by, uint8_t* to) {
  for (size_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(from[i] + by);
}

class NarrowQuantizer final : public SymbolQuantizer {
 public:
  explicit NarrowQuantizer(const Config& config) : config_(config) {}

  uint32_t Alphabet(const TileContext&, uint32_t) const override { return MaxAlphabet(); }
  uint32_t MaxAlphabet() const override { return shifted() ? 2 * kInt8Shift + 1 : 256; }
  size_t SideBytes(const TileContext&, const TileShape& shape) const override {
    return ScaleBytes(config_, shape);
  }
  bool Encode(const TileContext&, const tensor::ConstTileView& in, Workspace&, std::byte* side,
              uint8_t* symbols) const override {
    if (!EncodeTile(config_, in, side, reinterpret_cast<std::byte*>(symbols))) return false;
    if (shifted()) Shift(symbols, in.values(), kInt8Shift, symbols);
    return true;
  }
  base::Status Decode(const TileContext&, const std::byte* side, const uint8_t* symbols, Workspace& workspace,
                      const tensor::TileView& out) const override {
    if (!shifted()) return DecodeTile(config_, side, reinterpret_cast<const std::byte*>(symbols), out);
    const std::span<std::byte> codes = workspace.Scratch(out.values(), Workspace::Use::kQuantizer);
    Shift(symbols, out.values(), static_cast<uint8_t>(-kInt8Shift), reinterpret_cast<uint8_t*>(codes.data()));
    return DecodeTile(config_, side, codes.data(), out);
  }

 private:
  bool shifted() const { return config_.format == kernel::NarrowFormat::kInt8; }

  Config config_;
};

}  // namespace

std::unique_ptr<SymbolQuantizer> MakeNarrowQuantizer(const StageCall& call) {
  return std::make_unique<NarrowQuantizer>(Config::Of(call));
}

constinit const StageFunctions kNarrowFunctions = {Validate, nullptr, nullptr, nullptr};
constinit const PackedQuantizer kInt8Packed = PackedOf<Config::OfInt8>();
constinit const PackedQuantizer kFp8Packed = PackedOf<Config::OfFp8>();

}  // namespace kvplane::codec
