#include "kvplane/codec/tile_codec.h"

#include <algorithm>
#include <new>

#include "kvplane/base/check.h"
#include "kvplane/base/endian.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/select/bands.h"
#include "kvplane/codec/select/protect_stage.h"
#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/store/store_stage.h"
#include "kvplane/codec/tile_coder.h"
#include "kvplane/codec/transform/tile_transform.h"
#include "kvplane/kernel/checksum/checksum.h"

namespace kvplane::codec {
namespace {

constexpr std::align_val_t kScratchAlignment{64};

// A code stage that keeps nothing: its plain functions.
class PlainCoder final : public TileCoder {
 public:
  explicit PlainCoder(Chain chain) : chain_(chain), functions_(StageOf(chain.back()).functions) {}

  size_t LeastBytes(const TileShape& shape) const override { return functions_->least_bytes(chain_, shape); }
  size_t Encode(const TileContext&, const tensor::ConstTileView& in, Workspace& workspace,
                std::span<std::byte> out) const override {
    // Where coding saves nothing (very short tiles), raw is as small and exact.
    if (LeastBytes(ShapeOf(in)) >= out.size()) return 0;
    return functions_->encode(chain_, in, workspace, out);
  }
  base::Status Decode(const TileContext&, std::span<const std::byte> in, Workspace& workspace,
                      const tensor::TileView& out) const override {
    return functions_->decode(chain_, in, workspace, out);
  }

