// TierEstimates: what this engine has measured of its store's tiers, as control wants it.
//
// Exponentially weighted means (weight kWeight for the newest, less for what measured little). A tier that
// was not measured for kForget is taken to be as fast as at the start: otherwise one that was slow once would
// never be tried again. Trying is cheap, because the engine computes from the front meanwhile.
//
// A token's cost grows with its position, and prompts of many lengths are measured: a line is fitted to the
// time per token of each step over the mean position of its tokens (least squares, newer steps weigh more).
// What steps beside a load take longer than this line says is the slowdown. How far loads and steps stray
// from what the estimates said just before them is the uncertainty.
//
// Thread safety: all members.
#pragma once

#include <array>
#include <cstdint>

#include "kvplane/base/clock.h"
#include "kvplane/base/mutex.h"
#include "kvplane/control/load_plan.h"
#include "kvplane/store/entry.h"

namespace kvplane::engine {

class TierEstimates {
 public:
  static constexpr double kWeight = 0.3;
  static constexpr base::Duration kForget = std::chrono::seconds(10);

  TierEstimates();

  // One round of small reads.
  void AddLatency(store::TierKind tier, double seconds, base::TimePoint now) KVPLANE_EXCLUDES(mutex_);
  // A load: coded bytes and the time from the first read to the last decoded layer. One that moved less than
  // `unit_bytes` (a round of reads) has measured latency more than goodput, and counts by its part of them.
  void AddLoad(store::TierKind tier, uint64_t bytes, uint64_t unit_bytes, double seconds, base::TimePoint now)
      KVPLANE_EXCLUDES(mutex_);
  // Busy time of one thread that decoded `tokens` tokens of all layers (a fraction for one layer).
  void AddDecode(double tokens, double seconds) KVPLANE_EXCLUDES(mutex_);
  // The prompt tokens of one step.
  struct PrefillStep {
    uint32_t tokens = 0;  // of all prompts, at least one
    double attended = 0;  // sum of their positions
    double seconds = 0;
    bool shared = false;  // while something was being loaded
    void Add(uint32_t first_token, uint32_t count);
  };
  void AddPrefill(const PrefillStep& step) KVPLANE_EXCLUDES(mutex_);

  // Fills what is measured: speeds of all tiers, of decoding (by `decode_threads` at the same time) and of
  // prefill, and the uncertainty of a load from `tier`.
  control::LoadSignals Signals(uint32_t decode_threads, store::TierKind tier, base::TimePoint now) const
      KVPLANE_EXCLUDES(mutex_);
  control::PrefillCost prefill() const KVPLANE_EXCLUDES(mutex_);

 private:
  struct Tier {
    control::TierSpeed at_start;
    control::TierSpeed measured;
    double error = 0;  // of the measured goodput, as a part of it
    base::TimePoint measured_at{};
  };
  // Weighted sums over steps: x is the mean position of a step's tokens, y its seconds per token.
  struct Line {
    double weight = 0, x = 0, y = 0, xx = 0, xy = 0;
    void Add(double weight, double x, double y);
    control::PrefillCost Fit() const;
  };

  control::PrefillCost PrefillLocked() const KVPLANE_REQUIRES(mutex_);

  mutable base::Mutex mutex_;
  std::array<Tier, control::kMaxTiers> tiers_ KVPLANE_GUARDED_BY(mutex_);
  double decode_tokens_per_s_ KVPLANE_GUARDED_BY(mutex_) = 0;
  Line alone_ KVPLANE_GUARDED_BY(mutex_);                // steps with nothing to load
  Line shared_ KVPLANE_GUARDED_BY(mutex_);               // steps beside a load
  double slowdown_ KVPLANE_GUARDED_BY(mutex_) = 0;       // of these; 0: not measured
  double prefill_error_ KVPLANE_GUARDED_BY(mutex_) = 0;  // of the line, as a part of a step's time
};

}  // namespace kvplane::engine
