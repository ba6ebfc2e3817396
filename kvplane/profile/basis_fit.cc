#include "kvplane/profile/basis_fit.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <Eigen/LU>
#include <algorithm>
#include <cmath>

#include "kvplane/base/check.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::profile {
namespace {

using codec::Basis;
using Eigen::Index;
using Eigen::MatrixXd;
using Eigen::VectorXd;
using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Variances below this share of the largest are numerical noise: such lanes never vary.
constexpr double kVarianceFloor = 1e-12;

MatrixXd ToEigen(const SquareMatrix& matrix) {
  const auto size = static_cast<Index>(matrix.size);
  return Eigen::Map<const RowMajor>(matrix.values.data(), size, size);
}

base::Status CheckInput(const BasisInput& input) {
  KVPLANE_CHECK(input.moments.count() > 1);
  size_t width = 0;
  for (const SquareMatrix& metric : input.metrics) {
    width += metric.size;
    const auto finite = [](double value) { return std::isfinite(value); };
    if (!std::all_of(metric.values.begin(), metric.values.end(), finite) || metric.Trace() < 0) {
      return base::InvalidArgument("a metric is not finite or negative");
    }
  }
  if (width == 0 || width != input.moments.size()) {
    return base::InvalidArgument("metrics of {} values for moments of {}", width, input.moments.size());
  }
  for (const double mean : input.moments.Mean()) {
    if (!std::isfinite(mean)) return base::InvalidArgument("a mean is not finite");
  }
  return base::Status::Ok();
}

// The block-diagonal metric over all heads, scaled to a mean eigenvalue of 1 and lifted by the floor.
MatrixXd LiftedMetric(const HeadMetrics& heads, double scale) {
  Index width = 0;
  for (const SquareMatrix& head : heads) width += static_cast<Index>(head.size);
  MatrixXd metric = MatrixXd::Zero(width, width);
  Index first = 0;
  for (const SquareMatrix& head : heads) {
    const auto size = static_cast<Index>(head.size);
    metric.block(first, first, size, size) = ToEigen(head) / scale;
    first += size;
  }
  metric.diagonal().array() += kMetricFloor;
  return metric;
}

struct Components {
  MatrixXd forward;    // [size, rank]
  MatrixXd inverse;    // [rank, size]
  VectorXd deviation;  // [rank]
};

MatrixXd RoundToBf16(const MatrixXd& matrix) {
  return matrix.unaryExpr([](double value) {
    return double{tensor::Bf16ToFloat(tensor::FloatToBf16(static_cast<float>(value)))};
  });
}

// The deterministic sign of an eigenvector: its largest entry is positive.
void FixSigns(MatrixXd& vectors) {
  for (Index c = 0; c < vectors.cols(); ++c) {
    Index largest = 0;
    vectors.col(c).cwiseAbs().maxCoeff(&largest);
    if (vectors(largest, c) < 0) vectors.col(c) = -vectors.col(c);
  }
}

// PCA of L^T x with L L^T = metric (the identity for a plain one).
Components Analyse(const MatrixXd& covariance, const MatrixXd* metric, Index rank) {
  MatrixXd root = MatrixXd::Identity(covariance.rows(), covariance.cols());
  if (metric != nullptr) root = Eigen::LLT<MatrixXd>(*metric).matrixL();
  const Eigen::SelfAdjointEigenSolver<MatrixXd> solver(root.transpose() * covariance * root);
  // Eigenvalues come rising.
  MatrixXd vectors = solver.eigenvectors().rowwise().reverse().leftCols(rank);
  FixSigns(vectors);
  const VectorXd variances = solver.eigenvalues().reverse().head(rank);
  const double floor = kVarianceFloor * std::max(variances(0), 0.0);
  Components components;
  components.forward = RoundToBf16(root * vectors);
  components.deviation = variances.unaryExpr([floor](double v) { return v > floor ? std::sqrt(v) : 0.0; });
  if (rank == covariance.rows()) {
    components.inverse = RoundToBf16(components.forward.inverse());
  } else {
    components.inverse =
        RoundToBf16(root.transpose().triangularView<Eigen::Upper>().solve(vectors).transpose());
  }
  return components;
}

void Append(const MatrixXd& matrix, std::vector<uint16_t>& to) {
  for (Index row = 0; row < matrix.rows(); ++row) {
    for (Index column = 0; column < matrix.cols(); ++column) {
      to.push_back(tensor::FloatToBf16(static_cast<float>(matrix(row, column))));
    }
  }
}

void AppendLane(double deviation, double cost, FittedBasis& basis) {
  basis.deviations.push_back(deviation);
  basis.costs.push_back(cost);
  basis.data.lanes.push_back({LaneLog(deviation), 0, 0});
}

// metric and scale: of the whole layer, lifted; first: where the components' values begin in it.
void AppendComponents(const Components& components, const MatrixXd& metric, double scale, Index first,
                      bool attention, FittedBasis& basis) {
  Append(components.forward, basis.data.forward);
  Append(components.inverse, basis.data.inverse);
  const Index size = components.inverse.cols();
  const auto block = metric.block(first, first, size, size);
  for (Index c = 0; c < components.deviation.size(); ++c) {
    // An attention basis is made so that all cost the same; its rounding is not worth a step of its own.
    const auto row = components.inverse.row(c);
    const double cost = attention ? 1.0 : (row * block * row.transpose()).value();
    AppendLane(components.deviation(c), scale * cost, basis);
  }
}

}  // namespace

