#include "kvplane/codec/pack/packed_rows.h"

#include <algorithm>

#include "kvplane/kernel/pack/pack.h"

namespace kvplane::codec {
namespace {

struct Rows {
  uint32_t count;
  size_t symbols;
};

// Rows that end on a byte are one long row: the kernels like those better.
Rows RowsOf(const TileShape& shape, uint32_t bits) {
  if (shape.head_dim * bits % 8 != 0) return {shape.tokens, shape.head_dim};
  return {1, size_t{shape.tokens} * shape.head_dim};
}

}  // namespace

size_t PackedHeadBytes(const TileShape& shape, uint32_t bits) {
  return shape.tokens * kernel::PackedRowBytes(shape.head_dim, bits);
}

void PackHead(const uint8_t* symbols, const TileShape& shape, uint32_t bits, std::byte* out) {
  const Rows rows = RowsOf(shape, bits);
  const size_t row_bytes = kernel::PackedRowBytes(rows.symbols, bits);
  for (uint32_t r = 0; r < rows.count; ++r) {
    kernel::Packing().pack(symbols + r * rows.symbols, rows.symbols, bits, out + r * row_bytes);
  }
}

uint8_t UnpackHead(const std::byte* in, const TileShape& shape, uint32_t bits, uint8_t* symbols) {
  const Rows rows = RowsOf(shape, bits);
  const size_t row_bytes = kernel::PackedRowBytes(rows.symbols, bits);
  uint8_t largest = 0;
  for (uint32_t r = 0; r < rows.count; ++r) {
    largest = std::max(largest, kernel::Packing().unpack(in + r * row_bytes, rows.symbols, bits,
                                                         symbols + r * rows.symbols));
  }
  return largest;
}

}  // namespace kvplane::codec
