// TierEstimates: what this engine has measured of its store's tiers, as control wants it.
//
// Exponentially weighted means (weight kWeight for the newest). A tier that was not measured for kForget is
// taken to be as fast as at the start: otherwise one that was slow once would never be tried again. Trying is
// cheap, because the engine computes from the front meanwhile.
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
  // A load: coded bytes and the time from the first read to the last decoded layer.
  void AddLoad(store::TierKind tier, uint64_t bytes, double seconds, base::TimePoint now)
      KVPLANE_EXCLUDES(mutex_);
  // Busy time of one thread that decoded `tokens` tokens of all layers (a fraction for one layer).
  void AddDecode(double tokens, double seconds) KVPLANE_EXCLUDES(mutex_);
  // A step with `tokens` prompt tokens; `shared`: while something was being loaded.
  void AddPrefill(uint32_t tokens, double seconds, bool shared) KVPLANE_EXCLUDES(mutex_);

  // Fills everything but runs and run_tokens; `decode_threads` decode at the same time.
  control::LoadSignals Signals(uint32_t decode_threads, base::TimePoint now) const KVPLANE_EXCLUDES(mutex_);
  // While something is being loaded, where that was measured; 0: nothing was.
  double shared_prefill_tokens_per_s() const KVPLANE_EXCLUDES(mutex_);

 private:
  struct Tier {
    control::TierSpeed at_start;
    control::TierSpeed measured;
    base::TimePoint measured_at{};
  };

  mutable base::Mutex mutex_;
  std::array<Tier, control::kMaxTiers> tiers_ KVPLANE_GUARDED_BY(mutex_);
  double decode_tokens_per_s_ KVPLANE_GUARDED_BY(mutex_) = 0;
  double prefill_tokens_per_s_ KVPLANE_GUARDED_BY(mutex_) = 0;         // with nothing to load
  double shared_prefill_tokens_per_s_ KVPLANE_GUARDED_BY(mutex_) = 0;  // beside a load
};

}  // namespace kvplane::engine
