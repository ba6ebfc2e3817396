#include "kvplane/stats/quantile.h"

#include <algorithm>
#include <cmath>

#include "kvplane/base/check.h"

namespace kvplane::stats {

double Quantile(std::span<const double> values, double q) {
  if (values.empty()) return 0.0;
  KVPLANE_CHECK(q >= 0.0 && q <= 1.0);
  std::vector<double> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  const double position = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(std::floor(position));
  const size_t above = std::min(below + 1, sorted.size() - 1);
  const double fraction = position - static_cast<double>(below);
  return sorted[below] + fraction * (sorted[above] - sorted[below]);
}

RecentSample::RecentSample(size_t capacity) : capacity_(capacity) { KVPLANE_CHECK(capacity >= 1); }

void RecentSample::Add(double value) {
  if (values_.size() < capacity_) {
    values_.push_back(value);
  } else {
    values_[added_ % capacity_] = value;
  }
  ++added_;
}

double RecentSample::Quantile(double q) const { return stats::Quantile(values_, q); }

}  // namespace kvplane::stats
