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

bool DecodeOne(Isa isa, const TernaryShape& shape, const uint8_t* tables, std::span<const std::byte> in,
               int16_t* levels) {
  return Ternary(isa).decode(shape, 1, &tables, &in, &levels) == 0;
}

struct Refinement {
  Refinement(base::Rng& rng, uint32_t tokens, uint32_t channels) : groups((channels + 31) / 32) {
    for (uint32_t g = 0; g < groups; ++g) tables.push_back(static_cast<uint8_t>(rng.Below(kTernaryTables)));
    shape = {tokens, channels};
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
    const int16_t* const from = levels.data();
    const int16_t* const above = parents.data();
    const uint8_t* const by = tables.data();
    size_t size = 0;
    Ternary(isa).encode(shape, 1, &by, &above, &from, &end, &size);
    return Bytes(end - size, end);
  }
  void ExpectLevels(const std::vector<int16_t>& back) const {
    for (size_t i = 0; i < back.size(); ++i) {
      if (i / 32 % groups * 32 + i % 32 >= shape.channels) continue;
      ASSERT_EQ(back[i], levels[i]) << i;
    }
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
  const TernaryShape shape{1, 1};
  const uint8_t* const tables = &table;
  for (const Isa isa : AvailableIsas()) {
    Bytes buffer(TernaryMaxStreamBytes(shape));
    std::byte* const end = buffer.data() + buffer.size();
    const int16_t* const above = parents.data();
    const int16_t* const from = levels.data();
    size_t size = 0;
    Ternary(isa).encode(shape, 1, &tables, &above, &from, &end, &size);
    ASSERT_EQ(size, 64u);
    const std::byte* const begin = end - size;
    // 256 / 7 = 36, rest 4: 36 * 128 + 4 + 121
    EXPECT_EQ(static_cast<int>(begin[0]) | static_cast<int>(begin[1]) << 8, 4733);
    std::vector<int16_t> back = parents;
    ASSERT_TRUE(DecodeOne(isa, shape, tables, {begin, 64}, back.data()));
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
      ASSERT_TRUE(DecodeOne(isa, data.shape, data.tables.data(), expected, back.data())) << Name(isa);
      data.ExpectLevels(back);
    }
  }
}

// Streams of a call do not touch each other, however many there are and whichever are broken.
TEST(TernaryDiff, LockstepIsOneByOne) {
  base::Rng rng(3);
  for (int round = 0; round < 300; ++round) {
    const auto streams = static_cast<uint32_t>(1 + rng.Below(10));
    const auto tokens = static_cast<uint32_t>(1 + rng.Below(20));
    const auto channels = static_cast<uint32_t>(1 + rng.Below(150));
    std::vector<Refinement> data;
    for (uint32_t v = 0; v < streams; ++v) data.emplace_back(rng, tokens, channels);
    const TernaryShape shape = data[0].shape;
    const auto broken = [&](uint32_t v) { return (static_cast<uint32_t>(round) + v) % 5 == 0; };
    for (const Isa isa : AvailableIsas()) {
      std::vector<Bytes> room(streams), coded(streams);
      std::vector<const uint8_t*> tables;
      std::vector<const int16_t*> parents, levels;
      std::vector<std::byte*> ends;
      std::vector<size_t> sizes(streams);
      for (uint32_t v = 0; v < streams; ++v) {
        room[v].resize(TernaryMaxStreamBytes(shape));
        ends.push_back(room[v].data() + room[v].size());
        tables.push_back(data[v].tables.data());
        parents.push_back(data[v].parents.data());
        levels.push_back(data[v].levels.data());
      }
      Ternary(isa).encode(shape, streams, tables.data(), parents.data(), levels.data(), ends.data(),
                          sizes.data());
      std::vector<std::vector<int16_t>> back(streams);
      std::vector<std::span<const std::byte>> in;
      std::vector<int16_t*> to;
      uint32_t expected = 0;
      for (uint32_t v = 0; v < streams; ++v) {
        coded[v].assign(ends[v] - sizes[v], ends[v]);
        ASSERT_EQ(coded[v], data[v].Encode(Isa::kScalar)) << Name(isa) << " stream " << v;
        if (broken(v)) coded[v][static_cast<size_t>(round) % coded[v].size()] ^= std::byte{0x55};
        std::vector<int16_t> alone = data[v].parents;
        if (!DecodeOne(Isa::kScalar, shape, tables[v], coded[v], alone.data())) expected |= 1u << v;
        back[v] = data[v].parents;
        in.emplace_back(coded[v]);
        to.push_back(back[v].data());
      }
      ASSERT_EQ(Ternary(isa).decode(shape, streams, tables.data(), in.data(), to.data()), expected)
          << Name(isa);
      for (uint32_t v = 0; v < streams; ++v) {
        if (!broken(v)) data[v].ExpectLevels(back[v]);
      }
    }
  }
}

// Refinements of refinements in one call.
TEST(TernaryDiff, StreamsOfTheSameLevelsRefineInTurn) {
  base::Rng rng(4);
  for (int round = 0; round < 200; ++round) {
    const auto tokens = static_cast<uint32_t>(1 + rng.Below(30));
    const auto channels = static_cast<uint32_t>(1 + rng.Below(150));
    const auto layers = static_cast<uint32_t>(1 + rng.Below(3));
    std::vector<Refinement> data;
    data.emplace_back(rng, tokens, channels);
    for (uint32_t s = 1; s < layers; ++s) {
      Refinement finer(rng, tokens, channels);
      finer.parents = data.back().levels;
      for (size_t i = 0; i < finer.levels.size(); ++i) {
        finer.levels[i] = static_cast<int16_t>(3 * finer.parents[i] + static_cast<int32_t>(rng.Below(3)) - 1);
      }
      data.push_back(finer);
    }
    for (const Isa isa : AvailableIsas()) {
      std::vector<Bytes> coded;
      std::vector<std::span<const std::byte>> in;
      std::vector<const uint8_t*> tables;
      std::vector<int16_t> levels = data[0].parents;
      const std::vector<int16_t*> to(layers, levels.data());
      for (const Refinement& one : data) coded.push_back(one.Encode(isa));
      for (uint32_t s = 0; s < layers; ++s) {
        in.emplace_back(coded[s]);
        tables.push_back(data[s].tables.data());
      }
      ASSERT_EQ(Ternary(isa).decode(data[0].shape, layers, tables.data(), in.data(), to.data()), 0u)
          << Name(isa);
      data.back().ExpectLevels(levels);
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
    const bool accepted = DecodeOne(Isa::kScalar, data.shape, data.tables.data(), exact, first.data());
    for (const Isa isa : AvailableIsas()) {
      std::vector<int16_t> back = data.parents;
      ASSERT_EQ(DecodeOne(isa, data.shape, data.tables.data(), exact, back.data()), accepted) << Name(isa);
    }
  }
}

}  // namespace
}  // namespace kvplane::kernel
