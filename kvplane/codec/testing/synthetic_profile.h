// A small deterministic profile of any geometry, for tests: random orthogonal bases, plausible lanes, every
// space and basis. Its "attention" bases are orthogonal ones stretched by 2^-1..2^1 per channel, so forward
// and inverse differ.
//
// Meant for kv_heads * head_dim up to a few hundred: the layer bases are orthogonalised directly.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/base/rng.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::codec::testing {

struct SyntheticProfileOptions {
  tensor::KvGeometry geometry{.layers = 2, .kv_heads = 2, .head_dim = 16};
  uint64_t seed = 1;
  uint32_t head_rank = 0;   // 0: head_dim
  uint32_t layer_rank = 0;  // 0: kv_heads * head_dim, at most kMaxProfileRank
  bool rope = true;         // all of an even head_dim is rotated, theta 10,000
};

inline int16_t LogOf(double value) {
  return static_cast<int16_t>(
      std::clamp<long>(std::lround(std::log2(value) * kOctave), kMinLaneLog, kMaxLaneLog));
}

// [size, rank] row-major, columns orthonormal (modified Gram-Schmidt on Gaussian columns).
inline std::vector<double> OrthonormalColumns(base::Rng& rng, size_t size, size_t rank) {
  std::vector<double> columns(rank * size);  // [rank, size]
  for (size_t c = 0; c < rank; ++c) {
    double* column = columns.data() + c * size;
    for (size_t i = 0; i < size; ++i) column[i] = rng.Normal();
    // Twice: once loses digits where columns are many.
    for (size_t k = 0; k < 2 * c; ++k) {
      const double* other = columns.data() + (k % c) * size;
      const double along = std::inner_product(column, column + size, other, 0.0);
      for (size_t i = 0; i < size; ++i) column[i] -= along * other[i];
    }
    const double norm = std::sqrt(std::inner_product(column, column + size, column, 0.0));
    for (size_t i = 0; i < size; ++i) column[i] /= norm;
  }
  std::vector<double> rows(size * rank);
  for (size_t c = 0; c < rank; ++c) {
    for (size_t i = 0; i < size; ++i) rows[i * rank + c] = columns[c * size + i];
  }
  return rows;
}

// Appends forward [size, rank] and inverse [rank, size]: y = U^T S x, x = S^-1 U y, S diagonal.
inline void AppendMatrices(base::Rng& rng, size_t size, size_t rank, bool stretched, BasisData& basis) {
  const std::vector<double> u = OrthonormalColumns(rng, size, rank);
  std::vector<double> stretch(size, 1.0);
  if (stretched) {
    for (double& s : stretch) s = std::exp2(2.0 * rng.Uniform() - 1.0);
  }
  for (size_t i = 0; i < size; ++i) {
    for (size_t c = 0; c < rank; ++c) {
      basis.forward.push_back(tensor::FloatToBf16(static_cast<float>(stretch[i] * u[i * rank + c])));
    }
  }
  for (size_t c = 0; c < rank; ++c) {
    for (size_t i = 0; i < size; ++i) {
      basis.inverse.push_back(tensor::FloatToBf16(static_cast<float>(u[i * rank + c] / stretch[i])));
    }
  }
}

// Deviations fall by a factor of 16 over the rank (channels: in no order); one uniform step, 0 dB.
inline void AppendLanes(base::Rng& rng, size_t count, bool falling, int16_t weighted_shift,
                        BasisData& basis) {
  std::vector<double> deviations(count);
  double energy = 0;
  for (size_t i = 0; i < count; ++i) {
    const double place = falling ? static_cast<double>(i) / static_cast<double>(count) : rng.Uniform();
    deviations[i] = 2.0 * std::exp2(-4.0 * place);
    energy += deviations[i] * deviations[i];
  }
  const int16_t step = LogOf(std::sqrt(12.0 * energy / static_cast<double>(count)));
  for (const double deviation : deviations) {
    basis.lanes.push_back({LogOf(deviation), step, static_cast<int16_t>(step + weighted_shift)});
  }
}

