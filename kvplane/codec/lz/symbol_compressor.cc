#include "kvplane/codec/lz/symbol_compressor.h"

#include "kvplane/codec/pack/packed_rows.h"

namespace kvplane::codec {
namespace {

class SymbolCompressor final : public SymbolPlaneCode {
 public:
  SymbolCompressor(const PlaneCompressor& compressor, uint32_t level, SymbolWidth width)
      : compressor_(compressor), level_(level), width_(width) {}

  size_t LeastBytes(const TileShape&) const override { return 1; }

  size_t Encode(const SymbolPlane& plane, const uint8_t* symbols, Workspace& workspace,
                std::span<std::byte> out) const override {
    const std::span<std::byte> rows = RowsOf(plane, workspace);
    std::byte* at = rows.data();
    for (const uint32_t alphabet : plane.alphabets) {
      PackHead(symbols, plane.shape, width_(alphabet), at);
      at += PackedHeadBytes(plane.shape, width_(alphabet));
      symbols += plane.head_values();
    }
    return compressor_.compress(rows, level_, out);
  }

  base::Status Decode(const SymbolPlane& plane, std::span<const std::byte> in, Workspace& workspace,
                      uint8_t* symbols) const override {
    const std::span<std::byte> rows = RowsOf(plane, workspace);
    KVPLANE_RETURN_IF_ERROR(compressor_.decompress(in, rows));
    const std::byte* at = rows.data();
    for (const uint32_t alphabet : plane.alphabets) {
      const uint8_t largest = UnpackHead(at, plane.shape, width_(alphabet), symbols);
      if (largest >= alphabet) {
        return base::Corrupt("{}: symbol {} of an alphabet of {}", compressor_.name, largest, alphabet);
      }
      at += PackedHeadBytes(plane.shape, width_(alphabet));
      symbols += plane.head_values();
    }
    return base::Status::Ok();
  }

 private:
  std::span<std::byte> RowsOf(const SymbolPlane& plane, Workspace& workspace) const {
    size_t bytes = 0;
    for (const uint32_t alphabet : plane.alphabets) {
      bytes += PackedHeadBytes(plane.shape, width_(alphabet));
    }
    return workspace.Scratch(bytes, Workspace::Use::kStreams);
  }

  const PlaneCompressor& compressor_;
  uint32_t level_;
  SymbolWidth width_;
};

}  // namespace

base::Status CheckCompressible(Chain chain, size_t at) {
  const StageCall* quantizer = at == 0 ? nullptr : FindCall(chain, Slot::kQuantize);
  if (quantizer == nullptr) return CheckTakesValues(chain, at);
  if (MakesSymbols(chain)) return base::Status::Ok();
  return base::InvalidArgument("L1: '{}' takes byte symbols or values, '{}' makes neither",
                               StageOf(chain[at]).name, StageOf(*quantizer).name);
}

base::Result<std::unique_ptr<TileCoder>> BindSymbolCompressor(Chain chain,
                                                              std::shared_ptr<const ModelProfile> profile,
                                                              const PlaneCompressor& compressor,
                                                              uint32_t level, SymbolWidth width) {
  std::unique_ptr<SymbolQuantizer> quantizer = BindSymbolQuantizer(chain, std::move(profile));
  if (quantizer == nullptr) return base::Unimplemented("'{}' without a quantiser", compressor.name);
  return MakeSymbolCoder(std::move(quantizer), std::make_unique<SymbolCompressor>(compressor, level, width));
}

}  // namespace kvplane::codec
