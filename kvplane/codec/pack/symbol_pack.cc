#include "kvplane/codec/pack/symbol_pack.h"

#include <algorithm>

#include "kvplane/codec/pack/packed_rows.h"

namespace kvplane::codec {
namespace {

class SymbolPackCoder final : public TileCoder {
 public:
  explicit SymbolPackCoder(std::unique_ptr<SymbolQuantizer> quantizer) : quantizer_(std::move(quantizer)) {}

  size_t LeastBytes(const TileShape& shape) const override {
    return quantizer_->SideBytes({}, shape) +
           shape.heads * PackedHeadBytes(shape, PackedWidth(quantizer_->MinAlphabet()));
  }

  size_t Encode(const TileContext& context, const tensor::ConstTileView& in, Workspace& workspace,
                std::span<std::byte> out) const override {
    const TileShape shape = ShapeOf(in);
    const size_t bytes = PayloadBytes(context, shape);
    if (bytes >= out.size()) return 0;
    uint8_t* symbols = SymbolsOf(shape, workspace);
    if (!quantizer_->Encode(context, in, workspace, out.data(), symbols)) return 0;
    std::byte* packed = out.data() + quantizer_->SideBytes(context, shape);
    for (uint32_t head = 0; head < shape.heads; ++head, symbols += size_t{shape.tokens} * shape.head_dim) {
      const uint32_t bits = PackedWidth(quantizer_->Alphabet(context, head));
      PackHead(symbols, shape, bits, packed);
      packed += PackedHeadBytes(shape, bits);
    }
    return bytes;
  }

  base::Status Decode(const TileContext& context, std::span<const std::byte> in, Workspace& workspace,
                      const tensor::TileView& out) const override {
    const TileShape shape = ShapeOf(out);
    const size_t bytes = PayloadBytes(context, shape);
    if (in.size() != bytes) {
      return base::Corrupt("pack: payload of {} bytes, its shape makes {}", in.size(), bytes);
    }
    uint8_t* const symbols = SymbolsOf(shape, workspace);
    const std::byte* packed = in.data() + quantizer_->SideBytes(context, shape);
    for (uint32_t head = 0; head < shape.heads; ++head) {
      const uint32_t alphabet = quantizer_->Alphabet(context, head);
      const uint32_t bits = PackedWidth(alphabet);
      const uint8_t largest =
          UnpackHead(packed, shape, bits, symbols + head * size_t{shape.tokens} * shape.head_dim);
      if (largest >= alphabet) {
        return base::Corrupt("pack: symbol {} of an alphabet of {}", largest, alphabet);
      }
      packed += PackedHeadBytes(shape, bits);
    }
    return quantizer_->Decode(context, in.data(), symbols, workspace, out);
  }

 private:
  static uint8_t* SymbolsOf(const TileShape& shape, Workspace& workspace) {
    return reinterpret_cast<uint8_t*>(workspace.Scratch(shape.values(), Workspace::Use::kSymbols).data());
  }
  size_t PayloadBytes(const TileContext& context, const TileShape& shape) const {
    size_t bytes = quantizer_->SideBytes(context, shape);
    for (uint32_t head = 0; head < shape.heads; ++head) {
      bytes += PackedHeadBytes(shape, PackedWidth(quantizer_->Alphabet(context, head)));
    }
    return bytes;
  }

  std::unique_ptr<SymbolQuantizer> quantizer_;
};

}  // namespace

std::unique_ptr<TileCoder> MakeSymbolPackCoder(std::unique_ptr<SymbolQuantizer> quantizer) {
  return std::make_unique<SymbolPackCoder>(std::move(quantizer));
}

}  // namespace kvplane::codec
