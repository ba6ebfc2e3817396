#include "kvplane/kernel/rans/rans_symbols.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "kvplane/base/rng.h"

namespace kvplane::kernel {
namespace {

using Bytes = std::vector<std::byte>;
using Counts = std::array<uint32_t, kRansMaxAlphabet>;

// A tile of symbols, its tables and its streams. Symbols lie as [tokens, heads, head_dim] with a hole after
// each row, streams take the tokens in order.
struct Plan {
  Plan(uint32_t heads, uint32_t head_dim, std::vector<uint32_t> tokens_in) : tokens(std::move(tokens_in)) {
    shape.heads = heads;
    shape.head_dim = head_dim;
    shape.head_stride = head_dim + 3;
    shape.token_stride = heads * shape.head_stride;
    symbols.assign(all_tokens() * shape.token_stride, 0);
  }
  Plan(const Plan&) = delete;

  uint32_t all_tokens() const { return std::accumulate(tokens.begin(), tokens.end(), 0u); }
  size_t first(size_t stream) const {
    return std::accumulate(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(stream), size_t{0}) *
           shape.token_stride;
  }
  // The table of every head: how often its symbols occur; `alike` heads share one.
  void MakeTables(uint32_t alike) {
    const uint32_t count = (shape.heads + alike - 1) / alike;
    frequencies.clear();
    tables.assign(count, RansTable{});
    table_of_head.resize(shape.heads);
    for (uint32_t k = 0; k < count; ++k) {
      Counts counts = {};
      for (uint32_t h = k * alike; h < std::min(shape.heads, (k + 1) * alike); ++h) {
        table_of_head[h] = &tables[k];
        for (uint32_t t = 0; t < all_tokens(); ++t) {
          const uint8_t* row = symbols.data() + t * shape.token_stride + h * shape.head_stride;
          for (uint32_t c = 0; c < shape.head_dim; ++c) ++counts[row[c]];
        }
      }
      frequencies.push_back(NormaliseRans(counts));
      EXPECT_TRUE(BuildRansTable(frequencies.back(), &tables[k]));
    }
    shape.tables = table_of_head.data();
  }

