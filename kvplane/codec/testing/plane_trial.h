// What a code makes of a plane of byte symbols, for the tests of every SymbolPlaneCode.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/codec/pack/packed_rows.h"
#include "kvplane/codec/symbol_plane.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/kernel/testing/scoped_isa.h"

namespace kvplane::codec::testing {

// A plane with its symbols, zeros at first. Its view borrows from it, so it stays where it is.
struct PlaneOfSymbols {
  PlaneOfSymbols(const TileShape& shape, std::vector<uint32_t> alphabets_in)
      : alphabets(std::move(alphabets_in)), symbols(shape.values()), view{shape, alphabets} {}
  PlaneOfSymbols(const PlaneOfSymbols&) = delete;
  PlaneOfSymbols& operator=(const PlaneOfSymbols&) = delete;

  // All symbols at fixed width.
  size_t packed_bytes() const {
    size_t bytes = 0;
    for (const uint32_t alphabet : alphabets) bytes += PackedHeadBytes(view.shape, PackedWidth(alphabet));
    return bytes;
  }

  std::vector<uint32_t> alphabets;  // [heads]
  std::vector<uint8_t> symbols;     // [heads, tokens, head_dim]
  SymbolPlane view;
};

// The coded plane, which ends where its allocation ends. `room`: what the code is given to write in.
inline std::vector<std::byte> EncodePlane(const SymbolPlaneCode& code, const PlaneOfSymbols& plane,
                                          size_t room) {
  Workspace workspace;
  std::vector<std::byte> out(room);
  out.resize(code.Encode(plane.view, plane.symbols.data(), workspace, out));
  out.shrink_to_fit();
  return out;
}

// symbols: as many as those of `plane`.
inline base::Status DecodePlane(const SymbolPlaneCode& code, const PlaneOfSymbols& plane,
                                std::span<const std::byte> coded, std::vector<uint8_t>* symbols) {
  Workspace workspace;
  symbols->assign(plane.symbols.size(), 0xee);
  return code.Decode(plane.view, coded, workspace, symbols->data());
}

// Ok when every instruction set codes `plane` to `coded` and decodes it to the symbols of `plane`.
inline base::Status CheckOnEveryIsa(const SymbolPlaneCode& code, const PlaneOfSymbols& plane,
                                    std::span<const std::byte> coded, size_t room) {
  const std::vector<std::byte> expected(coded.begin(), coded.end());
  for (const kernel::Isa isa : kernel::AvailableIsas()) {
    const kernel::testing::ScopedIsa forced(isa);
    if (EncodePlane(code, plane, room) != expected) {
      return base::Internal("{}: writes other bytes", kernel::Name(isa));
    }
    std::vector<uint8_t> symbols;
    const base::Status status = DecodePlane(code, plane, expected, &symbols);
    if (!status.ok()) return base::Internal("{}: {}", kernel::Name(isa), status.message());
    if (symbols != plane.symbols) return base::Internal("{}: decodes other symbols", kernel::Name(isa));
  }
  return base::Status::Ok();
}

// Whether all symbols are below the alphabets of their heads: what a decoder that accepts owes its caller.
inline bool WithinAlphabets(const PlaneOfSymbols& plane, std::span<const uint8_t> symbols) {
  for (size_t i = 0; i < symbols.size(); ++i) {
    if (symbols[i] >= plane.alphabets[i / plane.view.head_values()]) return false;
  }
  return true;
}

}  // namespace kvplane::codec::testing
