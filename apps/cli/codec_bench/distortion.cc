#include "apps/cli/codec_bench/distortion.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kvplane/base/check.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::cli {
namespace {

constexpr uint32_t kRowsPerTask = 1024;

SquaredError CompareRows(const PagedKv& original, const PagedKv& decoded, uint32_t layer, uint32_t first,
                         uint32_t end) {
  SquaredError error;
  const tensor::KvGeometry& geometry = original.geometry();
  for (const tensor::Side side : tensor::kSides) {
    double signal = 0;
    double noise = 0;
    for (uint32_t t = first; t < end; ++t) {
      for (uint32_t h = 0; h < geometry.kv_heads; ++h) {
        const uint16_t* a = original.row(layer, side, t, h);
        const uint16_t* b = decoded.row(layer, side, t, h);
        for (uint32_t c = 0; c < geometry.head_dim; ++c) {
          const double x = tensor::Bf16ToFloat(a[c]);
          if (std::isfinite(x)) signal += x * x;
          if (a[c] == b[c]) continue;  // exact whatever it is: infinities and NaNs have no difference
          const double e = x - tensor::Bf16ToFloat(b[c]);
          noise += std::isfinite(e) ? e * e : std::numeric_limits<double>::infinity();
        }
      }
    }
    error.signal[static_cast<size_t>(side)] = signal;
    error.noise[static_cast<size_t>(side)] = noise;
  }
  return error;
}

void UnpackRows(const PagedKv& kv, uint32_t layer, tensor::Side side, uint32_t head, uint32_t tokens,
                std::vector<float>& rows) {
  const size_t n = kv.geometry().head_dim;
  rows.resize(tokens * n);
  for (uint32_t t = 0; t < tokens; ++t) {
    const uint16_t* row = kv.row(layer, side, t, head);
    for (size_t c = 0; c < n; ++c) rows[t * n + c] = tensor::Bf16ToFloat(row[c]);
  }
}

double Dot(const float* a, const float* b, size_t n) {
  double sum = 0;
  for (size_t c = 0; c < n; ++c) sum += double{a[c]} * b[c];
  return sum;
}

// weights: the scores of keys [first, end) to their softmax.
void Softmax(std::span<double> weights) {
  const double top = *std::max_element(weights.begin(), weights.end());
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - top);
  for (double& weight : weights) weight /= sum;
}

}  // namespace

void SquaredError::Add(const SquaredError& other) {
  for (size_t side = 0; side < 2; ++side) {
    signal[side] += other.signal[side];
    noise[side] += other.noise[side];
  }
}