  RansSymbolShape shape;
  std::vector<uint32_t> tokens;
  std::vector<uint8_t> symbols;
  std::vector<RansFrequencies> frequencies;
  std::vector<RansTable> tables;
  std::vector<const RansTable*> table_of_head;
};

std::vector<Bytes> Encode(Isa isa, const Plan& plan) {
  const auto streams = static_cast<uint32_t>(plan.tokens.size());
  std::vector<Bytes> buffers;
  const uint8_t* in[kRansMaxStreams];
  std::byte* ends[kRansMaxStreams];
  size_t sizes[kRansMaxStreams];
  for (uint32_t v = 0; v < streams; ++v) {
    buffers.emplace_back(RansMaxSymbolBytes(plan.shape, plan.tokens[v]));
  }
  for (uint32_t v = 0; v < streams; ++v) {
    in[v] = plan.symbols.data() + plan.first(v);
    ends[v] = buffers[v].data() + buffers[v].size();
  }
  RansSymbols(isa).encode(plan.shape, streams, in, plan.tokens.data(), ends, sizes);
  std::vector<Bytes> out;
  for (uint32_t v = 0; v < streams; ++v) out.emplace_back(ends[v] - sizes[v], ends[v]);
  return out;
}

// The symbols where streams put them, 0 in the holes.
uint32_t Decode(Isa isa, const Plan& plan, const std::vector<Bytes>& coded, std::vector<uint8_t>* symbols) {
  const auto streams = static_cast<uint32_t>(plan.tokens.size());
  symbols->assign(plan.symbols.size(), 0);
  std::span<const std::byte> in[kRansMaxStreams];
  uint8_t* to[kRansMaxStreams];
  for (uint32_t v = 0; v < streams; ++v) {
    in[v] = coded[v];
    to[v] = symbols->data() + plan.first(v);
  }
  return RansSymbols(isa).decode(plan.shape, streams, in, plan.tokens.data(), to);
}

// Skewed symbols of an alphabet, some of which never occur.
std::vector<uint8_t> RandomAlphabet(base::Rng& rng) {
  std::vector<uint8_t> used;
  const uint64_t keep = 1 + rng.Below(100);
  const uint64_t alphabet = 1 + rng.Below(kRansMaxAlphabet);
  for (uint64_t s = 0; s < alphabet; ++s) {
    if (rng.Below(100) < keep || s + 1 == alphabet) used.push_back(static_cast<uint8_t>(s));
  }
  return used;
}
void Fill(base::Rng& rng, Plan& plan) {
  const std::vector<uint8_t> used = RandomAlphabet(rng);
  const double skew = 1.0 + 6.0 * rng.Uniform();
  for (size_t row = 0; row < plan.all_tokens() * size_t{plan.shape.heads}; ++row) {
    uint8_t* to = plan.symbols.data() + row * plan.shape.head_stride;
    for (uint32_t c = 0; c < plan.shape.head_dim; ++c) {
      const double u = std::pow(rng.Uniform(), skew);
      to[c] = used[std::min(used.size() - 1, static_cast<size_t>(u * static_cast<double>(used.size())))];
    }
  }
}
std::unique_ptr<Plan> RandomPlan(base::Rng& rng) {
  const auto streams = 1 + rng.Below(kRansMaxStreams);
  const auto least = static_cast<uint32_t>(1 + rng.Below(8));
  std::vector<uint32_t> tokens(streams);
  for (uint32_t& n : tokens) n = least + static_cast<uint32_t>(rng.Below(2 + 6 * rng.Below(2)));
  const auto head_dim =
      static_cast<uint32_t>(rng.Below(2) == 0 ? 32 * (1 + rng.Below(4)) : 1 + rng.Below(130));
  auto plan = std::make_unique<Plan>(1 + static_cast<uint32_t>(rng.Below(4)), head_dim, std::move(tokens));
  Fill(rng, *plan);
  plan->MakeTables(rng.Below(2) == 0 ? 1000 : 1 + static_cast<uint32_t>(rng.Below(3)));
  return plan;
}

double EntropyBits(const Counts& counts) {
  double total = 0, bits = 0;
  for (const uint32_t n : counts) total += n;
  for (const uint32_t n : counts) {
    if (n != 0) bits -= n * std::log2(n / total);
  }
  return bits;
}
double CodeBits(const Counts& counts, const RansFrequencies& f) {
  double bits = 0;
  for (size_t s = 0; s < counts.size(); ++s) {
    if (counts[s] != 0) bits += counts[s] * (7 - std::log2(f.of[s]));
  }
  return bits;
}

TEST(RansSymbolsUnit, FrequenciesByHand) {
  const auto normalise = [](std::initializer_list<uint32_t> list) {
    Counts counts = {};
    std::copy(list.begin(), list.end(), counts.begin());
    const RansFrequencies f = NormaliseRans(counts);
    return std::vector<int>(f.of, f.of + list.size());
  };
  EXPECT_EQ(normalise({5}), std::vector<int>({128}));
  EXPECT_EQ(normalise({0, 0, 9}), std::vector<int>({0, 0, 128}));
  EXPECT_EQ(normalise({1, 1}), std::vector<int>({64, 64}));
  EXPECT_EQ(normalise({3, 0, 1}), std::vector<int>({96, 0, 32}));
  EXPECT_EQ(normalise({1000000, 1, 1}), std::vector<int>({126, 1, 1}));
  EXPECT_EQ(normalise({1, 1, 1}), std::vector<int>({43, 43, 42}));  // the smaller symbols win the tie
  EXPECT_EQ(normalise({4294967295u, 4294967295u, 1}), std::vector<int>({64, 63, 1}));
}

// Greedy by the true saving count * log2((f + 1) / f), one unit after the other.
RansFrequencies BestFrequencies(const Counts& counts) {
  RansFrequencies f;
  uint32_t sum = 0;
  for (size_t s = 0; s < counts.size(); ++s) sum += f.of[s] = counts[s] == 0 ? 0 : 1;
  for (; sum < kRansFrequencyTotal; ++sum) {
    size_t best = 0;
    double most = -1;
    for (size_t s = 0; s < counts.size(); ++s) {
      if (counts[s] == 0) continue;
      const double saved = counts[s] * std::log2((f.of[s] + 1.0) / f.of[s]);
      if (saved > most) {
        most = saved;
        best = s;
      }
    }
    ++f.of[best];
  }
  return f;
}

TEST(RansSymbolsProperty, FrequenciesAreAsGoodAsTheBest) {
  base::Rng rng(70);
  for (int round = 0; round < 2000; ++round) {
    Counts counts = {};
    const uint64_t alphabet = 1 + rng.Below(kRansMaxAlphabet);
    for (size_t s = 0; s < alphabet; ++s) {
      if (rng.Below(4) != 0) counts[s] = static_cast<uint32_t>(std::exp2(rng.Uniform() * 20));
    }
    counts[alphabet - 1] = std::max(counts[alphabet - 1], 1u);
    const RansFrequencies f = NormaliseRans(counts);
    uint32_t sum = 0;
    for (size_t s = 0; s < counts.size(); ++s) {
      sum += f.of[s];
      ASSERT_EQ(f.of[s] == 0, counts[s] == 0);
    }
    ASSERT_EQ(sum, kRansFrequencyTotal);
    ASSERT_LE(CodeBits(counts, f), 1.002 * CodeBits(counts, BestFrequencies(counts)) + 1e-6);
  }
}

TEST(RansSymbolsUnit, TablesMustSumTo128) {
  RansTable table;
  RansFrequencies f;
  EXPECT_FALSE(BuildRansTable(f, &table));
  f.of[7] = 127;
  EXPECT_FALSE(BuildRansTable(f, &table));
  f.of[31] = 1;
  ASSERT_TRUE(BuildRansTable(f, &table));
  EXPECT_EQ(table.alphabet, 32u);
  f.of[0] = 1;
  EXPECT_FALSE(BuildRansTable(f, &table));
  f = {};
  f.of[3] = 128;
  ASSERT_TRUE(BuildRansTable(f, &table));
  EXPECT_EQ(table.alphabet, 4u);
}

// The example of docs/formats/rans.md, section 11.
TEST(RansSymbolsUnit, ExampleOfTheSpecification) {
  Plan plan(1, 3, {3});
  const uint8_t rows[3][3] = {{2, 0, 2}, {2, 2, 5}, {0, 2, 5}};
  for (size_t t = 0; t < 3; ++t)
    std::copy_n(rows[t], 3, plan.symbols.begin() + static_cast<ptrdiff_t>(6 * t));
  plan.MakeTables(1);
  const uint8_t frequencies[] = {29, 0, 71, 0, 0, 28};
  for (size_t s = 0; s < 6; ++s) EXPECT_EQ(plan.frequencies[0].of[s], frequencies[s]);
  // Lane 0: 0 (f 29, c 0): 8 * 128 + 24 = 1048; 2 (f 71, c 29): 14 * 128 + 54 + 29 = 1875; 2: 3386.
  // Lane 1: 2: 3 * 128 + 43 + 29 = 456; 2: 6 * 128 + 30 + 29 = 827; 0: 28 * 128 + 15 = 3599.
  // Lane 2: 5 (f 28, c 100): 9 * 128 + 4 + 100 = 1256; 5: 44 * 128 + 24 + 100 = 5756; 2: 10402.
  std::vector<uint8_t> expected = {0x3a, 0x0d, 0x0f, 0x0e, 0xa2, 0x28};
  for (int lane = 3; lane < 32; ++lane) expected.insert(expected.end(), {0x00, 0x01});
  for (const Isa isa : AvailableIsas()) {
    const Bytes coded = Encode(isa, plan)[0];
    ASSERT_EQ(coded.size(), expected.size());
    for (size_t i = 0; i < coded.size(); ++i) EXPECT_EQ(static_cast<uint8_t>(coded[i]), expected[i]) << i;
    std::vector<uint8_t> decoded;
    EXPECT_EQ(Decode(isa, plan, {coded}, &decoded), 0u);
    EXPECT_EQ(decoded, plan.symbols);
  }
}

// Every alphabet size, plain and sparse, comes back; every instruction set writes the scalar bytes.
TEST(RansSymbolsDiff, EveryIsaGivesTheScalarBytesAndComesBack) {
  base::Rng rng(71);
  for (int round = 0; round < 1500; ++round) {
    const auto plan = RandomPlan(rng);
    const std::vector<Bytes> coded = Encode(Isa::kScalar, *plan);
    for (const Isa isa : AvailableIsas()) {
      ASSERT_EQ(Encode(isa, *plan), coded) << Name(isa);
      std::vector<uint8_t> decoded;
      ASSERT_EQ(Decode(isa, *plan, coded, &decoded), 0u) << Name(isa);
      ASSERT_EQ(decoded, plan->symbols) << Name(isa);
    }
  }
}

TEST(RansSymbolsProperty, OneSymbolTakesNoBits) {
  for (const uint8_t symbol : std::initializer_list<uint8_t>{0, 1, 15, 16, 31}) {
    Plan plan(3, 96, {5, 5, 6, 5});
    std::fill(plan.symbols.begin(), plan.symbols.end(), symbol);
    plan.MakeTables(2);
    for (const Isa isa : AvailableIsas()) {
      const std::vector<Bytes> coded = Encode(isa, plan);
      for (const Bytes& stream : coded) EXPECT_EQ(stream.size(), kRansStateBytes);
      std::vector<uint8_t> decoded;
      EXPECT_EQ(Decode(isa, plan, coded, &decoded), 0u);
      for (size_t i = 0; i < decoded.size(); ++i) {
        if (i % plan.shape.head_stride < plan.shape.head_dim) {
          ASSERT_EQ(decoded[i], symbol);
        }
      }
    }
  }
}

// A stream of 65,536 symbols is within 1 % of their entropy where that is a bit a symbol or more.
TEST(RansSymbolsProperty, SizeIsNearTheEntropy) {
  base::Rng rng(72);
  for (const uint32_t alphabet : {4u, 8u, 12u, 16u, 24u}) {
    Plan plan(8, 128, {64});
    for (uint8_t& s : plan.symbols) {
      const double x = rng.Normal() * alphabet / 6.0 + alphabet / 2.5;
      s = static_cast<uint8_t>(std::clamp(x, 0.0, alphabet - 1.0));
    }
    plan.MakeTables(1000);
    Counts counts = {};
    for (size_t i = 0; i < plan.symbols.size(); ++i) {
      if (i % plan.shape.head_stride < 128) ++counts[plan.symbols[i]];
    }
    const double bytes = static_cast<double>(Encode(Isa::kScalar, plan)[0].size());
    EXPECT_LT(bytes, 1.01 * EntropyBits(counts) / 8) << alphabet;
  }
}

TEST(RansSymbolsDiff, CountsAreExact) {
  base::Rng rng(73);
  for (int round = 0; round < 500; ++round) {
    const std::vector<uint8_t> used = RandomAlphabet(rng);
    std::vector<uint8_t> symbols(1 + rng.Below(3000));
    Counts expected = {};
    for (uint8_t& s : symbols) s = used[rng.Below(used.size())];
    for (const uint8_t s : symbols) ++expected[s];
    for (const Isa isa : AvailableIsas()) {
      Counts counts = {};
      RansSymbols(isa).count(symbols.data(), symbols.size(), used.back() + 1u, counts.data());
      ASSERT_EQ(counts, expected) << Name(isa);
    }
  }
}

TEST(RansSymbolsUnit, FrequenciesTravelAsBits) {
  RansFrequencies f;
  const uint8_t frequencies[] = {29, 0, 71, 0, 0, 28};
  std::copy_n(frequencies, 6, f.of);
  std::byte out[kRansMaxFrequencyBytes];
  // n - 1 = 5; 29: width 5, then 13; 0: width 0; 71: width 7, then 7; 0; 0; the last is what is left.
  ASSERT_EQ(WriteRansFrequencies(f, out), 4u);
  const uint8_t expected[] = {0xa5, 0x8d, 0x1f, 0x00};
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(static_cast<uint8_t>(out[i]), expected[i]) << i;
  f = {};
  f.of[0] = 128;
  EXPECT_EQ(WriteRansFrequencies(f, out), 1u);
  EXPECT_EQ(out[0], std::byte{0});
}

TEST(RansSymbolsProperty, FrequenciesComeBack) {
  base::Rng rng(75);
  for (int round = 0; round < 2000; ++round) {
    Counts counts = {};
    for (const uint8_t s : RandomAlphabet(rng)) counts[s] = static_cast<uint32_t>(1 + rng.Below(1000));
    const RansFrequencies f = NormaliseRans(counts);
    Bytes bytes(kRansMaxFrequencyBytes);
    bytes.resize(WriteRansFrequencies(f, bytes.data()));
    bytes.shrink_to_fit();
    RansFrequencies back;
    ASSERT_EQ(ReadRansFrequencies(bytes, &back), bytes.size());
    ASSERT_EQ(back, f);
    // One form only: what is read is what would be written.
    Bytes noise(1 + rng.Below(40));
    for (std::byte& b : noise) b = static_cast<std::byte>(rng.Below(256));
    const size_t read = ReadRansFrequencies(noise, &back);
    if (read == 0) continue;
    Bytes again(kRansMaxFrequencyBytes);
    ASSERT_EQ(WriteRansFrequencies(back, again.data()), read);
    ASSERT_TRUE(std::equal(noise.begin(), noise.begin() + static_cast<ptrdiff_t>(read), again.begin()));
  }
}

TEST(RansSymbolsSafety, ImpossibleFrequencies) {
  const auto read = [](std::initializer_list<int> list) {
    Bytes bytes;
    for (const int b : list) bytes.push_back(static_cast<std::byte>(b));
    RansFrequencies f;
    return ReadRansFrequencies(bytes, &f);
  };
  EXPECT_EQ(read({}), 0u);
  EXPECT_EQ(read({0x00}), 1u);
  EXPECT_EQ(read({0x20}), 0u);              // padding
  EXPECT_EQ(read({0x05, 0x00}), 0u);        // cut
  EXPECT_EQ(read({0x05, 0x00, 0x00}), 3u);  // five zeros, then 128
  EXPECT_EQ(read({0xe1, 0x3f}), 2u);        // 127 and 1
  EXPECT_EQ(read({0xe2, 0xff, 0x00}), 0u);  // 127, then at least 1: nothing is left
}

// Every truncation and nearly every flipped bit is noticed, alike by all; symbols stay inside their tables.
TEST(RansSymbolsSafety, DamagedStreams) {
  base::Rng rng(74);
  size_t flips = 0, noticed = 0;
  for (int round = 0; round < 600; ++round) {
    const auto plan = RandomPlan(rng);
    const std::vector<Bytes> coded = Encode(Isa::kScalar, *plan);
    std::vector<Bytes> damaged = coded;
    Bytes& victim = damaged[rng.Below(damaged.size())];
    const bool cut = rng.Below(3) == 0;
    const bool lengthened = !cut && rng.Below(3) == 0;
    if (cut) {
      victim.resize(rng.Below(victim.size()));
    } else if (lengthened) {
      victim.insert(victim.end(), 1 + rng.Below(70), static_cast<std::byte>(rng.Below(256)));
    } else {
      victim[rng.Below(victim.size())] ^= static_cast<std::byte>(1u << rng.Below(8));
      ++flips;
    }
    for (Bytes& stream : damaged) stream.shrink_to_fit();
    std::vector<uint8_t> scalar_symbols;
    const uint32_t scalar = Decode(Isa::kScalar, *plan, damaged, &scalar_symbols);
    if (cut || lengthened) {
      ASSERT_NE(scalar, 0u);
    } else {
      noticed += scalar != 0 ? 1 : 0;
    }
    for (const Isa isa : AvailableIsas()) {
      std::vector<uint8_t> symbols;
      ASSERT_EQ(Decode(isa, *plan, damaged, &symbols), scalar) << Name(isa);
      ASSERT_LT(*std::max_element(symbols.begin(), symbols.end()), kRansMaxAlphabet);
    }
  }
  EXPECT_GE(noticed * 100, flips * 95);
}

}  // namespace
}  // namespace kvplane::kernel
