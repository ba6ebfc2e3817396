#include "kvplane/kernel/rans/rans_symbols.h"

#include <algorithm>
#include <bit>

#include "kvplane/kernel/rans/rans_symbols_driver.h"

namespace kvplane::kernel {
namespace {

uint16_t Reciprocal(uint32_t frequency) {
  return static_cast<uint16_t>(frequency == 1 ? 65535 : 65536 / frequency);
}

// Whether a / b > c / d.
bool Above(uint64_t a, uint64_t b, uint64_t c, uint64_t d) { return a * d > c * b; }

// The symbol whose next unit saves most, and the one whose last unit is missed least.
uint32_t Neediest(std::span<const uint32_t, kRansMaxAlphabet> counts, const RansFrequencies& f) {
  uint32_t best = 0;
  for (uint32_t s = 1; s < kRansMaxAlphabet; ++s) {
    if (Above(counts[s], 2u * f.of[s] + 1, counts[best], 2u * f.of[best] + 1)) best = s;
  }
  return best;
}
uint32_t Richest(std::span<const uint32_t, kRansMaxAlphabet> counts, const RansFrequencies& f) {
  uint32_t best = kRansMaxAlphabet;
  for (uint32_t s = 0; s < kRansMaxAlphabet; ++s) {
    if (f.of[s] <= 1) continue;
    if (best == kRansMaxAlphabet || !Above(counts[s], 2u * f.of[s] - 1, counts[best], 2u * f.of[best] - 1)) {
      best = s;
    }
  }
  return best;
}

// A bit string, low bits of a byte first.
class BitSink {
 public:
  explicit BitSink(std::byte* out) : out_(out) {}
  void Put(uint32_t value, uint32_t bits) {
    for (uint32_t i = 0; i < bits; ++i, ++size_) {
      if (size_ % 8 == 0) out_[size_ / 8] = std::byte{0};
      out_[size_ / 8] |= static_cast<std::byte>((value >> i & 1u) << size_ % 8);
    }
  }
  size_t bytes() const { return (size_ + 7) / 8; }

 private:
  std::byte* out_;
  size_t size_ = 0;
};
class BitSource {
 public:
  explicit BitSource(std::span<const std::byte> in) : in_(in) {}
  // Zeros beyond the end.
  uint32_t Get(uint32_t bits) {
    uint32_t value = 0;
    for (uint32_t i = 0; i < bits; ++i, ++size_) {
      if (size_ / 8 < in_.size()) value |= (static_cast<uint32_t>(in_[size_ / 8]) >> size_ % 8 & 1u) << i;
    }
    return value;
  }
  size_t bytes() const { return (size_ + 7) / 8; }
  // Whether all that was read is there and the rest of the last byte is 0.
  bool Whole() {
    if (bytes() > in_.size()) return false;
    return size_ % 8 == 0 || static_cast<uint32_t>(in_[size_ / 8]) >> size_ % 8 == 0;
  }

 private:
  std::span<const std::byte> in_;
  size_t size_ = 0;
};
constexpr uint32_t kAlphabetBits = 5;
constexpr uint32_t kWidthBits = 3;

}  // namespace

size_t WriteRansFrequencies(const RansFrequencies& frequencies, std::byte* out) {
  uint32_t last = kRansMaxAlphabet - 1;
  while (last > 0 && frequencies.of[last] == 0) --last;
  BitSink sink(out);
  sink.Put(last, kAlphabetBits);
  for (uint32_t s = 0; s < last; ++s) {
    const auto width = static_cast<uint32_t>(std::bit_width(uint32_t{frequencies.of[s]}));
    sink.Put(width, kWidthBits);
    if (width > 1) sink.Put(frequencies.of[s], width - 1);
  }
  return sink.bytes();
}

size_t ReadRansFrequencies(std::span<const std::byte> in, RansFrequencies* frequencies) {
  *frequencies = {};
  BitSource source(in);
  const uint32_t last = source.Get(kAlphabetBits);
  uint32_t sum = 0;
  for (uint32_t s = 0; s < last; ++s) {
    const uint32_t width = source.Get(kWidthBits);
    const uint32_t below = width > 1 ? source.Get(width - 1) : 0;
    const uint32_t f = width == 0 ? 0 : 1u << (width - 1) | below;
    frequencies->of[s] = static_cast<uint8_t>(f);
    sum += f;
  }
  if (sum >= kRansFrequencyTotal || !source.Whole()) return 0;
  frequencies->of[last] = static_cast<uint8_t>(kRansFrequencyTotal - sum);
  return source.bytes();
}

RansFrequencies NormaliseRans(std::span<const uint32_t, kRansMaxAlphabet> counts) {
  uint64_t total = 0;
  for (const uint32_t count : counts) total += count;
  RansFrequencies f;
  uint32_t sum = 0;
  for (uint32_t s = 0; s < kRansMaxAlphabet; ++s) {
    if (counts[s] == 0) continue;
    const uint64_t rounded = (uint64_t{counts[s]} * kRansFrequencyTotal + total / 2) / total;
    f.of[s] = static_cast<uint8_t>(std::max<uint64_t>(rounded, 1));
    sum += f.of[s];
  }
  // Rounding leaves few units over or short.
  for (; sum < kRansFrequencyTotal; ++sum) ++f.of[Neediest(counts, f)];
  for (; sum > kRansFrequencyTotal; --sum) --f.of[Richest(counts, f)];
  return f;
}

bool BuildRansTable(const RansFrequencies& frequencies, RansTable* table) {
  uint32_t total = 0;
  for (const uint8_t f : frequencies.of) total += f;
  if (total != kRansFrequencyTotal) return false;
  uint32_t start = 0;
  for (uint32_t s = 0; s < kRansMaxAlphabet; ++s) {
    const uint8_t f = frequencies.of[s];
    table->encode.frequency[s] = f;
    table->encode.start[s] = static_cast<uint16_t>(start);
    table->encode.reciprocal[s] = f == 0 ? uint16_t{0} : Reciprocal(f);
    table->bytes.frequency[s] = f;
    table->bytes.start[s] = static_cast<uint8_t>(start);
    table->bytes.reciprocal_low[s] = static_cast<uint8_t>(table->encode.reciprocal[s] & 0xff);
    table->bytes.reciprocal_high[s] = static_cast<uint8_t>(table->encode.reciprocal[s] >> 8);
    for (uint8_t i = 0; i < f; ++i) {
      table->decode.symbol[start + i] = static_cast<uint8_t>(s);
      table->decode.frequency[start + i] = f;
      table->decode.offset[start + i] = i;
    }
    start += f;
    if (f != 0) table->alphabet = s + 1;
  }
  return true;
}

const RansSymbolKernels& RansSymbols(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return internal::kRansSymbolsAvx512;
    case Isa::kAvx2:
      return internal::kRansSymbolsAvx2;
    case Isa::kScalar:
      break;
  }
  return internal::kRansSymbolsScalar;
}

const RansSymbolKernels& RansSymbols() { return RansSymbols(ActiveIsa()); }

}  // namespace kvplane::kernel
