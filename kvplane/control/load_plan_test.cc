#include "kvplane/control/load_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kvplane/base/rng.h"

namespace kvplane::control {
namespace {

constexpr double kRunSeconds = 0.256;  // to compute 256 tokens at 1 ms each

std::vector<FoundRun> Runs(size_t count, uint64_t bytes, uint8_t tier = 0) {
  return std::vector<FoundRun>(count, FoundRun{bytes, tier});
}

// Runs of 256 tokens, 1 ms per token, 1 MB/s without latency, nothing behind the runs.
LoadSignals Signals(const std::vector<FoundRun>& runs) {
  LoadSignals signals{.runs = runs, .run_tokens = 256, .prefill = {.per_token_s = 1e-3}};
  signals.tiers[0] = {.latency_s = 0, .bytes_per_s = 1e6};
  return signals;
}

TEST(LoadPlanUnit, NothingFoundNothingLoaded) {
  const LoadPlan plan = DecideLoad({.run_tokens = 256, .prefill = {.per_token_s = 1e-3}});
  EXPECT_EQ(plan.compute_runs, 0u);
  EXPECT_EQ(plan.plan_s, 0.0);
  EXPECT_EQ(plan.reason, "nothing was found");
}

TEST(LoadPlanUnit, AFastTierIsLoadedWhole) {
  const auto runs = Runs(4, 1'000'000);
  LoadSignals signals = Signals(runs);
  signals.tiers[0] = {.latency_s = 0.001, .bytes_per_s = 1e9};
  const LoadPlan plan = DecideLoad(signals);
  EXPECT_EQ(plan.compute_runs, 0u);
  EXPECT_DOUBLE_EQ(plan.plan_s, 0.005);
  EXPECT_DOUBLE_EQ(plan.load_all_s, 0.005);
  EXPECT_DOUBLE_EQ(plan.load_s, 0.005);
  EXPECT_DOUBLE_EQ(plan.recompute_s, 4 * kRunSeconds);
}

TEST(LoadPlanUnit, ASlowTierIsNotTouched) {
  const auto runs = Runs(4, 1'000'000);
  LoadSignals signals = Signals(runs);
  signals.tiers[0] = {.latency_s = 2.0, .bytes_per_s = 1e6};
  const LoadPlan plan = DecideLoad(signals);
  EXPECT_EQ(plan.compute_runs, 4u);
  EXPECT_DOUBLE_EQ(plan.plan_s, plan.recompute_s);
  EXPECT_EQ(plan.reason.substr(0, 10), "recompute:");
}

// A run takes 0.256 s to compute and 0.5 s to load: of six, four are computed (1.024 s) and two loaded.
TEST(LoadPlanUnit, EqualSidesMeetInTheMiddle) {
  const auto runs = Runs(6, 500'000);
  const LoadPlan plan = DecideLoad(Signals(runs));
  EXPECT_EQ(plan.compute_runs, 4u);
  EXPECT_DOUBLE_EQ(plan.plan_s, 1.024);
  EXPECT_DOUBLE_EQ(plan.load_s, 1.0);
}

// The rest of the prompt is computed while later layers of all runs land; behind a computed head it has less
// time to hide. Loading all eight runs takes 0.8 s, so does the rest.
TEST(LoadPlanUnit, TheRestOfThePromptHidesBehindTheLoad) {
  const auto runs = Runs(8, 100'000);
  LoadSignals signals = Signals(runs);
  signals.rest_tokens = 800;
  EXPECT_EQ(DecideLoad(signals).compute_runs, 2u);  // without overlap: 0.6 s and the rest, not 0.8 s
  EXPECT_DOUBLE_EQ(DecideLoad(signals).plan_s, 1.4);
  signals.overlap_layers = 8;
  const LoadPlan plan = DecideLoad(signals);
  EXPECT_EQ(plan.compute_runs, 0u);
  EXPECT_DOUBLE_EQ(plan.plan_s, 0.9);  // the last layer of the rest after the last layer of the load
}

TEST(LoadPlanUnit, BothSidesShareTheProcessors) {
  const auto runs = Runs(6, 500'000);
  LoadSignals signals = Signals(runs);
  signals.prefill.slowdown = 2;  // 0.512 s for a run beside the load: half of them are loaded in 1.5 s
  const LoadPlan plan = DecideLoad(signals);
  // All six are computed in 1.536 s without a load: 1.5 s is no reason to begin one.
  EXPECT_DOUBLE_EQ(PlanSeconds(signals, 3), 1.518);
  EXPECT_EQ(plan.compute_runs, 6u);
  EXPECT_DOUBLE_EQ(plan.plan_s, 1.536);
}

TEST(LoadPlanUnit, LaterTokensCostMore) {
  const PrefillCost cost{.per_token_s = 1e-3, .per_attended_s = 1e-6};
  EXPECT_DOUBLE_EQ(cost.Seconds(0, 1000), 1.5);
  EXPECT_DOUBLE_EQ(cost.Seconds(1000, 2000), 2.5);
  EXPECT_FALSE(PrefillCost{}.known());
}

TEST(LoadPlanUnit, ASplitMustPromiseMoreThanIsUncertain) {
  const auto runs = Runs(4, 350'000);  // 1.4 s to load, 1.024 s to compute, 0.7 s with two of each
  LoadSignals signals = Signals(runs);
  EXPECT_EQ(DecideLoad(signals).compute_runs, 2u);
  signals.uncertainty = 0.3;
  EXPECT_EQ(DecideLoad(signals).compute_runs, 2u);
  signals.uncertainty = 0.35;
  EXPECT_EQ(DecideLoad(signals).compute_runs, 4u);
  signals.uncertainty = signals.least_gain = 0;
  EXPECT_EQ(DecideLoad(signals).compute_runs, 2u);
}

TEST(LoadPlanUnit, WhatIsAheadCounts) {
  const auto runs = Runs(4, 500'000);
  LoadSignals signals = Signals(runs);
  signals.compute_ahead_s = 10;  // other prompts: this one's runs are there long before
  signals.overlap_layers = 4;
  EXPECT_EQ(DecideLoad(signals).compute_runs, 0u);
  signals.compute_ahead_s = 0;
  signals.load_ahead_s = 10;  // other loads
  EXPECT_EQ(DecideLoad(signals).compute_runs, 4u);
}

// Once the loader has begun, what it still has to do is known better than the tiers say.
TEST(LoadPlanUnit, ALoadInProgressTakesWhatItTakes) {
  auto runs = Runs(4, 500'000);
  LoadSignals signals = Signals(runs);
  signals.remaining_s = 0.1;
  EXPECT_EQ(DecideLoad(signals).compute_runs, 0u);
  EXPECT_DOUBLE_EQ(LoadSeconds(signals, 2), 0.05);
  signals.remaining_s = 8;
  EXPECT_EQ(DecideLoad(signals).compute_runs, 4u);
  runs[0].bytes = 1'500'000;  // half of what is left is in the first run
  EXPECT_DOUBLE_EQ(LoadSeconds(signals, 1), 4);
}

// Of a load that waits for others, computing a run saves that run's part only, not a part of the queue.
TEST(LoadPlanUnit, ComputingARunDoesNotShortenTheQueue) {
  const auto runs = Runs(4, 500'000);
  LoadSignals signals = Signals(runs);
  signals.remaining_s = 0.4;
  signals.load_ahead_s = 1;
  EXPECT_DOUBLE_EQ(LoadSeconds(signals, 0), 1.4);
  EXPECT_DOUBLE_EQ(LoadSeconds(signals, 1), 1.3);
  signals.prefill.per_token_s = 4e-3;  // 1.024 s for a run, which would save 0.1 s of 1.4 s
  EXPECT_EQ(DecideLoad(signals).compute_runs, 0u);
}

TEST(LoadPlanUnit, DecodingCountsWhereItIsTheSlowerPart) {
  const auto runs = Runs(4, 1'000);
  LoadSignals signals = Signals(runs);
  signals.decode_tokens_per_s = 500;
  EXPECT_DOUBLE_EQ(LoadSeconds(signals, 0), 4 * 0.512);
  EXPECT_EQ(DecideLoad(signals).compute_runs, 3u);  // 0.768 s against 0.512 s, and 1.024 s without loading
}

TEST(LoadPlanUnit, WithoutAPrefillCostEverythingIsLoaded) {
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

// Four loads of a second each that came at once: each waits for all before it, and for each of them once.
TEST(LoadPlanUnit, LoadsTakeTurns) {
  std::vector<QueuedLoad> loads(4, QueuedLoad{.takes_s = 1});
  loads[0].started = true;
  std::vector<LoadTurn> turns = TakeTurns(loads);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_DOUBLE_EQ(turns[i].begins_s, static_cast<double>(i));
    EXPECT_DOUBLE_EQ(turns[i].done_s, static_cast<double>(i + 1));
  }
  // Nearly done: the second's turn comes at once, however long it has waited for that.
  loads[0].takes_s = 0.01;
  turns = TakeTurns(loads);
  EXPECT_DOUBLE_EQ(turns[1].begins_s, 0.01);
  EXPECT_DOUBLE_EQ(turns[3].done_s, 3.01);
  // The head of the first comes after all others.
  loads[0] = {.started = true, .takes_s = 2, .tail_share = 0.25};
  turns = TakeTurns(loads);
  EXPECT_DOUBLE_EQ(turns[0].done_s, 2);
  EXPECT_DOUBLE_EQ(turns[1].begins_s, 0.5);
}

TEST(LoadPlanUnit, OnlyALoadWithNothingInItsWayIsDoubtedBeforeItBegins) {
  std::vector<QueuedLoad> loads(2, QueuedLoad{.takes_s = 1, .waited_s = 5});
  EXPECT_DOUBLE_EQ(TakeTurns(loads)[0].begins_s, 5);
  loads.front() = {.started = true, .takes_s = 2};
  EXPECT_DOUBLE_EQ(TakeTurns(loads)[1].begins_s, 2);
}

// Four runs of 0.5 s to load, one of which is worth computing: 0.256 s of the processors.
TEST(LoadPlanUnit, WhatOthersWaitCounts) {
  const auto runs = Runs(2, 400'000);
  LoadSignals signals = Signals(runs);
  signals.remaining_s = 0.8;
  EXPECT_EQ(DecideLoad(signals).compute_runs, 1u);  // 0.4 s
  EXPECT_DOUBLE_EQ(PlanSeconds(signals, 1), 0.4);
  const std::vector<double> late = {0.3, 9};
  signals.others_ready_s = late;  // when the run is computed
  EXPECT_DOUBLE_EQ(PlanSeconds(signals, 1), 0.4);
  EXPECT_EQ(DecideLoad(signals).compute_runs, 1u);
  const std::vector<double> soon = {0.006, 0.056, 0.156};
  signals.others_ready_s = soon;
  EXPECT_DOUBLE_EQ(PlanSeconds(signals, 1), 0.4 + 0.25 + 0.2 + 0.1);
  EXPECT_DOUBLE_EQ(PlanSeconds(signals, 0), 0.8);
  EXPECT_EQ(DecideLoad(signals).compute_runs, 0u);
  // Of two runs they wait for one: then it is decided anew.
  EXPECT_DOUBLE_EQ(PlanSeconds(signals, 2), 0.512 + 3 * 0.256);
  signals.compute_ahead_s = 1;  // they are served before
  EXPECT_DOUBLE_EQ(PlanSeconds(signals, 2), 1.512);
}

// 1.024 s against 1.1 s of a load that has begun: not for that.
TEST(LoadPlanUnit, ALoadThatHasBegunIsNotGivenUpForALittle) {
  const auto runs = Runs(1, 1'000'000);
  LoadSignals signals = Signals(runs);
  signals.prefill.per_token_s = 4e-3;
  signals.tiers[0] = {.latency_s = 0, .bytes_per_s = 1e6 / 1.1};
  EXPECT_EQ(DecideLoad(signals).compute_runs, 1u);  // nothing has begun: the better side
  signals.remaining_s = 1.1;
  EXPECT_EQ(DecideLoad(signals).compute_runs, 0u);
  signals.remaining_s = 1.2;
  EXPECT_EQ(DecideLoad(signals).compute_runs, 1u);
  signals.uncertainty = 0.2;
  EXPECT_EQ(DecideLoad(signals).compute_runs, 0u);
  signals.uncertainty = signals.least_gain = 0;  // a head that was planned
  signals.remaining_s = 1.1;
  EXPECT_EQ(DecideLoad(signals).compute_runs, 1u);
  signals.remaining_s = 0;
  const std::vector<double> others = {5};
  signals.others_ready_s = others;
  signals.least_gain = kLeastGain;
  EXPECT_EQ(DecideLoad(signals).compute_runs, 0u);  // in company it is a bet as well
}

TEST(LoadPlanUnit, ComputingEverythingIsSlowedByTheLoadsOfOthers) {
  const auto runs = Runs(4, 1'000'000'000);
  LoadSignals signals = Signals(runs);
  signals.prefill.slowdown = 2;
  EXPECT_DOUBLE_EQ(DecideLoad(signals).recompute_s, 1.024);
  signals.load_ahead_s = 1;  // half of it is done beside them
  EXPECT_DOUBLE_EQ(DecideLoad(signals).recompute_s, 1 + 0.524);
  signals.load_ahead_s = 9;
  EXPECT_DOUBLE_EQ(DecideLoad(signals).recompute_s, 2.048);
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
  signals.first_token = 64 * rng.Below(100);
  signals.rest_tokens = static_cast<uint32_t>(1 + rng.Below(1000));
  signals.overlap_layers = static_cast<uint32_t>(rng.Below(3) * 8);
  signals.decode_tokens_per_s = rng.Below(4) == 0 ? 0 : 500 + rng.Uniform() * 20'000;
  signals.prefill = {.per_token_s = 2e-4 + rng.Uniform() * 1e-2,
                     .per_attended_s = rng.Uniform() * 1e-6,
                     .slowdown = 1 + rng.Uniform()};
  if (rng.Below(3) == 0) signals.compute_ahead_s = rng.Uniform() * 2;
  if (rng.Below(3) == 0) signals.load_ahead_s = rng.Uniform() * 2;
  if (rng.Below(4) == 0) signals.remaining_s = 0.01 + rng.Uniform() * 3;
  signals.uncertainty = rng.Uniform() * 0.6;
  return signals;
}

// Both sides played out in small steps of time, as written in the header.
double PlayedOut(const LoadSignals& signals, size_t m) {
  const size_t n = signals.runs.size();
  const auto token_s = [&](uint64_t token) {
    return signals.prefill.per_token_s + signals.prefill.per_attended_s * (static_cast<double>(token) + 0.5);
  };
  double head_s = signals.compute_ahead_s, rest_s = 0;
  uint64_t token = signals.first_token;
  for (size_t i = 0; i < m * signals.run_tokens; ++i) head_s += token_s(token++);
  token = signals.first_token + n * signals.run_tokens;
  for (size_t i = 0; i < signals.rest_tokens; ++i) rest_s += token_s(token++);
  if (m == n) {
    const double beside_s = std::min(signals.load_ahead_s, (head_s + rest_s) * signals.prefill.slowdown);
    return beside_s + head_s + rest_s - beside_s / signals.prefill.slowdown;
  }
  const double load_s = LoadSeconds(signals, m);
  // Beside the load: work is done at 1 / slowdown; the rest only where it may overlap.
  double done_s = load_s / signals.prefill.slowdown;
  const double head_done_s = std::min(done_s, head_s);
  done_s -= head_done_s;
  const double rest_before_s =
      signals.overlap_layers == 0 ? 0 : std::min(done_s, rest_s - rest_s / signals.overlap_layers);
  return load_s + (head_s - head_done_s) + (rest_s - rest_before_s);
}

TEST(LoadPlanProperty, NoSplitIsWorthMore) {
  base::Rng rng(11);
  std::vector<FoundRun> runs;
  int splits = 0, loads = 0, recomputes = 0;
  for (int round = 0; round < 3000; ++round) {
    const LoadSignals signals = RandomSignals(rng, runs);
    const LoadPlan plan = DecideLoad(signals);
    ASSERT_LE(plan.compute_runs, runs.size());
    if (runs.empty()) continue;
    const double load_all_s = PlayedOut(signals, 0), recompute_s = PlayedOut(signals, runs.size());
    const double gain = std::clamp(signals.uncertainty, kLeastGain, kMostGain);
    // A load that has begun is given up only for more than is uncertain.
    const double enough = signals.remaining_s > 0 ? 1 - gain : 1;
    const double better = recompute_s < enough * load_all_s ? recompute_s : load_all_s;
    double best = std::min(load_all_s, recompute_s);
    for (size_t m = 1; m < runs.size(); ++m) best = std::min(best, PlayedOut(signals, m));
    const double tolerance = 1e-6 * (1 + better);
    EXPECT_NEAR(PlayedOut(signals, plan.compute_runs), plan.plan_s, tolerance) << round;
    EXPECT_NEAR(plan.load_all_s, load_all_s, tolerance) << round;
    EXPECT_NEAR(plan.recompute_s, recompute_s, tolerance) << round;
    if (plan.compute_runs > 0 && plan.compute_runs < runs.size()) {
      ++splits;
      EXPECT_NEAR(plan.plan_s, best, tolerance) << round;
      EXPECT_LE(plan.plan_s, (1 - gain) * better + tolerance) << round;
    } else {
      ++(plan.compute_runs == 0 ? loads : recomputes);
      EXPECT_NEAR(plan.plan_s, better, tolerance) << round;
      EXPECT_GE(best, (1 - gain) * better - tolerance) << round;
    }
  }
  EXPECT_GT(std::min({splits, loads, recomputes}), 100);  // all three are seen
}

// What the margin is for: with a load and a prefill that truly take other times than was predicted, by no
// more than the uncertainty says, a split still ends within the margin of the better side alone.
TEST(LoadPlanProperty, AWrongPredictionCostsLittle) {
  base::Rng rng(12);
  std::vector<FoundRun> runs;
  int splits = 0;
  for (int round = 0; round < 20'000; ++round) {
    LoadSignals signals = RandomSignals(rng, runs);
    signals.remaining_s = signals.load_ahead_s = signals.compute_ahead_s = 0;
    signals.uncertainty = std::min(signals.uncertainty, kMostGain);
    const LoadPlan plan = DecideLoad(signals);
    if (plan.compute_runs == 0 || plan.compute_runs == runs.size()) continue;
    ++splits;
    // Both sides slower by the same part, or only one of them: the split waits for the slower one.
    const double gain = std::max(signals.uncertainty, kLeastGain);
    const double slower = 1 / (1 - gain);
    LoadSignals truth = signals;
    if (rng.Below(2) == 0) {
      truth.prefill.per_token_s *= slower;
      truth.prefill.per_attended_s *= slower;
    } else {
      for (TierSpeed& speed : truth.tiers) {
        speed.latency_s *= slower;
        speed.bytes_per_s /= slower;
      }
      truth.decode_tokens_per_s /= slower;
    }
    EXPECT_LE(PlanSeconds(truth, plan.compute_runs), std::min(plan.load_all_s, plan.recompute_s) + 1e-9)
        << round;
  }
  EXPECT_GT(splits, 500);
}

// The rule of the run time, played out against a loader that is truly faster or slower than predicted: it
// takes the runs from the back, one after the other, while the front is taken where the plan over what is
// left says so.
struct Outcome {
  double end_s = 0;
  size_t computed = 0;
};

Outcome PlayTakes(size_t runs, double load_run_s, double predicted_run_s, double compute_run_s) {
  const double tick_s = compute_run_s / 64;
  size_t front = 0, back = runs - 1;  // computed or being computed below, loaded or being loaded from
  double loading_until_s = load_run_s, computing_until_s = -1, end_s = 0;
  uint64_t done = 0;
  for (double now_s = 0; front < back || now_s < std::max(loading_until_s, computing_until_s);
       now_s += tick_s) {
    if (now_s >= loading_until_s && back > front) {
      ++done;
      --back;
      loading_until_s += load_run_s;
      end_s = std::max(end_s, loading_until_s);
    }
    if (now_s < computing_until_s || front >= back) continue;
    const uint64_t total = runs - front;
    const auto left = Runs(total - done, 1000);
    const double left_s = RemainingSeconds(predicted_run_s * static_cast<double>(total), now_s, done, total);
    if (DecideLoad({.runs = left,
                    .run_tokens = 1000,
                    .prefill = {.per_token_s = compute_run_s / 1000},
                    .remaining_s = std::max(left_s, 1e-9)})
            .compute_runs > 0) {
      ++front;
      computing_until_s = now_s + compute_run_s;
      end_s = std::max(end_s, computing_until_s);
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
