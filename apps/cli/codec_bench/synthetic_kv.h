// Synthetic KV: values drawn from a model of what caches look like, for figures that need no model at hand.
//
// Background: caches of transformers have channels of very different deviation, a few key channels with large
// constant means, correlated channels, tokens of different energy and a few weak sink tokens at the front
// (KIVI, Liu et al. 2024, section 3; KVQuant, Hooper et al. 2024, section 3; KVTC 2026). Keys have more of
// all of it than values. One head's vector at token t is
//
//     x_t = g_t D R z_t + m        z_t: independent standard normals, [head_dim]
//
//   D   deviations of the channels, exp(spread * normal)
//   R   a random rotation times falling weights, its rows of length 1: correlation between channels, with
//       eigenvalues that fall exponentially, as steeply as the wanted participation needs
//   m   zero but for `outliers` channels per head: plus or minus 8 to 15 of the channel's deviations
//   g_t log-normal with mean square 1; the first `sinks` tokens are drawn likewise and then scaled, mean and
//       all, by sink_gain
//
// Keys are then rotated by RoPE at their position, as they lie in a cache; outlier means sit in the slower
// half of the rotation pairs, where they are found in models. D, R and m belong to a side and head and are
// the same in all layers, so that one layer's profile serves all; every layer, side and head has a stream of
// random numbers of its own, so the values are the same on any number of threads.
//
// Participation (of a covariance S over its channels) is trace(S)^2 / trace(S^2): how many directions carry
// the energy. It is that of the unrotated, centred values, deviations included.
//
// Thread safety: pure functions; the pool is used for the call.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "apps/cli/kv_sample.h"
#include "kvplane/base/rng.h"
#include "kvplane/base/status.h"
#include "kvplane/base/thread_pool.h"

namespace kvplane::cli {

struct SyntheticSide {
  double spread = 0;         // deviation of ln(channel deviation)
  uint32_t outliers = 0;     // channels per head with a large mean
  double token_gain = 0;     // deviation of ln(g_t)
  double participation = 0;  // of 128 channels; scaled to other head sizes. 0: independent channels
};

struct SyntheticSpec {
  // A few layers at the width of an 8B model: 268 MB, beyond the caches.
  tensor::KvGeometry geometry = {.layers = 4, .kv_heads = 8, .head_dim = 128};
  uint32_t tokens = 16384;
  SyntheticSide key = {.spread = 0.6, .outliers = 3, .token_gain = 0.2, .participation = 24};
  SyntheticSide value = {.spread = 0.3, .outliers = 0, .token_gain = 0.3, .participation = 45};
  uint32_t sinks = 4;
  double sink_gain = 0.1;
  double rope_theta = 500'000;  // 0: keys are not rotated
  uint64_t seed = 1;
  uint32_t draw = 0;  // other values from the same constants: what a profile is fitted on

  base::Status Validate() const;
};

// "spread=0.6/0.3,outliers=3/0,gain=0.2/0.3,participation=24/45,sinks=4,sink_gain=0.1,theta=5e5,layers=8,
// heads=8,head_dim=128,seed=1": any of these; of two values the first is for keys, one stands for both.
// kInvalidArgument names what is wrong.
base::Result<SyntheticSpec> ParseSyntheticSpec(std::string_view text);

constexpr uint64_t kMaxSyntheticBytes = uint64_t{8} << 30;

// Requires: a valid spec.
PagedKv SyntheticKv(const SyntheticSpec& spec, base::ThreadPool& pool);

// The constants of one head: what the tests hold the values against.
struct SyntheticHead {
  std::vector<float> mean;  // [head_dim]
  std::vector<float> mix;   // [head_dim, head_dim]: D R
};
SyntheticHead DrawSyntheticHead(const SyntheticSide& side, uint32_t head_dim, base::Rng& rng);
// Those of a spec, [2 * kv_heads]: keys, then values.
std::vector<SyntheticHead> SyntheticHeads(const SyntheticSpec& spec);

// [head_dim / 2] radians per position; angles are position * frequency in binary32.
std::vector<float> SyntheticRopeFrequencies(const SyntheticSpec& spec);

// trace(S)^2 / trace(S^2) of S = mix mix^T.
double Participation(const SyntheticHead& head);

}  // namespace kvplane::cli
