// Derives the class ladder from its definition (docs/formats/rans.md, section 6), independently of the
// program that printed rans_class_tables.h.

#include "kvplane/kernel/rans/rans_class_tables.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "kvplane/kernel/rans/rans_tables.h"

namespace kvplane::kernel {
namespace {

constexpr double kTotal = 128;

// P(X > x), x > 0: 7/8 Gaussian, 1/8 Laplace, both of standard deviation sigma.
double Tail(double x, double sigma) {
  const double gauss = 0.5 * std::erfc(x / (sigma * std::numbers::sqrt2));
  const double laplace = 0.5 * std::exp(-x * std::numbers::sqrt2 / sigma);
  return 7.0 / 8 * gauss + 1.0 / 8 * laplace;
}

// Probability of level `i` when levels are clipped to +-m.
double Probability(int i, int m, double sigma) {
  const int magnitude = std::abs(i);
  if (magnitude == 0) return 1 - 2 * Tail(0.5, sigma);
  const double beyond = magnitude == m ? 0 : Tail(magnitude + 0.5, sigma);
  return Tail(magnitude - 0.5, sigma) - beyond;
}

double Bits(double probability, int frequency) { return -probability * std::log2(frequency / kTotal); }

struct Candidate {
  double cost = std::numeric_limits<double>::infinity();
  int half_range = 0;
  std::vector<int> frequency;
};

Candidate Fit(double sigma, int m) {
  std::vector<int> side(static_cast<size_t>(m) + 1, 1);  // [1..m]
  int centre = 128 - 2 * m;
  while (centre > 2) {
    int best = 0;
    double best_saving = Bits(Probability(0, m, sigma), centre - 2) - Bits(Probability(0, m, sigma), centre);
    for (int i = 1; i <= m; ++i) {
      const int f = side[static_cast<size_t>(i)];
      const double p = 2 * Probability(i, m, sigma);
      const double saving = Bits(p, f) - Bits(p, f + 1);
      if (saving > best_saving) {
        best = i;
        best_saving = saving;
      }
    }
    if (best == 0) break;
    ++side[static_cast<size_t>(best)];
    centre -= 2;
  }
  Candidate fit;
  fit.half_range = m;
  fit.cost = 0;
  for (int i = -m; i <= m; ++i) {
    fit.frequency.push_back(i == 0 ? centre : side[static_cast<size_t>(std::abs(i))]);
    fit.cost += Bits(Probability(i, m, sigma), fit.frequency.back());
  }
  double distortion = 0;
  for (int n = 1; n < 200; ++n) distortion += 2 * (2 * n - 1) * Tail(m + n - 0.5, sigma);
  fit.cost += 6 / std::numbers::ln2 * distortion;
  return fit;
}

TEST(RansClassTablesProperty, AreTheOnesOfTheirDefinition) {
  for (uint32_t k = 0; k < kRansClasses; ++k) {
    Candidate best;
    for (int m = 1; m <= static_cast<int>(kRansMaxHalfRange); ++m) {
      const Candidate fit = Fit(0.25 * std::exp2(k / 4.0), m);
      if (fit.cost < best.cost) best = fit;
    }
    ASSERT_EQ(kRansClassTable[k].half_range, best.half_range) << "class " << k;
    for (size_t s = 0; s < best.frequency.size(); ++s) {
      EXPECT_EQ(kRansClassTable[k].frequency[s], best.frequency[s]) << "class " << k << " symbol " << s;
    }
  }
}

TEST(RansClassTablesProperty, LayoutsAgreeWithTheFrequencies) {
  for (uint32_t k = 0; k < kRansClasses; ++k) {
    const RansClass& source = kRansClassTable[k];
    uint32_t slot = 0;
    for (uint32_t s = 0; s < 32; ++s) {
      const uint32_t f = s <= 2u * source.half_range ? source.frequency[s] : 0;
      EXPECT_EQ(internal::kRansEncode[k].frequency[s], f);
      EXPECT_EQ(internal::kRansBytes[k].frequency[s], f);
      if (f == 0) continue;
      EXPECT_EQ(internal::kRansEncode[k].start[s], slot);
      EXPECT_EQ(internal::kRansBytes[k].start[s], slot);
      EXPECT_EQ(internal::kRansBytes[k].reciprocal_low[s] + 256 * internal::kRansBytes[k].reciprocal_high[s],
                internal::kRansEncode[k].reciprocal[s]);
      for (uint32_t i = 0; i < f; ++i, ++slot) {
        EXPECT_EQ(internal::kRansDecode[k].symbol[slot], s);
        EXPECT_EQ(internal::kRansDecode[k].frequency[slot], f);
        EXPECT_EQ(internal::kRansDecode[k].offset[slot], i);
      }
    }
    EXPECT_EQ(slot, 128u);
  }
}

// The one-step corrected division of every coder, for every frequency and every state it can meet.
TEST(RansClassTablesProperty, CorrectedDivisionIsExact) {
  for (uint32_t f = 1; f < 128; ++f) {
    const uint32_t reciprocal = f == 1 ? 65535 : 65536 / f;
    for (uint32_t x = 0; x < 65536; ++x) {
      uint32_t quotient = x * reciprocal >> 16;
      quotient += x - quotient * f >= f ? 1 : 0;
      ASSERT_EQ(quotient, x / f) << x << " / " << f;
    }
  }
  for (const internal::RansEncodeTable& table : internal::kRansEncode) {
    for (uint32_t s = 0; s < 32; ++s) {
      const uint32_t f = table.frequency[s];
      if (f == 0) continue;
      EXPECT_EQ(table.reciprocal[s], f == 1 ? 65535 : 65536 / f);
    }
  }
}

// The ladder must not cost much on the data it is meant for: excess over the entropy of the unclipped levels.
TEST(RansClassTablesProperty, CostLittleOnTheirOwnDistribution) {
  for (uint32_t k = 0; k < kRansClasses; ++k) {
    const double sigma = 0.25 * std::exp2(k / 4.0);
    const int m = kRansClassTable[k].half_range;
    double rate = 0;
    for (int i = -m; i <= m; ++i) {
      rate += Bits(Probability(i, m, sigma), kRansClassTable[k].frequency[i + m]);
    }
    double entropy = 0;
    for (int i = -100; i <= 100; ++i) {
      const double p = Probability(i, 100, sigma);
      if (p > 1e-300) entropy -= p * std::log2(p);
    }
    EXPECT_LT(rate - entropy, 0.085) << "class " << k;
  }
}

}  // namespace
}  // namespace kvplane::kernel
