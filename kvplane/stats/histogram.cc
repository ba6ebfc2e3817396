#include "kvplane/stats/histogram.h"

#include <algorithm>

#include "kvplane/base/check.h"

namespace kvplane::stats {

Histogram::Histogram(double first, double last, double factor) {
  KVPLANE_CHECK(first > 0.0 && first <= last && factor > 1.0);
  constexpr double kRounding = 1.0 + 1e-9;
  for (double bound = first; bound <= last * kRounding; bound *= factor) {
    KVPLANE_CHECK(bounds_.size() < kMaxBuckets);
    bounds_.push_back(bound);
  }
  counts_.resize(bounds_.size() + 1);
}

void Histogram::Add(double value) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  ++counts_[static_cast<size_t>(bucket)];
  ++count_;
  sum_ += value;
}

void Histogram::Merge(const Histogram& other) {
  KVPLANE_CHECK(bounds_ == other.bounds_);
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  count_ += other.count_;
  sum_ += other.sum_;
}

double Histogram::Quantile(double q) const {
  KVPLANE_CHECK(q >= 0.0 && q <= 1.0);
  if (count_ == 0) return 0.0;
  const double rank = q * static_cast<double>(count_);
  double below = 0.0;
  for (size_t i = 0; i < bounds_.size(); ++i) {
    const auto inside = static_cast<double>(counts_[i]);
    if (inside > 0.0 && below + inside >= rank) {
      const double low = i == 0 ? 0.0 : bounds_[i - 1];
      return low + (bounds_[i] - low) * std::max(0.0, rank - below) / inside;
    }
    below += inside;
  }
  return bounds_.back();
}

}  // namespace kvplane::stats
