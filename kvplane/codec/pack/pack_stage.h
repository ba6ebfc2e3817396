// Stage `pack`: codes of fixed width. spec.md in this folder is normative.
#pragma once

#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {

extern const StageFunctions kPackFunctions;

}  // namespace kvplane::codec
