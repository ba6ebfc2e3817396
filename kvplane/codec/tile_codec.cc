#include "kvplane/codec/tile_codec.h"

#include <algorithm>
#include <new>

#include "kvplane/base/check.h"
#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/store/store_stage.h"
#include "kvplane/kernel/checksum/checksum.h"

namespace kvplane::codec {
namespace {

constexpr std::align_val_t kScratchAlignment{64};

}  // namespace

base::Status TileShape::Validate() const {
  if (tokens < 1 || tokens > tensor::kTileTokens || heads < 1 || heads > kMaxTileHeads || head_dim < 1 ||
      head_dim > kMaxTileHeadDim) {
    return base::InvalidArgument("tile of {} tokens, {} heads, head_dim {}: at most {}, {} and {}, none zero",
                                 tokens, heads, head_dim, tensor::kTileTokens, kMaxTileHeads,
                                 kMaxTileHeadDim);
  }
  return base::Status::Ok();
}

void Workspace::Release::operator()(std::byte* memory) const {
  ::operator delete[](memory, kScratchAlignment);
}

std::span<std::byte> Workspace::Scratch(size_t bytes) {
  if (bytes > bytes_) {
    const size_t grown = std::max(bytes, 2 * bytes_);
    memory_.reset();
    bytes_ = 0;
    memory_.reset(static_cast<std::byte*>(::operator new[](grown, kScratchAlignment)));
    bytes_ = grown;
  }
  return {memory_.get(), bytes};
}

base::Result<std::shared_ptr<const TileCodec>> TileCodec::Create(const SideStrategy& strategy) {
  KVPLANE_RETURN_IF_ERROR(CheckLegal(strategy.stages()));
  const StageFunctions* functions = StageOf(strategy.stages().back()).functions;
  if (functions->encode == nullptr) {
    return base::Unimplemented("no code for the strategy '{}'", strategy.ToString());
  }
  return std::shared_ptr<const TileCodec>(new TileCodec(strategy, functions));
}

base::Result<std::shared_ptr<const TileCodec>> TileCodec::FromWire(std::span<const std::byte> wire_strategy) {
  const std::string_view text(reinterpret_cast<const char*>(wire_strategy.data()), wire_strategy.size());
  const base::Result<SideStrategy> strategy = SideStrategy::ParseCanonical(text);
  if (!strategy.ok()) return base::Corrupt("strategy: {}", strategy.status().message());
  return Create(*strategy);
}

size_t TileCodec::MaxEncodedBytes(const TileShape& shape) const { return 1 + shape.raw_bytes(); }

size_t TileCodec::MinEncodedBytes(const TileShape& shape) const {
  return 1 + std::min(functions_->least_bytes(strategy_.stages(), shape), shape.raw_bytes());
}

base::Result<size_t> TileCodec::Encode(const tensor::ConstTileView& in, Workspace& workspace,
                                       std::span<std::byte> out) const {
  const TileShape shape = ShapeOf(in);
  KVPLANE_RETURN_IF_ERROR(shape.Validate());
  if (out.size() < MaxEncodedBytes(shape)) {
    return base::InvalidArgument("{} bytes for a coded tile that may need {}", out.size(),
                                 MaxEncodedBytes(shape));
  }
  const size_t raw_bytes = shape.raw_bytes();
  // Where coding saves nothing (very short tiles), raw is as small and exact.
  if (functions_->least_bytes(strategy_.stages(), shape) < raw_bytes) {
    const size_t coded = functions_->encode(strategy_.stages(), in, workspace, out.subspan(1, raw_bytes));
    KVPLANE_DCHECK(coded <= raw_bytes);
    if (coded > 0) {
      out[0] = static_cast<std::byte>(TileMethod::kCoded);
      return 1 + coded;
    }
  }
  out[0] = static_cast<std::byte>(TileMethod::kRaw);
  EncodeRaw(in, out.data() + 1);
  return 1 + raw_bytes;
}

base::Status TileCodec::Decode(std::span<const std::byte> in, Workspace& workspace,
                               const tensor::TileView& out) const {
  const TileShape shape = ShapeOf(out);
  KVPLANE_RETURN_IF_ERROR(shape.Validate());
  if (in.empty()) return base::Corrupt("coded tile is empty");
  const auto method = static_cast<uint8_t>(in[0]);
  if (method > static_cast<uint8_t>(TileMethod::kCoded)) {
    return base::Corrupt("coded tile has the unknown method {}", method);
  }
  const std::span<const std::byte> payload = in.subspan(1);
  if (method == static_cast<uint8_t>(TileMethod::kCoded)) {
    return functions_->decode(strategy_.stages(), payload, workspace, out);
  }
  if (payload.size() != shape.raw_bytes()) {
    return base::Corrupt("raw tile has {} bytes, its shape makes {}", payload.size(), shape.raw_bytes());
  }
  DecodeRaw(payload.data(), out);
  return base::Status::Ok();
}

uint32_t TileCrc(std::span<const std::byte> coded) { return kernel::Crc32c(coded); }

}  // namespace kvplane::codec
