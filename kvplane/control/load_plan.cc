#include "kvplane/control/load_plan.h"

#include <fmt/core.h>

#include <algorithm>

#include "kvplane/base/check.h"

namespace kvplane::control {
namespace {

// The time to load the runs added so far; they are added from the back.
class LoadCost {
 public:
  explicit LoadCost(const LoadSignals& signals) : signals_(signals) {
    for (const FoundRun& run : signals.runs) all_bytes_ += static_cast<double>(run.bytes);
  }

  void Add(const FoundRun& run) {
    KVPLANE_CHECK(run.tier < kMaxTiers);
    const TierSpeed& tier = signals_.tiers[run.tier];
    bytes_ += static_cast<double>(run.bytes);
    latency_s_ = std::max(latency_s_, tier.latency_s);
    if (tier.bytes_per_s > 0) move_s_ += static_cast<double>(run.bytes) / tier.bytes_per_s;
    if (signals_.decode_tokens_per_s > 0) decode_s_ += signals_.run_tokens / signals_.decode_tokens_per_s;
  }
  double seconds() const {
    if (signals_.remaining_s > 0) {
      // What is ahead takes as long for a part of the runs as for all.
      return all_bytes_ > 0 ? signals_.load_ahead_s + signals_.remaining_s * bytes_ / all_bytes_ : 0;
    }
    return signals_.load_ahead_s + latency_s_ + std::max(move_s_, decode_s_);
  }

