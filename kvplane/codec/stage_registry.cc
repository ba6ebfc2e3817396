#include "kvplane/codec/stage_registry.h"

#include <algorithm>
#include <array>

#include "kvplane/base/check.h"
#include "kvplane/base/edit_distance.h"
#include "kvplane/codec/affine/affine_stage.h"
#include "kvplane/codec/bitplane/bitplane_stage.h"
#include "kvplane/codec/cachegen/cachegen_stage.h"
#include "kvplane/codec/ecsq/ecsq_stage.h"
#include "kvplane/codec/exponent/exponent_stage.h"
#include "kvplane/codec/fp4/fp4_stage.h"
#include "kvplane/codec/levels/levels_stage.h"
#include "kvplane/codec/lloyd/lloyd_stage.h"
#include "kvplane/codec/lz/lz4_stage.h"
#include "kvplane/codec/lz/zstd_stage.h"
#include "kvplane/codec/narrow/narrow_stage.h"
#include "kvplane/codec/pack/pack_stage.h"
#include "kvplane/codec/rans/rans_stage.h"
#include "kvplane/codec/select/bands.h"
#include "kvplane/codec/select/protect_stage.h"
#include "kvplane/codec/store/store_stage.h"
#include "kvplane/codec/transform/centre_stage.h"
#include "kvplane/codec/transform/delta_stage.h"
#include "kvplane/codec/transform/hadamard_stage.h"
#include "kvplane/codec/transform/pca_stage.h"
#include "kvplane/codec/transform/unrope_stage.h"

