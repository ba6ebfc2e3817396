// Stage `bitplane_rle`: symbols as bit planes, of which each leaves out its zero bytes where that pays: what
// the KVServe paper (SIGCOMM 2026) draws from nvCOMP's Bitcomp and from BIT + RZE of the LC framework (Azami
// et al., 2025), in a form of our own. spec.md in this folder is normative.
//
// A yardstick of speed without an entropy coder: it gains where the upper planes are nearly empty.
#pragma once

#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {

extern const StageFunctions kBitplaneFunctions;

}  // namespace kvplane::codec
