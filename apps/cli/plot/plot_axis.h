// Axes of plots: the range that shows all values, round ticks in it, and where a value falls.
//
// Thread safety: values, pure functions.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace kvplane::cli {

enum class AxisScale { kLinear, kLog };

struct PlotTick {
  double value = 0;
  std::string text;
};

class PlotAxis {
 public:
  // An axis over all `values` that it can show (finite ones, positive ones for kLog), widened to whole ticks;
  // [0, 1] or [0.1, 1] when there are none.
  PlotAxis(AxisScale scale, std::span<const double> values);

  bool Shows(double value) const;    // finite and in range
  double Share(double value) const;  // 0 at the low end, 1 at the high end; requires Shows(value)
  std::span<const PlotTick> ticks() const { return ticks_; }
  double low() const { return low_; }
  double high() const { return high_; }

 private:
  void MakeLinear();
  void MakeLog();

  AxisScale scale_;
  double low_ = 0;
  double high_ = 1;
  std::vector<PlotTick> ticks_;
};

}  // namespace kvplane::cli