double SquaredError::SnrDb(size_t side) const {
  if (noise[side] == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(signal[side] / noise[side]);
}

SquaredError CompareValues(const PagedKv& original, const PagedKv& decoded, base::ThreadPool& pool) {
  KVPLANE_CHECK(original.geometry() == decoded.geometry() && original.tokens() == decoded.tokens());
  const size_t chunks = (original.tokens() + kRowsPerTask - 1) / kRowsPerTask;
  std::vector<SquaredError> parts(original.geometry().layers * chunks);
  pool.ParallelFor(parts.size(), [&](size_t i, size_t) {
    const auto first = static_cast<uint32_t>(i % chunks) * kRowsPerTask;
    parts[i] = CompareRows(original, decoded, static_cast<uint32_t>(i / chunks), first,
                           std::min(first + kRowsPerTask, original.tokens()));
  });
  SquaredError error;
  for (const SquaredError& part : parts) error.Add(part);
  return error;
}

void AttentionError::Add(const AttentionError& other) {
  signal.resize(std::max(signal.size(), other.signal.size()));
  noise.resize(signal.size());
  for (size_t i = 0; i < other.signal.size(); ++i) {
    signal[i] += other.signal[i];
    noise[i] += other.noise[i];
  }
}

std::vector<double> AttentionError::PerLayer() const {
  std::vector<double> errors;
  for (size_t i = 0; i < signal.size(); ++i) {
    errors.push_back(noise[i] == 0 ? 0 : std::sqrt(noise[i] / signal[i]));
  }
  return errors;
}

double AttentionError::Mean() const {
  double sum = 0;
  for (const double error : PerLayer()) sum += error;
  return sum / static_cast<double>(signal.size());
}

double AttentionError::Worst() const {
  const std::vector<double> errors = PerLayer();
  return *std::max_element(errors.begin(), errors.end());
}

AttentionJudge::AttentionJudge(const PagedKv& original, const SampledQueries& queries, base::ThreadPool& pool)
    : original_(original), queries_(queries) {
  const tensor::KvGeometry& geometry = original.geometry();
  KVPLANE_CHECK(queries.heads % geometry.kv_heads == 0 &&
                queries.values.size() == geometry.layers * layer_values());
  KVPLANE_CHECK(queries.positions.empty() || queries.positions.back() < original.tokens());
  outputs_.resize(queries.values.size());
  const size_t head_values = layer_values() / geometry.kv_heads;
  pool.ParallelFor(size_t{geometry.layers} * geometry.kv_heads, [&](size_t i, size_t) {
    Attend(original_, static_cast<uint32_t>(i / geometry.kv_heads),
           static_cast<uint32_t>(i % geometry.kv_heads),
           std::span(outputs_).subspan(i * head_values, head_values));
  });
}

size_t AttentionJudge::layer_values() const {
  return queries_.positions.size() * queries_.heads * original_.geometry().head_dim;
}

void AttentionJudge::Attend(const PagedKv& kv, uint32_t layer, uint32_t kv_head,
                            std::span<float> outputs) const {
  if (queries_.positions.empty()) return;
  const tensor::KvGeometry& geometry = kv.geometry();
  const size_t n = geometry.head_dim;
  const uint32_t group = queries_.heads / geometry.kv_heads;
  const uint32_t window = queries_.windows.empty() ? 0 : queries_.windows[layer];
  const double scale = 1 / std::sqrt(static_cast<double>(n));
  const uint32_t tokens = queries_.positions.back() + 1;
  std::vector<float> keys, values;
  UnpackRows(kv, layer, tensor::Side::kKey, kv_head, tokens, keys);
  UnpackRows(kv, layer, tensor::Side::kValue, kv_head, tokens, values);
  std::vector<double> weights, sum(n);
  for (size_t p = 0; p < queries_.positions.size(); ++p) {
    const uint32_t end = queries_.positions[p] + 1;
    const uint32_t first = window == 0 || window > end ? 0 : end - window;
    for (uint32_t g = 0; g < group; ++g) {
      const float* query = queries_.row(layer, p, kv_head * group + g, geometry.head_dim);
      weights.resize(end - first);
      for (uint32_t t = first; t < end; ++t) weights[t - first] = scale * Dot(query, keys.data() + t * n, n);
      Softmax(weights);
      std::fill(sum.begin(), sum.end(), 0.0);
      for (uint32_t t = first; t < end; ++t) {
        for (size_t c = 0; c < n; ++c) sum[c] += weights[t - first] * values[t * n + c];
      }
      for (size_t c = 0; c < n; ++c) outputs[(p * group + g) * n + c] = static_cast<float>(sum[c]);
    }
  }
}

AttentionError AttentionJudge::Judge(const PagedKv& decoded, base::ThreadPool& pool) const {
  const tensor::KvGeometry& geometry = original_.geometry();
  const size_t head_values = layer_values() / geometry.kv_heads;
  std::vector<std::array<double, 2>> sums(size_t{geometry.layers} * geometry.kv_heads);
  pool.ParallelFor(sums.size(), [&](size_t i, size_t) {
    std::vector<float> outputs(head_values);
    Attend(decoded, static_cast<uint32_t>(i / geometry.kv_heads),
           static_cast<uint32_t>(i % geometry.kv_heads), outputs);
    for (size_t v = 0; v < head_values; ++v) {
      const double reference = outputs_[i * head_values + v];
      const double difference = outputs[v] - reference;
      sums[i][0] += reference * reference;
      sums[i][1] += difference * difference;
    }
  });
  AttentionError error;
  error.signal.resize(geometry.layers);
  error.noise.resize(geometry.layers);
  for (size_t i = 0; i < sums.size(); ++i) {
    error.signal[i / geometry.kv_heads] += sums[i][0];
    error.noise[i / geometry.kv_heads] += sums[i][1];
  }
  return error;
}

}  // namespace kvplane::cli
