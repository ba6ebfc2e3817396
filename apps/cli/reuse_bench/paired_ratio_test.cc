#include "apps/cli/reuse_bench/paired_ratio.h"

#include <gtest/gtest.h>

#include "kvplane/base/rng.h"

namespace kvplane::cli {
namespace {

TEST(PairedRatioUnit, IsTheMedianOfTheCases) {
  // Three cases in two repeats: medians 2, 20, 200 against 1, 10, 400.
  const std::vector<double> a = {1, 10, 100, 3, 30, 300}, b = {1, 10, 300, 1, 10, 500};
  const PairedRatio ratio = CompareCases(a, b, 3, 1);
  EXPECT_EQ(ratio.cases, 3u);
  EXPECT_DOUBLE_EQ(ratio.median, 2);
  EXPECT_DOUBLE_EQ(ratio.low, 0.5);
  EXPECT_DOUBLE_EQ(ratio.high, 2);
}

TEST(PairedRatioUnit, OneCaseHasNoInterval) {
  const std::vector<double> a = {3}, b = {2};
  const PairedRatio ratio = CompareCases(a, b, 1, 1);
  EXPECT_DOUBLE_EQ(ratio.median, 1.5);
  EXPECT_DOUBLE_EQ(ratio.low, 1.5);
  EXPECT_DOUBLE_EQ(ratio.high, 1.5);
}

// The interval covers the true ratio about as often as it says.
TEST(PairedRatioProperty, TheIntervalCovers) {
  constexpr int kTrials = 200;
  base::Rng rng(7);
  int covered = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    std::vector<double> a, b;
    for (int i = 0; i < 25; ++i) {
      const double length = 1 + 9 * rng.Uniform();
      b.push_back(length);
      a.push_back(length * 1.1 * (1 + 0.1 * rng.Normal()));
    }
    const PairedRatio ratio = CompareCases(a, b, 25, 1);
    covered += ratio.low <= 1.1 && 1.1 <= ratio.high ? 1 : 0;
  }
  EXPECT_GE(covered, kTrials * 88 / 100);
  EXPECT_LT(covered, kTrials);
}

}  // namespace
}  // namespace kvplane::cli
