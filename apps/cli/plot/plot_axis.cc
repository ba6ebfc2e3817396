#include "apps/cli/plot/plot_axis.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace kvplane::cli {
namespace {

constexpr double kWantedTicks = 7;
constexpr double kMargin = 0.03;   // of the range
constexpr double kLargest = 1e30;  // keeps tick arithmetic far from overflow
// More decades than this are marked by powers of ten alone.
constexpr double kDecadesWithSteps = 3;
// Up to so many, more steps fit.
constexpr double kDecadesWithMany = 1.3;

// The largest of 1, 2, 5 times a power of ten that gives at least kWantedTicks steps, or nearly so.
double NiceStep(double range) {
  const double raw = range / kWantedTicks;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= raw * (1 - 1e-9)) return factor * power;
  }
  return 10 * power;
}

}  // namespace

PlotAxis::PlotAxis(AxisScale scale, std::span<const double> values) : scale_(scale) {
  bool any = false;
  for (const double value : values) {
    if (!std::isfinite(value) || std::abs(value) > kLargest) continue;
    if (scale == AxisScale::kLog && value < 1 / kLargest) continue;
    low_ = any ? std::min(low_, value) : value;
    high_ = any ? std::max(high_, value) : value;
    any = true;
  }
  if (!any) {
    low_ = scale == AxisScale::kLog ? 0.1 : 0;
    high_ = 1;
  }
  if (scale == AxisScale::kLog) {
    MakeLog();
  } else {
    MakeLinear();
  }
}

void PlotAxis::MakeLinear() {
  if (high_ - low_ < 1e-9 * std::max(1e-9, std::abs(high_))) {
    const double pad = std::max(0.5, std::abs(high_) / 2);
    low_ -= pad;
    high_ += pad;
  }
  // Points do not sit on the frame; an axis of magnitudes still begins at 0.
  const double margin = kMargin * (high_ - low_);
  low_ = low_ >= 0 ? std::max(low_ - margin, 0.0) : low_ - margin;
  high_ += margin;
  const double step = NiceStep(high_ - low_);
  const double first = std::floor(low_ / step + 1e-9);
  const double last = std::ceil(high_ / step - 1e-9);
  low_ = first * step;
  high_ = last * step;
  for (double i = first; i <= last; ++i) {
    const double value = i == 0 ? 0 : i * step;
    ticks_.push_back({value, fmt::format("{:.6g}", value)});
  }
}

void PlotAxis::MakeLog() {
  const double margin = 1.15;  // points do not sit on the frame
  low_ /= margin;
  high_ *= margin;
  const int first = static_cast<int>(std::floor(std::log10(low_)));
  const int last = static_cast<int>(std::ceil(std::log10(high_)));
  const double decades = std::log10(high_ / low_);
  constexpr double kFew[] = {1, 2, 5};
  constexpr double kMany[] = {1, 1.5, 2, 3, 4, 5, 6, 8};
  const std::span<const double> factors = decades > kDecadesWithSteps  ? std::span(kFew).first(1)
                                          : decades > kDecadesWithMany ? std::span(kFew)
                                                                       : std::span<const double>(kMany);
  for (int power = first; power <= last; ++power) {
    for (const double factor : factors) {
      const double value = factor * std::pow(10.0, power);
      if (value < low_ || value > high_) continue;
      ticks_.push_back({value, fmt::format("{:.6g}", value)});
    }
  }
}

bool PlotAxis::Shows(double value) const { return std::isfinite(value) && value >= low_ && value <= high_; }

double PlotAxis::Share(double value) const {
  if (scale_ == AxisScale::kLog) return std::log(value / low_) / std::log(high_ / low_);
  return (value - low_) / (high_ - low_);
}

}  // namespace kvplane::cli
