#include "kvplane/control/load_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kvplane/base/rng.h"

namespace kvplane::control {
namespace {

std::vector<FoundRun> Runs(size_t count, uint64_t bytes, uint8_t tier = 0) {
  return std::vector<FoundRun>(count, FoundRun{bytes, tier});
}

TEST(LoadPlanUnit, NothingFoundNothingLoaded) {
  const LoadPlan plan = DecideLoad({.run_tokens = 256, .prefill_tokens_per_s = 1000});
  EXPECT_EQ(plan.compute_runs, 0u);
  EXPECT_EQ(plan.plan_s, 0.0);
  EXPECT_EQ(plan.reason, "nothing was found");
}

TEST(LoadPlanUnit, AFastTierIsLoadedWhole) {
  const auto runs = Runs(4, 1'000'000);
  LoadSignals signals{.runs = runs, .run_tokens = 256, .prefill_tokens_per_s = 1000};
  signals.tiers[0] = {.latency_s = 0.001, .bytes_per_s = 1e9};
  const LoadPlan plan = DecideLoad(signals);
  EXPECT_EQ(plan.compute_runs, 0u);
  EXPECT_DOUBLE_EQ(plan.plan_s, 0.005);
  EXPECT_DOUBLE_EQ(plan.load_s, 0.005);
  EXPECT_DOUBLE_EQ(plan.recompute_s, 4 * 0.256);
}

TEST(LoadPlanUnit, ASlowTierIsNotTouched) {
  const auto runs = Runs(4, 1'000'000);
  LoadSignals signals{.runs = runs, .run_tokens = 256, .prefill_tokens_per_s = 1000};
  signals.tiers[0] = {.latency_s = 2.0, .bytes_per_s = 1e6};
  const LoadPlan plan = DecideLoad(signals);
  EXPECT_EQ(plan.compute_runs, 4u);
  EXPECT_DOUBLE_EQ(plan.plan_s, plan.recompute_s);
  EXPECT_EQ(plan.reason.substr(0, 10), "recompute:");
}

// A run takes 0.256 s to compute and 0.5 s to load: of six, four are computed (1.024 s) and two loaded.
TEST(LoadPlanUnit, EqualSidesMeetInTheMiddle) {
  const auto runs = Runs(6, 500'000);
  LoadSignals signals{.runs = runs, .run_tokens = 256, .prefill_tokens_per_s = 1000};
  signals.tiers[0] = {.latency_s = 0, .bytes_per_s = 1e6};
  const LoadPlan plan = DecideLoad(signals);
  EXPECT_EQ(plan.compute_runs, 4u);
  EXPECT_DOUBLE_EQ(plan.plan_s, 1.024);
}

TEST(LoadPlanUnit, DecodingCountsWhereItIsTheSlowerPart) {
  const auto runs = Runs(4, 1'000);
  LoadSignals signals{
      .runs = runs, .run_tokens = 256, .decode_tokens_per_s = 500, .prefill_tokens_per_s = 1000};
  signals.tiers[0] = {.latency_s = 0, .bytes_per_s = 1e9};
  EXPECT_DOUBLE_EQ(LoadSeconds(signals, 0), 4 * 0.512);
  EXPECT_EQ(DecideLoad(signals).compute_runs, 3u);  // 0.768 s against 0.512 s, and 1.024 s without loading
}

TEST(LoadPlanUnit, WithoutAPrefillRateEverythingIsLoaded) {
  const auto runs = Runs(2, 1'000'000);
  LoadSignals signals{.runs = runs, .run_tokens = 256};
  signals.tiers[0] = {.latency_s = 10, .bytes_per_s = 1};
  EXPECT_EQ(DecideLoad(signals).compute_runs, 0u);
}

TEST(LoadPlanUnit, ALoadWithoutNewsIsDoubtedMoreAndMore) {
  EXPECT_DOUBLE_EQ(RemainingSeconds(1.0, 0.0, 0, 100), 1.0);
  EXPECT_DOUBLE_EQ(RemainingSeconds(1.0, 0.25, 0, 100), 0.75);
  EXPECT_DOUBLE_EQ(RemainingSeconds(1.0, 3.0, 0, 100), 3.0);
  EXPECT_DOUBLE_EQ(RemainingSeconds(1.0, 9.0, 100, 100), 0.0);
  // Half has come in 1 s, half a second was predicted for it: the mean of 1 s and 0.5 s.
  EXPECT_DOUBLE_EQ(RemainingSeconds(1.0, 1.0, 50, 100), 0.75);
}

TEST(LoadPlanUnit, TheFrontIsTakenWhereSharingIsWorthIt) {
  EXPECT_TRUE(TakesFrontRun(2.0, 1, 1.0));
  EXPECT_FALSE(TakesFrontRun(1.0, 1, 1.0));
  // A run is loaded in 0.3 s and computed in 1 s: sharing saves a fifth and is left; in 0.5 s: a third.
  EXPECT_FALSE(TakesFrontRun(3.0, 10, 1.0));
  EXPECT_TRUE(TakesFrontRun(5.0, 10, 1.0));
  EXPECT_FALSE(TakesFrontRun(5.0, 0, 1.0));
}

LoadSignals RandomSignals(base::Rng& rng, std::vector<FoundRun>& runs) {
  runs.clear();
  const uint64_t count = rng.Below(12);
  uint8_t tier = 0;
  for (uint64_t i = 0; i < count; ++i) {
    if (rng.Below(3) == 0) tier = static_cast<uint8_t>(rng.Below(4));
    runs.push_back({.bytes = 1 + rng.Below(3'000'000), .tier = tier});
  }
  LoadSignals signals{.runs = runs, .run_tokens = 64 * static_cast<uint32_t>(1 + rng.Below(8))};
  for (TierSpeed& speed : signals.tiers) {
    speed = {.latency_s = rng.Uniform() * 0.1,
             .bytes_per_s = rng.Below(5) == 0 ? 0 : 1e5 + rng.Uniform() * 1e7};
  }
  signals.decode_tokens_per_s = rng.Below(4) == 0 ? 0 : 500 + rng.Uniform() * 20'000;
  signals.prefill_tokens_per_s = 100 + rng.Uniform() * 5'000;
  if (rng.Below(2) == 0) {
    signals.shared_prefill_tokens_per_s = signals.prefill_tokens_per_s * (0.3 + rng.Uniform());
  }
  return signals;
}

// Both sides played out run by run, as written in the header.
double PlayedOut(const LoadSignals& signals, size_t m) {
  const bool shared = m < signals.runs.size() && signals.shared_prefill_tokens_per_s > 0;
  const double rate = shared ? signals.shared_prefill_tokens_per_s : signals.prefill_tokens_per_s;
  double compute_s = 0;
  for (size_t run = 0; run < m; ++run) compute_s += signals.run_tokens / rate;
  double latency_s = 0, move_s = 0, decode_s = 0;
  for (size_t run = m; run < signals.runs.size(); ++run) {
    const TierSpeed& tier = signals.tiers[signals.runs[run].tier];
    latency_s = std::max(latency_s, tier.latency_s);
    move_s += tier.bytes_per_s > 0 ? static_cast<double>(signals.runs[run].bytes) / tier.bytes_per_s : 0;
    decode_s += signals.decode_tokens_per_s > 0 ? signals.run_tokens / signals.decode_tokens_per_s : 0;
  }
  return std::max(compute_s, latency_s + std::max(move_s, decode_s));
}

TEST(LoadPlanProperty, NoSplitIsWorthMore) {
  base::Rng rng(11);
  std::vector<FoundRun> runs;
  for (int round = 0; round < 20'000; ++round) {
    const LoadSignals signals = RandomSignals(rng, runs);
    const LoadPlan plan = DecideLoad(signals);
    ASSERT_LE(plan.compute_runs, runs.size());
    if (runs.empty()) continue;
    double best = PlayedOut(signals, 0);
    for (size_t m = 1; m <= runs.size(); ++m) best = std::min(best, PlayedOut(signals, m));
    EXPECT_NEAR(PlayedOut(signals, plan.compute_runs), plan.plan_s, 1e-9) << round;
    EXPECT_LE(plan.plan_s, std::min(plan.load_s, plan.recompute_s) + 1e-9) << round;
    if (plan.compute_runs == 0) {
      EXPECT_GE(best, kSplitOfLoad * plan.plan_s - 1e-9) << round;
    } else if (plan.compute_runs == runs.size()) {
      EXPECT_GE(best, kSplitOfRecompute * plan.plan_s - 1e-9) << round;
    } else {
      EXPECT_NEAR(plan.plan_s, best, 1e-9) << round;
    }
  }
}

// The rule of the run time, played out against a loader that is truly faster or slower than predicted: it
// takes the runs from the back, one after the other, while the front is taken where the rule says so.
struct Outcome {
  double end_s = 0;
  size_t computed = 0;
};

Outcome PlayTakes(size_t runs, double load_run_s, double predicted_run_s, double compute_run_s) {
  const double tick_s = compute_run_s / 64;
  size_t front = 0, back = runs;  // computed or being computed below, loaded or being loaded from
  double loading_until_s = load_run_s, computing_until_s = -1, end_s = 0;
  uint64_t done = 0;
  --back;
  for (double now_s = 0; front < back || now_s < std::max(loading_until_s, computing_until_s);
       now_s += tick_s) {
    if (now_s >= loading_until_s && back > front) {
      ++done;
      --back;
      loading_until_s += load_run_s;
      end_s = std::max(end_s, loading_until_s);
    }
    if (now_s >= computing_until_s && front < back) {
      const uint64_t total = runs - front;
      const double left_s =
          RemainingSeconds(predicted_run_s * static_cast<double>(total), now_s, done, total);
      if (TakesFrontRun(left_s, runs - front - done, compute_run_s)) {
        ++front;
        computing_until_s = now_s + compute_run_s;
        end_s = std::max(end_s, computing_until_s);
      }
    }
  }
  return {std::max(end_s, std::max(loading_until_s, computing_until_s)), front};
}

TEST(LoadPlanProperty, TakingTheFrontIsNeverMuchWorseThanTheBetterSide) {
  for (const double ratio : {0.05, 0.2, 0.5, 0.9, 1.0, 1.1, 2.0, 5.0, 20.0}) {  // load to compute, per run
    for (const size_t runs : {size_t{2}, size_t{4}, size_t{8}, size_t{32}, size_t{128}}) {
      const double compute_s = 1.0, load_s = ratio;
      const double better = static_cast<double>(runs) * std::min(compute_s, load_s);
      const Outcome right = PlayTakes(runs, load_s, load_s, compute_s);
      // Known speeds: at most the run that is on its way when the other side is done.
      EXPECT_LE(right.end_s, better + load_s + compute_s / 32) << ratio << " " << runs;
      if (runs >= 8 && ratio < 4) {
        EXPECT_LE(right.end_s, better * 1.05 + compute_s / 32) << ratio << " " << runs;
      }
      if (ratio <= 0.05 && runs <= 8) {
        EXPECT_EQ(right.computed, 0u);
      }
    }
  }
}

}  // namespace
}  // namespace kvplane::control
