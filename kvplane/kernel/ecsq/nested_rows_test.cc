#include "kvplane/kernel/ecsq/nested_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

using tensor::Bf16ToFloat;
using tensor::FloatToBf16;

struct alignas(64) Line {
  uint16_t values[32] = {};
};

// A tile: rows of heads with a gap between them, lanes in order or in an order of their own.
class Tile {
 public:
  Tile(base::Rng& rng, uint32_t tokens, uint32_t heads, uint32_t head_dim, bool ordered, bool dropped)
      : heads_(heads), head_dim_(head_dim), stride_(heads * (head_dim + kGap)) {
    const uint32_t elements = heads * head_dim;
    lanes_.resize(elements);
    std::iota(lanes_.begin(), lanes_.end(), 0u);
    if (ordered) {
      const uint32_t window = rng.Below(2) == 0 ? 128 : elements;  // within windows, or anywhere
      for (uint32_t i = elements; i-- > 1;) {
        const uint32_t first = i / window * window;
        std::swap(lanes_[i], lanes_[first + rng.Below(i - first + 1)]);
      }
    }
    if (dropped) lanes_.resize(1 + rng.Below(elements));
    const auto channels = static_cast<uint32_t>(lanes_.size());
    const uint32_t groups = (channels + kRansLanes - 1) / kRansLanes;
    for (uint32_t g = 0; g < groups; ++g) {
      rungs_.push_back(RansLadderRung(static_cast<uint32_t>(rng.Below(20))));
    }
    scales_.resize(groups);
    for (uint32_t lane = 0; lane < channels; ++lane) {
      const auto step = static_cast<float>(std::exp2(rng.Uniform() * 6 - 3));
      scales_[lane / kRansLanes].Set(lane % kRansLanes, step, 1.0f / step, static_cast<float>(rng.Normal()));
    }
    shape_ = {tokens, channels, rungs_.data()};
    Order(ordered || dropped, elements);
    absent_.resize(elements);
    for (uint16_t& value : absent_) value = FloatToBf16(static_cast<float>(rng.Normal()));
    scratch_.resize(RansScratchBytes(elements) / sizeof(Line) + 1);
    in_.resize((tokens * stride_ + 31) / 32 + 1);
    for (Line& line : in_) {
      for (uint16_t& value : line.values) value = FloatToBf16(static_cast<float>(4 * rng.Normal()));
    }
  }

  uint16_t& value(uint32_t token, uint32_t element) {
    return in_.data()
        ->values[token * stride_ + element / head_dim_ * (head_dim_ + kGap) + element % head_dim_];
  }
  const RansShape& shape() const { return shape_; }
  const std::vector<uint32_t>& lanes() const { return lanes_; }
  const RansScale& scale(uint32_t lane) const { return scales_[lane / kRansLanes]; }
  size_t levels() const { return shape_.steps() * kRansLanes; }

  struct Levels {
    bool ok = false;
    std::vector<std::vector<int16_t>> of;
    std::vector<float> largest;
    bool operator==(const Levels&) const = default;
  };
  Levels ToLevels(Isa isa, uint32_t layers) {
    Levels out;
    out.of.assign(layers + 1, std::vector<int16_t>(levels(), int16_t{-1}));
    out.largest.assign(scales_.size() * kRansLanes, 0.0f);
    RansRows layout = Layout();
    layout.largest = out.largest.data();
    std::vector<int16_t*> to;
    for (auto& level : out.of) to.push_back(level.data());
    const std::vector<uint16_t*> rows = RowsOf(in_);
    out.ok = NestedRows(isa).to_levels(shape_, layout, layers, rows.data(), to.data());
    if (!out.ok) out = {};
    return out;
  }
  // All memory of the rows, gaps included.
  std::vector<uint16_t> FromLevels(Isa isa, uint32_t missing, const std::vector<int16_t>& levels,
                                   bool streaming) {
    std::vector<Line> memory(in_.size());
    RansRows layout = Layout();
    layout.streaming_stores = streaming;
    const std::vector<uint16_t*> rows = RowsOf(memory);
    NestedRows(isa).from_levels(shape_, layout, missing, levels.data(), rows.data());
    const uint16_t* first = memory.data()->values;
    return {first, first + memory.size() * 32};
  }

