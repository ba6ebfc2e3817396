#include "apps/cli/codec_bench/synthetic_kv.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <span>
#include <vector>

#include "kvplane/tensor/dtype.h"

namespace kvplane::cli {
namespace {

constexpr double kLeastOutlier = 8;  // deviations
constexpr double kMostOutlier = 15;
constexpr double kReferenceHeadDim = 128;  // what `participation` counts
constexpr uint32_t kMaxHeadDim = 1024;

// Eigenvalues exp(-i / decay), i in [0, n): their participation rises with `decay` from 1 to n.
double ParticipationOfDecay(double decay, uint32_t n) {
  double sum = 0;
  double squares = 0;
  for (uint32_t i = 0; i < n; ++i) {
    const double value = std::exp(-static_cast<double>(i) / decay);
    sum += value;
    squares += value * value;
  }
  return sum * sum / squares;
}

double DecayFor(double participation, uint32_t n) {
  double low = 1e-3;
  double high = 1e6;
  for (int i = 0; i < 80; ++i) {
    const double middle = std::sqrt(low * high);
    (ParticipationOfDecay(middle, n) < participation ? low : high) = middle;
  }
  return high;
}

// A random orthogonal matrix, [n, n]: Gram-Schmidt on normal rows, twice for accuracy in binary64.
std::vector<double> RandomRotation(uint32_t n, base::Rng& rng) {
  std::vector<double> rows(size_t{n} * n);
  for (double& value : rows) value = rng.Normal();
  for (size_t i = 0; i < n; ++i) {
    double* row = rows.data() + i * n;
    for (int pass = 0; pass < 2; ++pass) {
      for (size_t j = 0; j < i; ++j) {
        const double* other = rows.data() + j * n;
        double dot = 0;
        for (uint32_t c = 0; c < n; ++c) dot += row[c] * other[c];
        for (uint32_t c = 0; c < n; ++c) row[c] -= dot * other[c];
      }
      double norm = 0;
      for (uint32_t c = 0; c < n; ++c) norm += row[c] * row[c];
      for (uint32_t c = 0; c < n; ++c) row[c] /= std::sqrt(norm);
    }
  }
  return rows;
}

// The participation the correlations need by themselves so that, with these deviations, the covariance has
// `wanted`: its trace(S^2) is the deviations' own part plus mean-square correlation times the rest. What the
// deviations alone already concentrate further than wanted stays as it is.
double CorrelationParticipation(const std::vector<double>& deviations, double wanted) {
  const auto n = static_cast<double>(deviations.size());
  double squares = 0;
  double fourths = 0;
  for (const double d : deviations) {
    squares += d * d;
    fourths += d * d * d * d;
  }
  const double own = fourths / (squares * squares);
  const double correlation = std::clamp((1 / wanted - own) / (1 - own), 0.0, 1.0);  // mean square
  return n / (1 + (n - 1) * correlation);
}

void FillMix(const std::vector<double>& deviations, double participation, base::Rng& rng,
             std::vector<float>& mix) {
  const auto n = static_cast<uint32_t>(deviations.size());
  if (participation == 0) {
    for (uint32_t c = 0; c < n; ++c) mix[c * (size_t{n} + 1)] = static_cast<float>(deviations[c]);
    return;
  }
  const double wanted = std::clamp(participation * n / kReferenceHeadDim, 1.0, static_cast<double>(n));
  const double decay = DecayFor(CorrelationParticipation(deviations, wanted), n);
  const std::vector<double> rotation = RandomRotation(n, rng);
  for (size_t c = 0; c < n; ++c) {
    double energy = 0;
    for (size_t i = 0; i < n; ++i) {
      const double weight = std::exp(-static_cast<double>(i) / decay);
      energy += rotation[c * n + i] * rotation[c * n + i] * weight;
    }
    for (size_t i = 0; i < n; ++i) {
      const double root = std::exp(-static_cast<double>(i) / (2 * decay));
      mix[c * n + i] = static_cast<float>(deviations[c] * rotation[c * n + i] * root / std::sqrt(energy));
    }
  }
}

// The channels of the slower half of the half-split rotation pairs (i, i + n / 2).
uint32_t SlowChannel(uint32_t head_dim, base::Rng& rng) {
  const uint32_t half = head_dim / 2;
  if (half < 2) return static_cast<uint32_t>(rng.Below(head_dim));
  const auto pair = static_cast<uint32_t>(half / 2 + rng.Below(half - half / 2));
  return pair + (rng.Below(2) == 0 ? 0 : half);
}

// Half-split RoPE (Su et al., 2021) of one head's vector.
void Rotate(std::span<const float> frequencies, uint32_t position, float* x) {
  const size_t half = frequencies.size();
  for (size_t i = 0; i < half; ++i) {
    const float angle = static_cast<float>(position) * frequencies[i];
    const float c = std::cos(angle);
    const float s = std::sin(angle);
    const float a = x[i];
    const float b = x[i + half];
    x[i] = a * c - b * s;
    x[i + half] = b * c + a * s;
  }
}

// x += row * weight over contiguous columns: mix is transposed so that this vectorises.
void Accumulate(const float* column, float weight, uint32_t n, float* x) {
  for (uint32_t c = 0; c < n; ++c) x[c] += weight * column[c];
}

void FillHead(const SyntheticSpec& spec, const SyntheticHead& constants, uint32_t layer, tensor::Side side,
              uint32_t head, base::Rng rng, PagedKv& kv) {
  const bool keys = side == tensor::Side::kKey;
  const double sigma = keys ? spec.key.token_gain : spec.value.token_gain;
  const uint32_t n = spec.geometry.head_dim;
  std::vector<float> columns(constants.mix.size());
  for (size_t c = 0; c < n; ++c) {
    for (size_t i = 0; i < n; ++i) columns[i * n + c] = constants.mix[c * n + i];
  }
  const std::vector<float> frequencies = SyntheticRopeFrequencies(spec);
  std::vector<float> x(n);
  for (uint32_t t = 0; t < spec.tokens; ++t) {
    const auto gain = static_cast<float>(std::exp(sigma * rng.Normal() - sigma * sigma));
    std::fill(x.begin(), x.end(), 0.0f);
    for (size_t i = 0; i < n; ++i) {
      Accumulate(columns.data() + i * n, gain * static_cast<float>(rng.Normal()), n, x.data());
    }
    for (uint32_t c = 0; c < n; ++c) x[c] += constants.mean[c];
    if (keys && spec.rope_theta > 0) Rotate(frequencies, t, x.data());
    const auto scale = static_cast<float>(t < spec.sinks ? spec.sink_gain : 1);
    uint16_t* row = kv.row(layer, side, t, head);
    for (uint32_t c = 0; c < n; ++c) row[c] = tensor::FloatToBf16(scale * x[c]);
  }
}

base::Status ValidateSide(const SyntheticSide& side, uint32_t head_dim, const char* name) {
  const bool legal =
      side.spread >= 0 && side.spread <= 3 && side.token_gain >= 0 && side.token_gain <= 3 &&
      side.outliers <= head_dim / 2 &&
      (side.participation == 0 || (side.participation >= 1 && side.participation <= kReferenceHeadDim));
  if (legal) return base::Status::Ok();
  return base::InvalidArgument(
      "synthetic {}: spread and token gain must be in 0..3, outliers at most half the channels, "
      "participation 0 "
      "or 1..128",
      name);
}

bool ParseNumber(std::string_view text, double& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size() && std::isfinite(value);
}

// "a/b" or "a" for both.
bool ParsePair(std::string_view text, double& key, double& value) {
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos) return ParseNumber(text, key) && ParseNumber(text, value);
  return ParseNumber(text.substr(0, slash), key) && ParseNumber(text.substr(slash + 1), value);
}

bool ParseCount(std::string_view text, uint32_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size();
}

bool ParseOutliers(std::string_view text, SyntheticSpec& spec) {
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos) {
    return ParseCount(text, spec.key.outliers) && ParseCount(text, spec.value.outliers);
  }
  return ParseCount(text.substr(0, slash), spec.key.outliers) &&
         ParseCount(text.substr(slash + 1), spec.value.outliers);
}

