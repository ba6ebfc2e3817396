#include "kvplane/codec/transform/hadamard_stage.h"

#include "kvplane/codec/transform/transform_rules.h"

namespace kvplane::codec {

constinit const StageFunctions kHadamardFunctions = TransformStage();

}  // namespace kvplane::codec
