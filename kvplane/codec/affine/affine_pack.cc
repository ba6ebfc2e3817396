#include "kvplane/codec/affine/affine_pack.h"

#include "kvplane/codec/affine/affine_stage.h"
#include "kvplane/codec/tile_rows.h"
#include "kvplane/kernel/pack/pack.h"
#include "kvplane/kernel/quantize/quantize.h"

namespace kvplane::codec {
namespace {

// Where the parts of a payload lie: zeros, scales, codes; each part holds the heads one after the other.
struct Layout {
  Layout(const AffineConfig& config_in, const TileShape& shape)
      : config(config_in),
        head_params(config.groups.PerHead(shape)),
        row_bytes(kernel::PackedRowBytes(shape.head_dim, config.bits)),
        head_codes(row_bytes * shape.tokens),
        plane_bytes(head_params * shape.heads * sizeof(uint16_t)) {}

  size_t zeros(size_t head) const { return head * head_params * sizeof(uint16_t); }
  size_t scales(size_t head) const { return plane_bytes + zeros(head); }
  size_t codes(size_t head) const { return 2 * plane_bytes + head * head_codes; }

  AffineConfig config;
  size_t head_params;
  size_t row_bytes;
  size_t head_codes;
  size_t plane_bytes;
};

size_t PayloadBytes(const StageCall& call, const TileShape& shape) {
  return Layout(AffineConfig::Of(call), shape).codes(shape.heads);
}

bool Encode(const StageCall& call, const tensor::ConstTileView& in, std::byte* out) {
  const Layout layout(AffineConfig::Of(call), ShapeOf(in));
  for (uint32_t head = 0; head < in.heads; ++head) {
    const TileRows<const uint16_t> rows(in, head);
    const size_t ahead = head + 1 < in.heads ? in.head_stride : 0;
    if (!layout.config.groups.Encode(rows, layout.config.Top(), layout.config.bits, ahead,
                                     out + layout.zeros(head), out + layout.scales(head),
                                     out + layout.codes(head))) {
      return false;
    }
  }
  return true;
}

base::Status Decode(const StageCall& call, const std::byte* in, bool streaming_stores,
                    const tensor::TileView& out) {
  const Layout layout(AffineConfig::Of(call), ShapeOf(out));
  const uint16_t scale_limit = kernel::AffineScaleLimit(layout.config.Top());
  if (!kernel::Quantize().params_valid(in + layout.zeros(0), in + layout.scales(0),
                                       layout.head_params * out.heads, scale_limit)) {
    return base::Corrupt("affine: a zero or scale lies outside the format's range");
  }
  for (uint32_t head = 0; head < out.heads; ++head) {
    layout.config.groups.Decode(in + layout.zeros(head), in + layout.scales(head), in + layout.codes(head),
                                layout.config.bits, streaming_stores, TileRows<uint16_t>(out, head));
  }
  return base::Status::Ok();
}

}  // namespace

constinit const PackedQuantizer kAffinePacked = {PayloadBytes, Encode, Decode};

}  // namespace kvplane::codec
