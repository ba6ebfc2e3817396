#include <gtest/gtest.h>

#include "apps/cli/store_bench/store_race.h"
#include "apps/cli/store_bench/trace_report.h"
#include "kvplane/store/dram_store.h"

namespace kvplane::cli {
namespace {

using base::StatusCode;

TEST(StoreRaceUnit, EveryObjectIsTimedAndNothingIsLeft) {
  auto memory = store::DramStore::Create({.capacity_bytes = 10 << 20});
  ASSERT_TRUE(memory.ok());
  StoreTimes times;
  const StoreRaceOptions options{.object_bytes = 10'001, .objects = 5, .layers = 7};
  for (uint64_t round = 0; round < 3; ++round) {
    const base::Status raced = RaceOnce(**memory, options, round, times);
    ASSERT_TRUE(raced.ok()) << raced.ToString();
  }
  EXPECT_EQ(times.put.size(), 15u);
  EXPECT_EQ(times.lookup.size(), 3u);
  EXPECT_EQ(times.read.size(), 15u);
  EXPECT_EQ(times.first_layer.size(), 15u);
  EXPECT_EQ(times.layers.size(), 15u);
  EXPECT_EQ((*memory)->stats().entries, 0u);
  EXPECT_EQ((*memory)->stats().reads, 15u + 15u * 7);
  std::vector<double> copy;
  CopyOnce(options, 0, copy);
  EXPECT_EQ(copy.size(), 5u);
}

TEST(StoreRaceSafety, AStoreThatLosesObjectsHasNoTimes) {
  auto memory = store::DramStore::Create({.capacity_bytes = 30'000});
  ASSERT_TRUE(memory.ok());
  StoreTimes times;
  EXPECT_EQ(RaceOnce(**memory, {.object_bytes = 10'000, .objects = 5, .layers = 2}, 0, times).code(),
            StatusCode::kCorrupt);
}

TEST(TraceReportUnit, TextsOfCapacitiesTiersAndPolicies) {
  EXPECT_EQ(*ParseBlocks("30k"), 30'000u);
  EXPECT_EQ(*ParseBlocks("unbounded"), 0u);
  EXPECT_FALSE(ParseBlocks("0").ok());
  EXPECT_FALSE(ParseBlocks("many").ok());
  const auto tiers = ParseTiers("1k+unbounded");
  ASSERT_TRUE(tiers.ok());
  EXPECT_EQ(tiers->memory, 1000u);
  EXPECT_EQ(tiers->disk, 0u);
  EXPECT_TRUE(tiers->has_disk);
  EXPECT_FALSE(ParseTiers("1k").ok());
  EXPECT_FALSE(ParseTiers("+1k").ok());
  EXPECT_EQ(ParseReplayPolicy("lru")->kind, store::PolicyKind::kLru);
  EXPECT_FALSE(ParseReplayPolicy("s3fifo-paper")->shape.adaptive);
  EXPECT_EQ(ParseReplayPolicy("random").status().code(), StatusCode::kInvalidArgument);
}

TEST(TraceReportUnit, AMissingTraceIsNotFound) {
  BenchReport report("store", "test");
  EXPECT_EQ(ReportTrace({.path = "/nowhere/mooncake.jsonl"}, "", report).code(), StatusCode::kNotFound);
  EXPECT_EQ(ReportTrace({.path = "/nowhere/x.jsonl"}, "", report).code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvplane::cli