 private:
  static constexpr uint32_t kGap = 32;

  void Order(bool ordered, uint32_t elements) {
    if (!ordered) return;
    elements_.resize(elements);
    ASSERT_TRUE(InvertRansOrder(lanes_, elements_));
    lane_picks_.resize(scales_.size());
    element_picks_.resize((elements + kRansLanes - 1) / kRansLanes);
    const bool lanes_at_home = BuildRansPicks(lanes_, lane_picks_.data());
    const bool elements_at_home = BuildRansPicks(elements_, element_picks_.data());
    order_ = {lanes_.data(), elements_.data(), lane_picks_.data(), element_picks_.data(),
              lanes_at_home && elements_at_home};
  }
  RansRows Layout() {
    RansRows layout;
    layout.scales = scales_.data();
    layout.heads = heads_;
    layout.head_dim = head_dim_;
    layout.head_stride = head_dim_ + kGap;
    layout.order = elements_.empty() ? nullptr : &order_;
    layout.scratch = reinterpret_cast<std::byte*>(scratch_.data());
    layout.absent = absent_.data();
    return layout;
  }
  std::vector<uint16_t*> RowsOf(std::vector<Line>& memory) const {
    std::vector<uint16_t*> rows;
    for (uint32_t t = 0; t < shape_.tokens; ++t) rows.push_back(memory.data()->values + t * stride_);
    return rows;
  }

  uint32_t heads_, head_dim_;
  size_t stride_;
  std::vector<uint32_t> lanes_, elements_;
  std::vector<RansRung> rungs_;
  std::vector<RansScale> scales_;
  std::vector<RansPick> lane_picks_, element_picks_;
  std::vector<uint16_t> absent_;
  std::vector<Line> scratch_, in_;
  RansOrder order_;
  RansShape shape_;
};

Tile MakeTile(base::Rng& rng) {
  constexpr uint32_t kHeadDims[] = {32, 64, 128, 96, 40, 7};
  const uint32_t head_dim = kHeadDims[rng.Below(std::size(kHeadDims))];
  return Tile(rng, static_cast<uint32_t>(1 + rng.Below(20)), static_cast<uint32_t>(1 + rng.Below(4)),
              head_dim, rng.Below(2) == 0, rng.Below(3) == 0);
}

TEST(NestedRowsUnit, ParentsHoldTheirThreeLevels) {
  // Mean 0, step 1: the value is the level. Levels -5 .. 5 have the parents -2 -1 -1 -1 0 0 0 1 1 1 2.
  const std::vector<int16_t> expected = {-2, -1, -1, -1, 0, 0, 0, 1, 1, 1, 2};
  const RansRung rung = RansLadderRung(12);
  std::vector<Line> row(1), scratch(RansScratchBytes(11) / sizeof(Line) + 1);
  RansScale scale;
  for (uint32_t lane = 0; lane < 11; ++lane) {
    row[0].values[lane] = FloatToBf16(static_cast<float>(lane) - 5.0f);
    scale.Set(lane, 1.0f, 1.0f, 0.0f);
  }
  for (const Isa isa : AvailableIsas()) {
    std::vector<int16_t> parents(32, int16_t{9}), levels(32, int16_t{9});
    std::vector<float> largest(32);
    RansRows layout;
    layout.scales = &scale;
    layout.heads = 1;
    layout.head_dim = 11;
    layout.head_stride = 11;
    layout.scratch = reinterpret_cast<std::byte*>(scratch.data());
    layout.largest = largest.data();
    const uint16_t* const from = row[0].values;
    int16_t* const to[] = {parents.data(), levels.data()};
    ASSERT_TRUE(NestedRows(isa).to_levels({1, 11, &rung}, layout, 1, &from, to));
    for (uint32_t lane = 0; lane < 11; ++lane) {
      EXPECT_EQ(levels[lane], static_cast<int>(lane) - 5) << Name(isa);
      EXPECT_EQ(parents[lane], expected[lane]) << Name(isa);
    }
    EXPECT_EQ(levels[11], 0);
    EXPECT_EQ(parents[31], 0);
    EXPECT_EQ(*std::max_element(largest.begin(), largest.end()), 5.0f);
    // The parents are levels of three steps.
    Line back;
    uint16_t* const out = back.values;
    NestedRows(isa).from_levels({1, 11, &rung}, layout, 1, parents.data(), &out);
    EXPECT_EQ(back.values[0], FloatToBf16(-6.0f));
    EXPECT_EQ(back.values[5], 0);
    EXPECT_EQ(back.values[8], FloatToBf16(3.0f));
  }
}