 private:
  Chain chain_;  // of the codec that owns this coder
  const StageFunctions* functions_;
};

// `chain` outlives the coder.
base::Result<std::unique_ptr<TileCoder>> BindCoder(Chain chain, tensor::Side side,
                                                   std::shared_ptr<const ModelProfile> profile) {
  const StageFunctions& functions = *StageOf(chain.back()).functions;
  if (functions.bind != nullptr) {
    base::Result<std::unique_ptr<TileCoder>> coder = functions.bind(chain, side, std::move(profile));
    if (coder.ok() || coder.status().code() != base::StatusCode::kUnimplemented) return coder;
  }
  if (functions.encode == nullptr) {
    return base::Unimplemented("'{}' has no code for this chain", StageOf(chain.back()).name);
  }
  return std::unique_ptr<TileCoder>(std::make_unique<PlainCoder>(chain));
}

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
  KVPLANE_ASSIGN_OR_RETURN(codec->transform_, BindTransform(codec->strategy_.stages(), side, profile));
  KVPLANE_ASSIGN_OR_RETURN(codec->coder_, BindCoder(codec->strategy_.stages(), side, profile));
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
  return coder_->LeastBytes(transform_ == nullptr ? shape : transform_->CodedShape(shape));
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

// Transform and coder. 0: code the tile raw.
size_t TileCodec::EncodeChain(const tensor::ConstTileView& in, Workspace& workspace, std::span<std::byte> out,
                              const TileContext& context) const {
  const TileShape shape = ShapeOf(in);
  if (transform_ == nullptr) return coder_->Encode(context, in, workspace, out);
  const TileShape coded_shape = transform_->CodedShape(shape);
  const size_t side_bytes = transform_->SideBytes(shape);
  if (side_bytes >= out.size()) return 0;
  const std::span<std::byte> memory =
      workspace.Scratch(coded_shape.raw_bytes(), Workspace::Use::kTransformed);
  auto* values = reinterpret_cast<uint16_t*>(memory.data());
  if (!transform_->Forward(context, in, workspace, out.data(), values)) return 0;
  const auto view =
      tensor::ConstTileView::Contiguous(values, coded_shape.tokens, coded_shape.heads, coded_shape.head_dim);
  if (side_bytes + coded_shape.raw_bytes() <= out.size()) {
    const size_t coded = coder_->Encode(context, view, workspace, out.subspan(side_bytes));
    return coded == 0 ? 0 : side_bytes + coded;
  }
  const std::span<std::byte> payload = workspace.Scratch(coded_shape.raw_bytes(), Workspace::Use::kPayload);
  const size_t coded = coder_->Encode(context, view, workspace, payload);
  if (coded == 0 || coded > out.size() - side_bytes) return 0;
  std::copy_n(payload.data(), coded, out.data() + side_bytes);
  return side_bytes + coded;
}

base::Status TileCodec::DecodeChain(std::span<const std::byte> in, Workspace& workspace,
                                    const tensor::TileView& out, const TileContext& context) const {
  if (transform_ == nullptr) return coder_->Decode(context, in, workspace, out);
  const TileShape shape = ShapeOf(out);
  const TileShape coded_shape = transform_->CodedShape(shape);
  const size_t side_bytes = transform_->SideBytes(shape);
  if (in.size() < side_bytes) {
    return base::Corrupt("payload of {} bytes, {} of side information", in.size(), side_bytes);
  }
  const std::span<std::byte> memory =
      workspace.Scratch(coded_shape.raw_bytes(), Workspace::Use::kTransformed);
  auto* values = reinterpret_cast<uint16_t*>(memory.data());
  KVPLANE_RETURN_IF_ERROR(coder_->Decode(
      context, in.subspan(side_bytes), workspace,
      tensor::TileView::Contiguous(values, coded_shape.tokens, coded_shape.heads, coded_shape.head_dim)));
  return transform_->Inverse(context, in.data(), values, workspace, out);
}

// Protected rows, then the chain on the others. 0: code the tile raw.
size_t TileCodec::EncodeBody(const tensor::ConstTileView& in, Workspace& workspace, std::span<std::byte> out,
                             const TileContext& context) const {
  const StageCall* protect = FindCall(strategy_.stages(), kStageProtect);
  if (protect == nullptr) return EncodeChain(in, workspace, out, context);
  const ProtectedRows rows = ProtectedRowsOf(*protect, in.tokens, context);
  const size_t head = WriteProtected(rows, in, out);
  if (head == 0) return 0;
  TileContext body_context = context;
  body_context.first_position += rows.front;
  const tensor::ConstTileView body = tensor::SliceTokens(in, rows.front, in.tokens - rows.front - rows.back);
  if (body.values() * sizeof(uint16_t) + head <= out.size()) {
    const size_t coded = EncodeChain(body, workspace, out.subspan(head), body_context);
    return coded == 0 ? 0 : head + coded;
  }
  const std::span<std::byte> payload =
      workspace.Scratch(body.values() * sizeof(uint16_t), Workspace::Use::kBody);
  const size_t coded = EncodeChain(body, workspace, payload, body_context);
  if (coded == 0 || coded > out.size() - head) return 0;
  std::copy_n(payload.data(), coded, out.data() + head);
  return head + coded;
}

base::Status TileCodec::DecodeBody(std::span<const std::byte> in, Workspace& workspace,
                                   const tensor::TileView& out, const TileContext& context) const {
  if (FindCall(strategy_.stages(), kStageProtect) == nullptr) return DecodeChain(in, workspace, out, context);
  KVPLANE_ASSIGN_OR_RETURN(const ProtectedRows rows, ReadProtected(in, out));
  TileContext body_context = context;
  body_context.first_position += rows.front;
  return DecodeChain(in.subspan(rows.Bytes(ShapeOf(out))), workspace,
                     tensor::SliceTokens(out, rows.front, out.tokens - rows.front - rows.back), body_context);
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
  const size_t coded = MinEncodedBytes(shape) - 1 < raw_bytes
                           ? EncodeBody(in, workspace, out.subspan(1, raw_bytes), context)
                           : 0;
  KVPLANE_DCHECK(coded <= raw_bytes);
  if (coded > 0 && coded >= raw_bytes / kMaxTileRatio) {
    out[0] = static_cast<std::byte>(TileMethod::kCoded);
    return 1 + coded;
  }
  if (coded > 0 && raw_bytes / kMaxTileRatio > sizeof(uint32_t)) return Pad(coded, raw_bytes, out);
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
      return DecodeBody(payload, workspace, out, context);
    }
    case TileMethod::kCoded:
      return DecodeBody(payload, workspace, out, context);
  }
  return base::Corrupt("coded tile has the unknown method {}", static_cast<uint8_t>(in[0]));
}

uint32_t TileCrc(std::span<const std::byte> coded) { return kernel::Crc32c(coded); }

}  // namespace kvplane::codec