// False: an unknown name or an illegal value.
bool SetField(std::string_view name, std::string_view text, SyntheticSpec& spec) {
  if (name == "spread") return ParsePair(text, spec.key.spread, spec.value.spread);
  if (name == "outliers") return ParseOutliers(text, spec);
  if (name == "gain") return ParsePair(text, spec.key.token_gain, spec.value.token_gain);
  if (name == "participation") return ParsePair(text, spec.key.participation, spec.value.participation);
  if (name == "sinks") return ParseCount(text, spec.sinks);
  if (name == "sink_gain") return ParseNumber(text, spec.sink_gain);
  if (name == "theta") return ParseNumber(text, spec.rope_theta);
  if (name == "layers") return ParseCount(text, spec.geometry.layers);
  if (name == "heads") return ParseCount(text, spec.geometry.kv_heads);
  if (name == "head_dim") return ParseCount(text, spec.geometry.head_dim);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), spec.seed);
  return name == "seed" && error == std::errc{} && end == text.data() + text.size();
}

}  // namespace

base::Result<SyntheticSpec> ParseSyntheticSpec(std::string_view text) {
  SyntheticSpec spec;
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    const std::string_view field = text.substr(0, comma);
    const size_t equals = std::min(field.find('='), field.size());
    const std::string_view value = field.substr(std::min(equals + 1, field.size()));
    if (!SetField(field.substr(0, equals), value, spec)) {
      return base::InvalidArgument(
          "synthetic KV: '{}' is not one of spread, outliers, gain, participation (K/V), sinks, sink_gain, "
          "theta, "
          "layers, heads, head_dim, seed, with '=' and a number",
          field);
    }
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  KVPLANE_RETURN_IF_ERROR(spec.Validate());
  return spec;
}

