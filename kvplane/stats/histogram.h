// Histogram with fixed logarithmic buckets: constant memory, never forgets, two of the same shape merge.
//
// Bucket i counts values in (bound[i-1], bound[i]]; one more bucket counts what lies above the last bound.
// Bounds and cumulative counts are what Prometheus' text format wants (`le` is inclusive).
//
// Thread safety: none; the owner locks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvplane::stats {

class Histogram {
 public:
  // Bounds first, first * factor, ... while not beyond `last` (with a hair of tolerance for rounding).
  // Requires 0 < first <= last, factor > 1 and at most kMaxBuckets bounds.
  Histogram(double first, double last, double factor);

  // For latencies in seconds: 1 ms to 131 s by doubling, 18 buckets.
  static Histogram Seconds() { return Histogram(1e-3, 132.0, 2.0); }

  void Add(double value);              // values <= first, negative ones too, fall into bucket 0
  void Merge(const Histogram& other);  // requires equal bounds

  std::span<const double> bounds() const { return bounds_; }    // ascending, inclusive upper bounds
  std::span<const uint64_t> counts() const { return counts_; }  // bounds().size() + 1, not cumulative
  uint64_t count() const { return count_; }
  double sum() const { return sum_; }

  // Estimate by linear interpolation inside the bucket that holds the quantile: never off by more than the
  // bucket's width. Values above the last bound are reported as the last bound. 0 when empty.
  double Quantile(double q) const;

  static constexpr size_t kMaxBuckets = 256;  // a histogram is a metric: every bucket is a line of /metrics

 private:
  std::vector<double> bounds_;
  std::vector<uint64_t> counts_;
  uint64_t count_ = 0;
  double sum_ = 0;
};

}  // namespace kvplane::stats
