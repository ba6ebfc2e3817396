#include "kvplane/profile/basis_noise.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <utility>

#include "kvplane/profile/rotation.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::profile {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Eigen::Index;

constexpr double kErrorUnit = 0x1p-24;

template <typename Pages>
auto* RowOf(const Pages& pages, tensor::Side side, uint32_t token, uint32_t head) {
  const tensor::PageFormat& format = pages.format;
  return pages.pages[token / format.block_tokens] + format.offset(side, token % format.block_tokens, head);
}

Rows Unpack(std::span<const uint16_t> patterns, Index rows, Index columns) {
  Rows matrix(rows, columns);
  for (Index i = 0; i < rows * columns; ++i) {
    matrix.data()[i] = tensor::Bf16ToFloat(patterns[static_cast<size_t>(i)]);
  }
  return matrix;
}

void CopyPages(const tensor::KvGeometry& geometry, const tensor::LayerPages& from, uint32_t tokens,
               const tensor::LayerPages& to) {
  for (const tensor::Side side : tensor::kSides) {
    for (uint32_t t = 0; t < tokens; ++t) {
      for (uint32_t head = 0; head < geometry.kv_heads; ++head) {
        const uint16_t* source = RowOf(from, side, t, head);
        uint16_t* target = RowOf(to, side, t, head);
        if (source != target) std::copy_n(source, geometry.head_dim, target);
      }
    }
  }
}

// Rounds columns to multiples of their steps; returns the squared error.
double Quantize(std::span<const float> steps, Rows& lanes) {
  double error = 0;
  for (Index c = 0; c < lanes.cols(); ++c) {
    const float step = steps[static_cast<size_t>(c)];
    if (step == 0) continue;
    for (Index t = 0; t < lanes.rows(); ++t) {
      const float rounded = step * std::nearbyint(lanes(t, c) / step);
      const double difference = double{lanes(t, c)} - rounded;
      error += difference * difference;
      lanes(t, c) = rounded;
    }
  }
  return error;
}

bool AnyStep(std::span<const float> steps) {
  return std::any_of(steps.begin(), steps.end(), [](float step) { return step != 0; });
}

// x: [tokens, size] values less their means, taken through one basis and back.
double TakeThrough(const Rows& forward, const Rows& inverse, std::span<const float> steps, Rows& x) {
  Rows lanes = x * forward;
  const double error = Quantize(steps, lanes);
  x = lanes * inverse;
  return error;
}

double TakeThroughBasis(const NoisePart& part, const tensor::KvGeometry& geometry, Rows& x) {
  const std::span<const float> steps = part.steps;
  if (part.basis == codec::Basis::kChannel) return Quantize(steps, x);
  const codec::BasisData& data = *part.data;
  const auto rank = static_cast<Index>(data.rank);
  if (part.basis == codec::Basis::kLayer || part.basis == codec::Basis::kLayerAttention) {
    return TakeThrough(Unpack(data.forward, x.cols(), rank), Unpack(data.inverse, rank, x.cols()), steps, x);
  }
  double error = 0;
  const auto dim = static_cast<Index>(geometry.head_dim);
  const size_t block = size_t{geometry.head_dim} * data.rank;
  for (uint32_t head = 0; head < geometry.kv_heads; ++head) {
    const auto of_head = steps.subspan(size_t{head} * data.rank, data.rank);
    if (!AnyStep(of_head)) continue;
    Rows values = x.middleCols(head * dim, dim);
    error +=
        TakeThrough(Unpack(std::span(data.forward).subspan(head * block, block), dim, rank),
                    Unpack(std::span(data.inverse).subspan(head * block, block), rank, dim), of_head, values);
    x.middleCols(head * dim, dim) = values;
  }
  return error;
}

}  // namespace

BasisNoise::BasisNoise(std::string name, std::vector<NoisePart> parts, const model::RopeTable& rope,
                       uint32_t skip_tokens)
    : name_(std::move(name)), parts_(std::move(parts)), rope_(rope), skip_tokens_(skip_tokens) {}

base::Result<uint64_t> BasisNoise::Apply(const tensor::KvGeometry& geometry,
                                         std::span<const tensor::LayerPages> from, uint32_t tokens,
                                         codec::Workspace&, std::span<const tensor::LayerPages> to) const {
  for (size_t layer = 0; layer < from.size(); ++layer) CopyPages(geometry, from[layer], tokens, to[layer]);
  if (tokens > skip_tokens_) {
    for (const NoisePart& part : parts_) ApplyPart(part, geometry, from[part.layer], tokens, to[part.layer]);
    tokens_ += tokens - skip_tokens_;
  }
  return geometry.bytes_per_token() * tokens;
}

void BasisNoise::ApplyPart(const NoisePart& part, const tensor::KvGeometry& geometry,
                           const tensor::LayerPages& from, uint32_t tokens,
                           const tensor::LayerPages& to) const {
  const size_t dim = geometry.head_dim;
  const size_t width = geometry.values_per_token_side();
  const uint32_t rows = tokens - skip_tokens_;
  const bool rotated = part.side == tensor::Side::kKey;
  Rows x(static_cast<Index>(rows), static_cast<Index>(width));
  for (uint32_t t = 0; t < rows; ++t) {
    float* row = x.data() + t * width;
    for (uint32_t head = 0; head < geometry.kv_heads; ++head) {
      const uint16_t* source = RowOf(from, part.side, skip_tokens_ + t, head);
      for (size_t i = 0; i < dim; ++i) row[head * dim + i] = tensor::Bf16ToFloat(source[i]);
      if (rotated) Unrotate({row + head * dim, dim}, rope_, skip_tokens_ + t);
    }
  }
  const Rows mean = Unpack(*part.mean, 1, static_cast<Index>(width));
  x.rowwise() -= mean.row(0);
  error_ += std::llround(TakeThroughBasis(part, geometry, x) / kErrorUnit);
  x.rowwise() += mean.row(0);
  const bool per_head = part.basis == codec::Basis::kHead || part.basis == codec::Basis::kHeadAttention;
  for (uint32_t head = 0; head < geometry.kv_heads; ++head) {
    // Heads without a step keep their bits: rotating forth and back would round them.
    if (per_head &&
        !AnyStep(std::span(part.steps).subspan(size_t{head} * part.data->rank, part.data->rank))) {
      continue;
    }
    for (uint32_t t = 0; t < rows; ++t) {
      float* row = x.data() + t * width + head * dim;
      if (rotated) Rotate({row, dim}, rope_, skip_tokens_ + t);
      uint16_t* target = RowOf(to, part.side, skip_tokens_ + t, head);
      for (size_t i = 0; i < dim; ++i) target[i] = tensor::FloatToBf16(row[i]);
    }
  }
}

double BasisNoise::error_per_token() const {
  const int64_t tokens = tokens_.load();
  return tokens == 0 ? 0 : kErrorUnit * static_cast<double>(error_.load()) / static_cast<double>(tokens);
}

}  // namespace kvplane::profile
