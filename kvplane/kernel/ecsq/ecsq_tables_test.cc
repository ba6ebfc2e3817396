// Derives the constants of ecsq_tables.h again, by summing over the levels of finely sampled data instead of
// by closed forms.
#include "kvplane/kernel/ecsq/ecsq_tables.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kvplane/kernel/rans/rans.h"

namespace kvplane::kernel {
namespace {

const double kSlope = 6 / std::log(2.0);

double SigmaOf(double j) { return 0.25 * std::exp2(j / 4); }

double Density(double x, double sigma) {
  const double gauss = std::exp(-x * x / (2 * sigma * sigma)) / (sigma * std::sqrt(2 * M_PI));
  const double laplace = std::exp(-std::fabs(x) * std::sqrt(2.0) / sigma) / (sigma * std::sqrt(2.0));
  return 0.875 * gauss + 0.125 * laplace;
}

// Bits a value, squared error included at `slope`, by the midpoint rule.
double Cost(double sigma, uint32_t k, double slope) {
  const RansRung rung = RansLadderRung(k);
  const RansClass& rans_class = kRansClassTable[rung.rans_class()];
  const double reach = 22 * sigma;
  const double width = std::min(sigma, 1.0) / 400;
  double total = 0;
  for (double x = -reach + width / 2; x < reach; x += width) {
    const int level = std::clamp(static_cast<int>(std::lround(x)), rung.min_level(), rung.max_level());
    const int upper = (level + (1 << rung.bypass() >> 1)) >> rung.bypass();
    double bits = 7 - std::log2(rans_class.frequency[upper + rans_class.half_range]) + rung.bypass();
    if (std::fabs(x) > rung.max_level() + double{kEcsqEscapeExcess}) {
      bits += kEcsqEscapeBits;
    } else {
      bits += slope * (x - level) * (x - level);
    }
    total += bits * Density(x, sigma) * width;
  }
  return total;
}

TEST(EcsqTablesProperty, CostsAreThoseOfTheModel) {
  for (uint32_t j = 0; j < kEcsqCostRows; j += 6) {
    for (uint32_t k = j % 3; k < kEcsqLadder; k += 5) {
      const double cost = Cost(SigmaOf(j), k, kSlope);
      EXPECT_NEAR(kEcsqCost[j][k] / 256.0, cost, 0.004 + cost * 0.01) << j << " " << k;
      const double plain = Cost(SigmaOf(j), k, 0);
      EXPECT_NEAR(kTernaryCost[j][k] / 256.0, plain, 0.004 + plain * 0.01) << j << " " << k;
    }
  }
}

TEST(EcsqTablesUnit, ForetoldRungsAreTheCheapest) {
  for (uint32_t j = 0; j < kEcsqLadder; ++j) {
    const auto* row = kEcsqCost[j];
    EXPECT_EQ(kEcsqForetoldRung[j], std::min_element(row, row + kEcsqLadder) - row) << j;
  }
}

TEST(EcsqTablesUnit, PowersOfTwoAreRounded) {
  for (uint32_t k = 0; k < kExp2Steps; ++k) {
    EXPECT_EQ(kExp2[k], static_cast<float>(std::exp2(k / 64.0))) << k;
  }
}

// Frequencies of the three thirds of a parent's bin, by integration; two units of 128 are a rounding.
TEST(EcsqTablesProperty, TernaryFrequenciesAreThoseOfTheModel) {
  for (uint32_t k = 0; k < kTernaryTables; ++k) {
    const double sigma = SigmaOf(k);
    double mass[3][3] = {};
    const double width = std::min(sigma, 1.0) / 300;
    for (double x = width / 2; x < 22 * sigma; x += width) {
      for (const double at : {x, -x}) {
        const int level = static_cast<int>(std::lround(at * 3));
        const int parent = static_cast<int>(std::floor((level + 1) / 3.0));
        const int rest = level - 3 * parent;
        mass[std::min(std::abs(parent), 2)][1 + (parent < 0 ? -rest : rest)] += Density(at, sigma) * width;
      }
    }
    for (int c = 0; c < 3; ++c) {
      const double total = mass[c][0] + mass[c][1] + mass[c][2];
      for (int s = 0; s < 3; ++s) {
        EXPECT_NEAR(kTernaryFrequency[k][c][s], 128 * mass[c][s] / total, 2.0) << k << " " << c << " " << s;
      }
    }
  }
}

}  // namespace
}  // namespace kvplane::kernel
