#include "kvplane/codec/symbol_quantizer.h"

#include "kvplane/codec/levels/levels_stage.h"
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
    default:
      return nullptr;
  }
}

}  // namespace kvplane::codec
