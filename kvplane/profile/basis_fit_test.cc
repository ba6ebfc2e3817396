#include "kvplane/profile/basis_fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/profile/lane_rate.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::profile {
namespace {

using codec::Basis;

SquareMatrix Diagonal(const std::vector<double>& values) {
  SquareMatrix matrix = SquareMatrix::Zero(values.size());
  for (size_t i = 0; i < values.size(); ++i) matrix.at(i, i) = values[i];
  return matrix;
}

// Two heads of two channels: channel 2 h + i is mean + mixture of independent normals of deviations 4 and 1
// (head 0), 2 and 0.5 (head 1), turned by 30 degrees within the head.
constexpr double kDeviations[2][2] = {{4, 1}, {2, 0.5}};
constexpr double kMeans[4] = {1, -2, 0.5, 3};
constexpr double kCos = 0.8660254;
constexpr double kSin = 0.5;

Covariance TurnedSamples(size_t count) {
  base::Rng rng(5);
  Covariance moments(4);
  std::vector<float> rows;
  for (size_t t = 0; t < count; ++t) {
    for (size_t head = 0; head < 2; ++head) {
      const double a = kDeviations[head][0] * rng.Normal();
      const double b = kDeviations[head][1] * rng.Normal();
      rows.push_back(static_cast<float>(kMeans[2 * head] + kCos * a - kSin * b));
      rows.push_back(static_cast<float>(kMeans[2 * head + 1] + kSin * a + kCos * b));
    }
  }
  moments.Add(rows);
  return moments;
}

std::vector<double> Unpack(const std::vector<uint16_t>& patterns) {
  std::vector<double> values;
  for (const uint16_t pattern : patterns) values.push_back(tensor::Bf16ToFloat(pattern));
  return values;
}

TEST(CovarianceUnit, SumsByHand) {
  Covariance moments(2);
  const std::vector<float> first = {1, 2, 3, 6};
  moments.Add(first);
  moments.Add(std::vector<float>{5, 1});
  EXPECT_EQ(moments.count(), 3u);
  EXPECT_EQ(moments.Mean(), (std::vector<double>{3, 3}));
  const SquareMatrix central = moments.Central();
  EXPECT_NEAR(central.at(0, 0), 8.0 / 3, 1e-12);
  EXPECT_NEAR(central.at(0, 1), -2.0 / 3, 1e-12);
  EXPECT_NEAR(central.at(1, 0), -2.0 / 3, 1e-12);
  EXPECT_NEAR(central.at(1, 1), 14.0 / 3, 1e-12);
  EXPECT_NEAR(moments.SecondMoment().at(0, 1), 25.0 / 3, 1e-12);
  EXPECT_NEAR(central.Block(1, 1).at(0, 0), 14.0 / 3, 1e-12);
  EXPECT_NEAR(central.Trace(), 22.0 / 3, 1e-12);
}

TEST(LaneRateUnit, EntropyOfARoundedGaussian) {
  EXPECT_EQ(GaussianBits(0, 1), 0);
  // Both sides of the switch to the high-rate formula; 2.0471 = log2 sqrt(2 pi e).
  EXPECT_NEAR(GaussianBits(1.0, 1), 2.1048, 1e-3);
  EXPECT_NEAR(GaussianBits(16, 1), 2.0471 + 4, 1e-3);
  EXPECT_NEAR(GaussianBits(1, 1), GaussianBits(1.0001, 1), 1e-3);
  // A quarter of a step: levels of +-1 have a share of 0.0455 together.
  EXPECT_NEAR(GaussianBits(0.25, 1), 0.3122, 2e-3);
  EXPECT_LT(GaussianBits(0.05, 1), 1e-9);
  EXPECT_NEAR(GaussianBits(3, 2), GaussianBits(1.5, 1), 1e-12);
}

TEST(LaneLogUnit, SixtyFourthOctaves) {
  EXPECT_EQ(LaneLog(1), 0);
  EXPECT_EQ(LaneLog(2), 64);
  EXPECT_EQ(LaneLog(std::sqrt(0.5)), -32);
  EXPECT_EQ(LaneLog(0), codec::kMinLaneLog);
  EXPECT_EQ(LaneLog(1e300), codec::kMaxLaneLog);
  EXPECT_EQ(LaneLog(1e-300), codec::kMinLaneLog);
}

TEST(BasisFitUnit, ChannelsHaveTheirOwnDeviations) {
  const Covariance moments = TurnedSamples(20000);
  const HeadMetrics metrics = {Diagonal({1, 1}), Diagonal({3, 3})};
  const auto fit = FitBasis({moments, metrics}, Basis::kChannel);
  ASSERT_TRUE(fit.ok()) << fit.status().ToString();
  EXPECT_EQ(fit->data.rank, 2u);
  EXPECT_TRUE(fit->data.forward.empty());
  ASSERT_EQ(fit->deviations.size(), 4u);
  EXPECT_NEAR(fit->deviations[0], std::sqrt(0.75 * 16 + 0.25 * 1), 0.05);
  EXPECT_NEAR(fit->deviations[3], std::sqrt(0.25 * 4 + 0.75 * 0.25), 0.02);
  // The metric, lifted by 1/64 of its mean eigenvalue 2.
  EXPECT_NEAR(fit->costs[0], 1 + 2.0 / 64, 1e-12);
  EXPECT_NEAR(fit->costs[2], 3 + 2.0 / 64, 1e-12);
  EXPECT_EQ(fit->data.lanes[2].deviation, LaneLog(fit->deviations[2]));
  const std::vector<uint16_t> mean = FitMean(moments);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(tensor::Bf16ToFloat(mean[i]), kMeans[i], 0.06);
}

TEST(BasisFitProperty, RecoversTheBasisAndItsDeviations) {
  const Covariance moments = TurnedSamples(20000);
  const HeadMetrics metrics = {Diagonal({1, 1}), Diagonal({1, 1})};
  const auto head = FitBasis({moments, metrics}, Basis::kHead);
  ASSERT_TRUE(head.ok()) << head.status().ToString();
  const std::vector<double> forward = Unpack(head->data.forward);  // [2, 2, 2]
  for (size_t h = 0; h < 2; ++h) {
    EXPECT_NEAR(head->deviations[2 * h] / kDeviations[h][0], 1, 0.03);
    EXPECT_NEAR(head->deviations[2 * h + 1] / kDeviations[h][1], 1, 0.03);
    // Component 0 is (cos, sin), its largest entry positive; component 1 stands across.
    EXPECT_NEAR(forward[4 * h], kCos, 0.02);
    EXPECT_NEAR(forward[4 * h + 2], kSin, 0.02);
    EXPECT_NEAR(std::abs(forward[4 * h + 1]), kSin, 0.02);
  }
  // Over the layer the components of both heads come in one order: 4, 2, 1, 0.5.
  const auto layer = FitBasis({moments, metrics}, Basis::kLayer);
  ASSERT_TRUE(layer.ok()) << layer.status().ToString();
  const double expected[] = {4, 2, 1, 0.5};
  for (size_t c = 0; c < 4; ++c) EXPECT_NEAR(layer->deviations[c] / expected[c], 1, 0.03);
  for (const double cost : layer->costs) EXPECT_NEAR(cost, 1 + 1.0 / 64, 0.01);
}

// forward * inverse = 1 in every full basis, and a unit error of every attention lane costs the same.
TEST(BasisFitProperty, AttentionBasesInvertAndSpreadTheCost) {
  const Covariance moments = TurnedSamples(5000);
  SquareMatrix metric = Diagonal({9, 1});
  metric.at(0, 1) = metric.at(1, 0) = 2;
  const HeadMetrics metrics = {metric, Diagonal({4, 0.25})};
  const double mean_eigenvalue = (9 + 1 + 4 + 0.25) / 4;
  EXPECT_NEAR(MeanEigenvalue(metrics), mean_eigenvalue, 1e-12);
  SquareMatrix whole = SquareMatrix::Zero(4);
  for (size_t i = 0; i < 2; ++i) {
    for (size_t j = 0; j < 2; ++j) {
      whole.at(i, j) = metrics[0].at(i, j);
      whole.at(2 + i, 2 + j) = metrics[1].at(i, j);
    }
    whole.at(i, i) += mean_eigenvalue * kMetricFloor;
    whole.at(2 + i, 2 + i) += mean_eigenvalue * kMetricFloor;
  }
  const auto fit = FitBasis({moments, metrics}, Basis::kLayerAttention);
  ASSERT_TRUE(fit.ok()) << fit.status().ToString();
  const std::vector<double> forward = Unpack(fit->data.forward);
  const std::vector<double> inverse = Unpack(fit->data.inverse);
  for (size_t a = 0; a < 4; ++a) {
    for (size_t b = 0; b < 4; ++b) {
      double product = 0;
      double cost = 0;
      for (size_t i = 0; i < 4; ++i) {
        product += inverse[a * 4 + i] * forward[i * 4 + b];
        for (size_t j = 0; j < 4; ++j) cost += inverse[a * 4 + i] * whole.at(i, j) * inverse[b * 4 + j];
      }
      EXPECT_NEAR(product, a == b ? 1 : 0, 0.02);
      EXPECT_NEAR(cost / mean_eigenvalue, a == b ? 1 : 0, 0.03);
    }
    EXPECT_NEAR(fit->costs[a], mean_eigenvalue, 1e-12);
  }
  EXPECT_GE(fit->deviations[0], fit->deviations[1]);
  EXPECT_GE(fit->deviations[2], fit->deviations[3]);
}

TEST(BasisFitUnit, RankCutsTheWeakest) {
  const Covariance moments = TurnedSamples(2000);
  const HeadMetrics metrics = {Diagonal({1, 1}), Diagonal({1, 1})};
  for (const Basis kind : {Basis::kLayer, Basis::kLayerAttention}) {
    const auto whole = FitBasis({moments, metrics}, kind);
    const auto cut = FitBasis({moments, metrics, 3}, kind);
    ASSERT_TRUE(whole.ok() && cut.ok());
    EXPECT_EQ(cut->data.rank, 3u);
    EXPECT_EQ(cut->data.forward.size(), 12u);
    EXPECT_EQ(cut->data.inverse.size(), 12u);
    for (size_t c = 0; c < 3; ++c) EXPECT_EQ(cut->deviations[c], whole->deviations[c]);
  }
}

TEST(BasisFitUnit, LanesThatNeverVary) {
  Covariance moments(2);
  moments.Add(std::vector<float>{1, 5, 2, 5, 3, 5});
  const HeadMetrics metrics = {Diagonal({0, 0})};
  for (const Basis kind : {Basis::kChannel, Basis::kHead, Basis::kLayerAttention}) {
    const auto fit = FitBasis({moments, metrics}, kind);
    ASSERT_TRUE(fit.ok()) << fit.status().ToString();
    EXPECT_EQ(fit->data.lanes[1].deviation, codec::kMinLaneLog);
    EXPECT_GT(fit->data.lanes[0].deviation, codec::kMinLaneLog);
  }
}

TEST(BasisFitSafety, RefusesWhatIsNotFinite) {
  const Covariance moments = TurnedSamples(100);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const HeadMetrics cases[] = {{Diagonal({1, nan}), Diagonal({1, 1})}, {Diagonal({1, 1})}, {}};
  for (const HeadMetrics& metrics : cases) {
    EXPECT_EQ(FitBasis({moments, metrics}, Basis::kHead).status().code(), base::StatusCode::kInvalidArgument);
  }
  Covariance bad(2);
  bad.Add(std::vector<float>{1, 2, std::numeric_limits<float>::infinity(), 3});
  const HeadMetrics metrics = {Diagonal({1, 1})};
  EXPECT_EQ(FitBasis({bad, metrics}, Basis::kChannel).status().code(), base::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvplane::profile
