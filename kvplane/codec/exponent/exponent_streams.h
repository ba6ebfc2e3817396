// `exponent(mode=rans)`: the exponents of a tile as entropy-coded streams. spec.md in this folder is
// normative.
#pragma once

#include <memory>

#include "kvplane/codec/tile_coder.h"

namespace kvplane::codec {

std::unique_ptr<TileCoder> MakeExponentStreamCoder();

}  // namespace kvplane::codec