base::Status SyntheticSpec::Validate() const {
  if (geometry.layers < 1 || geometry.kv_heads < 1 || tokens < 1 || geometry.head_dim < 2 ||
      geometry.head_dim > kMaxHeadDim || geometry.head_dim % 2 != 0) {
    return base::InvalidArgument("synthetic KV: layers, heads and tokens from 1, an even head_dim of 2..{}",
                                 kMaxHeadDim);
  }
  if (geometry.bytes_per_token() > kMaxSyntheticBytes / tokens) {
    return base::InvalidArgument("synthetic KV of more than {} bytes", kMaxSyntheticBytes);
  }
  if (!(sink_gain >= 0 && sink_gain <= 100) ||
      !(rope_theta == 0 || (rope_theta >= 1 && rope_theta <= 1e12))) {
    return base::InvalidArgument("synthetic KV: sink gain 0..100, RoPE theta 0 or 1..1e12");
  }
  KVPLANE_RETURN_IF_ERROR(ValidateSide(key, geometry.head_dim, "keys"));
  return ValidateSide(value, geometry.head_dim, "values");
}

SyntheticHead DrawSyntheticHead(const SyntheticSide& side, uint32_t head_dim, base::Rng& rng) {
  std::vector<double> deviations(head_dim);
  for (double& deviation : deviations) deviation = std::exp(side.spread * rng.Normal());
  SyntheticHead head;
  head.mean.resize(head_dim);
  for (uint32_t placed = 0; placed < side.outliers;) {
    const uint32_t channel = SlowChannel(head_dim, rng);
    if (head.mean[channel] != 0) continue;
    const double size = kLeastOutlier + (kMostOutlier - kLeastOutlier) * rng.Uniform();
    head.mean[channel] = static_cast<float>((rng.Below(2) == 0 ? 1 : -1) * size * deviations[channel]);
    ++placed;
  }
  head.mix.resize(size_t{head_dim} * head_dim);
  FillMix(deviations, side.participation, rng, head.mix);
  return head;
}

double Participation(const SyntheticHead& head) {
  const size_t n = head.mean.size();
  double trace = 0;
  double squares = 0;
  for (size_t a = 0; a < n; ++a) {
    for (size_t b = 0; b < n; ++b) {
      double covariance = 0;
      for (size_t i = 0; i < n; ++i) covariance += double{head.mix[a * n + i]} * head.mix[b * n + i];
      if (a == b) trace += covariance;
      squares += covariance * covariance;
    }
  }
  return trace * trace / squares;
}

std::vector<SyntheticHead> SyntheticHeads(const SyntheticSpec& spec) {
  base::Rng root(spec.seed);
  std::vector<SyntheticHead> heads;
  for (const SyntheticSide* side : {&spec.key, &spec.value}) {
    for (uint32_t h = 0; h < spec.geometry.kv_heads; ++h) {
      base::Rng rng = root.Split();
      heads.push_back(DrawSyntheticHead(*side, spec.geometry.head_dim, rng));
    }
  }
  return heads;
}

std::vector<float> SyntheticRopeFrequencies(const SyntheticSpec& spec) {
  std::vector<float> frequencies;
  const double n = spec.geometry.head_dim;
  for (uint32_t i = 0; i < spec.geometry.head_dim / 2; ++i) {
    frequencies.push_back(static_cast<float>(std::pow(spec.rope_theta, -2.0 * i / n)));
  }
  return frequencies;
}

PagedKv SyntheticKv(const SyntheticSpec& spec, base::ThreadPool& pool) {
  PagedKv kv(spec.geometry, spec.tokens);
  const std::vector<SyntheticHead> constants = SyntheticHeads(spec);
  const uint64_t mixed = spec.seed + 0x9e3779b97f4a7c15 * (uint64_t{spec.draw} + 1);
  base::Rng root(mixed);
  std::vector<base::Rng> streams;
  for (size_t i = 0; i < spec.geometry.layers * constants.size(); ++i) streams.push_back(root.Split());
  pool.ParallelFor(streams.size(), [&](size_t i, size_t) {
    const size_t which = i % constants.size();
    FillHead(spec, constants[which], static_cast<uint32_t>(i / constants.size()),
             static_cast<tensor::Side>(which / spec.geometry.kv_heads),
             static_cast<uint32_t>(which % spec.geometry.kv_heads), streams[i], kv);
  });
  return kv;
}

}  // namespace kvplane::cli
