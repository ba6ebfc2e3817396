#include "kvplane/codec/lloyd/lloyd_stage.h"

#include "kvplane/base/endian.h"
#include "kvplane/codec/levels/level_groups.h"
#include "kvplane/codec/tile_rows.h"
#include "kvplane/kernel/codebook/codebook.h"

namespace kvplane::codec {
namespace {

base::Status Validate(Chain, size_t) { return base::Status::Ok(); }

class LloydQuantizer final : public SymbolQuantizer {
 public:
  explicit LloydQuantizer(uint32_t bits) : bits_(bits) {}

  uint32_t Alphabet(const TileContext&, uint32_t) const override { return MaxAlphabet(); }
  uint32_t MaxAlphabet() const override { return 1u << bits_; }
  size_t SideBytes(const TileContext&, const TileShape& shape) const override {
    return size_t{shape.heads} * shape.tokens * sizeof(uint16_t);
  }

  bool Encode(const TileContext&, const tensor::ConstTileView& in, Workspace&, std::byte* side,
              uint8_t* symbols) const override {
    for (uint32_t head = 0; head < in.heads; ++head) {
      const TileRows<const uint16_t> rows(in, head);
      if (head + 1 < in.heads) PrefetchHead(rows, in.head_stride);
      if (!kernel::Codebooks().encode_lloyd(rows.data(), in.tokens, in.head_dim, bits_, side, symbols)) {
        return false;
      }
      side += in.tokens * sizeof(uint16_t);
      symbols += size_t{in.tokens} * in.head_dim;
    }
    return true;
  }

  base::Status Decode(const TileContext&, const std::byte* side, const uint8_t* symbols, Workspace&,
                      const tensor::TileView& out) const override {
    for (size_t i = 0; i < size_t{out.heads} * out.tokens; ++i) {
      if (base::LoadLe<uint16_t>(side + i * sizeof(uint16_t)) >= kernel::kLloydNormLimit) {
        return base::Corrupt("lloyd: a norm lies outside the format's range");
      }
    }
    for (uint32_t head = 0; head < out.heads; ++head) {
      kernel::Codebooks().decode_lloyd(side, symbols, out.tokens, out.head_dim, bits_,
                                       TileRows<uint16_t>(out, head).data());
      side += out.tokens * sizeof(uint16_t);
      symbols += size_t{out.tokens} * out.head_dim;
    }
    return base::Status::Ok();
  }

 private:
  uint32_t bits_;
};

}  // namespace

constinit const StageFunctions kLloydFunctions = {Validate, nullptr, nullptr, nullptr};

std::unique_ptr<SymbolQuantizer> MakeLloydQuantizer(const StageCall& call) {
  return std::make_unique<LloydQuantizer>(call.params[0]);
}

}  // namespace kvplane::codec
