#include "kvplane/codec/lloyd/lloyd_stage.h"

#include "kvplane/base/endian.h"
#include "kvplane/kernel/codebook/codebook.h"

namespace kvplane::codec {
namespace {

base::Status Validate(Chain, size_t) { return base::Status::Ok(); }

class LloydQuantizer final : public HeadwiseQuantizer {
 public:
  explicit LloydQuantizer(uint32_t bits) : bits_(bits) {}

  uint32_t Alphabet(const TileContext&, uint32_t) const override { return MaxAlphabet(); }
  uint32_t MaxAlphabet() const override { return 1u << bits_; }
  size_t SideBytes(const TileContext&, const TileShape& shape) const override {
    return size_t{shape.heads} * shape.tokens * sizeof(uint16_t);
  }

  bool EncodeHead(const TileContext&, const TileShape& shape, uint32_t head,
                  const TileRows<const uint16_t>& rows, std::byte* side, uint8_t* symbols) const override {
    return kernel::Codebooks().encode_lloyd(rows.data(), shape.tokens, shape.head_dim, bits_,
                                            side + NormsAt(shape, head), symbols);
  }

  base::Status CheckSide(const TileContext&, const TileShape& shape, const std::byte* side) const override {
    for (size_t i = 0; i < size_t{shape.heads} * shape.tokens; ++i) {
      if (base::LoadLe<uint16_t>(side + i * sizeof(uint16_t)) >= kernel::kLloydNormLimit) {
        return base::Corrupt("lloyd: a norm lies outside the format's range");
      }
    }
    return base::Status::Ok();
  }

  void DecodeHead(const TileContext&, const TileShape& shape, uint32_t head, const std::byte* side,
                  const uint8_t* symbols, const TileRows<uint16_t>& rows) const override {
    kernel::Codebooks().decode_lloyd(side + NormsAt(shape, head), symbols, shape.tokens, shape.head_dim,
                                     bits_, rows.data());
  }

 private:
  static size_t NormsAt(const TileShape& shape, uint32_t head) {
    return size_t{head} * shape.tokens * sizeof(uint16_t);
  }

  uint32_t bits_;
};

}  // namespace

constinit const StageFunctions kLloydFunctions = {Validate, nullptr, nullptr, nullptr};

std::unique_ptr<SymbolQuantizer> MakeLloydQuantizer(const StageCall& call) {
  return std::make_unique<LloydQuantizer>(call.params[0]);
}

}  // namespace kvplane::codec
