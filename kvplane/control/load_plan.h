// DecideLoad: which of the block runs that a store holds are loaded, and which are computed all the same.
//
// The engine computes from the front while the store loads what is behind; the two meet where both are done
// at the same time (docs/adr/0008; the idea of meeting in the middle: Jin et al., "Compute or load KV cache?
// Why not both?", arXiv 2410.03065). All functions are pure: signals in, decision out; whoever calls them
// measures the signals and logs the reason.
//
// The model of costs, in seconds until the whole prompt is computed:
// - Computing tokens [a, b) alone takes (b - a) * per_token_s + (b^2 - a^2) / 2 * per_attended_s: attention
//   grows with the position. Beside a load it takes `slowdown` times that: both want the processors.
// - Loading runs [m, n) takes what is ahead of it, the longest latency of the tiers they lie in, and the
//   longer of moving their bytes and decoding their tokens: the two overlap.
// - The rest of the prompt, behind the runs, is computed in any case. Beside a load it waits layer by layer
//   for the loaded runs: when the load is done, only its last layer is left, unless computing is further
//   behind. So "load all" hides the rest of the prompt behind the load, and a split has to be better than
//   that.
// - Whoever else is waiting pays too: a prompt that could go on while this one computes runs waits for the
//   run under way. That is added to what a plan takes, so that runs are computed in company only where the
//   processors had nothing better to do, or where it gains more than the others lose.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace kvplane::control {

// Tiers are numbered as store::TierKind does, fastest first; more than there are kinds.
constexpr size_t kMaxTiers = 8;

// What was measured of one tier.
struct TierSpeed {
  double latency_s = 0;    // of one round of reads
  double bytes_per_s = 0;  // of coded bytes beyond the latency; 0: nothing is known, taken as instant
};

// What computing prompts costs on this node.
struct PrefillCost {
  double per_token_s = 0;     // both 0: unknown
  double per_attended_s = 0;  // for each earlier token that a token attends to
  double slowdown = 1;        // >= 1; of a step beside a load

  bool known() const { return per_token_s > 0 || per_attended_s > 0; }
  // Tokens [begin, end) of a prompt, with nothing beside them.
  double Seconds(uint64_t begin, uint64_t end) const;
};

// One run that was found.
struct FoundRun {
  uint64_t bytes = 0;  // still to be loaded
  uint8_t tier = 0;    // < kMaxTiers
};

// A split is a bet on two speeds instead of one. It must promise to end this part of the time before either
// side alone does, or the uncertainty of the signals where that is more, but never more than kMostGain: what
// halves the time is worth trying.
constexpr double kLeastGain = 0.1;
constexpr double kMostGain = 0.4;

struct LoadSignals {
  std::span<const FoundRun> runs{};  // consecutive runs of the prompt; the tokens before them are there
  uint64_t first_token = 0;          // of the first of them
  uint32_t run_tokens = 0;
  uint32_t rest_tokens = 0;  // of the prompt, behind the runs
  // Layers of the model; 0: the rest of the prompt waits until the load is done with all of them.
  uint32_t overlap_layers = 0;
  std::array<TierSpeed, kMaxTiers> tiers{};
  double decode_tokens_per_s = 0;  // of the loader's threads together; 0: unknown, taken as instant
  PrefillCost prefill{};           // unknown: everything is loaded
  double load_ahead_s = 0;         // of other requests, before this one's load
  double compute_ahead_s = 0;      // of other prompts, before this one's tokens
  // When other prompts that are being loaded can go on, had they the processors; in no order.
  std::span<const double> others_ready_s{};
  // How far a measured time strays from the predicted one, as a part of it. A split must promise more, and at
  // least `least_gain`; both 0 for one that was chosen before and is only gone on with. So must computing
  // everything where the loader has begun, or others are being loaded: it is not taken back when a sample
  // was wrong.
  double uncertainty = 0;
  double least_gain = kLeastGain;
  // How long the loader is expected to need for all runs, behind what is ahead, where that is known better
  // than by what the tiers say; 0: it is not. Parts of the runs then take their part of it by bytes.
  double remaining_s = 0;
};

struct LoadPlan {
  // Runs [0, compute_runs) are computed, the rest is loaded; runs.size() of the signals: nothing is loaded.
  size_t compute_runs = 0;
  double plan_s = 0;       // until the prompt is computed, as planned, and what others wait for that
  double load_all_s = 0;   // had all runs been loaded
  double recompute_s = 0;  // had all runs been computed; 0: the cost is unknown
  double load_s = 0;       // when the loader is predicted to be done with its part
  std::string reason;      // for the decision log
};

// The split with the earliest end where it is worth it, else the better of loading and computing everything;
// among equals the one that computes least.
LoadPlan DecideLoad(const LoadSignals& signals);

// Seconds until the prompt is computed when runs [0, compute_runs) are computed and the rest is loaded, and
// what others wait for that.
double PlanSeconds(const LoadSignals& signals, size_t compute_runs);

// Seconds to load runs [first, signals.runs.size()), what is ahead of them included.
double LoadSeconds(const LoadSignals& signals, size_t first);

// One load of those that a loader serves one after the other.
struct QueuedLoad {
  bool started = false;
  double takes_s = 0;     // from now on; where it has not begun, from its first read on
  double tail_share = 1;  // of that, what keeps the loads behind it waiting
  double waited_s = 0;    // where it has not begun: since when nothing has been in its way
};
struct LoadTurn {
  double begins_s = 0;
  double done_s = 0;
  double holds_s = 0;  // what it adds to the begin of those behind it
};

// When each load has its turn and is done, all from now on. One that waits takes what those before it still
// take, and its own time. Only where nothing is in its way, and it has not begun all the same, is it doubted
// the longer that lasts.
std::vector<LoadTurn> TakeTurns(std::span<const QueuedLoad> loads);

// How long a load that has moved `done` of `total` bytes in `elapsed_s` will still take. Before the first
// byte: what was predicted, or as long again as it has already taken; then the observed rate counts by the
// share that has arrived.
double RemainingSeconds(double predicted_s, double elapsed_s, uint64_t done, uint64_t total);

}  // namespace kvplane::control
