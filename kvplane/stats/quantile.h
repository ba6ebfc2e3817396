// Exact quantiles of the most recent values, at most `capacity` of them.
//
// Why a window and not a sketch: reports and tests want exact percentiles of a known set of requests, and a
// few thousand doubles cost less than explaining a sketch's error. Live metrics, which must never forget, use
// Histogram.
//
// Thread safety: none; the owner locks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvplane::stats {

// Quantile q in [0, 1] of `values` (any order) by linear interpolation between order statistics (type 7 of
// Hyndman and Fan, "Sample quantiles in statistical packages", 1996; numpy's default). 0 when empty.
double Quantile(std::span<const double> values, double q);

class RecentSample {
 public:
  explicit RecentSample(size_t capacity);  // >= 1

  void Add(double value);
  double Quantile(double q) const;  // sorts a copy: O(n log n), for reports

  size_t size() const { return values_.size(); }
  uint64_t added() const { return added_; }                   // ever, including those the window has dropped
  std::span<const double> values() const { return values_; }  // in no particular order

 private:
  size_t capacity_;
  uint64_t added_ = 0;
  std::vector<double> values_;  // a ring once full
};

}  // namespace kvplane::stats
