#include "kvplane/codec/symbol_quantizer.h"

#include "kvplane/codec/cachegen/cachegen_stage.h"
#include "kvplane/codec/fp4/fp4_stage.h"
#include "kvplane/codec/levels/levels_stage.h"
#include "kvplane/codec/lloyd/lloyd_stage.h"
#include "kvplane/codec/narrow/narrow_stage.h"

namespace kvplane::codec {

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
