#include "kvplane/codec/affine/affine_stage.h"

namespace kvplane::codec {
namespace {

// Groups and scales are all the state there is: any code stage that takes symbols may follow, and those that
// do not say so themselves.
base::Status Validate(Chain, size_t) { return base::Status::Ok(); }

}  // namespace

AffineConfig AffineConfig::Of(const StageCall& call) {
  return {call.params[0], {static_cast<LevelAxis>(call.params[2]), call.params[1]}};
}

constinit const StageFunctions kAffineFunctions = {Validate, nullptr, nullptr, nullptr};

}  // namespace kvplane::codec
