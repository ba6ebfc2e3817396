#include "kvplane/codec/pack/symbol_pack.h"

#include <algorithm>

#include "kvplane/codec/levels/level_groups.h"
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
    const size_t head_values = size_t{shape.tokens} * shape.head_dim;
    const HeadwiseQuantizer* headwise = quantizer_->headwise();
    uint8_t* symbols = SymbolsOf(headwise == nullptr ? shape.values() : head_values, workspace);
    if (headwise == nullptr && !quantizer_->Encode(context, in, workspace, out.data(), symbols)) return 0;
    std::byte* packed = out.data() + quantizer_->SideBytes(context, shape);
    for (uint32_t head = 0; head < shape.heads; ++head) {
      if (headwise != nullptr) {
        const TileRows<const uint16_t> rows(in, head);
        if (head + 1 < shape.heads) PrefetchHead(rows, in.head_stride);
        if (!headwise->EncodeHead(context, shape, head, rows, out.data(), symbols)) return 0;
      }
      const uint32_t bits = PackedWidth(quantizer_->Alphabet(context, head));
      PackHead(symbols, shape, bits, packed);
      packed += PackedHeadBytes(shape, bits);
      if (headwise == nullptr) symbols += head_values;
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
    const size_t head_values = size_t{shape.tokens} * shape.head_dim;
    const HeadwiseQuantizer* headwise = quantizer_->headwise();
    if (headwise != nullptr) KVPLANE_RETURN_IF_ERROR(headwise->CheckSide(context, shape, in.data()));
    uint8_t* const first = SymbolsOf(headwise == nullptr ? shape.values() : head_values, workspace);
    uint8_t* symbols = first;
    const std::byte* packed = in.data() + quantizer_->SideBytes(context, shape);
    for (uint32_t head = 0; head < shape.heads; ++head) {
      const uint32_t alphabet = quantizer_->Alphabet(context, head);
      const uint32_t bits = PackedWidth(alphabet);
      const uint8_t largest = UnpackHead(packed, shape, bits, symbols);
      if (largest >= alphabet) {
        return base::Corrupt("pack: symbol {} of an alphabet of {}", largest, alphabet);
      }
      packed += PackedHeadBytes(shape, bits);
      if (headwise == nullptr) {
        symbols += head_values;
      } else {
        headwise->DecodeHead(context, shape, head, in.data(), symbols, TileRows<uint16_t>(out, head));
      }
    }
    if (headwise != nullptr) return base::Status::Ok();
    return quantizer_->Decode(context, in.data(), first, workspace, out);
  }

 private:
  static uint8_t* SymbolsOf(size_t count, Workspace& workspace) {
    return reinterpret_cast<uint8_t*>(workspace.Scratch(count, Workspace::Use::kSymbols).data());
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
