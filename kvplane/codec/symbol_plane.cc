#include "kvplane/codec/symbol_plane.h"

#include <array>

namespace kvplane::codec {
namespace {

class SymbolCoder final : public TileCoder {
 public:
  SymbolCoder(std::unique_ptr<SymbolQuantizer> quantizer, std::unique_ptr<SymbolPlaneCode> code)
      : quantizer_(std::move(quantizer)), code_(std::move(code)) {}

  size_t LeastBytes(const TileShape& shape) const override {
    return quantizer_->SideBytes({}, shape) + code_->LeastBytes(shape);
  }

  size_t Encode(const TileContext& context, const tensor::ConstTileView& in, Workspace& workspace,
                std::span<std::byte> out) const override {
    const TileShape shape = ShapeOf(in);
    const size_t side_bytes = quantizer_->SideBytes(context, shape);
    if (side_bytes >= out.size()) return 0;
    uint8_t* const symbols = SymbolsOf(shape, workspace);
    if (!quantizer_->Encode(context, in, workspace, out.data(), symbols)) return 0;
    Alphabets alphabets;
    const size_t coded =
        code_->Encode(PlaneOf(context, shape, alphabets), symbols, workspace, out.subspan(side_bytes));
    return coded == 0 ? 0 : side_bytes + coded;
  }

  base::Status Decode(const TileContext& context, std::span<const std::byte> in, Workspace& workspace,
                      const tensor::TileView& out) const override {
    const TileShape shape = ShapeOf(out);
    const size_t side_bytes = quantizer_->SideBytes(context, shape);
    if (in.size() < side_bytes) {
      return base::Corrupt("payload of {} bytes, {} of side information", in.size(), side_bytes);
    }
    uint8_t* const symbols = SymbolsOf(shape, workspace);
    Alphabets alphabets;
    KVPLANE_RETURN_IF_ERROR(
        code_->Decode(PlaneOf(context, shape, alphabets), in.subspan(side_bytes), workspace, symbols));
    return quantizer_->Decode(context, in.data(), symbols, workspace, out);
  }

 private:
  using Alphabets = std::array<uint32_t, kMaxTileHeads>;

  SymbolPlane PlaneOf(const TileContext& context, const TileShape& shape, Alphabets& alphabets) const {
    for (uint32_t head = 0; head < shape.heads; ++head) {
      alphabets[head] = quantizer_->Alphabet(context, head);
    }
    return {shape, std::span(alphabets).first(shape.heads)};
  }
  static uint8_t* SymbolsOf(const TileShape& shape, Workspace& workspace) {
    return reinterpret_cast<uint8_t*>(workspace.Scratch(shape.values(), Workspace::Use::kSymbols).data());
  }

  std::unique_ptr<SymbolQuantizer> quantizer_;
  std::unique_ptr<SymbolPlaneCode> code_;
};

}  // namespace

std::unique_ptr<TileCoder> MakeSymbolCoder(std::unique_ptr<SymbolQuantizer> quantizer,
                                           std::unique_ptr<SymbolPlaneCode> code) {
  return std::make_unique<SymbolCoder>(std::move(quantizer), std::move(code));
}

}  // namespace kvplane::codec
