// `pack` behind any quantiser that makes byte symbols: side information, then the symbols of every head at
// the width of its alphabet. spec.md in this folder is normative.
#pragma once

#include <memory>

#include "kvplane/codec/symbol_quantizer.h"
#include "kvplane/codec/tile_coder.h"

namespace kvplane::codec {

std::unique_ptr<TileCoder> MakeSymbolPackCoder(std::unique_ptr<SymbolQuantizer> quantizer);

}  // namespace kvplane::codec
