#include "kvplane/codec/transform/centre_stage.h"

#include "kvplane/codec/transform/transform_rules.h"

namespace kvplane::codec {
namespace {

bool NeedsProfile(const StageCall& call) {
  return call.params[0] == static_cast<uint32_t>(CentreScope::kStatic);
}

}  // namespace

bool CoderTakesStaticMeans(Chain chain) {
  const StageCall* centre = FindCall(chain, kStageCentre);
  if (centre == nullptr || !NeedsProfile(*centre)) return false;
  if (FindCall(chain, kStageUnrope) != nullptr || FindCall(chain, Slot::kTransform) != nullptr) return false;
  return FindCall(chain, kStageEcsq) != nullptr || FindCall(chain, kStageTernary) != nullptr;
}

constinit const StageFunctions kCentreFunctions = TransformStage(NeedsProfile);

}  // namespace kvplane::codec
