#include "kvplane/kernel/rans/rans_tables.h"

namespace kvplane::kernel::internal {
namespace {

constexpr uint32_t Alphabet(const RansClass& rans_class) { return 2u * rans_class.half_range + 1; }

constexpr bool Valid() {
  for (const RansClass& rans_class : kRansClassTable) {
    if (rans_class.half_range < 1 || rans_class.half_range > kRansMaxHalfRange) return false;
    uint32_t total = 0;
    for (uint32_t s = 0; s < Alphabet(rans_class); ++s) {
      if (rans_class.frequency[s] == 0) return false;
      total += rans_class.frequency[s];
    }
    if (total != kRansTotal) return false;
  }
  return true;
}
static_assert(Valid());

constexpr uint16_t Reciprocal(uint32_t frequency) {
  return static_cast<uint16_t>(frequency == 1 ? 65535 : 65536 / frequency);
}

constexpr RansDecodeTable DecodeTable(const RansClass& rans_class) {
  RansDecodeTable table = {};
  uint32_t slot = 0;
  for (uint32_t s = 0; s < Alphabet(rans_class); ++s) {
    for (uint32_t i = 0; i < rans_class.frequency[s]; ++i, ++slot) {
      table.symbol[slot] = static_cast<uint8_t>(s);
      table.frequency[slot] = rans_class.frequency[s];
      table.offset[slot] = static_cast<uint8_t>(i);
    }
  }
  return table;
}

constexpr RansEncodeTable EncodeTable(const RansClass& rans_class) {
  RansEncodeTable table = {};
  uint32_t start = 0;
  for (uint32_t s = 0; s < Alphabet(rans_class); ++s) {
    table.frequency[s] = rans_class.frequency[s];
    table.start[s] = static_cast<uint16_t>(start);
    table.reciprocal[s] = Reciprocal(rans_class.frequency[s]);
    start += rans_class.frequency[s];
  }
  return table;
}

constexpr RansByteTable ByteTable(const RansClass& rans_class) {
  RansByteTable table = {};
  for (uint8_t& start : table.start) start = kRansTotal - 1;
  const RansEncodeTable words = EncodeTable(rans_class);
  for (uint32_t s = 0; s < Alphabet(rans_class); ++s) {
    table.frequency[s] = static_cast<uint8_t>(words.frequency[s]);
    table.start[s] = static_cast<uint8_t>(words.start[s]);
    table.reciprocal_low[s] = static_cast<uint8_t>(words.reciprocal[s] & 0xff);
    table.reciprocal_high[s] = static_cast<uint8_t>(words.reciprocal[s] >> 8);
  }
  return table;
}

template <typename Table>
constexpr std::array<Table, kRansClasses> Ladder(Table (*make)(const RansClass&)) {
  std::array<Table, kRansClasses> tables = {};
  for (uint32_t k = 0; k < kRansClasses; ++k) tables[k] = make(kRansClassTable[k]);
  return tables;
}

}  // namespace

constinit const std::array<RansDecodeTable, kRansClasses> kRansDecode = Ladder(DecodeTable);
constinit const std::array<RansEncodeTable, kRansClasses> kRansEncode = Ladder(EncodeTable);
constinit const std::array<RansByteTable, kRansClasses> kRansBytes = Ladder(ByteTable);

}  // namespace kvplane::kernel::internal
