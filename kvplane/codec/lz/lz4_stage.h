// Stage `lz4`: the byte planes of a tile, lossless, or the symbols of a quantiser as one LZ4 block. spec.md
// in this folder is normative.
//
// A yardstick: without an entropy coder it finds little in KV.
#pragma once

#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {

extern const StageFunctions kLz4Functions;

}  // namespace kvplane::codec
