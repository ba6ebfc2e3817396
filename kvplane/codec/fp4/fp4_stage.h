// Stages `nvfp4` and `mxfp4`: the 4-bit block formats of accelerators: E2M1 in blocks along head_dim. spec.md
// in this folder is normative.
#pragma once

#include <memory>

#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/symbol_quantizer.h"

namespace kvplane::codec {

extern const StageFunctions kFp4Functions;

// Symbols: E2M1 codes. Side information of nvfp4: the tile's scale, binary32, then the blocks' scales,
// [heads, tokens, ceil(head_dim / 16)] E4M3; of mxfp4: [heads, tokens, ceil(head_dim / 32)] E8M0.
std::unique_ptr<SymbolQuantizer> MakeNvfp4Quantizer();
std::unique_ptr<SymbolQuantizer> MakeMxfp4Quantizer();

}  // namespace kvplane::codec
