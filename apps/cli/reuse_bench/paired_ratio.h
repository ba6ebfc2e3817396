// PairedRatio: how much longer one of two ways took, from runs of the same cases in both.
//
// Cases differ far more among themselves (prompts of 600 and of 2,000 tokens) than the two ways do, so the
// ways are compared case by case: the median, over cases, of the ratio of the medians of each case's repeats.
// The interval is the percentile bootstrap over cases (Efron, "Bootstrap methods: another look at the
// jackknife", 1979), 95 %.
//
// Thread safety: pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvplane::cli {

struct PairedRatio {
  size_t cases = 0;
  double median = 0;
  double low = 0, high = 0;  // equal to the median below two cases
};

// `a` and `b` hold [repeats, cases] seconds > 0, one repeat after the other; sizes are equal and a multiple
// of `cases` >= 1. The ratio is a / b. The same `seed` gives the same interval.
PairedRatio CompareCases(std::span<const double> a, std::span<const double> b, size_t cases, uint64_t seed);

}  // namespace kvplane::cli
