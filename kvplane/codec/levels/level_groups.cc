#include "kvplane/codec/levels/level_groups.h"

#include <algorithm>
#include <array>

#include "kvplane/base/endian.h"
#include "kvplane/kernel/pack/pack.h"
#include "kvplane/kernel/prefetch.h"
#include "kvplane/kernel/quantize/quantize.h"

namespace kvplane::codec {
namespace {

constexpr uint32_t DivideUp(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

// A group as wide as the row, as the kernels want it.
uint32_t WholeRow(uint32_t head_dim) { return DivideUp(head_dim, 8) * 8; }

}  // namespace

size_t LevelGroups::PerHead(const TileShape& shape) const {
  switch (axis) {
    case LevelAxis::kChannel:
      return size_t{group == 0 ? 1 : DivideUp(shape.tokens, group)} * shape.head_dim;
    case LevelAxis::kToken:
      return size_t{shape.tokens} * (group == 0 ? 1 : DivideUp(shape.head_dim, group));
    case LevelAxis::kTensor:
      break;
  }
  return 1;
}

bool LevelGroups::Encode(const TileRows<const uint16_t>& rows, uint32_t top, uint32_t bits, size_t ahead,
                         std::byte* zeros, std::byte* scales, std::byte* codes) const {
  const kernel::QuantizeKernels& kernels = kernel::Quantize();
  const size_t width = kernel::QuantizeKernels::WidthIndex(bits);
  const uint32_t head_dim = rows.head_dim();
  if (axis == LevelAxis::kTensor) {
    KVPLANE_DCHECK(bits == 8);
    return kernels.encode_tensor(rows.data(), rows.tokens(), head_dim, top, zeros, scales, codes);
  }
  if (axis == LevelAxis::kToken) {
    return kernels.encode_tokens[width](rows.data(), rows.tokens(), head_dim,
                                        group == 0 ? WholeRow(head_dim) : group, top, ahead, zeros, scales,
                                        codes);
  }
  const size_t plane_step = head_dim * sizeof(uint16_t);
  const size_t row_bytes = kernel::PackedRowBytes(head_dim, bits);
  const uint32_t step = group == 0 ? rows.tokens() : group;
  for (uint32_t first = 0; first < rows.tokens(); first += step) {
    if (!kernels.encode_channels[width](rows.data() + first, std::min(step, rows.tokens() - first), head_dim,
                                        top, ahead, zeros, scales, codes + first * row_bytes)) {
      return false;
    }
    zeros += plane_step;
    scales += plane_step;
  }
  return true;
}

void LevelGroups::Decode(const std::byte* zeros, const std::byte* scales, const std::byte* codes,
                         uint32_t bits, bool streaming_stores, const TileRows<uint16_t>& rows) const {
  const kernel::QuantizeKernels& kernels = kernel::Quantize();
  const size_t width = kernel::QuantizeKernels::WidthIndex(bits);
  const uint32_t head_dim = rows.head_dim();
  if (axis == LevelAxis::kTensor) {
    std::array<uint16_t, tensor::kTileTokens> zero_of_token, scale_of_token;
    zero_of_token.fill(base::LoadLe<uint16_t>(zeros));
    scale_of_token.fill(base::LoadLe<uint16_t>(scales));
    return kernels.decode_tokens[width](reinterpret_cast<const std::byte*>(zero_of_token.data()),
                                        reinterpret_cast<const std::byte*>(scale_of_token.data()), codes,
                                        rows.tokens(), head_dim, WholeRow(head_dim), streaming_stores,
                                        rows.data());
  }
  if (axis == LevelAxis::kToken) {
    return kernels.decode_tokens[width](zeros, scales, codes, rows.tokens(), head_dim,
                                        group == 0 ? WholeRow(head_dim) : group, streaming_stores,
                                        rows.data());
  }
  const size_t plane_step = head_dim * sizeof(uint16_t);
  const size_t row_bytes = kernel::PackedRowBytes(head_dim, bits);
  const uint32_t step = group == 0 ? rows.tokens() : group;
  for (uint32_t first = 0; first < rows.tokens(); first += step) {
    kernels.decode_channels[width](zeros, scales, codes + first * row_bytes,
                                   std::min(step, rows.tokens() - first), head_dim, streaming_stores,
                                   rows.data() + first);
    zeros += plane_step;
    scales += plane_step;
  }
}

void PrefetchHead(const TileRows<const uint16_t>& rows, size_t head_stride) {
  for (uint32_t t = 0; t < std::min(kernel::kPrefetchRows, rows.tokens()); ++t) {
    kernel::PrefetchRow(rows.data()[t] + head_stride, rows.head_dim());
  }
}

}  // namespace kvplane::codec
