#include "kvplane/kernel/ecsq/ternary.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/kernel/ecsq/ecsq_tables.h"

namespace kvplane::kernel {
namespace {

using Bytes = std::vector<std::byte>;

struct Refinement {
  Refinement(base::Rng& rng, uint32_t tokens, uint32_t channels) : groups((channels + 31) / 32) {
    for (uint32_t g = 0; g < groups; ++g) tables.push_back(static_cast<uint8_t>(rng.Below(kTernaryTables)));
    shape = {tokens, channels, tables.data()};
    parents.resize(size_t{tokens} * groups * 32);
    levels.resize(parents.size());
    for (size_t i = 0; i < levels.size(); ++i) {
      if (i / 32 % groups * 32 + i % 32 >= channels) continue;
      const double sigma = 0.75 * std::exp2(tables[i / 32 % groups] / 4.0);
      const auto level = static_cast<int16_t>(std::lround(rng.Normal() * sigma));
      parents[i] = static_cast<int16_t>(std::floor((level + 1) / 3.0));
      levels[i] = level;
    }
  }
  Bytes Encode(Isa isa) const {
    Bytes buffer(TernaryMaxStreamBytes(shape));
    std::byte* const end = buffer.data() + buffer.size();
    return Bytes(Ternary(isa).encode(shape, parents.data(), levels.data(), end), end);
  }
  uint32_t groups;
  std::vector<uint8_t> tables;
  TernaryShape shape;
  std::vector<int16_t> parents, levels;
};

// One lane, one token, parent -1: the refined level -4 is the folded symbol 1 + 1.
TEST(TernaryUnit, OneLevelByHand) {
  const uint8_t table = 4;  // context 1: 90, 31, 7
  std::vector<int16_t> parents(32), levels(32);
  parents[0] = -1;
  levels[0] = -4;
  const TernaryShape shape{1, 1, &table};
  for (const Isa isa : AvailableIsas()) {
    Bytes buffer(TernaryMaxStreamBytes(shape));
    std::byte* const end = buffer.data() + buffer.size();
    std::byte* const begin = Ternary(isa).encode(shape, parents.data(), levels.data(), end);
    ASSERT_EQ(end - begin, 64);
    // 256 / 7 = 36, rest 4: 36 * 128 + 4 + 121
    EXPECT_EQ(static_cast<int>(begin[0]) | static_cast<int>(begin[1]) << 8, 4733);
    std::vector<int16_t> back = parents;
    ASSERT_TRUE(Ternary(isa).decode(shape, {begin, 64}, back.data()));
    EXPECT_EQ(back[0], -4);
  }
}

TEST(TernaryDiff, RoundTripsAndBytesAgreeOnEveryIsa) {
  base::Rng rng(1);
  for (int round = 0; round < 150; ++round) {
    const Refinement data(rng, static_cast<uint32_t>(1 + rng.Below(64)),
                          static_cast<uint32_t>(1 + rng.Below(200)));
    const Bytes expected = data.Encode(Isa::kScalar);
    for (const Isa isa : AvailableIsas()) {
      ASSERT_EQ(data.Encode(isa), expected) << Name(isa);
      std::vector<int16_t> back = data.parents;
      ASSERT_TRUE(Ternary(isa).decode(data.shape, expected, back.data())) << Name(isa);
      for (size_t i = 0; i < back.size(); ++i) {
        if (i / 32 % data.groups * 32 + i % 32 < data.shape.channels) {
          ASSERT_EQ(back[i], data.levels[i]) << i;
        }
      }
    }
  }
}

TEST(TernarySafety, BrokenStreamsFailAlike) {
  base::Rng rng(2);
  for (int round = 0; round < 2000; ++round) {
    const Refinement data(rng, static_cast<uint32_t>(1 + rng.Below(6)),
                          static_cast<uint32_t>(1 + rng.Below(100)));
    Bytes coded = data.Encode(Isa::kScalar);
    if (rng.Below(2) == 0) coded.resize(rng.Below(coded.size()));
    if (!coded.empty()) coded[rng.Below(coded.size())] ^= static_cast<std::byte>(1 + rng.Below(255));
    Bytes exact(coded);
    exact.shrink_to_fit();
    std::vector<int16_t> first = data.parents;
    const bool accepted = Ternary(Isa::kScalar).decode(data.shape, exact, first.data());
    for (const Isa isa : AvailableIsas()) {
      std::vector<int16_t> back = data.parents;
      ASSERT_EQ(Ternary(isa).decode(data.shape, exact, back.data()), accepted) << Name(isa);
    }
  }
}

}  // namespace
}  // namespace kvplane::kernel
