#include "kvplane/codec/ecsq/ecsq_stage.h"

#include <utility>

#include "kvplane/codec/ecsq/ecsq_coder.h"
#include "kvplane/codec/ecsq/ternary_coder.h"
#include "kvplane/codec/select/bands.h"

namespace kvplane::codec {
namespace {

// Both make levels without bound, which only the class ladder with its bypass bits can hold.
base::Status Validate(Chain chain, size_t at) {
  const StageDescriptor& stage = StageOf(chain[at]);
  if (at + 1 == chain.size() || chain[at + 1].stage_id != kStageRans || chain[at + 1].params[0] != 0) {
    return base::InvalidArgument("L1: '{}' makes levels; put 'rans(table=class)' right after it", stage.name);
  }
  return base::Status::Ok();
}

base::Status ValidateEcsq(Chain chain, size_t at) {
  const StageCall& call = chain[at];
  if (call.params[3] == static_cast<uint32_t>(EcsqScale::kTile) &&
      call.params[2] == static_cast<uint32_t>(EcsqWeight::kModel)) {
    return base::InvalidArgument("L4: the weights of 'ecsq(weight=model)' are in the profile: scale=profile");
  }
  KVPLANE_RETURN_IF_ERROR(CheckLowHasBand(chain, at, call.params[1]));
  return Validate(chain, at);
}

bool EcsqNeedsProfile(const StageCall& call) {
  return call.params[3] == static_cast<uint32_t>(EcsqScale::kProfile);
}
bool TernaryNeedsProfile(const StageCall&) { return true; }

}  // namespace

constinit const StageFunctions kEcsqFunctions = {.validate = ValidateEcsq,
                                                 .least_bytes = nullptr,
                                                 .encode = nullptr,
                                                 .decode = nullptr,
                                                 .needs_profile = EcsqNeedsProfile};
constinit const StageFunctions kTernaryFunctions = {.validate = Validate,
                                                    .least_bytes = nullptr,
                                                    .encode = nullptr,
                                                    .decode = nullptr,
                                                    .needs_profile = TernaryNeedsProfile};

base::Result<std::unique_ptr<TileCoder>> BindEcsqCoder(Chain chain, tensor::Side side,
                                                       std::shared_ptr<const ModelProfile> profile) {
  if (FindCall(chain, kStageTernary) != nullptr) {
    auto nested = std::make_unique<TernaryCoder>(chain, side, std::move(profile));
    KVPLANE_RETURN_IF_ERROR(nested->Check());
    return std::unique_ptr<TileCoder>(std::move(nested));
  }
  auto coder = std::make_unique<EcsqCoder>(chain, side, std::move(profile));
  KVPLANE_RETURN_IF_ERROR(coder->Check());
  return std::unique_ptr<TileCoder>(std::move(coder));
}

}  // namespace kvplane::codec
