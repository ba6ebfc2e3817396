#include "kvplane/codec/rans/table_choice.h"

#include <algorithm>
#include <bit>

namespace kvplane::codec {
namespace {

constexpr uint32_t kFractionBits = 16;
// A table of 16 symbols takes 10 to 12 bytes.
constexpr uint64_t kTableBits = 90;

// log2(1 + i / 256) in 2^-16, digit by digit: squaring doubles a logarithm.
constexpr std::array<uint32_t, 257> MakeLogs() {
  constexpr uint32_t kOne = 30;  // fixed point of the mantissa
  std::array<uint32_t, 257> logs{};
  for (uint64_t i = 0; i < 256; ++i) {
    uint64_t x = (256 + i) << (kOne - 8);
    for (uint32_t digit = 0; digit < kFractionBits; ++digit) {
      x = x * x >> kOne;
      logs[i] = logs[i] << 1 | static_cast<uint32_t>(x >> (kOne + 1));
      x >>= x >> (kOne + 1);
    }
  }
  logs[256] = 1u << kFractionBits;
  return logs;
}
constexpr std::array<uint32_t, 257> kLogs = MakeLogs();

// log2(x) in 2^-16, linear between the entries of the table. x >= 1.
uint64_t Log2(uint32_t x) {
  const auto octave = static_cast<uint32_t>(std::bit_width(x)) - 1;
  const uint32_t mantissa = x << (31 - octave);  // 1.31
  const uint32_t i = mantissa >> 23 & 0xff;
  const uint32_t part = mantissa >> 7 & 0xffff;
  const uint32_t log = kLogs[i] + ((kLogs[i + 1] - kLogs[i]) * part >> 16);
  return (uint64_t{octave} << kFractionBits) + log;
}

// What the symbols take in an ideal code of their own, in 2^-16 bits.
uint64_t Cost(const SymbolCounts& counts) {
  uint64_t cost = 0;
  uint32_t total = 0;
  for (const uint32_t count : counts) {
    if (count == 0) continue;
    cost -= count * Log2(count);
    total += count;
  }
  return total == 0 ? 0 : cost + total * Log2(total);
}

SymbolCounts Sum(const SymbolCounts& a, const SymbolCounts& b) {
  SymbolCounts sum;
  std::transform(a.begin(), a.end(), b.begin(), sum.begin(), std::plus<>());
  return sum;
}

}  // namespace

TableChoice ChooseTables(std::span<const SymbolCounts> counts, std::span<const uint32_t> alphabets) {
  TableChoice choice;
  std::array<uint64_t, kMaxPlaneTables> costs{};
  std::array<uint32_t, kMaxPlaneTables> alphabet_of{};
  for (size_t head = 0; head < counts.size(); ++head) {
    const uint64_t alone = Cost(counts[head]);
    uint32_t best = choice.tables;
    uint64_t best_cost = 0;
    uint64_t least_added = ~uint64_t{0};
    for (uint32_t k = 0; k < choice.tables; ++k) {
      if (alphabet_of[k] != alphabets[head]) continue;
      const uint64_t together = Cost(Sum(choice.counts[k], counts[head]));
      if (together - costs[k] < least_added) {
        least_added = together - costs[k];
        best_cost = together;
        best = k;
      }
    }
    const bool join = best != choice.tables && (choice.tables == kMaxPlaneTables ||
                                                least_added <= alone + (kTableBits << kFractionBits));
    if (!join) {
      if (choice.tables == kMaxPlaneTables) return {};
      best = choice.tables++;
      alphabet_of[best] = alphabets[head];
      best_cost = alone;
    }
    choice.counts[best] = Sum(choice.counts[best], counts[head]);
    costs[best] = best_cost;
    choice.table_of_head[head] = static_cast<uint8_t>(best);
  }
  for (const uint64_t cost : costs) choice.bits += cost >> kFractionBits;
  return choice;
}

}  // namespace kvplane::codec