int16_t LaneLog(double value) {
  if (!(value > 0)) return codec::kMinLaneLog;
  const double log = std::round(std::log2(value) * codec::kOctave);
  return static_cast<int16_t>(std::clamp(log, double{codec::kMinLaneLog}, double{codec::kMaxLaneLog}));
}

double MeanEigenvalue(const HeadMetrics& metrics) {
  double trace = 0;
  size_t width = 0;
  for (const SquareMatrix& metric : metrics) {
    trace += metric.Trace();
    width += metric.size;
  }
  return trace > 0 ? trace / static_cast<double>(width) : 1.0;
}

std::vector<uint16_t> FitMean(const Covariance& moments) {
  std::vector<uint16_t> mean;
  for (const double value : moments.Mean()) mean.push_back(tensor::FloatToBf16(static_cast<float>(value)));
  return mean;
}

base::Result<FittedBasis> FitBasis(const BasisInput& input, Basis kind) {
  KVPLANE_RETURN_IF_ERROR(CheckInput(input));
  const double scale = MeanEigenvalue(input.metrics);
  const MatrixXd metric = LiftedMetric(input.metrics, scale);
  const MatrixXd covariance = ToEigen(input.moments.Central());
  const auto head_dim = static_cast<Index>(input.metrics.front().size);
  FittedBasis basis;
  if (kind == Basis::kChannel) {
    basis.data.rank = static_cast<uint32_t>(head_dim);
    const double floor = kVarianceFloor * covariance.diagonal().maxCoeff();
    for (Index i = 0; i < covariance.rows(); ++i) {
      const double variance = covariance(i, i) > floor ? covariance(i, i) : 0.0;
      AppendLane(std::sqrt(variance), scale * metric(i, i), basis);
    }
    return basis;
  }
  const bool attention = kind == Basis::kHeadAttention || kind == Basis::kLayerAttention;
  const bool per_head = kind == Basis::kHead || kind == Basis::kHeadAttention;
  const Index size = per_head ? head_dim : covariance.rows();
  Index rank = per_head ? size : std::min<Index>(size, codec::kMaxProfileRank);
  if (input.max_rank != 0) rank = std::min<Index>(rank, input.max_rank);
  basis.data.rank = static_cast<uint32_t>(rank);
  for (Index first = 0; first < covariance.rows(); first += size) {
    const MatrixXd block = metric.block(first, first, size, size);
    const Components components =
        Analyse(covariance.block(first, first, size, size), attention ? &block : nullptr, rank);
    AppendComponents(components, metric, scale, first, attention, basis);
  }
  return basis;
}

}  // namespace kvplane::profile
