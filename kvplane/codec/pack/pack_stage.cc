#include "kvplane/codec/pack/pack_stage.h"

#include "kvplane/base/check.h"
#include "kvplane/codec/affine/affine_pack.h"
#include "kvplane/codec/affine/affine_stage.h"
#include "kvplane/codec/narrow/narrow_stage.h"
#include "kvplane/codec/pack/symbol_pack.h"
#include "kvplane/codec/page_stores.h"
#include "kvplane/codec/symbol_quantizer.h"

namespace kvplane::codec {
namespace {

// Quantisers that are fused with `pack`; null for the others.
const PackedQuantizer* FindPacked(const StageCall& call) {
  if (AffineConfig::Covers(call)) return &kAffinePacked;
  switch (call.stage_id) {
    case kStageInt8:
      return &kInt8Packed;
    case kStageFp8:
      return &kFp8Packed;
    default:
      return nullptr;
  }
}

const StageCall& QuantizerOf(Chain chain) { return chain[chain.size() - 2]; }
const PackedQuantizer& PackedOf(Chain chain) {
  const PackedQuantizer* packed = FindPacked(QuantizerOf(chain));
  KVPLANE_CHECK(packed != nullptr);  // Bind() has taken the others
  return *packed;
}

base::Status Validate(Chain chain, size_t at) {
  if (at == 0 || !MakesSymbols(chain)) {
    return base::InvalidArgument("L1: 'pack' takes symbols; put a quantize stage such as 'affine' before it");
  }
  return base::Status::Ok();
}

size_t LeastBytes(Chain chain, const TileShape& shape) {
  return PackedOf(chain).payload_bytes(QuantizerOf(chain), shape);
}

size_t Encode(Chain chain, const tensor::ConstTileView& in, Workspace&, std::span<std::byte> out) {
  if (!PackedOf(chain).encode(QuantizerOf(chain), in, out.data())) return 0;
  return LeastBytes(chain, ShapeOf(in));
}

base::Status Decode(Chain chain, std::span<const std::byte> in, Workspace&, const tensor::TileView& out) {
  const size_t bytes = LeastBytes(chain, ShapeOf(out));
  if (in.size() != bytes) {
    return base::Corrupt("pack: payload of {} bytes, its shape makes {}", in.size(), bytes);
  }
  return PackedOf(chain).decode(QuantizerOf(chain), in.data(), WritesAroundCaches(chain, out), out);
}

base::Result<std::unique_ptr<TileCoder>> Bind(Chain chain, tensor::Side,
                                              std::shared_ptr<const ModelProfile> profile) {
  if (FindPacked(QuantizerOf(chain)) != nullptr) return base::Unimplemented("fused with its quantizer");
  return MakeSymbolPackCoder(BindSymbolQuantizer(chain, std::move(profile)));
}

}  // namespace

constinit const StageFunctions kPackFunctions = {Validate, LeastBytes, Encode, Decode, Bind};

}  // namespace kvplane::codec
