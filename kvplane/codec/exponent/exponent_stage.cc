#include "kvplane/codec/exponent/exponent_stage.h"

#include <algorithm>

#include "kvplane/codec/exponent/exponent_streams.h"
#include "kvplane/codec/page_stores.h"
#include "kvplane/codec/tile_rows.h"
#include "kvplane/kernel/exponent/exponent.h"

namespace kvplane::codec {
namespace {

// Where the parts of a payload lie: bases, rests, codes, escapes; each part holds the heads in order.
struct Layout {
  explicit Layout(const TileShape& shape)
      : heads(shape.heads),
        head_values(size_t{shape.tokens} * shape.head_dim),
        head_codes(shape.tokens * kernel::WindowRowBytes(shape.head_dim)) {}

  size_t rests(size_t head) const { return heads + head * head_values; }
  size_t codes(size_t head) const { return rests(heads) + head * head_codes; }
  size_t escapes() const { return codes(heads); }

  size_t heads;
  size_t head_values;
  size_t head_codes;
};

size_t LeastBytes(Chain, const TileShape& shape) { return Layout(shape).escapes(); }

// The window ends at the largest exponent: values shrink from there, and nothing finite lies above it.
uint8_t WindowBase(uint8_t largest_exponent) {
  constexpr uint8_t kLast = kernel::kEscapeCode - 1;
  return largest_exponent > kLast ? static_cast<uint8_t>(largest_exponent - kLast) : uint8_t{0};
}

size_t Encode(Chain, const tensor::ConstTileView& in, Workspace&, std::span<std::byte> out) {
  const kernel::ExponentKernels& kernels = kernel::Exponent();
  const Layout layout(ShapeOf(in));
  size_t end = layout.escapes();
  for (uint32_t head = 0; head < in.heads; ++head) {
    const TileRows<const uint16_t> rows(in, head);
    const uint8_t base = WindowBase(kernels.largest_exponent(rows.data(), rows.tokens(), rows.head_dim()));
    out[head] = static_cast<std::byte>(base);
    const size_t escapes = kernels.encode(rows.data(), rows.tokens(), rows.head_dim(), base,
                                          head + 1 < in.heads ? in.head_stride : 0, &out[layout.rests(head)],
                                          &out[layout.codes(head)], out.data() + end, out.size() - end);
    if (escapes == kernel::kNoEscapeRoom) return 0;
    end += escapes;
  }
  return end;
}

// Escape codes of a payload that is long enough to hold all codes.
size_t CountEscapes(const Layout& layout, const TileShape& shape, const std::byte* in) {
  const kernel::ExponentKernels& kernels = kernel::Exponent();
  const std::byte* codes = in + layout.codes(0);
  if (shape.head_dim % 2 == 0) return kernels.count_escapes(codes, shape.values());  // rows without padding
  const size_t row_bytes = kernel::WindowRowBytes(shape.head_dim);
  size_t escapes = 0;
  for (size_t row = 0; row < size_t{shape.tokens} * shape.heads; ++row, codes += row_bytes) {
    escapes += kernels.count_escapes(codes, shape.head_dim);
  }
  return escapes;
}

base::Status Decode(Chain chain, std::span<const std::byte> in, Workspace&, const tensor::TileView& out) {
  const TileShape shape = ShapeOf(out);
  const Layout layout(shape);
  if (in.size() < layout.escapes()) {
    return base::Corrupt("exponent: payload of {} bytes, its shape makes {} or more", in.size(),
                         layout.escapes());
  }
  const auto beyond = [](std::byte base) { return static_cast<uint8_t>(base) > kernel::kMaxWindowBase; };
  if (std::any_of(in.begin(), in.begin() + shape.heads, beyond)) {
    return base::Corrupt("exponent: a window base lies above {}", kernel::kMaxWindowBase);
  }
  const size_t escapes = CountEscapes(layout, shape, in.data());
  if (in.size() - layout.escapes() != escapes) {
    return base::Corrupt("exponent: {} escapes for {} escape codes", in.size() - layout.escapes(), escapes);
  }
  const bool streaming_stores = WritesAroundCaches(chain, out);
  size_t at = layout.escapes();
  for (uint32_t head = 0; head < out.heads; ++head) {
    const TileRows<uint16_t> rows(out, head);
    at += kernel::Exponent().decode(&in[layout.rests(head)], &in[layout.codes(head)], in.data() + at,
                                    static_cast<uint8_t>(in[head]), rows.tokens(), rows.head_dim(),
                                    streaming_stores, rows.data());
  }
  return base::Status::Ok();
}

base::Result<std::unique_ptr<TileCoder>> Bind(Chain chain, tensor::Side,
                                              std::shared_ptr<const ModelProfile>) {
  if (static_cast<ExponentMode>(chain.back().params[0]) == ExponentMode::kRans) {
    return MakeExponentStreamCoder();
  }
  return base::Unimplemented("windows keep nothing between tiles");
}

}  // namespace

constinit const StageFunctions kExponentFunctions = {CheckTakesValues, LeastBytes, Encode, Decode, Bind};

}  // namespace kvplane::codec
