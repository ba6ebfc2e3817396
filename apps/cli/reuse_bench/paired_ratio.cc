#include "apps/cli/reuse_bench/paired_ratio.h"

#include "kvplane/base/check.h"
#include "kvplane/base/rng.h"
#include "kvplane/stats/quantile.h"

namespace kvplane::cli {
namespace {

constexpr int kResamples = 2000;

double MedianOfCase(std::span<const double> values, size_t cases, size_t index) {
  std::vector<double> repeats;
  for (size_t i = index; i < values.size(); i += cases) repeats.push_back(values[i]);
  return stats::Quantile(repeats, 0.5);
}

}  // namespace

PairedRatio CompareCases(std::span<const double> a, std::span<const double> b, size_t cases, uint64_t seed) {
  KVPLANE_CHECK(cases > 0 && a.size() == b.size() && !a.empty() && a.size() % cases == 0);
  std::vector<double> ratios;
  for (size_t i = 0; i < cases; ++i) ratios.push_back(MedianOfCase(a, cases, i) / MedianOfCase(b, cases, i));
  PairedRatio out{.cases = cases, .median = stats::Quantile(ratios, 0.5)};
  base::Rng rng(seed);
  std::vector<double> medians;
  std::vector<double> drawn(cases);
  for (int i = 0; i < kResamples; ++i) {
    for (double& ratio : drawn) ratio = ratios[rng.Below(cases)];
    medians.push_back(stats::Quantile(drawn, 0.5));
  }
  out.low = stats::Quantile(medians, 0.025);
  out.high = stats::Quantile(medians, 0.975);
  return out;
}

}  // namespace kvplane::cli
