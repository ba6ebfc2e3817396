#include "kvplane/codec/narrow/narrow_stage.h"

#include "kvplane/base/endian.h"
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
  size_t scale(size_t head, size_t i) const { return (head * head_scales + i) * sizeof(uint16_t); }
  size_t codes(size_t head) const { return scales() * sizeof(uint16_t) + head * head_values; }

  size_t heads;
  uint32_t rows_per_scale;
  size_t head_scales;
  size_t head_values;
};

size_t PayloadBytes(const Config& config, const TileShape& shape) {
  const Layout layout(config, shape);
  return layout.codes(shape.heads);
}

bool EncodeTile(const Config& config, const tensor::ConstTileView& in, std::byte* out) {
  const kernel::NarrowKernels& kernels = kernel::Narrow();
  const Layout layout(config, ShapeOf(in));
  for (uint32_t head = 0; head < in.heads; ++head) {
    const TileRows<const uint16_t> rows(in, head);
    std::byte* codes = out + layout.codes(head);
    for (uint32_t t = 0; t < rows.tokens(); t += layout.rows_per_scale) {
      const uint16_t largest =
          kernels.largest_magnitude(rows.data() + t, layout.rows_per_scale, rows.head_dim());
      if (largest >= kernel::kNarrowMagnitudeLimit) return false;
      uint16_t scale = kScaleOfOne;
      if (config.scale == NarrowScale::kOne) {
        if (largest > kernel::NarrowLargest(config.format)) return false;
      } else {
        scale = kernel::NarrowScaleOf(config.format, largest);
        base::StoreLe(out + layout.scale(head, t / layout.rows_per_scale), scale);
      }
      kernels.encode[config.index()](rows.data() + t, layout.rows_per_scale, rows.head_dim(),
                                     kernel::NarrowInverseOf(scale), codes);
      codes += size_t{layout.rows_per_scale} * rows.head_dim();
    }
  }
  return true;
}

base::Status CheckPayload(const Config& config, const Layout& layout, const std::byte* in) {
  const uint16_t limit = kernel::NarrowScaleLimit(config.format);
  for (size_t i = 0; i < layout.scales(); ++i) {
    if (base::LoadLe<uint16_t>(in + i * sizeof(uint16_t)) > limit) {
      return base::Corrupt("8-bit format: a scale lies outside its range");
    }
  }
  if (!kernel::Narrow().codes_valid[config.index()](in + layout.codes(0),
                                                    layout.heads * layout.head_values)) {
    return base::Corrupt("8-bit format: a code has no finite value");
  }
  return base::Status::Ok();
}

base::Status DecodeTile(const Config& config, const std::byte* in, const tensor::TileView& out) {
  const Layout layout(config, ShapeOf(out));
  KVPLANE_RETURN_IF_ERROR(CheckPayload(config, layout, in));
  for (uint32_t head = 0; head < out.heads; ++head) {
    const TileRows<uint16_t> rows(out, head);
    const std::byte* codes = in + layout.codes(head);
    for (uint32_t t = 0; t < rows.tokens(); t += layout.rows_per_scale) {
      const uint16_t scale = config.scale == NarrowScale::kOne
                                 ? kScaleOfOne
                                 : base::LoadLe<uint16_t>(in + layout.scale(head, t / layout.rows_per_scale));
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
  return {[](const StageCall& call, const TileShape& shape) { return PayloadBytes(kConfigOf(call), shape); },
          [](const StageCall& call, const tensor::ConstTileView& in, std::byte* out) {
            return EncodeTile(kConfigOf(call), in, out);
          },
          [](const StageCall& call, const std::byte* in, const tensor::TileView& out) {
            return DecodeTile(kConfigOf(call), in, out);
          }};
}

}  // namespace

constinit const StageFunctions kNarrowFunctions = {Validate, nullptr, nullptr, nullptr};
constinit const PackedQuantizer kInt8Packed = PackedOf<Config::OfInt8>();
constinit const PackedQuantizer kFp8Packed = PackedOf<Config::OfFp8>();

}  // namespace kvplane::codec
