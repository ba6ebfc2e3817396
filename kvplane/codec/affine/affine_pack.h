// Codes of the stage `affine` at their fixed width, fused with the quantiser. The layout is specified in
// pack/spec.md.
#pragma once

#include "kvplane/codec/pack/pack_stage.h"

namespace kvplane::codec {

extern const PackedQuantizer kAffinePacked;

}  // namespace kvplane::codec
