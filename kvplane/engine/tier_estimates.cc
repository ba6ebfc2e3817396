#include "kvplane/engine/tier_estimates.h"

#include <algorithm>
#include <cmath>

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

// Of a line's sums, per step: about the last ten steps count.
constexpr double kKeep = 0.9;
// Positions that differ less than this tell nothing about the slope: added to their variance.
constexpr double kPositionNoise = 128;
constexpr double kMostSlowdown = 3;
// One step or load that was interrupted is not to hide all others.
constexpr double kMostError = 1;

void Mix(double& mean, double value) {
  mean = mean == 0 ? value : mean + TierEstimates::kWeight * (value - mean);
}

// Starts at 0: the first measurement has nothing to differ from.
void MixError(double& mean, double value, double expected, double weight = TierEstimates::kWeight) {
  mean += weight * (std::min(std::abs(value / expected - 1), kMostError) - mean);
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

void TierEstimates::AddLoad(store::TierKind tier, uint64_t bytes, uint64_t unit_bytes, double seconds,
                            base::TimePoint now) {
  if (bytes == 0) return;
  const double part = std::min(static_cast<double>(bytes) / static_cast<double>(unit_bytes), 1.0);
  base::MutexLock lock(mutex_);
  Tier& entry = tiers_[static_cast<size_t>(tier)];
  const double speed = static_cast<double>(bytes) / std::max(seconds, kLeastSeconds);
  double& mean = entry.measured.bytes_per_s;
  if (mean > 0) {
    MixError(entry.error, mean, speed, kWeight * part);
    mean += kWeight * part * (speed - mean);
  } else {
    mean = entry.at_start.bytes_per_s + part * (speed - entry.at_start.bytes_per_s);
  }
  entry.measured_at = now;
}

void TierEstimates::AddDecode(double tokens, double seconds) {
  base::MutexLock lock(mutex_);
  Mix(decode_tokens_per_s_, tokens / std::max(seconds, kLeastSeconds));
}

void TierEstimates::PrefillStep::Add(uint32_t first_token, uint32_t count) {
  tokens += count;
  attended += count * (first_token + count / 2.0);
}

void TierEstimates::Line::Add(double new_weight, double new_x, double new_y) {
  const auto mix = [new_weight](double& sum, double value) { sum = kKeep * sum + new_weight * value; };
  mix(weight, 1);
  mix(x, new_x);
  mix(y, new_y);
  mix(xx, new_x * new_x);
  mix(xy, new_x * new_y);
}

control::PrefillCost TierEstimates::Line::Fit() const {
  if (weight == 0) return {};
  const double mean_x = x / weight, mean_y = y / weight;
  const double variance = std::max(xx / weight - mean_x * mean_x, 0.0) + kPositionNoise * kPositionNoise;
  // No token costs less than nothing, and none less for being further behind.
  const double most = mean_x > 0 ? mean_y / mean_x : 0;
  const double slope = std::clamp((xy / weight - mean_x * mean_y) / variance, 0.0, most);
  return {.per_token_s = mean_y - slope * mean_x, .per_attended_s = slope};
}

void TierEstimates::AddPrefill(const PrefillStep& step) {
  base::MutexLock lock(mutex_);
  const auto tokens = static_cast<double>(step.tokens);
  const double mean_position = step.attended / tokens;
  const double per_token_s = std::max(step.seconds, kLeastSeconds) / tokens;
  Line& line = step.shared ? shared_ : alone_;
  // What the estimates have said of this step. One beside a load is compared with what it would take alone.
  const control::PrefillCost before = alone_.Fit();
  const double expected = before.per_token_s + before.per_attended_s * mean_position;
  if (expected > 0) {
    MixError(prefill_error_, per_token_s, expected * (step.shared ? std::max(slowdown_, 1.0) : 1.0));
    if (step.shared) Mix(slowdown_, std::clamp(per_token_s / expected, 1.0, kMostSlowdown));
  }
  line.Add(tokens, mean_position, per_token_s);
}

control::PrefillCost TierEstimates::PrefillLocked() const {
  // A node that finds every prompt in its store has measured steps beside loads only.
  if (alone_.weight == 0) return shared_.Fit();
  control::PrefillCost cost = alone_.Fit();
  cost.slowdown = std::max(slowdown_, 1.0);
  return cost;
}

control::PrefillCost TierEstimates::prefill() const {
  base::MutexLock lock(mutex_);
  return PrefillLocked();
}

control::LoadSignals TierEstimates::Signals(uint32_t decode_threads, store::TierKind tier,
                                            base::TimePoint now) const {
  base::MutexLock lock(mutex_);
  control::LoadSignals out;
  for (size_t i = 0; i < control::kMaxTiers; ++i) {
    const Tier& entry = tiers_[i];
    const bool fresh = entry.measured_at != base::TimePoint{} && now - entry.measured_at < kForget;
    out.tiers[i] = entry.at_start;
    if (fresh && entry.measured.latency_s > 0) out.tiers[i].latency_s = entry.measured.latency_s;
    if (fresh && entry.measured.bytes_per_s > 0) out.tiers[i].bytes_per_s = entry.measured.bytes_per_s;
  }
  out.decode_tokens_per_s = decode_tokens_per_s_ * decode_threads;
  out.prefill = PrefillLocked();
  out.uncertainty = std::max(prefill_error_, tiers_[static_cast<size_t>(tier)].error);
  return out;
}

}  // namespace kvplane::engine
