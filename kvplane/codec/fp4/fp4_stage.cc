#include "kvplane/codec/fp4/fp4_stage.h"

#include <algorithm>
#include <bit>

#include "kvplane/base/endian.h"
#include "kvplane/codec/levels/level_groups.h"
#include "kvplane/codec/tile_rows.h"
#include "kvplane/kernel/codebook/codebook.h"
#include "kvplane/kernel/narrow/narrow.h"

namespace kvplane::codec {
namespace {

constexpr uint32_t kSymbols = 16;

base::Status Validate(Chain, size_t) { return base::Status::Ok(); }

// Block scales of one head.
size_t HeadScales(const TileShape& shape, uint32_t block) {
  return size_t{shape.tokens} * ((shape.head_dim + block - 1) / block);
}

bool AllAtMost(const std::byte* scales, size_t count, uint8_t limit) {
  return std::all_of(scales, scales + count,
                     [limit](std::byte s) { return static_cast<uint8_t>(s) <= limit; });
}

class Nvfp4Quantizer final : public SymbolQuantizer {
 public:
  uint32_t Alphabet(const TileContext&, uint32_t) const override { return kSymbols; }
  uint32_t MaxAlphabet() const override { return kSymbols; }
  size_t SideBytes(const TileContext&, const TileShape& shape) const override {
    return sizeof(float) + shape.heads * HeadScales(shape, kernel::kNvfp4Block);
  }

  bool Encode(const TileContext&, const tensor::ConstTileView& in, Workspace&, std::byte* side,
              uint8_t* symbols) const override {
    uint16_t largest = 0;
    for (uint32_t head = 0; head < in.heads; ++head) {
      const TileRows<const uint16_t> rows(in, head);
      if (head + 1 < in.heads) PrefetchHead(rows, in.head_stride);
      largest = std::max(largest, kernel::Narrow().largest_magnitude(rows.data(), in.tokens, in.head_dim));
    }
    if (largest >= kernel::kNarrowMagnitudeLimit) return false;
    const float tensor_scale = kernel::Nvfp4TensorScale(largest);
    base::StoreLe(side, tensor_scale);
    std::byte* scales = side + sizeof(float);
    for (uint32_t head = 0; head < in.heads; ++head) {
      kernel::Codebooks().encode_nvfp4(TileRows<const uint16_t>(in, head).data(), in.tokens, in.head_dim,
                                       tensor_scale, scales, symbols);
      scales += HeadScales(ShapeOf(in), kernel::kNvfp4Block);
      symbols += size_t{in.tokens} * in.head_dim;
    }
    return true;
  }

  base::Status Decode(const TileContext&, const std::byte* side, const uint8_t* symbols, Workspace&,
                      const tensor::TileView& out) const override {
    const size_t head_scales = HeadScales(ShapeOf(out), kernel::kNvfp4Block);
    const auto tensor_scale = base::LoadLe<float>(side);
    const std::byte* scales = side + sizeof(float);
    // Compared as patterns: a sign or a NaN is above the limit.
    if (std::bit_cast<uint32_t>(tensor_scale) > std::bit_cast<uint32_t>(kernel::kNvfp4TensorScaleLimit) ||
        !AllAtMost(scales, out.heads * head_scales, kernel::kNvfp4ScaleLimit)) {
      return base::Corrupt("nvfp4: a scale lies outside the format's range");
    }
    for (uint32_t head = 0; head < out.heads; ++head) {
      kernel::Codebooks().decode_nvfp4(scales, symbols, out.tokens, out.head_dim, tensor_scale,
                                       TileRows<uint16_t>(out, head).data());
      scales += head_scales;
      symbols += size_t{out.tokens} * out.head_dim;
    }
    return base::Status::Ok();
  }
};

class Mxfp4Quantizer final : public HeadwiseQuantizer {
 public:
  uint32_t Alphabet(const TileContext&, uint32_t) const override { return kSymbols; }
  uint32_t MaxAlphabet() const override { return kSymbols; }
  size_t SideBytes(const TileContext&, const TileShape& shape) const override {
    return shape.heads * HeadScales(shape, kernel::kMxfp4Block);
  }

  bool EncodeHead(const TileContext&, const TileShape& shape, uint32_t head,
                  const TileRows<const uint16_t>& rows, std::byte* side, uint8_t* symbols) const override {
    return kernel::Codebooks().encode_mxfp4(rows.data(), shape.tokens, shape.head_dim,
                                            side + head * HeadScales(shape, kernel::kMxfp4Block), symbols);
  }

  base::Status CheckSide(const TileContext&, const TileShape& shape, const std::byte* side) const override {
    if (AllAtMost(side, shape.heads * HeadScales(shape, kernel::kMxfp4Block), kernel::kMxfp4ScaleLimit)) {
      return base::Status::Ok();
    }
    return base::Corrupt("mxfp4: a scale lies outside the format's range");
  }

  void DecodeHead(const TileContext&, const TileShape& shape, uint32_t head, const std::byte* side,
                  const uint8_t* symbols, const TileRows<uint16_t>& rows) const override {
    kernel::Codebooks().decode_mxfp4(side + head * HeadScales(shape, kernel::kMxfp4Block), symbols,
                                     shape.tokens, shape.head_dim, rows.data());
  }
};

}  // namespace

constinit const StageFunctions kFp4Functions = {Validate, nullptr, nullptr, nullptr};

std::unique_ptr<SymbolQuantizer> MakeNvfp4Quantizer() { return std::make_unique<Nvfp4Quantizer>(); }
std::unique_ptr<SymbolQuantizer> MakeMxfp4Quantizer() { return std::make_unique<Mxfp4Quantizer>(); }

}  // namespace kvplane::codec
