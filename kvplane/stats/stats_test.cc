#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/stats/histogram.h"
#include "kvplane/stats/moments.h"
#include "kvplane/stats/quantile.h"
#include "kvplane/stats/slo.h"

namespace kvplane::stats {
namespace {

using std::chrono::milliseconds;

TEST(MomentsUnit, KnownValues) {
  Moments moments;
  EXPECT_EQ(moments.count(), 0u);
  EXPECT_EQ(moments.variance(), 0.0);
  for (double value : {2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0}) moments.Add(value);
  EXPECT_EQ(moments.count(), 8u);
  EXPECT_DOUBLE_EQ(moments.mean(), 5.0);
  EXPECT_DOUBLE_EQ(moments.variance(), 32.0 / 7.0);
  EXPECT_DOUBLE_EQ(moments.sum(), 40.0);
  EXPECT_EQ(moments.min(), 2.0);
  EXPECT_EQ(moments.max(), 9.0);
}

TEST(MomentsUnit, VarianceSurvivesALargeMean) {
  Moments moments;
  for (double value : {1e15 + 4, 1e15 + 7, 1e15 + 13, 1e15 + 16}) moments.Add(value);
  EXPECT_DOUBLE_EQ(moments.variance(), 30.0);
}

TEST(MomentsProperty, MergeEqualsOneStream) {
  base::Rng rng(1);
  for (int round = 0; round < 50; ++round) {
    Moments whole, left, right;
    const uint64_t count = rng.Below(40);
    for (uint64_t i = 0; i < count; ++i) {
      const double value = 1000.0 + rng.Normal();
      whole.Add(value);
      (rng.Below(2) == 0 ? left : right).Add(value);
    }
    left.Merge(right);
    EXPECT_EQ(left.count(), whole.count());
    EXPECT_NEAR(left.mean(), whole.mean(), 1e-9);
    EXPECT_NEAR(left.variance(), whole.variance(), 1e-8);
    EXPECT_EQ(left.min(), whole.min());
    EXPECT_EQ(left.max(), whole.max());
  }
}

TEST(QuantileUnit, InterpolatesLikeTypeSeven) {
  const std::vector<double> values = {40, 10, 30, 20};
  EXPECT_DOUBLE_EQ(Quantile(values, 0.0), 10.0);
  EXPECT_DOUBLE_EQ(Quantile(values, 0.5), 25.0);
  EXPECT_DOUBLE_EQ(Quantile(values, 0.95), 38.5);
  EXPECT_DOUBLE_EQ(Quantile(values, 1.0), 40.0);
  EXPECT_EQ(Quantile({}, 0.5), 0.0);
}

TEST(QuantileUnit, KeepsTheMostRecent) {
  RecentSample sample(3);
  for (double value : {100.0, 1.0, 2.0, 3.0}) sample.Add(value);
  EXPECT_EQ(sample.size(), 3u);
  EXPECT_EQ(sample.added(), 4u);
  EXPECT_DOUBLE_EQ(sample.Quantile(1.0), 3.0);
  EXPECT_DOUBLE_EQ(sample.Quantile(0.5), 2.0);
}

TEST(HistogramUnit, BucketsAreInclusiveAbove) {
  Histogram histogram(1.0, 8.0, 2.0);
  ASSERT_EQ(histogram.bounds().size(), 4u);
  EXPECT_EQ(histogram.bounds()[3], 8.0);
  for (double value : {-1.0, 1.0, 1.5, 2.0, 8.0, 8.1, 1e9}) histogram.Add(value);
  const std::vector<uint64_t> expected = {2, 2, 0, 1, 2};
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), histogram.counts().begin()));
  EXPECT_EQ(histogram.count(), 7u);
}

TEST(HistogramUnit, SecondsSpanMillisecondsToMinutes) {
  const Histogram histogram = Histogram::Seconds();
  EXPECT_EQ(histogram.bounds().size(), 18u);
  EXPECT_DOUBLE_EQ(histogram.bounds().front(), 0.001);
  EXPECT_NEAR(histogram.bounds().back(), 131.072, 1e-9);
}

TEST(HistogramDiff, QuantileStaysInsideTheRightBucket) {
  base::Rng rng(2);
  Histogram left = Histogram::Seconds(), right = Histogram::Seconds();
  std::vector<double> values;
  for (int i = 0; i < 5000; ++i) {
    values.push_back(std::exp(rng.Normal()));
    (i % 2 == 0 ? left : right).Add(values.back());
  }
  left.Merge(right);
  EXPECT_EQ(left.count(), values.size());
  for (double q : {0.05, 0.5, 0.9, 0.95, 0.99}) {
    const double exact = Quantile(values, q);
    EXPECT_LE(left.Quantile(q), exact * 2.0);  // at most one doubling bucket away
    EXPECT_GE(left.Quantile(q), exact / 2.0);
  }
  EXPECT_EQ(Histogram::Seconds().Quantile(0.5), 0.0);
}

TEST(SloUnit, TpotNeedsTwoTokens) {
  EXPECT_EQ(Tpot({.ttft = milliseconds(5), .after_first = milliseconds(90), .tokens = 10}), milliseconds(10));
  EXPECT_EQ(Tpot({.ttft = milliseconds(5), .after_first = milliseconds(0), .tokens = 1}), base::Duration{});
}

TEST(SloUnit, AttainmentCountsEachObjective) {
  const Slo slo{.ttft = milliseconds(100), .tpot = milliseconds(10)};
  SloAccount account;
  EXPECT_EQ(account.attainment(), 1.0);
  account.AddServed({milliseconds(100), milliseconds(90), 10}, slo);  // both exactly at the limit
  account.AddServed({milliseconds(101), milliseconds(90), 10}, slo);
  account.AddServed({milliseconds(1), milliseconds(91), 10}, slo);
  account.AddServed({milliseconds(999), milliseconds(9999), 2}, Slo{});  // no objective
  account.AddFailed();
  EXPECT_EQ(account.requests(), 5u);
  EXPECT_EQ(account.met(), 2u);
  EXPECT_EQ(account.ttft_violations(), 2u);
  EXPECT_EQ(account.tpot_violations(), 2u);
  EXPECT_DOUBLE_EQ(account.attainment(), 0.4);
}

}  // namespace
}  // namespace kvplane::stats
