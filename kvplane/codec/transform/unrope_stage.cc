#include "kvplane/codec/transform/unrope_stage.h"

#include "kvplane/codec/transform/transform_rules.h"

namespace kvplane::codec {
namespace {

bool NeedsProfile(const StageCall&) { return true; }

}  // namespace

constinit const StageFunctions kUnropeFunctions = TransformStage(NeedsProfile);

}  // namespace kvplane::codec
