// Streaming count, mean, variance, minimum and maximum in constant memory.
//
// Welford's update ("Note on a method for calculating corrected sums of squares and products", 1962) and the
// pairwise merge of Chan, Golub and LeVeque (1979): no catastrophic cancellation for means far from zero,
// which a sum of squares of nanoseconds would suffer.
//
// Thread safety: none; the owner locks.
#pragma once

#include <cstdint>

namespace kvplane::stats {

class Moments {
 public:
  void Add(double value);
  void Merge(const Moments& other);

  uint64_t count() const { return count_; }
  double mean() const { return mean_; }  // 0 when empty
  double variance() const;               // of the sample (n - 1); 0 below two values
  double stddev() const;
  double min() const { return min_; }  // 0 when empty
  double max() const { return max_; }
  double sum() const { return mean_ * static_cast<double>(count_); }

 private:
  uint64_t count_ = 0;
  double mean_ = 0;
  double m2_ = 0;  // sum of squared distances from the mean
  double min_ = 0;
  double max_ = 0;
};

}  // namespace kvplane::stats
