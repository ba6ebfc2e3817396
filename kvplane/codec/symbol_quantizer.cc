#include "kvplane/codec/symbol_quantizer.h"

#include "kvplane/codec/cachegen/cachegen_stage.h"
#include "kvplane/codec/fp4/fp4_stage.h"
#include "kvplane/codec/levels/level_groups.h"
#include "kvplane/codec/levels/levels_stage.h"
#include "kvplane/codec/lloyd/lloyd_stage.h"
#include "kvplane/codec/narrow/narrow_stage.h"

namespace kvplane::codec {

bool HeadwiseQuantizer::Encode(const TileContext& context, const tensor::ConstTileView& in, Workspace&,
                               std::byte* side, uint8_t* symbols) const {
  const TileShape shape = ShapeOf(in);
  for (uint32_t head = 0; head < in.heads; ++head, symbols += size_t{in.tokens} * in.head_dim) {
    const TileRows<const uint16_t> rows(in, head);
    if (head + 1 < in.heads) PrefetchHead(rows, in.head_stride);
    if (!EncodeHead(context, shape, head, rows, side, symbols)) return false;
  }
  return true;
}

base::Status HeadwiseQuantizer::Decode(const TileContext& context, const std::byte* side,
                                       const uint8_t* symbols, Workspace&,
                                       const tensor::TileView& out) const {
  const TileShape shape = ShapeOf(out);
  KVPLANE_RETURN_IF_ERROR(CheckSide(context, shape, side));
  for (uint32_t head = 0; head < out.heads; ++head, symbols += size_t{out.tokens} * out.head_dim) {
    DecodeHead(context, shape, head, side, symbols, TileRows<uint16_t>(out, head));
  }
  return base::Status::Ok();
}

bool MakesSymbols(Chain chain) {
  const StageCall* quantizer = FindCall(chain, Slot::kQuantize);
  if (quantizer == nullptr) return false;
  switch (quantizer->stage_id) {
    case kStageAffine:
    case kStageLevels:
    case kStageInt8:
    case kStageFp8:
    case kStageCachegen:
    case kStageLloyd:
    case kStageNvfp4:
    case kStageMxfp4:
      return true;
    default:
      return false;
  }
}

std::unique_ptr<SymbolQuantizer> BindSymbolQuantizer(Chain chain,
                                                     std::shared_ptr<const ModelProfile> profile) {
  if (!MakesSymbols(chain)) return nullptr;
  const StageCall& quantizer = *FindCall(chain, Slot::kQuantize);
  switch (quantizer.stage_id) {
    case kStageAffine:
    case kStageLevels:
      return MakeLevelsQuantizer(LevelsConfig::Of(quantizer), chain, std::move(profile));
    case kStageInt8:
    case kStageFp8:
      return MakeNarrowQuantizer(quantizer);
    case kStageCachegen:
      return MakeCachegenQuantizer(quantizer);
    case kStageLloyd:
      return MakeLloydQuantizer(quantizer);
    case kStageNvfp4:
      return MakeNvfp4Quantizer();
    case kStageMxfp4:
      return MakeMxfp4Quantizer();
    default:
      return nullptr;
  }
}

}  // namespace kvplane::codec
