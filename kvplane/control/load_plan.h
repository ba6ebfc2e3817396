// DecideLoad: which of the block runs that a store holds are loaded, and which are computed all the same.
//
// The engine computes from the front while the store loads from the back; the two meet where both are done at
// the same time ("load or recompute", design: data path, section 3; the idea of meeting in the middle: Jin et
// al., "Compute or load KV cache? Why not both?", arXiv 2410.03065). Both functions are pure: signals in,
// decision out; whoever calls them measures the signals and logs the reason.
//
// The model of costs. Computing m runs takes m * run_tokens / prefill rate (the shared rate, where others are
// loaded meanwhile). Loading runs [m, n) takes the
// longest latency of the tiers they lie in, plus the longer of moving their bytes and decoding their tokens:
// the two overlap.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace kvplane::control {

// Tiers are numbered as store::TierKind does, fastest first; more than there are kinds.
constexpr size_t kMaxTiers = 8;

// What was measured of one tier.
struct TierSpeed {
  double latency_s = 0;    // of one round of reads
  double bytes_per_s = 0;  // of coded bytes beyond the latency; 0: nothing is known, taken as instant
};

// One run that was found.
struct FoundRun {
  uint64_t bytes = 0;
  uint8_t tier = 0;  // < kMaxTiers
};

struct LoadSignals {
  std::span<const FoundRun> runs{};  // of the prompt's unbroken prefix, from the front
  uint32_t run_tokens = 0;
  std::array<TierSpeed, kMaxTiers> tiers{};
  double decode_tokens_per_s = 0;   // of the loader's threads together; 0: unknown, taken as instant
  double prefill_tokens_per_s = 0;  // 0: unknown; then everything is loaded
  // The same while a load goes on: it takes processors, and chunks are shorter. 0: as fast as without.
  double shared_prefill_tokens_per_s = 0;
};

struct LoadPlan {
  // Runs [0, compute_runs) are computed, the rest is loaded; runs.size() of the signals: nothing is loaded.
  size_t compute_runs = 0;
  double plan_s = 0;       // when both sides are predicted to be done
  double load_s = 0;       // had everything been loaded
  double recompute_s = 0;  // had everything been computed; 0: the prefill rate is unknown
  std::string reason;      // for the decision log
};

// A split ends earlier only as far as the measured speeds hold while both sides share the processors; so it
// must promise to end within these parts of either side alone, else that side does it alone.
constexpr double kSplitOfLoad = 0.75;
constexpr double kSplitOfRecompute = 0.9;

// The split with the earliest end, where it is worth it; among equals the one that computes least.
LoadPlan DecideLoad(const LoadSignals& signals);

// Seconds to load runs [first, signals.runs.size()) by the model above.
double LoadSeconds(const LoadSignals& signals, size_t first);

// At run time: whether the computing side is to take the front run from the loader instead of waiting for
// it. `remaining_s`: when the loader is expected to be done with all `runs` it still has; `compute_s`: when
// the computing side would be done with that one run, other prompts before it included. Taken where that is
// earlier, and where sharing the rest (both sides at the speeds that this implies) would end within
// kSplitOfLoad of loading it: two sides that take c and l for a run share it in c / (c + l) of the loader's
// time.
constexpr bool TakesFrontRun(double remaining_s, size_t runs, double compute_s) {
  if (compute_s >= remaining_s || runs == 0) return false;
  const double load_run_s = remaining_s / static_cast<double>(runs);
  return compute_s < kSplitOfLoad * (compute_s + load_run_s);
}

// How long a load that has moved `done` of `total` bytes in `elapsed_s` will still take. Before the first
// byte: what was predicted, or as long again as it has already taken; then the observed rate counts by the
// share that has arrived.
double RemainingSeconds(double predicted_s, double elapsed_s, uint64_t done, uint64_t total);

}  // namespace kvplane::control
