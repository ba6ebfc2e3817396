#include "kvplane/profile/covariance.h"

#include <Eigen/Core>

#include "kvplane/base/check.h"

namespace kvplane::profile {
namespace {

using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using FloatRows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

}  // namespace

SquareMatrix SquareMatrix::Block(size_t first, size_t count) const {
  SquareMatrix block = Zero(count);
  for (size_t row = 0; row < count; ++row) {
    for (size_t column = 0; column < count; ++column) block.at(row, column) = at(first + row, first + column);
  }
  return block;
}

double SquareMatrix::Trace() const {
  double sum = 0;
  for (size_t i = 0; i < size; ++i) sum += at(i, i);
  return sum;
}

Covariance::Covariance(size_t size) : sum_(size), products_(size * size) {}

void Covariance::Add(std::span<const float> rows) {
  const auto size = static_cast<Eigen::Index>(sum_.size());
  KVPLANE_CHECK(rows.size() % sum_.size() == 0);
  const auto count = static_cast<Eigen::Index>(rows.size()) / size;
  const RowMajor block = Eigen::Map<const FloatRows>(rows.data(), count, size).cast<double>();
  Eigen::Map<Eigen::RowVectorXd>(sum_.data(), size) += block.colwise().sum();
  Eigen::Map<RowMajor>(products_.data(), size, size)
      .selfadjointView<Eigen::Lower>()
      .rankUpdate(block.transpose());
  count_ += static_cast<uint64_t>(count);
}

std::vector<double> Covariance::Mean() const {
  std::vector<double> mean = sum_;
  for (double& value : mean) value /= static_cast<double>(count_);
  return mean;
}

SquareMatrix Covariance::SecondMoment() const {
  SquareMatrix moment = SquareMatrix::Zero(size());
  for (size_t row = 0; row < size(); ++row) {
    for (size_t column = 0; column <= row; ++column) {
      moment.at(row, column) = products_[row * size() + column] / static_cast<double>(count_);
      moment.at(column, row) = moment.at(row, column);
    }
  }
  return moment;
}

SquareMatrix Covariance::Central() const {
  SquareMatrix central = SecondMoment();
  const std::vector<double> mean = Mean();
  for (size_t row = 0; row < size(); ++row) {
    for (size_t column = 0; column < size(); ++column) central.at(row, column) -= mean[row] * mean[column];
  }
  return central;
}

}  // namespace kvplane::profile