TEST(NestedRowsDiff, EveryIsaMakesTheSameLevelsAndValues) {
  base::Rng rng(21);
  for (int round = 0; round < 400; ++round) {
    Tile tile = MakeTile(rng);
    const auto layers = static_cast<uint32_t>(1 + rng.Below(3));
    if (rng.Below(2) == 0) {  // subnormals, zeros of both signs, values far beyond every rung
      for (int i = 0; i < 20; ++i) {
        constexpr uint16_t kPatterns[] = {0x0001, 0x807f, 0x0000, 0x8000, 0x7e7f, 0xfe7f, 0x4f00};
        tile.value(static_cast<uint32_t>(rng.Below(tile.shape().tokens)),
                   tile.lanes()[rng.Below(tile.lanes().size())]) = kPatterns[rng.Below(std::size(kPatterns))];
      }
    }
    const Tile::Levels expected = tile.ToLevels(Isa::kScalar, layers);
    ASSERT_TRUE(expected.ok);
    for (uint32_t s = 0; s <= layers; ++s) {
      const std::vector<uint16_t> values = tile.FromLevels(Isa::kScalar, layers - s, expected.of[s], false);
      for (const Isa isa : AvailableIsas()) {
        ASSERT_EQ(tile.ToLevels(isa, layers), expected) << Name(isa) << " round " << round;
        for (const bool streaming : {false, true}) {
          ASSERT_EQ(tile.FromLevels(isa, layers - s, expected.of[s], streaming), values)
              << Name(isa) << " round " << round << " section " << s;
        }
      }
    }
  }
}

TEST(NestedRowsProperty, LevelsAreTheNearestAndNest) {
  base::Rng rng(22);
  for (int round = 0; round < 100; ++round) {
    Tile tile = MakeTile(rng);
    const Tile::Levels levels = tile.ToLevels(ActiveIsa(), 2);
    ASSERT_TRUE(levels.ok);
    const uint32_t groups = tile.shape().groups();
    for (size_t i = 0; i < tile.levels(); ++i) {
      const auto lane = static_cast<uint32_t>(i % (groups * kRansLanes));
      if (lane >= tile.shape().channels) continue;
      for (size_t s = 1; s <= 2; ++s) {
        ASSERT_LE(std::abs(levels.of[s][i] - 3 * levels.of[s - 1][i]), 1) << "section " << s;
      }
      const RansRung rung = tile.shape().rungs[lane / kRansLanes];
      if (levels.of[2][i] <= rung.min_level() * 9 - 4 || levels.of[2][i] >= rung.max_level() * 9 + 4)
        continue;
      const uint32_t at = RansScale::index(lane % kRansLanes);
      const double step = tile.scale(lane).step[at];
      const double x =
          Bf16ToFloat(tile.value(static_cast<uint32_t>(i / (groups * kRansLanes)), tile.lanes()[lane]));
      ASSERT_LE(std::fabs(x - tile.scale(lane).mean[at] - levels.of[2][i] * step), 0.5001 * step + 1e-5);
    }
  }
}

TEST(NestedRowsSafety, WhatIsNoNumberIsSeenInEveryLane) {
  base::Rng rng(23);
  constexpr uint16_t kBad[] = {0x7f80, 0xff80, 0x7fc1, 0xffff, kRansMagnitudeLimit, 0xfe80};
  for (int round = 0; round < 300; ++round) {
    Tile tile = MakeTile(rng);
    tile.value(static_cast<uint32_t>(rng.Below(tile.shape().tokens)),
               tile.lanes()[rng.Below(tile.lanes().size())]) = kBad[rng.Below(std::size(kBad))];
    for (const Isa isa : AvailableIsas()) EXPECT_FALSE(tile.ToLevels(isa, 2).ok) << Name(isa);
  }
}

}  // namespace
}  // namespace kvplane::kernel