namespace kvplane::codec {
namespace {

constexpr StageDescriptor kStages[] = {
    {kStageProtect, "protect", Slot::kSelect, 1, 1, false, kProtectParams, &kProtectFunctions},
    {kStageHeads, "heads", Slot::kSelect, 1, 1, false, kHeadsParams, &kHeadsFunctions},
    {kStageLayers, "layers", Slot::kSelect, 1, 1, false, kLayersParams, &kLayersFunctions},
    {kStageUnrope, "unrope", Slot::kGeometry, 1, 1, true, {}, &kUnropeFunctions, true},
    {kStageCentre, "centre", Slot::kGeometry, 1, 1, true, kCentreParams, &kCentreFunctions},
    {kStageHadamard, "hadamard", Slot::kTransform, 1, 1, true, kHadamardParams, &kHadamardFunctions},
    {kStagePca, "pca", Slot::kTransform, 1, 1, true, kPcaParams, &kPcaFunctions},
    {kStageDelta, "delta", Slot::kTransform, 1, 1, true, kDeltaParams, &kDeltaFunctions},
    {kStageAffine, "affine", Slot::kQuantize, 1, 1, true, kAffineParams, &kAffineFunctions},
    {kStageInt8, "int8", Slot::kQuantize, 1, 1, true, kInt8Params, &kNarrowFunctions},
    {kStageFp8, "fp8", Slot::kQuantize, 1, 1, true, kFp8Params, &kNarrowFunctions},
    {kStageLevels, "levels", Slot::kQuantize, 1, 1, true, kLevelsParams, &kLevelsFunctions},
    {kStageCachegen, "cachegen", Slot::kQuantize, 1, 1, true, kCachegenParams, &kCachegenFunctions},
    {kStageLloyd, "lloyd", Slot::kQuantize, 1, 1, true, kLloydParams, &kLloydFunctions},
    {kStageEcsq, "ecsq", Slot::kQuantize, 1, 1, true, kEcsqParams, &kEcsqFunctions},
    {kStageTernary, "ternary", Slot::kQuantize, 1, 1, true, kTernaryParams, &kTernaryFunctions},
    {kStageNvfp4, "nvfp4", Slot::kQuantize, 1, 1, true, {}, &kFp4Functions},
    {kStageMxfp4, "mxfp4", Slot::kQuantize, 1, 1, true, {}, &kFp4Functions},
    {kStageStore, "store", Slot::kCode, 1, 1, false, {}, &kStoreFunctions},
    {kStagePack, "pack", Slot::kCode, 1, 1, false, {}, &kPackFunctions},
    {kStageExponent, "exponent", Slot::kCode, 1, 1, false, kExponentParams, &kExponentFunctions},
    {kStageZstd, "zstd", Slot::kCode, 1, 1, false, kZstdParams, &kZstdFunctions},
    {kStageLz4, "lz4", Slot::kCode, 1, 1, false, {}, &kLz4Functions},
    {kStageRans, "rans", Slot::kCode, 1, 1, false, kRansParams, &kRansFunctions},
    {kStageBitplane, "bitplane_rle", Slot::kCode, 1, 1, false, {}, &kBitplaneFunctions},
};

constexpr bool TableIsConsistent() {
  for (size_t i = 0; i < std::size(kStages); ++i) {
    const StageDescriptor& stage = kStages[i];
    if (stage.params.size() > kMaxStageParams || stage.min_version > stage.max_version) return false;
    if (stage.id >> 4 != static_cast<uint8_t>(stage.slot) + 1) return false;
    for (size_t j = 0; j < i; ++j) {
      if (kStages[j].id == stage.id || kStages[j].name == stage.name) return false;
    }
  }
  return true;
}
static_assert(TableIsConsistent());

constexpr bool TakesSeveral(Slot slot) { return slot == Slot::kSelect || slot == Slot::kGeometry; }

}  // namespace

std::string_view Name(Slot slot) {
  constexpr std::array<std::string_view, 6> kNames = {"select",  "geometry", "transform",
                                                      "predict", "quantize", "code"};
  return kNames[static_cast<size_t>(slot)];
}

std::span<const StageDescriptor> Stages() { return kStages; }

const StageDescriptor* FindStage(uint8_t id) {
  const auto at = std::find_if(std::begin(kStages), std::end(kStages),
                               [id](const StageDescriptor& stage) { return stage.id == id; });
  return at == std::end(kStages) ? nullptr : at;
}

const StageDescriptor* FindStage(std::string_view name) {
  const auto at = std::find_if(std::begin(kStages), std::end(kStages),
                               [name](const StageDescriptor& stage) { return stage.name == name; });
  return at == std::end(kStages) ? nullptr : at;
}

std::string_view NearestStageName(std::string_view name) {
  name = name.substr(0, 64);
  const auto nearest =
      std::min_element(std::begin(kStages), std::end(kStages), [name](const auto& a, const auto& b) {
        return base::EditDistance(name, a.name) < base::EditDistance(name, b.name);
      });
  return nearest->name;
}

const StageDescriptor& StageOf(const StageCall& call) {
  const StageDescriptor* stage = FindStage(call.stage_id);
  KVPLANE_CHECK(stage != nullptr);
  return *stage;
}

const StageCall* FindCall(Chain chain, uint8_t stage_id) {
  const auto at = std::find_if(chain.begin(), chain.end(),
                               [stage_id](const StageCall& call) { return call.stage_id == stage_id; });
  return at == chain.end() ? nullptr : &*at;
}

const StageCall* FindCall(Chain chain, Slot slot) {
  const auto at = std::find_if(chain.begin(), chain.end(),
                               [slot](const StageCall& call) { return StageOf(call).slot == slot; });
  return at == chain.end() ? nullptr : &*at;
}

namespace {

// Slot order, and one stage per slot.
base::Status CheckSlots(Chain chain) {
  for (size_t i = 1; i < chain.size(); ++i) {
    const StageDescriptor& before = StageOf(chain[i - 1]);
    const StageDescriptor& stage = StageOf(chain[i]);
    if (before.slot == stage.slot && TakesSeveral(stage.slot)) {
      if (before.id < stage.id) continue;
      return base::InvalidArgument("slot-order: '{}' must stand {} '{}'", stage.name,
                                   before.id == stage.id ? "once, not after another" : "before", before.name);
    }
    if (before.slot == stage.slot) {
      return base::InvalidArgument("slot-once: '{}' and '{}' both fill the slot '{}'", before.name,
                                   stage.name, Name(stage.slot));
    }
    if (before.slot > stage.slot) {
      return base::InvalidArgument("slot-order: '{}' ({}) must stand before '{}' ({})", stage.name,
                                   Name(stage.slot), before.name, Name(before.slot));
    }
  }
  const StageDescriptor& last = StageOf(chain.back());
  if (last.slot != Slot::kCode) {
    return base::InvalidArgument(
        "ends-in-code: '{}' makes symbols; end the chain with a code stage such as "
        "'| pack'",
        last.name);
  }
  return base::Status::Ok();
}

}  // namespace

base::Status CheckLegal(Chain chain, tensor::Side side) {
  if (chain.empty()) return base::InvalidArgument("the chain is empty");
  KVPLANE_RETURN_IF_ERROR(CheckSlots(chain));
  if (side == tensor::Side::kValue) {
    const auto at = std::find_if(chain.begin(), chain.end(),
                                 [](const StageCall& call) { return StageOf(call).key_only; });
    if (at != chain.end()) {
      return base::InvalidArgument("keys-only: '{}' has no meaning for values", StageOf(*at).name);
    }
  }
  for (size_t i = 0; i < chain.size(); ++i) {
    KVPLANE_RETURN_IF_ERROR(StageOf(chain[i]).functions->validate(chain, i));
  }
  return base::Status::Ok();
}

base::Status CheckTakesValues(Chain chain, size_t at) {
  if (at == 0 || StageOf(chain[at - 1]).slot == Slot::kSelect) return base::Status::Ok();
  return base::InvalidArgument("L1: '{}' takes bf16 values as they are; '{}' before it changes them",
                               StageOf(chain[at]).name, StageOf(chain[at - 1]).name);
}

}  // namespace kvplane::codec