inline BasisData SyntheticBasis(base::Rng& rng, const SyntheticProfileOptions& options, Basis kind) {
  const auto [layers, heads, dim, dtype] = options.geometry;
  const uint32_t width = heads * dim;
  const auto weighted_shift = static_cast<int16_t>(static_cast<int>(rng.Below(65)) - 32);
  BasisData basis;
  if (kind == Basis::kChannel) {
    basis.rank = dim;
    AppendLanes(rng, width, false, weighted_shift, basis);
    return basis;
  }
  const bool stretched = kind == Basis::kHeadAttention || kind == Basis::kLayerAttention;
  if (kind == Basis::kHead || kind == Basis::kHeadAttention) {
    basis.rank = options.head_rank == 0 ? dim : options.head_rank;
    for (uint32_t head = 0; head < heads; ++head) {
      AppendMatrices(rng, dim, basis.rank, stretched, basis);
      AppendLanes(rng, basis.rank, true, weighted_shift, basis);
    }
    return basis;
  }
  basis.rank = options.layer_rank == 0 ? std::min(width, kMaxProfileRank) : options.layer_rank;
  AppendMatrices(rng, width, basis.rank, stretched, basis);
  AppendLanes(rng, basis.rank, true, weighted_shift, basis);
  return basis;
}

inline ModelProfileData SyntheticProfileData(const SyntheticProfileOptions& options) {
  base::Rng rng(options.seed);
  ModelProfileData data;
  data.geometry = options.geometry;
  for (std::byte& byte : data.model_fingerprint) byte = static_cast<std::byte>(rng.Below(256));
  if (options.rope && options.geometry.head_dim >= 2) {
    data.rope.emplace();
    const uint32_t half = options.geometry.head_dim / 2;
    for (uint32_t i = 0; i < half; ++i) {
      data.rope->inverse_frequencies.push_back(
          std::pow(10000.0f, -static_cast<float>(i) / static_cast<float>(half)));
    }
  }
  data.layers.resize(options.geometry.layers);
  for (auto& layer : data.layers) {
    for (auto& space : layer) {
      space.emplace();
      for (uint64_t i = 0; i < options.geometry.values_per_token_side(); ++i) {
        space->mean.push_back(tensor::FloatToBf16(static_cast<float>(rng.Normal())));
      }
      for (size_t i = 0; i < kBases; ++i) {
        space->bases[i] = SyntheticBasis(rng, options, static_cast<Basis>(i));
      }
    }
  }
  data.head_rank.resize(size_t{options.geometry.layers} * options.geometry.kv_heads);
  std::iota(data.head_rank.begin(), data.head_rank.end(), uint16_t{0});
  for (size_t i = data.head_rank.size(); i > 1; --i) {
    std::swap(data.head_rank[i - 1], data.head_rank[rng.Below(i)]);
  }
  data.note = "synthetic";
  return data;
}

// Four layers, of 128 elements a token, that each make coded tiles come out in another way: the last 64 lanes
// idle, so that they have none; every fifth one idle; all idle beside steps of 2^20, so that next to nothing
// is coded and tiles are padded; deviations and steps of 2^-20, which no tile fits. Channels only.
inline ModelProfileData UnevenProfileData() {
  constexpr int16_t kFar = 20 * kOctave;
  ModelProfileData data =
      SyntheticProfileData({.geometry = {.layers = 4, .kv_heads = 8, .head_dim = 16}, .seed = 5});
  for (size_t layer = 0; layer < data.layers.size(); ++layer) {
    for (auto& space : data.layers[layer]) {
      for (size_t basis = 1; basis < kBases; ++basis) space->bases[basis].reset();
      auto& lanes = space->bases[static_cast<size_t>(Basis::kChannel)]->lanes;
      for (size_t i = 0; i < lanes.size(); ++i) {
        if (layer == 0 ? i >= lanes.size() / 2 : layer == 1 && i % 5 == 3) lanes[i].deviation = kMinLaneLog;
        if (layer == 2) lanes[i] = {kMinLaneLog, kFar, kFar};
        if (layer == 3) lanes[i] = {-kFar, -kFar, -kFar};
      }
    }
  }
  return data;
}

// Two windows of 128 elements with a lane each, as the kernels that work on bytes take them; the means of
// PagedLayer::FillNormal(). Channels only.
inline ModelProfileData WindowProfileData() {
  ModelProfileData data =
      SyntheticProfileData({.geometry = {.layers = 1, .kv_heads = 4, .head_dim = 64}, .seed = 6});
  for (auto& space : data.layers[0]) {
    for (size_t basis = 1; basis < kBases; ++basis) space->bases[basis].reset();
    for (size_t i = 0; i < space->mean.size(); ++i) {
      space->mean[i] = tensor::FloatToBf16(i % data.geometry.head_dim % 13 == 5 ? 12.0f : 0.0f);
    }
  }
  return data;
}

inline std::shared_ptr<const ModelProfile> SyntheticProfile(const SyntheticProfileOptions& options = {}) {
  auto profile = ModelProfile::Create(SyntheticProfileData(options));
  KVPLANE_CHECK(profile.ok());
  return *std::move(profile);
}

}  // namespace kvplane::codec::testing
