// BasisFit: means, bases and deviations of one space of one layer, out of its moments.
//
// A plain basis is a principal component analysis: y = U^T (x - mean), U the eigenvectors of the covariance.
// An attention basis is one in the metric A of what reads the values (docs/formats/profile.md, section 5):
// with L L^T = A, PCA of L^T (x - mean); y = U^T L^T (x - mean), x = mean + L^-T U y. The same error of every
// component is then the same cost, so one step serves them all (reverse water-filling; T. Berger,
// "Rate Distortion Theory", 1971, section 4.5).
//
// Metrics are scaled to a mean eigenvalue of 1 over the layer and lifted by `kMetricFloor`, so that bf16
// matrices invert each other; the inverse is worked out from the forward matrix as it was rounded.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/profile/covariance.h"

namespace kvplane::profile {

// Of the mean eigenvalue: what no direction of a metric is cheaper than. A condition number of at most 8
// between forward and inverse keeps bf16's rounding (-52 dB) below -34 dB.
constexpr double kMetricFloor = 1.0 / 64;

// What the squared error of a side costs, per KV head: [kv_heads] of [head_dim, head_dim], symmetric and
// positive semidefinite; off the diagonal blocks there is nothing.
using HeadMetrics = std::vector<SquareMatrix>;

// The mean eigenvalue over all heads, 1 where there is none: what FitBasis scales a metric by.
double MeanEigenvalue(const HeadMetrics& metrics);

// A basis of one layer and space with what its steps are made of; lanes' steps are not set yet.
struct FittedBasis {
  codec::BasisData data;           // lanes: deviation only
  std::vector<double> deviations;  // [lanes]
  std::vector<double> costs;       // [lanes] per squared error of the lane, in units of the metrics given
};

struct BasisInput {
  const Covariance& moments;  // [kv_heads * head_dim]
  const HeadMetrics& metrics;
  uint32_t max_rank = 0;  // of a basis; 0: all
};

// bf16 patterns of the mean.
std::vector<uint16_t> FitMean(const Covariance& moments);

// kInvalidArgument: moments or metrics that are not finite, or sizes that contradict each other. Requires
// more than one vector in the moments.
base::Result<FittedBasis> FitBasis(const BasisInput& input, codec::Basis kind);

// log2 in 1/64 octaves, clamped to what a profile holds; kMinLaneLog for zero.
int16_t LaneLog(double value);

}  // namespace kvplane::profile
