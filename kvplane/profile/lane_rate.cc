#include "kvplane/profile/lane_rate.h"

#include <cmath>
#include <numbers>

namespace kvplane::profile {

double GaussianBits(double deviation, double step) {
  if (!(deviation > 0)) return 0;
  const double ratio = deviation / step;
  // As if an even error had been added: within 1e-4 bits from here on.
  if (ratio > 1) return 0.5 * std::log2(2 * std::numbers::pi * std::numbers::e * (ratio * ratio + 1.0 / 12));
  const double scale = 1 / (ratio * std::numbers::sqrt2);
  double bits = 0;
  // Both signs at once; beyond the last level nothing is left in binary64.
  double above = std::erfc(0.5 * scale);  // P(|level| >= 1)
  const double zero = 1 - above;
  if (zero > 0 && zero < 1) bits -= zero * std::log2(zero);
  for (int level = 1; above > 1e-18; ++level) {
    const double next = std::erfc((level + 0.5) * scale);
    const double side = (above - next) / 2;
    if (side > 0) bits -= 2 * side * std::log2(side);
    above = next;
  }
  return bits;
}

}  // namespace kvplane::profile
