#include "kvplane/codec/lz/byte_planes.h"

#include <algorithm>

#include "kvplane/base/endian.h"
#include "kvplane/codec/tile_rows.h"
#include "kvplane/kernel/exponent/exponent.h"

namespace kvplane::codec {
namespace {

constexpr size_t kLengthBytes = sizeof(uint32_t);
// A payload is at least this part of the raw bytes: what an object claims to hold stays bounded by its size.
constexpr size_t kLargestRatio = 16;

}  // namespace

size_t LeastPlaneBytes(const TileShape& shape) {
  return std::max(kLengthBytes + 1, (shape.raw_bytes() + kLargestRatio - 1) / kLargestRatio);
}

size_t EncodePlanes(const PlaneCompressor& compressor, uint32_t level, const tensor::ConstTileView& in,
                    Workspace& workspace, std::span<std::byte> out) {
  const TileShape shape = ShapeOf(in);
  const std::span<std::byte> planes = workspace.Scratch(shape.raw_bytes());
  std::byte* rests = planes.data();
  std::byte* exponents = rests + shape.values();
  const size_t head_values = size_t{shape.tokens} * shape.head_dim;
  for (uint32_t head = 0; head < in.heads; ++head, rests += head_values, exponents += head_values) {
    const TileRows<const uint16_t> rows(in, head);
    kernel::Exponent().split(rows.data(), rows.tokens(), rows.head_dim(), rests, exponents);
  }
  const size_t compressed = compressor.compress(planes, level, out.subspan(kLengthBytes));
  if (compressed == 0) return 0;
  base::StoreLe(out.data(), static_cast<uint32_t>(compressed));
  const size_t bytes = std::max(kLengthBytes + compressed, LeastPlaneBytes(shape));
  std::fill(out.begin() + static_cast<ptrdiff_t>(kLengthBytes + compressed),
            out.begin() + static_cast<ptrdiff_t>(bytes), std::byte{0});
  return bytes;
}

base::Status DecodePlanes(const PlaneCompressor& compressor, std::span<const std::byte> in,
                          Workspace& workspace, const tensor::TileView& out) {
  const TileShape shape = ShapeOf(out);
  const size_t least = LeastPlaneBytes(shape);
  if (in.size() < least || in.size() > shape.raw_bytes()) {
    return base::Corrupt("{}: payload of {} bytes, its shape makes {}..{}", compressor.name, in.size(), least,
                         shape.raw_bytes());
  }
  const size_t compressed = base::LoadLe<uint32_t>(in.data());
  if (in.size() != std::max(kLengthBytes + compressed, least)) {
    return base::Corrupt("{}: {} compressed bytes in a payload of {}", compressor.name, compressed,
                         in.size());
  }
  const std::span<std::byte> planes = workspace.Scratch(shape.raw_bytes());
  KVPLANE_RETURN_IF_ERROR(compressor.decompress(in.subspan(kLengthBytes, compressed), planes));
  const std::byte* rests = planes.data();
  const std::byte* exponents = rests + shape.values();
  const size_t head_values = size_t{shape.tokens} * shape.head_dim;
  for (uint32_t head = 0; head < out.heads; ++head, rests += head_values, exponents += head_values) {
    const TileRows<uint16_t> rows(out, head);
    kernel::Exponent().join(rests, exponents, rows.tokens(), rows.head_dim(), rows.data());
  }
  return base::Status::Ok();
}

}  // namespace kvplane::codec
