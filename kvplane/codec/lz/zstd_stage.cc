#include "kvplane/codec/lz/zstd_stage.h"

#include <zstd.h>

#include <memory>

#include "kvplane/codec/lz/byte_planes.h"
#include "kvplane/codec/lz/symbol_compressor.h"

namespace kvplane::codec {
namespace {

struct FreeContext {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

// One per thread: a context is large and costs more to make than a tile to code.
ZSTD_CCtx* CompressContext() {
  thread_local const std::unique_ptr<ZSTD_CCtx, FreeContext> context(ZSTD_createCCtx());
  return context.get();
}
ZSTD_DCtx* DecompressContext() {
  thread_local const std::unique_ptr<ZSTD_DCtx, FreeContext> context(ZSTD_createDCtx());
  return context.get();
}

size_t CompressFrame(std::span<const std::byte> in, uint32_t level, std::span<std::byte> out) {
  const size_t bytes = ZSTD_compressCCtx(CompressContext(), out.data(), out.size(), in.data(), in.size(),
                                         static_cast<int>(level));
  return ZSTD_isError(bytes) != 0 ? 0 : bytes;
}

size_t CompressSymbols(std::span<const std::byte> rows, uint32_t level, std::span<std::byte> out) {
  return CompressContext() == nullptr ? 0 : CompressFrame(rows, level, out);
}

// A frame per plane: within a frame a block may hold the end of one and the start of the other, and would
// code both with one table.
size_t Compress(std::span<const std::byte> planes, uint32_t level, std::span<std::byte> out) {
  if (CompressContext() == nullptr) return 0;
  const size_t plane = planes.size() / 2;
  const size_t rests = CompressFrame(planes.first(plane), level, out);
  if (rests == 0) return 0;
  const size_t exponents = CompressFrame(planes.subspan(plane), level, out.subspan(rests));
  return exponents == 0 ? 0 : rests + exponents;
}

// With the whole output in one piece zstd takes no window memory, whatever the frame asks for.
base::Status Decompress(std::span<const std::byte> in, std::span<std::byte> planes) {
  ZSTD_DCtx* context = DecompressContext();
  if (context == nullptr) return base::ResourceExhausted("zstd: no memory for a decoder");
  const size_t bytes = ZSTD_decompressDCtx(context, planes.data(), planes.size(), in.data(), in.size());
  if (ZSTD_isError(bytes) != 0) return base::Corrupt("zstd: {}", ZSTD_getErrorName(bytes));
  if (bytes != planes.size()) return base::Corrupt("zstd: {} bytes for planes of {}", bytes, planes.size());
  return base::Status::Ok();
}

constexpr PlaneCompressor kZstd = {"zstd", Compress, Decompress};
constexpr PlaneCompressor kZstdSymbols = {"zstd", CompressSymbols, Decompress};

// Its entropy coder sees bytes: whole symbols in each, as many as go.
uint32_t SymbolBits(uint32_t alphabet) {
  return alphabet <= 2 ? 1 : alphabet <= 4 ? 2 : alphabet <= 16 ? 4 : 8;
}

size_t LeastBytes(Chain, const TileShape& shape) { return LeastPlaneBytes(shape); }

size_t Encode(Chain chain, const tensor::ConstTileView& in, Workspace& workspace, std::span<std::byte> out) {
  return EncodePlanes(kZstd, chain.back().params[0], in, workspace, out);
}

base::Status Decode(Chain, std::span<const std::byte> in, Workspace& workspace, const tensor::TileView& out) {
  return DecodePlanes(kZstd, in, workspace, out);
}

base::Result<std::unique_ptr<TileCoder>> Bind(Chain chain, tensor::Side,
                                              std::shared_ptr<const ModelProfile> profile) {
  return BindSymbolCompressor(chain, std::move(profile), kZstdSymbols, chain.back().params[0], SymbolBits);
}

}  // namespace

constinit const StageFunctions kZstdFunctions = {CheckCompressible, LeastBytes, Encode, Decode, Bind};

}  // namespace kvplane::codec