 private:
  const LoadSignals& signals_;
  double all_bytes_ = 0;
  double bytes_ = 0;
  double latency_s_ = 0;
  double move_s_ = 0;
  double decode_s_ = 0;
};

// Computing the first `m` runs, and the rest of the prompt.
struct ComputeCost {
  double head_s = 0;  // with what is ahead of it
  double rest_s = 0;
};

ComputeCost CostOf(const LoadSignals& signals, size_t m) {
  const PrefillCost& prefill = signals.prefill;
  const uint64_t end = signals.first_token + uint64_t{signals.run_tokens} * signals.runs.size();
  return {
      .head_s = signals.compute_ahead_s +
                prefill.Seconds(signals.first_token, signals.first_token + uint64_t{signals.run_tokens} * m),
      .rest_s = prefill.Seconds(end, end + signals.rest_tokens)};
}

// `load_s`: of runs [m, n), m < n. Until then computing is slowed down.
double EndSeconds(const LoadSignals& signals, const ComputeCost& cost, double load_s) {
  const double done_s = load_s / std::max(signals.prefill.slowdown, 1.0);  // computed beside the load
  if (signals.overlap_layers == 0) return load_s + std::max(cost.head_s - done_s, 0.0) + cost.rest_s;
  return load_s + std::max(cost.head_s + cost.rest_s - done_s, cost.rest_s / signals.overlap_layers);
}

// Computing what takes `work_s` alone, while something is being loaded for `load_s`.
double BesideLoad(double work_s, double load_s, double slowdown) {
  const double done_s = load_s / slowdown;
  return work_s <= done_s ? work_s * slowdown : load_s + work_s - done_s;
}

// Other prompts that can go on while runs [0, m) are computed wait for the run under way, not for all: after
// each it is decided anew. Those that are ready before come first anyway.
double OthersWait(const LoadSignals& signals, const ComputeCost& cost, size_t m, double load_s) {
  if (m == 0) return 0;
  const double slowdown = std::max(signals.prefill.slowdown, 1.0);
  const uint64_t last = signals.first_token + uint64_t{signals.run_tokens} * (m - 1);
  const double run_s = BesideLoad(signals.prefill.Seconds(last, last + signals.run_tokens), load_s, slowdown);
  const double end_s = BesideLoad(cost.head_s, load_s, slowdown);
  double wait_s = 0;
  for (const double ready_s : signals.others_ready_s) {
    if (ready_s >= signals.compute_ahead_s) wait_s += std::clamp(end_s - ready_s, 0.0, run_s);
  }
  return wait_s;
}

// When all is computed, beside the loads of others.
double RecomputeSeconds(const LoadSignals& signals, const ComputeCost& cost) {
  return BesideLoad(cost.head_s + cost.rest_s, signals.load_ahead_s, std::max(signals.prefill.slowdown, 1.0));
}

std::string Explain(const LoadPlan& plan, size_t runs) {
  if (runs == 0) return "nothing was found";
  if (plan.recompute_s == 0) return "load all: the prefill rate is not known yet";
  if (plan.compute_runs == runs) {
    return fmt::format("recompute: {:.1f} ms, loading would take {:.1f} ms", plan.recompute_s * 1e3,
                       plan.load_all_s * 1e3);
  }
  const char* what = plan.compute_runs == 0 ? "load all" : "load the tail, compute the head";
  return fmt::format("{}: {:.1f} ms, recompute alone {:.1f} ms, load alone {:.1f} ms", what,
                     plan.plan_s * 1e3, plan.recompute_s * 1e3, plan.load_all_s * 1e3);
}

}  // namespace

double PrefillCost::Seconds(uint64_t begin, uint64_t end) const {
  const auto first = static_cast<double>(begin), last = static_cast<double>(end);
  return (last - first) * (per_token_s + per_attended_s * (first + last) / 2);
}

double LoadSeconds(const LoadSignals& signals, size_t first) {
  if (first >= signals.runs.size()) return 0;
  LoadCost cost(signals);
  for (size_t run = signals.runs.size(); run > first; --run) cost.Add(signals.runs[run - 1]);
  return cost.seconds();
}

double PlanSeconds(const LoadSignals& signals, size_t compute_runs) {
  const ComputeCost cost = CostOf(signals, compute_runs);
  if (compute_runs >= signals.runs.size()) {
    return RecomputeSeconds(signals, cost) + OthersWait(signals, cost, compute_runs, signals.load_ahead_s);
  }
  const double load_s = LoadSeconds(signals, compute_runs);
  return EndSeconds(signals, cost, load_s) + OthersWait(signals, cost, compute_runs, load_s);
}

LoadPlan DecideLoad(const LoadSignals& signals) {
  const size_t runs = signals.runs.size();
  LoadPlan plan;
  plan.load_s = LoadSeconds(signals, 0);
  plan.plan_s = plan.load_all_s = PlanSeconds(signals, 0);
  if (signals.prefill.known() && runs > 0) {
    plan.recompute_s = PlanSeconds(signals, runs);
    LoadPlan best = plan;
    LoadCost load(signals);
    for (size_t m = runs - 1; m > 0; --m) {
      load.Add(signals.runs[m]);
      const ComputeCost cost = CostOf(signals, m);
      const double end_s =
          EndSeconds(signals, cost, load.seconds()) + OthersWait(signals, cost, m, load.seconds());
      if (best.compute_runs != 0 && end_s > best.plan_s) continue;
      best.compute_runs = m;
      best.plan_s = end_s;
      best.load_s = load.seconds();
    }
    const double gain = std::min(std::max(signals.uncertainty, signals.least_gain), kMostGain);
    const bool bet = signals.remaining_s > 0 || !signals.others_ready_s.empty();
    if (plan.recompute_s < (bet ? 1 - gain : 1) * plan.load_all_s) {
      plan.compute_runs = runs;
      plan.plan_s = plan.recompute_s;
      plan.load_s = 0;
    }
    if (best.compute_runs != 0 && best.plan_s <= (1 - gain) * plan.plan_s) plan = best;
  }
  plan.reason = Explain(plan, runs);
  return plan;
}

std::vector<LoadTurn> TakeTurns(std::span<const QueuedLoad> loads) {
  std::vector<LoadTurn> turns;
  double before_s = 0;
  for (const QueuedLoad& load : loads) {
    LoadTurn turn;
    if (!load.started) turn.begins_s = before_s > 0 ? before_s : load.waited_s;
    turn.done_s = turn.begins_s + load.takes_s;
    turn.holds_s = load.takes_s * load.tail_share;
    before_s += turn.holds_s;
    turns.push_back(turn);
  }
  return turns;
}

double RemainingSeconds(double predicted_s, double elapsed_s, uint64_t done, uint64_t total) {
  if (done >= total) return 0;
  if (done == 0) return std::max(predicted_s - elapsed_s, elapsed_s);
  const double share = static_cast<double>(done) / static_cast<double>(total);
  const double observed_s = elapsed_s * (1 - share) / share;
  return share * observed_s + (1 - share) * std::max(predicted_s * (1 - share), 0.0);
}

}  // namespace kvplane::control
