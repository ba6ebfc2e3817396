#include "kvplane/profile/attention_metric.h"

#include <Eigen/Core>

#include "kvplane/base/check.h"

namespace kvplane::profile {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

HeadMetrics KeyMetrics(const model::ModelConfig& config, std::span<const Covariance> queries) {
  const double heads = static_cast<double>(config.heads / config.kv_heads);
  HeadMetrics metrics;
  for (const Covariance& query : queries) {
    metrics.push_back(query.SecondMoment());
    for (double& value : metrics.back().values) value *= heads / config.head_dim;
  }
  return metrics;
}

}  // namespace

HeadMetrics ValueMetrics(const model::ModelConfig& config, std::span<const float> output_projection) {
  KVPLANE_CHECK(output_projection.size() == size_t{config.hidden} * config.query_width());
  const auto hidden = static_cast<Eigen::Index>(config.hidden);
  const auto dim = static_cast<Eigen::Index>(config.head_dim);
  const Eigen::Map<const Rows> projection(output_projection.data(), hidden,
                                          static_cast<Eigen::Index>(config.query_width()));
  const uint32_t group = config.heads / config.kv_heads;
  HeadMetrics metrics;
  for (uint32_t kv_head = 0; kv_head < config.kv_heads; ++kv_head) {
    SquareMatrix metric = SquareMatrix::Zero(config.head_dim);
    Eigen::Map<RowMajor> sum(metric.values.data(), dim, dim);
    for (uint32_t i = 0; i < group; ++i) {
      const Eigen::Index first = (static_cast<Eigen::Index>(kv_head) * group + i) * dim;
      const RowMajor columns = projection.middleCols(first, dim).cast<double>();
      sum += columns.transpose() * columns;
    }
    metrics.push_back(std::move(metric));
  }
  return metrics;
}

SpaceMetrics MetricsOf(const model::ModelConfig& config, const LayerMoments& moments,
                       std::span<const float> output_projection) {
  return {KeyMetrics(config, moments.query_rotated), KeyMetrics(config, moments.query_at_unrotated),
          ValueMetrics(config, output_projection)};
}

void ScaleHeads(std::span<const double> factors, HeadMetrics& metrics) {
  KVPLANE_CHECK(factors.size() == metrics.size());
  for (size_t head = 0; head < metrics.size(); ++head) {
    for (double& value : metrics[head].values) value *= factors[head];
  }
}

}  // namespace kvplane::profile
