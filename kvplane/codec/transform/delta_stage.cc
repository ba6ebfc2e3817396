#include "kvplane/codec/transform/delta_stage.h"

#include "kvplane/codec/transform/transform_rules.h"

namespace kvplane::codec {

constinit const StageFunctions kDeltaFunctions = TransformStage();

}  // namespace kvplane::codec
