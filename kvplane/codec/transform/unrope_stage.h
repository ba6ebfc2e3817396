// Stage `unrope`: undoes the rotary position embedding of keys. spec.md in this folder is normative.
//
// Before RoPE a channel of keys has one mean and one deviation over all positions; after it the pair turns
// with the position and both are smeared (KVQuant, NeurIPS 2024, section 3.2). The decoder rotates again.
//
// Thread safety: constant data.
#pragma once

#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {

extern const StageFunctions kUnropeFunctions;

}  // namespace kvplane::codec
