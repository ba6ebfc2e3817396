#include "kvplane/stats/moments.h"

#include <algorithm>
#include <cmath>

namespace kvplane::stats {

void Moments::Add(double value) {
  min_ = count_ == 0 ? value : std::min(min_, value);
  max_ = count_ == 0 ? value : std::max(max_, value);
  ++count_;
  const double delta = value - mean_;
  mean_ += delta / static_cast<double>(count_);
  m2_ += delta * (value - mean_);
}

void Moments::Merge(const Moments& other) {
  if (other.count_ == 0) return;
  if (count_ == 0) {
    *this = other;
    return;
  }
  const auto mine = static_cast<double>(count_);
  const auto theirs = static_cast<double>(other.count_);
  const double delta = other.mean_ - mean_;
  count_ += other.count_;
  mean_ += delta * theirs / (mine + theirs);
  m2_ += other.m2_ + delta * delta * mine * theirs / (mine + theirs);
  min_ = std::min(min_, other.min_);
  max_ = std::max(max_, other.max_);
}

double Moments::variance() const { return count_ < 2 ? 0.0 : m2_ / static_cast<double>(count_ - 1); }

double Moments::stddev() const { return std::sqrt(variance()); }

}  // namespace kvplane::stats
