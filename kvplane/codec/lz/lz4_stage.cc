#include "kvplane/codec/lz/lz4_stage.h"

#include <lz4.h>

#include "kvplane/codec/lz/byte_planes.h"
#include "kvplane/codec/lz/symbol_compressor.h"
#include "kvplane/codec/pack/packed_rows.h"

namespace kvplane::codec {
namespace {

static_assert(size_t{tensor::kTileTokens} * kMaxTileHeads * kMaxTileHeadDim * 2 <= LZ4_MAX_INPUT_SIZE);

size_t Compress(std::span<const std::byte> planes, uint32_t, std::span<std::byte> out) {
  const int bytes =
      LZ4_compress_default(reinterpret_cast<const char*>(planes.data()), reinterpret_cast<char*>(out.data()),
                           static_cast<int>(planes.size()), static_cast<int>(out.size()));
  return bytes > 0 ? static_cast<size_t>(bytes) : 0;
}

base::Status Decompress(std::span<const std::byte> in, std::span<std::byte> planes) {
  const int bytes =
      LZ4_decompress_safe(reinterpret_cast<const char*>(in.data()), reinterpret_cast<char*>(planes.data()),
                          static_cast<int>(in.size()), static_cast<int>(planes.size()));
  if (bytes < 0 || static_cast<size_t>(bytes) != planes.size()) {
    return base::Corrupt("lz4: not a block of {} bytes", planes.size());
  }
  return base::Status::Ok();
}

constexpr PlaneCompressor kLz4 = {"lz4", Compress, Decompress};

size_t LeastBytes(Chain, const TileShape& shape) { return LeastPlaneBytes(shape); }

size_t Encode(Chain, const tensor::ConstTileView& in, Workspace& workspace, std::span<std::byte> out) {
  return EncodePlanes(kLz4, 0, in, workspace, out);
}

base::Status Decode(Chain, std::span<const std::byte> in, Workspace& workspace, const tensor::TileView& out) {
  return DecodePlanes(kLz4, in, workspace, out);
}

// It has no entropy coder: the narrowest rows.
base::Result<std::unique_ptr<TileCoder>> Bind(Chain chain, tensor::Side,
                                              std::shared_ptr<const ModelProfile> profile) {
  return BindSymbolCompressor(chain, std::move(profile), kLz4, 0, PackedWidth);
}

}  // namespace

constinit const StageFunctions kLz4Functions = {CheckCompressible, LeastBytes, Encode, Decode, Bind};

}  // namespace kvplane::codec
