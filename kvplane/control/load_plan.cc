#include "kvplane/control/load_plan.h"

#include <fmt/core.h>

#include <algorithm>

#include "kvplane/base/check.h"

namespace kvplane::control {
namespace {

// Sums over runs [first, n), built from the back.
class LoadCost {
 public:
  explicit LoadCost(const LoadSignals& signals) : signals_(signals) {}

  void Add(const FoundRun& run) {
    KVPLANE_CHECK(run.tier < kMaxTiers);
    const TierSpeed& tier = signals_.tiers[run.tier];
    latency_s_ = std::max(latency_s_, tier.latency_s);
    if (tier.bytes_per_s > 0) move_s_ += static_cast<double>(run.bytes) / tier.bytes_per_s;
    if (signals_.decode_tokens_per_s > 0) decode_s_ += signals_.run_tokens / signals_.decode_tokens_per_s;
  }
  double seconds() const { return latency_s_ + std::max(move_s_, decode_s_); }

 private:
  const LoadSignals& signals_;
  double latency_s_ = 0;
  double move_s_ = 0;
  double decode_s_ = 0;
};

std::string Explain(const LoadPlan& plan, size_t runs) {
  if (runs == 0) return "nothing was found";
  if (plan.recompute_s == 0) return "load all: the prefill rate is not known yet";
  if (plan.compute_runs == runs) {
    return fmt::format("recompute: {:.1f} ms, loading would take {:.1f} ms", plan.recompute_s * 1e3,
                       plan.load_s * 1e3);
  }
  const char* what = plan.compute_runs == 0 ? "load all" : "load the tail, compute the head";
  return fmt::format("{}: {:.1f} ms, recompute alone {:.1f} ms, load alone {:.1f} ms", what,
                     plan.plan_s * 1e3, plan.recompute_s * 1e3, plan.load_s * 1e3);
}

}  // namespace

double LoadSeconds(const LoadSignals& signals, size_t first) {
  LoadCost cost(signals);
  for (size_t run = signals.runs.size(); run > first; --run) cost.Add(signals.runs[run - 1]);
  return first >= signals.runs.size() ? 0 : cost.seconds();
}

LoadPlan DecideLoad(const LoadSignals& signals) {
  const size_t runs = signals.runs.size();
  LoadPlan plan;
  plan.load_s = LoadSeconds(signals, 0);
  plan.plan_s = plan.load_s;
  if (signals.prefill_tokens_per_s > 0) {
    const double run_s = signals.run_tokens / signals.prefill_tokens_per_s;
    plan.recompute_s = run_s * static_cast<double>(runs);
    const double shared_run_s = signals.shared_prefill_tokens_per_s > 0
                                    ? signals.run_tokens / signals.shared_prefill_tokens_per_s
                                    : run_s;
    // From "compute all" to "load all", so that among equals the least computation is kept.
    LoadCost cost(signals);
    plan.compute_runs = runs;
    plan.plan_s = plan.recompute_s;
    for (size_t m = runs; m > 0; --m) {
      cost.Add(signals.runs[m - 1]);
      const double end_s = std::max(shared_run_s * static_cast<double>(m - 1), cost.seconds());
      if (end_s > plan.plan_s) continue;
      plan.plan_s = end_s;
      plan.compute_runs = m - 1;
    }
    if (plan.load_s <= plan.recompute_s && plan.plan_s > kSplitOfLoad * plan.load_s) {
      plan.compute_runs = 0;
      plan.plan_s = plan.load_s;
    } else if (plan.load_s > plan.recompute_s && plan.plan_s > kSplitOfRecompute * plan.recompute_s) {
      plan.compute_runs = runs;
      plan.plan_s = plan.recompute_s;
    }
  }
  plan.reason = Explain(plan, runs);
  return plan;
}

double RemainingSeconds(double predicted_s, double elapsed_s, uint64_t done, uint64_t total) {
  if (done >= total) return 0;
  if (done == 0) return std::max(predicted_s - elapsed_s, elapsed_s);
  const double share = static_cast<double>(done) / static_cast<double>(total);
  const double observed_s = elapsed_s * (1 - share) / share;
  return share * observed_s + (1 - share) * std::max(predicted_s * (1 - share), 0.0);
}

}  // namespace kvplane::control
