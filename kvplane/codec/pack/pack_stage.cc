#include "kvplane/codec/pack/pack_stage.h"

#include "kvplane/base/check.h"
#include "kvplane/codec/affine/affine_pack.h"
#include "kvplane/codec/narrow/narrow_stage.h"

namespace kvplane::codec {
namespace {

// Null for quantisers whose codes have no fixed width.
const PackedQuantizer* FindPacked(const StageCall& call) {
  switch (call.stage_id) {
    case kStageAffine:
      return &kAffinePacked;
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
  KVPLANE_CHECK(packed != nullptr);  // Validate() has seen to it
  return *packed;
}

base::Status Validate(Chain chain, size_t at) {
  if (at == 0 || FindPacked(chain[at - 1]) == nullptr) {
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
  return PackedOf(chain).decode(QuantizerOf(chain), in.data(), out);
}

}  // namespace

constinit const StageFunctions kPackFunctions = {Validate, LeastBytes, Encode, Decode};

}  // namespace kvplane::codec
