#include "kvplane/codec/tile_codec.h"

#include <algorithm>
#include <new>
#include <optional>
#include <utility>

#include "kvplane/base/check.h"
#include "kvplane/base/endian.h"
#include "kvplane/codec/bound_chain.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/select/bands.h"
#include "kvplane/codec/select/protect_stage.h"
#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/store/store_stage.h"
#include "kvplane/kernel/checksum/checksum.h"

namespace kvplane::codec {
namespace {

constexpr std::align_val_t kScratchAlignment{64};

// Method 2: u32 length, payload, zeros up to the least size. The payload lies at out[1..].
size_t Pad(size_t coded, size_t raw_bytes, std::span<std::byte> out) {
  const size_t padded = std::max(raw_bytes / kMaxTileRatio, sizeof(uint32_t) + coded);
  std::copy_backward(out.begin() + 1, out.begin() + 1 + static_cast<ptrdiff_t>(coded),
                     out.begin() + 1 + static_cast<ptrdiff_t>(sizeof(uint32_t) + coded));
  out[0] = static_cast<std::byte>(TileMethod::kPadded);
  base::StoreLe(out.data() + 1, static_cast<uint32_t>(coded));
  std::fill(out.begin() + 1 + static_cast<ptrdiff_t>(sizeof(uint32_t) + coded),
            out.begin() + 1 + static_cast<ptrdiff_t>(padded), std::byte{0});
  return 1 + padded;
}

base::Result<std::span<const std::byte>> Unpad(std::span<const std::byte> in, size_t raw_bytes) {
  if (in.size() < sizeof(uint32_t)) return base::Corrupt("padded tile of {} bytes", in.size());
  const auto coded = base::LoadLe<uint32_t>(in.data());
  const size_t padded = std::max(raw_bytes / kMaxTileRatio, sizeof(uint32_t) + coded);
  if (coded == 0 || coded >= raw_bytes / kMaxTileRatio || in.size() != padded) {
    return base::Corrupt("padded tile of {} bytes with a payload of {}", in.size(), coded);
  }
  const auto zeros = in.subspan(sizeof(uint32_t) + coded);
  if (std::any_of(zeros.begin(), zeros.end(), [](std::byte b) { return b != std::byte{0}; })) {
    return base::Corrupt("padded tile: the padding is not zero");
  }
  return in.subspan(sizeof(uint32_t), coded);
}

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

std::span<std::byte> Workspace::Scratch(size_t bytes, Use use) {
  Arena& arena = arenas_[static_cast<size_t>(use)];
  if (bytes > arena.bytes) {
    const size_t grown = std::max(bytes, 2 * arena.bytes);
    arena.memory.reset();
    arena.bytes = 0;
    arena.memory.reset(static_cast<std::byte*>(::operator new[](grown, kScratchAlignment)));
    arena.bytes = grown;
  }
  return {arena.memory.get(), bytes};
}

TileCodec::TileCodec(SideStrategy strategy, std::shared_ptr<const ModelProfile> profile)
    : strategy_(std::move(strategy)), profile_(std::move(profile)) {}

TileCodec::~TileCodec() = default;

base::Result<std::shared_ptr<const TileCodec>> TileCodec::Create(
    const SideStrategy& strategy, tensor::Side side, std::shared_ptr<const ModelProfile> profile) {
  KVPLANE_RETURN_IF_ERROR(CheckLegal(strategy.stages(), side));
  if (!strategy.needs_profile()) {
    profile.reset();
  } else if (profile == nullptr) {
    return base::FailedPrecondition("L4: the strategy '{}' needs a profile of the model; there is none",
                                    strategy.ToString());
  }
  KVPLANE_RETURN_IF_ERROR(CheckBands(strategy.stages(), profile.get()));
  std::shared_ptr<TileCodec> codec(new TileCodec(strategy, profile));
  KVPLANE_ASSIGN_OR_RETURN(codec->chain_, BoundChain::Create(strategy, side, profile));
  if (std::optional<SideStrategy> stand_in = StandInFor(strategy, side); stand_in.has_value()) {
    KVPLANE_ASSIGN_OR_RETURN(codec->stand_in_, BoundChain::Create(*std::move(stand_in), side, nullptr));
  }
  return std::shared_ptr<const TileCodec>(std::move(codec));
}

base::Result<std::shared_ptr<const TileCodec>> TileCodec::FromWire(
    std::span<const std::byte> wire_strategy, tensor::Side side,
    std::shared_ptr<const ModelProfile> profile) {
  const std::string_view text(reinterpret_cast<const char*>(wire_strategy.data()), wire_strategy.size());
  const base::Result<SideStrategy> strategy = SideStrategy::ParseCanonical(text, side);
  if (!strategy.ok()) return base::Corrupt("strategy: {}", strategy.status().message());
  return Create(*strategy, side, std::move(profile));
}

size_t TileCodec::MaxEncodedBytes(const TileShape& shape) const { return 1 + shape.raw_bytes(); }

size_t TileCodec::LeastBodyBytes(const TileShape& shape) const {
  const size_t least = chain_->LeastBytes(shape);
  return stand_in_ == nullptr ? least : std::min(least, stand_in_->LeastBytes(shape));
}

size_t TileCodec::MinEncodedBytes(const TileShape& shape) const {
  size_t least = LeastBodyBytes(shape);
  if (FindCall(strategy_.stages(), kStageProtect) != nullptr) {
    // Raw rows can be cheaper than coded ones where few tokens share a scale.
    for (uint32_t coded = 1; coded < shape.tokens; ++coded) {
      const ProtectedRows rows{static_cast<uint8_t>(shape.tokens - coded), 0};
      least = std::min(least, rows.Bytes(shape) + LeastBodyBytes({coded, shape.heads, shape.head_dim}));
    }
  }
  least = std::min(least, shape.raw_bytes());
  return 1 + std::max(least, shape.raw_bytes() / kMaxTileRatio);
}

base::Status TileCodec::CheckContext(const TileShape& shape, const TileContext& context) const {
  if (profile_ == nullptr) return base::Status::Ok();
  const tensor::KvGeometry& geometry = profile_->data().geometry;
  if (context.layer >= geometry.layers || shape.head_dim != geometry.head_dim ||
      context.first_head > geometry.kv_heads || shape.heads > geometry.kv_heads - context.first_head) {
    return base::InvalidArgument(
        "tile of layer {}, heads {}..{}, head_dim {} does not fit the profile's {} layers, {} KV heads, "
        "head_dim {}",
        context.layer, context.first_head, context.first_head + shape.heads, shape.head_dim, geometry.layers,
        geometry.kv_heads, geometry.head_dim);
  }
  if (strategy_.needs_all_heads() && shape.heads != geometry.kv_heads) {
    return base::InvalidArgument("L12: '{}' codes whole layers; this tile has {} of {} KV heads",
                                 strategy_.ToString(), shape.heads, geometry.kv_heads);
  }
  return base::Status::Ok();
}

// The chain, or what stands in for it where that is smaller. 0: code the tile raw.
TileCodec::Body TileCodec::EncodeChain(const tensor::ConstTileView& in, Workspace& workspace,
                                       std::span<std::byte> out, const TileContext& context) const {
  const size_t coded = chain_->Encode(context, in, workspace, out);
  if (stand_in_ == nullptr) return {coded, TileMethod::kCoded};
  const auto bits = static_cast<double>(coded * 8);
  if (coded > 0 && bits <= StandInBits(stand_in_->strategy()) * static_cast<double>(in.values())) {
    return {coded, TileMethod::kCoded};
  }
  const std::span<std::byte> payload =
      workspace.Scratch(in.values() * sizeof(uint16_t), Workspace::Use::kStandIn);
  const size_t stood_in = stand_in_->Encode(context, in, workspace, payload);
  if (stood_in == 0 || stood_in > out.size() || (coded > 0 && coded <= stood_in)) {
    return {coded, TileMethod::kCoded};
  }
  std::copy_n(payload.data(), stood_in, out.data());
  return {stood_in, TileMethod::kStandIn};
}

// Protected rows, then the chain on the others. 0: code the tile raw.
TileCodec::Body TileCodec::EncodeBody(const tensor::ConstTileView& in, Workspace& workspace,
                                      std::span<std::byte> out, const TileContext& context) const {
  const StageCall* protect = FindCall(strategy_.stages(), kStageProtect);
  if (protect == nullptr) return EncodeChain(in, workspace, out, context);
  const ProtectedRows rows = ProtectedRowsOf(*protect, in.tokens, context);
  const size_t head = WriteProtected(rows, in, out);
  if (head == 0) return {};
  TileContext body_context = context;
  body_context.first_position += rows.front;
  const tensor::ConstTileView view = tensor::SliceTokens(in, rows.front, in.tokens - rows.front - rows.back);
  Body body;
  if (view.values() * sizeof(uint16_t) + head <= out.size()) {
    body = EncodeChain(view, workspace, out.subspan(head), body_context);
  } else {
    const std::span<std::byte> payload =
        workspace.Scratch(view.values() * sizeof(uint16_t), Workspace::Use::kBody);
    body = EncodeChain(view, workspace, payload, body_context);
    if (body.bytes > out.size() - head) return {};
    std::copy_n(payload.data(), body.bytes, out.data() + head);
  }
  if (body.bytes > 0) body.bytes += head;
  return body;
}

base::Status TileCodec::DecodeBody(const BoundChain& chain, std::span<const std::byte> in,
                                   Workspace& workspace, const tensor::TileView& out,
                                   const TileContext& context) const {
  if (FindCall(strategy_.stages(), kStageProtect) == nullptr) {
    return chain.Decode(context, in, workspace, out);
  }
  KVPLANE_ASSIGN_OR_RETURN(const ProtectedRows rows, ReadProtected(in, out));
  TileContext body_context = context;
  body_context.first_position += rows.front;
  return chain.Decode(body_context, in.subspan(rows.Bytes(ShapeOf(out))), workspace,
                      tensor::SliceTokens(out, rows.front, out.tokens - rows.front - rows.back));
}

base::Result<size_t> TileCodec::Encode(const tensor::ConstTileView& in, Workspace& workspace,
                                       std::span<std::byte> out, const TileContext& context) const {
  const TileShape shape = ShapeOf(in);
  KVPLANE_RETURN_IF_ERROR(shape.Validate());
  KVPLANE_RETURN_IF_ERROR(CheckContext(shape, context));
  if (out.size() < MaxEncodedBytes(shape)) {
    return base::InvalidArgument("{} bytes for a coded tile that may need {}", out.size(),
                                 MaxEncodedBytes(shape));
  }
  const size_t raw_bytes = shape.raw_bytes();
  // Where coding saves nothing (very short tiles), raw is as small and exact.
  Body body;
  if (LeastBodyBytes(shape) < raw_bytes || MinEncodedBytes(shape) - 1 < raw_bytes) {
    body = EncodeBody(in, workspace, out.subspan(1, raw_bytes), context);
  }
  KVPLANE_DCHECK(body.bytes <= raw_bytes);
  if (body.bytes > 0 && body.bytes >= raw_bytes / kMaxTileRatio) {
    out[0] = static_cast<std::byte>(body.method);
    return 1 + body.bytes;
  }
  if (body.bytes > 0 && body.method == TileMethod::kCoded && raw_bytes / kMaxTileRatio > sizeof(uint32_t)) {
    return Pad(body.bytes, raw_bytes, out);
  }
  out[0] = static_cast<std::byte>(TileMethod::kRaw);
  EncodeRaw(in, out.data() + 1);
  return 1 + raw_bytes;
}

base::Status TileCodec::Decode(std::span<const std::byte> in, Workspace& workspace,
                               const tensor::TileView& out, const TileContext& context) const {
  const TileShape shape = ShapeOf(out);
  KVPLANE_RETURN_IF_ERROR(shape.Validate());
  KVPLANE_RETURN_IF_ERROR(CheckContext(shape, context));
  if (in.empty()) return base::Corrupt("coded tile is empty");
  std::span<const std::byte> payload = in.subspan(1);
  switch (static_cast<TileMethod>(in[0])) {
    case TileMethod::kRaw:
      if (payload.size() != shape.raw_bytes()) {
        return base::Corrupt("raw tile has {} bytes, its shape makes {}", payload.size(), shape.raw_bytes());
      }
      DecodeRaw(payload.data(), out);
      return base::Status::Ok();
    case TileMethod::kPadded: {
      KVPLANE_ASSIGN_OR_RETURN(payload, Unpad(payload, shape.raw_bytes()));
      return DecodeBody(*chain_, payload, workspace, out, context);
    }
    case TileMethod::kCoded:
      return DecodeBody(*chain_, payload, workspace, out, context);
    case TileMethod::kStandIn:
      if (stand_in_ == nullptr) return base::Corrupt("nothing stands in for '{}'", strategy_.ToString());
      return DecodeBody(*stand_in_, payload, workspace, out, context);
  }
  return base::Corrupt("coded tile has the unknown method {}", static_cast<uint8_t>(in[0]));
}

uint32_t TileCrc(std::span<const std::byte> coded) { return kernel::Crc32c(coded); }

}  // namespace kvplane::codec
