// `zstd` and `lz4` behind a quantiser: its symbols in packed rows, handed to the general compressor.
// lz/spec.md is normative.
#pragma once

#include <cstdint>
#include <memory>

#include "kvplane/codec/lz/byte_planes.h"
#include "kvplane/codec/symbol_plane.h"

namespace kvplane::codec {

// What both stages stand behind: nothing but selection, or a quantiser of byte symbols (L1).
base::Status CheckCompressible(Chain chain, size_t at);

// Bits that a symbol of an alphabet takes in the packed rows.
using SymbolWidth = uint32_t (*)(uint32_t alphabet);

// kUnimplemented: the chain has no quantiser. `compressor` outlives the coder.
base::Result<std::unique_ptr<TileCoder>> BindSymbolCompressor(Chain chain,
                                                              std::shared_ptr<const ModelProfile> profile,
                                                              const PlaneCompressor& compressor,
                                                              uint32_t level, SymbolWidth width);

}  // namespace kvplane::codec
