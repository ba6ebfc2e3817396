#include "kvplane/profile/strategy_enumerator.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <unordered_set>
#include <vector>

#include "kvplane/codec/dominated.h"
#include "kvplane/profile/strategy_grid.h"

namespace kvplane::profile {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Listed {
  std::vector<std::string> texts;
  std::map<std::string, uint64_t> per_subspace;
  EnumerateCounts counts;
};

Listed List(const EnumerateOptions& options) {
  Listed listed;
  const auto counts = EnumerateStrategies(options, [&](const GridPoint& point) {
    listed.texts.push_back(point.strategy.ToString());
    ++listed.per_subspace[std::string(point.subspace)];
    return true;
  });
  EXPECT_TRUE(counts.ok()) << counts.status().ToString();
  if (counts.ok()) listed.counts = *counts;
  return listed;
}

TEST(StrategyEnumeratorUnit, TheFullGridHasMoreThanEightThousandPoints) {
  const Listed listed = List({});
  EXPECT_GE(listed.texts.size(), 8000u);
  EXPECT_EQ(listed.counts.points, listed.texts.size());
  EXPECT_EQ(listed.counts.left_out, 0u);
  EXPECT_EQ(std::unordered_set<std::string>(listed.texts.begin(), listed.texts.end()).size(),
            listed.texts.size());
}

// KVServe's fine grid, counted in its result files: 2 transforms, 9 ratios, 4 high and 3 low counts a side.
TEST(StrategyEnumeratorUnit, KvservesOwnGrid) {
  const Listed listed = List({.grid = "kvserve"});
  ASSERT_EQ(listed.texts.size(), 2592u);
  EXPECT_EQ(listed.counts.illegal, 0u);
  EXPECT_EQ(listed.counts.duplicates, 0u);
  EXPECT_EQ(listed.texts.front(),
            "k: heads(ratio=10) | levels(m=8,low=4,axis=channel,group=0) | rans(table=stream); "
            "v: heads(ratio=10) | levels(m=8,low=4,axis=token,group=0) | rans(table=stream)");
  EXPECT_EQ(listed.texts.back(),
            "k: heads(ratio=90) | hadamard(seed=13107) | levels(m=16,low=8,axis=channel,group=0) | "
            "rans(table=stream); "
            "v: heads(ratio=90) | hadamard(seed=13107) | levels(m=16,low=8,axis=token,group=0) | "
            "rans(table=stream)");
  EXPECT_EQ(List({.grid = "kvserve-artefact"}).texts.size(), 288u);

  const Listed full = List({});
  const std::unordered_set<std::string> all(full.texts.begin(), full.texts.end());
  for (const std::string& text : listed.texts) EXPECT_TRUE(all.contains(text)) << text;
}

TEST(StrategyEnumeratorUnit, OrderAndLimitAreStable) {
  const Listed first = List({.grid = "affine", .limit = 40});
  EXPECT_EQ(first.texts.size(), 40u);
  const Listed again = List({.grid = "affine"});
  EXPECT_TRUE(std::equal(first.texts.begin(), first.texts.end(), again.texts.begin()));
  std::vector<std::string> stopped;
  ASSERT_TRUE(EnumerateStrategies({.grid = "affine"}, [&](const GridPoint& point) {
                stopped.push_back(point.strategy.ToString());
                return stopped.size() < 3;
              }).ok());
  EXPECT_EQ(stopped, std::vector<std::string>(again.texts.begin(), again.texts.begin() + 3));
}

TEST(StrategyEnumeratorUnit, SidePairs) {
  EXPECT_THAT(List({.grid = "lossless", .limit = 2}).texts,
              ElementsAre("k: store; v: store", "k: exponent(mode=window); v: exponent(mode=window)"));
  // bits_k and bits_v are partners: 3 of their 9 pairs are left.
  const uint64_t family = List({.grid = "affine"}).texts.size();
  EXPECT_EQ(3 * List({.grid = "affine", .side_pairs = SidePairs::kSame}).texts.size(), family);
  // 6 lossless chains on either side.
  const Listed all = List({.grid = "lossless", .side_pairs = SidePairs::kAll});
  EXPECT_EQ(all.texts.size(), 36u);
  EXPECT_EQ(std::set<std::string>(all.texts.begin(), all.texts.end()).size(), 36u);
  EXPECT_EQ(List({.side_pairs = SidePairs::kAll, .limit = 20'000}).texts.size(), 20'000u);
}

TEST(StrategyEnumeratorUnit, OptionsLeaveOut) {
  uint64_t dominated = 0;
  uint64_t profiled = 0;
  const auto counts = EnumerateStrategies({}, [&](const GridPoint& point) {
    const bool either = codec::Dominated(point.strategy.side(tensor::Side::kKey)) ||
                        codec::Dominated(point.strategy.side(tensor::Side::kValue));
    EXPECT_EQ(point.dominated, either) << point.strategy.ToString();
    dominated += either;
    profiled += point.strategy.needs_profile();
    return true;
  });
  ASSERT_TRUE(counts.ok());
  EXPECT_GT(dominated, 0u);
  EXPECT_GT(profiled, 0u);
  EXPECT_EQ(List({.dominated = false}).texts.size(), counts->points - dominated);
  EXPECT_EQ(List({.needs_profile = false}).texts.size(), counts->points - profiled);
}

TEST(StrategyEnumeratorUnit, UnknownGridIsRefusedWithTheNearestName) {
  const auto counts = EnumerateStrategies({.grid = "kvserv"}, [](const GridPoint&) { return true; });
  ASSERT_FALSE(counts.ok());
  EXPECT_EQ(counts.status().code(), base::StatusCode::kNotFound);
  EXPECT_THAT(counts.status().message(), HasSubstr("did you mean 'kvserve'?"));
}

TEST(StrategyEnumeratorUnit, GridsNameSubspacesOnce) {
  for (const Grid& grid : Grids()) {
    std::set<std::string_view> names;
    for (const std::string_view name : grid.subspaces) {
      EXPECT_NE(FindSubspace(name), nullptr) << name;
      EXPECT_TRUE(names.insert(name).second) << name;
    }
    EXPECT_EQ(FindSubspace(grid.name), nullptr) << "one name, one meaning";
  }
}

// The page people read counts the points of every sub-space.
TEST(StrategyEnumeratorUnit, TheDocumentIsComplete) {
  std::ifstream file(std::string(KVPLANE_SOURCE_DIR) + "/docs/strategies.md");
  const std::string page((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  for (const Subspace& subspace : Subspaces()) {
    const size_t points = List({.grid = subspace.name}).texts.size();
    const std::string count =
        points < 1000 ? std::to_string(points) : fmt::format("{},{:03}", points / 1000, points % 1000);
    EXPECT_THAT(page, HasSubstr(fmt::format("\n| `{}` | {} | {} |", subspace.name, count, subspace.meaning)));
  }
}

// Every line parses back to itself, with the same id.
TEST(StrategyEnumeratorProperty, EveryPointPrintsAndParses) {
  std::set<codec::StrategyId> ids;
  const auto counts = EnumerateStrategies({}, [&](const GridPoint& point) {
    const std::string text = point.strategy.ToString();
    const auto again = codec::Strategy::Parse(text);
    EXPECT_TRUE(again.ok()) << text << ": " << again.status().ToString();
    if (!again.ok()) return false;
    EXPECT_EQ(*again, point.strategy) << text;
    EXPECT_EQ(again->ToString(), text);
    EXPECT_TRUE(ids.insert(again->id()).second) << text;
    for (const tensor::Side side : tensor::kSides) {
      const std::string chain = point.strategy.side(side).ToString();
      const auto wire = codec::SideStrategy::ParseCanonical(chain, side);
      EXPECT_TRUE(wire.ok() && *wire == point.strategy.side(side)) << chain;
    }
    return !::testing::Test::HasFailure();
  });
  ASSERT_TRUE(counts.ok());
  EXPECT_EQ(ids.size(), counts->points);
}

}  // namespace
}  // namespace kvplane::profile
