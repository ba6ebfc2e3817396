// Which heads of a tile share an entropy table: a table of its own saves a head bits and costs its bytes.
//
// Heads are taken in order; each joins the table to which it adds the fewest bits, or opens another where
// that saves more than a table takes (leader clustering). Measured on keys and values of a model: a table per
// head is worth 1 % of a tile where heads differ, a table per 32 channels another 0.3 %, which its bytes take
// again.
//
// Integers only: every machine makes the same choice. Thread safety: pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "kvplane/codec/tile_codec.h"
#include "kvplane/kernel/rans/rans_symbols.h"

namespace kvplane::codec {

constexpr uint32_t kMaxPlaneTables = 15;

using SymbolCounts = std::array<uint32_t, kernel::kRansMaxAlphabet>;

struct TableChoice {
  uint32_t tables = 0;                                 // 0: no choice has so few tables
  std::array<uint8_t, kMaxTileHeads> table_of_head{};  // [heads]
  std::array<SymbolCounts, kMaxPlaneTables> counts{};  // [tables], over the table's heads
  uint64_t bits = 0;                                   // what the symbols take, tables not counted
};

// counts, alphabets: [heads]; heads of one table have one alphabet.
TableChoice ChooseTables(std::span<const SymbolCounts> counts, std::span<const uint32_t> alphabets);

}  // namespace kvplane::codec
