#include "kvplane/engine/tier_estimates.h"

#include <algorithm>

namespace kvplane::engine {

namespace {

// Before anything is measured: rather too fast than too slow, by store::TierKind. A memory copy, one NVMe
// drive, a 1 Gbit/s network, the same.
constexpr control::TierSpeed kAtStart[] = {
    {.latency_s = 50e-6, .bytes_per_s = 2e9},
    {.latency_s = 1e-3, .bytes_per_s = 5e8},
    {.latency_s = 2e-3, .bytes_per_s = 1.2e8},
    {.latency_s = 2e-3, .bytes_per_s = 1.2e8},
};
// Shorter loads and steps tell more about the clock than about the tier.
constexpr double kLeastSeconds = 1e-6;

void Mix(double& mean, double value) {
  mean = mean == 0 ? value : mean + TierEstimates::kWeight * (value - mean);
}

}  // namespace

TierEstimates::TierEstimates() {
  base::MutexLock lock(mutex_);
  for (size_t i = 0; i < std::size(kAtStart); ++i) tiers_[i].at_start = kAtStart[i];
}

void TierEstimates::AddLatency(store::TierKind tier, double seconds, base::TimePoint now) {
  base::MutexLock lock(mutex_);
  Tier& entry = tiers_[static_cast<size_t>(tier)];
  Mix(entry.measured.latency_s, std::max(seconds, kLeastSeconds));
  entry.measured_at = now;
}

void TierEstimates::AddLoad(store::TierKind tier, uint64_t bytes, double seconds, base::TimePoint now) {
  if (bytes == 0) return;
  base::MutexLock lock(mutex_);
  Tier& entry = tiers_[static_cast<size_t>(tier)];
  Mix(entry.measured.bytes_per_s, static_cast<double>(bytes) / std::max(seconds, kLeastSeconds));
  entry.measured_at = now;
}

void TierEstimates::AddDecode(double tokens, double seconds) {
  base::MutexLock lock(mutex_);
  Mix(decode_tokens_per_s_, tokens / std::max(seconds, kLeastSeconds));
}

void TierEstimates::AddPrefill(uint32_t tokens, double seconds, bool shared) {
  base::MutexLock lock(mutex_);
  Mix(shared ? shared_prefill_tokens_per_s_ : prefill_tokens_per_s_,
      tokens / std::max(seconds, kLeastSeconds));
}

control::LoadSignals TierEstimates::Signals(uint32_t decode_threads, base::TimePoint now) const {
  base::MutexLock lock(mutex_);
  control::LoadSignals out;
  for (size_t i = 0; i < control::kMaxTiers; ++i) {
    const Tier& tier = tiers_[i];
    const bool fresh = tier.measured_at != base::TimePoint{} && now - tier.measured_at < kForget;
    out.tiers[i] = tier.at_start;
    if (fresh && tier.measured.latency_s > 0) out.tiers[i].latency_s = tier.measured.latency_s;
    if (fresh && tier.measured.bytes_per_s > 0) out.tiers[i].bytes_per_s = tier.measured.bytes_per_s;
  }
  out.decode_tokens_per_s = decode_tokens_per_s_ * decode_threads;
  // A node that finds every prompt in its store has measured steps beside loads only.
  out.prefill_tokens_per_s = prefill_tokens_per_s_ > 0 ? prefill_tokens_per_s_ : shared_prefill_tokens_per_s_;
  out.shared_prefill_tokens_per_s = shared_prefill_tokens_per_s_;
  return out;
}

double TierEstimates::shared_prefill_tokens_per_s() const {
  base::MutexLock lock(mutex_);
  return shared_prefill_tokens_per_s_ > 0 ? shared_prefill_tokens_per_s_ : prefill_tokens_per_s_;
}

}  // namespace kvplane::engine
