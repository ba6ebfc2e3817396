#include "kvplane/codec/affine/affine_pack.h"

#include <algorithm>

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
        head_params(config.GroupsPerHead(shape)),
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

bool EncodeHead(const Layout& layout, const TileRows<const uint16_t>& rows, size_t head, std::byte* out) {
  const AffineConfig& config = layout.config;
  const kernel::QuantizeKernels& kernels = kernel::Quantize();
  const size_t width = kernel::QuantizeKernels::WidthIndex(config.bits);
  std::byte* zeros = out + layout.zeros(head);
  std::byte* scales = out + layout.scales(head);
  std::byte* codes = out + layout.codes(head);
  if (config.axis == AffineAxis::kToken) {
    return kernels.encode_tokens[width](rows.data(), rows.tokens(), rows.head_dim(), config.group, config.Top(), zeros,
                                        scales, codes);
  }
  const size_t plane_step = rows.head_dim() * sizeof(uint16_t);
  for (uint32_t first = 0; first < rows.tokens(); first += config.group) {
    const uint32_t count = std::min(config.group, rows.tokens() - first);
    if (!kernels.encode_channels[width](rows.data() + first, count, rows.head_dim(), config.Top(), zeros, scales,
                                        codes + first * layout.row_bytes)) {
      return false;
    }
    zeros += plane_step;
    scales += plane_step;
  }
  return true;
}

void DecodeHead(const Layout& layout, const TileRows<uint16_t>& rows, size_t head, const std::byte* in) {
  const AffineConfig& config = layout.config;
  const kernel::QuantizeKernels& kernels = kernel::Quantize();
  const size_t width = kernel::QuantizeKernels::WidthIndex(config.bits);
  const std::byte* zeros = in + layout.zeros(head);
  const std::byte* scales = in + layout.scales(head);
  const std::byte* codes = in + layout.codes(head);
  if (config.axis == AffineAxis::kToken) {
    kernels.decode_tokens[width](zeros, scales, codes, rows.tokens(), rows.head_dim(), config.group,
                                 rows.data());
    return;
  }
  const size_t plane_step = rows.head_dim() * sizeof(uint16_t);
  for (uint32_t first = 0; first < rows.tokens(); first += config.group) {
    const uint32_t count = std::min(config.group, rows.tokens() - first);
    kernels.decode_channels[width](zeros, scales, codes + first * layout.row_bytes, count, rows.head_dim(),
                                   rows.data() + first);
    zeros += plane_step;
    scales += plane_step;
  }
}

// The first rows of the head that lies `head_stride` further: the row kernels only see one head.
void PrefetchStart(const TileRows<const uint16_t>& rows, size_t head_stride) {
  constexpr uint32_t kRows = 8;
  constexpr uint32_t kLineValues = 64 / sizeof(uint16_t);
  for (uint32_t t = 0; t < std::min(kRows, rows.tokens()); ++t) {
    const uint16_t* row = rows.data()[t] + head_stride;
    for (uint32_t c = 0; c < rows.head_dim(); c += kLineValues) __builtin_prefetch(row + c);
  }
}

size_t PayloadBytes(const StageCall& call, const TileShape& shape) {
  return Layout(AffineConfig::Of(call), shape).codes(shape.heads);
}

bool Encode(const StageCall& call, const tensor::ConstTileView& in, std::byte* out) {
  const Layout layout(AffineConfig::Of(call), ShapeOf(in));
  for (uint32_t head = 0; head < in.heads; ++head) {
    const TileRows<const uint16_t> rows(in, head);
    if (head + 1 < in.heads) PrefetchStart(rows, in.head_stride);
    if (!EncodeHead(layout, rows, head, out)) return false;
  }
  return true;
}

base::Status Decode(const StageCall& call, const std::byte* in, const tensor::TileView& out) {
  const Layout layout(AffineConfig::Of(call), ShapeOf(out));
  const uint16_t scale_limit = kernel::AffineScaleLimit(layout.config.Top());
  if (!kernel::Quantize().params_valid(in + layout.zeros(0), in + layout.scales(0),
                                       layout.head_params * out.heads, scale_limit)) {
    return base::Corrupt("affine: a zero or scale lies outside the format's range");
  }
  for (uint32_t head = 0; head < out.heads; ++head) {
    DecodeHead(layout, TileRows<uint16_t>(out, head), head, in);
  }
  return base::Status::Ok();
}

}  // namespace

constinit const PackedQuantizer kAffinePacked = {PayloadBytes, Encode, Decode};

}  // namespace kvplane::codec
