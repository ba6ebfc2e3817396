#include "kvplane/codec/affine/affine_stage.h"

namespace kvplane::codec {
namespace {

// Groups and scales are all the state there is: any code stage that takes symbols may follow, and those that
// do not say so themselves.
base::Status Validate(Chain, size_t) { return base::Status::Ok(); }

}  // namespace

bool AffineConfig::Covers(const StageCall& call) {
  if (call.stage_id == kStageAffine) return true;
  if (call.stage_id != kStageLevels) return false;
  const uint32_t m = call.params[0];
  const uint32_t low = call.params[1];
  return (m == 4 || m == 16 || m == 256) && (low == 0 || low == m) &&
         static_cast<LevelAxis>(call.params[2]) != LevelAxis::kTensor;
}

AffineConfig AffineConfig::Of(const StageCall& call) {
  if (call.stage_id == kStageLevels) {
    const uint32_t m = call.params[0];
    return {m == 4 ? 2u : m == 16 ? 4u : 8u, {static_cast<LevelAxis>(call.params[2]), call.params[3]}};
  }
  return {call.params[0], {static_cast<LevelAxis>(call.params[2]), call.params[1]}};
}

constinit const StageFunctions kAffineFunctions = {Validate, nullptr, nullptr, nullptr};

}  // namespace kvplane::codec
