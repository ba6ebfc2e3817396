#include "kvplane/codec/store/store_stage.h"

#include <cstring>

#include "kvplane/codec/tile_rows.h"

namespace kvplane::codec {
namespace {

size_t LeastBytes(Chain, const TileShape& shape) { return shape.raw_bytes(); }

// Coding saves nothing: the raw method holds the same bytes.
size_t Encode(Chain, const tensor::ConstTileView&, Workspace&, std::span<std::byte>) { return 0; }

base::Status Decode(Chain, std::span<const std::byte> in, Workspace&, const tensor::TileView& out) {
  const size_t raw_bytes = ShapeOf(out).raw_bytes();
  if (in.size() != raw_bytes) {
    return base::Corrupt("store: payload of {} bytes for values of {}", in.size(), raw_bytes);
  }
  DecodeRaw(in.data(), out);
  return base::Status::Ok();
}

}  // namespace

void EncodeRaw(const tensor::ConstTileView& in, std::byte* out) {
  const size_t row_bytes = in.head_dim * sizeof(uint16_t);
  for (uint32_t head = 0; head < in.heads; ++head) {
    for (uint32_t r = 0; r < in.run_count; ++r) {
      const uint16_t* row = in.runs[r].base + head * in.head_stride;
      const size_t rows = in.runs[r].tokens;
      if (in.token_stride == in.head_dim) {
        std::memcpy(out, row, rows * row_bytes);
        out += rows * row_bytes;
        continue;
      }
      for (size_t i = 0; i < rows; ++i, row += in.token_stride, out += row_bytes) {
        std::memcpy(out, row, row_bytes);
      }
    }
  }
}

void DecodeRaw(const std::byte* in, const tensor::TileView& out) {
  const size_t row_bytes = out.head_dim * sizeof(uint16_t);
  for (uint32_t head = 0; head < out.heads; ++head) {
    for (uint32_t r = 0; r < out.run_count; ++r) {
      uint16_t* row = out.runs[r].base + head * out.head_stride;
      const size_t rows = out.runs[r].tokens;
      if (out.token_stride == out.head_dim) {
        std::memcpy(row, in, rows * row_bytes);
        in += rows * row_bytes;
        continue;
      }
      for (size_t i = 0; i < rows; ++i, row += out.token_stride, in += row_bytes) {
        std::memcpy(row, in, row_bytes);
      }
    }
  }
}

constinit const StageFunctions kStoreFunctions = {CheckTakesValues, LeastBytes, Encode, Decode};

}  // namespace kvplane::codec
