#include "kvplane/codec/store/store_stage.h"

#include <cstring>

#include "kvplane/codec/tile_rows.h"

namespace kvplane::codec {
namespace {

base::Status Validate(Chain chain, size_t at) {
  if (at != 0) {
    return base::InvalidArgument(
        "L1: 'store' takes bf16 values and stands alone; '{}' before it makes symbols",
        StageOf(chain[at - 1]).name);
  }
  return base::Status::Ok();
}

size_t CodedBytes(Chain, const TileShape& shape) { return shape.raw_bytes(); }

bool Encode(Chain, const tensor::ConstTileView& in, std::byte* out) {
  EncodeRaw(in, out);
  return true;
}

// Every pattern is legal.
base::Status Check(Chain, const TileShape&, const std::byte*) { return base::Status::Ok(); }

void Decode(Chain, const std::byte* in, const tensor::TileView& out) { DecodeRaw(in, out); }

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

constinit const StageFunctions kStoreFunctions = {Validate, CodedBytes, Encode, Check, Decode};

}  // namespace kvplane::codec
