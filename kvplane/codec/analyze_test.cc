#include "kvplane/codec/analyze.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/codec/paged_kv.h"
#include "kvplane/codec/testing/synthetic_profile.h"

namespace kvplane::codec {
namespace {

// Layers whose deviation grows, so that lossless tiles differ in size.
struct Cache {
  Cache(const tensor::KvGeometry& geometry, uint32_t tokens) {
    base::Rng rng(9);
    for (uint32_t layer = 0; layer < geometry.layers; ++layer) {
      pages.emplace_back(geometry, tokens, 64);
      for (uint16_t& value : pages.back().memory()) {
        value = tensor::FloatToBf16(static_cast<float>(rng.Normal() * std::exp(6 * rng.Uniform() * layer)));
      }
    }
    for (const testing::PagedLayer& layer : pages) layers.push_back(layer.pages());
  }
  std::vector<testing::PagedLayer> pages;
  std::vector<tensor::LayerPages> layers;
};

ObjectInfo InfoOf(const tensor::KvGeometry& geometry, uint32_t tokens, const std::string& strategy) {
  ObjectInfo info;
  info.geometry = geometry;
  info.tokens = tokens;
  info.head_group = 1;
  info.strategy = *Strategy::Parse(strategy);
  return info;
}

double ObjectBytes(const ObjectInfo& info, const Cache& cache,
                   const std::shared_ptr<const ModelProfile>& profile, Workspace& workspace) {
  ObjectWriter writer = *ObjectWriter::Create(info, profile);
  for (const tensor::LayerPages& layer : cache.layers) {
    EXPECT_TRUE(writer.AppendLayer(layer, workspace).ok());
  }
  return static_cast<double>(writer.Finish()->size());
}

constexpr tensor::KvGeometry kGeometry{.layers = 6, .kv_heads = 2, .head_dim = 32};
constexpr const char* kStrategies[] = {"off", "int4", "k: zstd(level=1); v: exponent(mode=window)",
                                       "heads(ratio=50) | levels(m=16,low=2,group=8) | pack"};

// With every tile coded nothing is left to estimate.
TEST(AnalyzeProperty, IsExactWhenAllTilesAreCoded) {
  const Cache cache(kGeometry, 150);
  const auto profile = testing::SyntheticProfile({.geometry = kGeometry});
  Workspace workspace;
  for (const char* strategy : kStrategies) {
    const ObjectInfo info = InfoOf(kGeometry, 150, strategy);
    const auto analysis = Analyze(info, cache.layers, profile, workspace, {.tiles_per_side = 1000});
    ASSERT_TRUE(analysis.ok()) << analysis.status().ToString();
    EXPECT_EQ(analysis->tiles, 6u * 2 * 2 * 3);
    EXPECT_EQ(analysis->tiles_sampled, analysis->tiles);
    EXPECT_NEAR(analysis->object_bytes, ObjectBytes(info, cache, profile, workspace), 1e-3) << strategy;
    EXPECT_EQ(analysis->object_bytes_error, 0.0);
    EXPECT_LE(analysis->least_bits_per_value, analysis->greatest_bits_per_value);
    EXPECT_LE(ObjectBytes(info, cache, profile, workspace), static_cast<double>(MaxObjectBytes(info)));
  }
}

// The truth lies within a few of the errors that the analysis states, over many draws.
TEST(AnalyzeProperty, TheStatedErrorCoversTheTruth) {
  const Cache cache(kGeometry, 1000);
  Workspace workspace;
  for (const char* strategy : {"k: zstd(level=1); v: exponent(mode=window)", "lossless"}) {
    const ObjectInfo info = InfoOf(kGeometry, 1000, strategy);
    const double truth = ObjectBytes(info, cache, nullptr, workspace);
    int within_two = 0;
    for (uint64_t seed = 1; seed <= 40; ++seed) {
      const auto analysis =
          Analyze(info, cache.layers, nullptr, workspace, {.tiles_per_side = 24, .seed = seed});
      ASSERT_TRUE(analysis.ok());
      EXPECT_EQ(analysis->tiles_sampled, 48u);
      EXPECT_GT(analysis->encode_cpu_s, 0);
      EXPECT_GT(analysis->decode_cpu_s, 0);
      EXPECT_NEAR(analysis->object_bytes / truth, 1, 0.1) << strategy;
      within_two += std::abs(analysis->object_bytes - truth) <= 2 * analysis->object_bytes_error ? 1 : 0;
    }
    EXPECT_GE(within_two, 36) << strategy;
  }
}

// What does not vary has no error: a strategy of fixed width is known from two tiles.
TEST(AnalyzeUnit, FixedWidthIsKnownFromTwoTiles) {
  const Cache cache(kGeometry, 640);
  Workspace workspace;
  const ObjectInfo info = InfoOf(kGeometry, 640, "int8");
  const auto analysis = Analyze(info, cache.layers, nullptr, workspace, {.tiles_per_side = 0});
  ASSERT_TRUE(analysis.ok());
  EXPECT_EQ(analysis->tiles_sampled, 4u);
  EXPECT_NEAR(analysis->object_bytes, ObjectBytes(info, cache, nullptr, workspace), 1e-3);
  EXPECT_EQ(analysis->object_bytes_error, 0.0);
}

TEST(AnalyzeSafety, RefusesWhatItCannotCode) {
  const Cache cache(kGeometry, 100);
  Workspace workspace;
  const auto code = [&](const ObjectInfo& info) {
    return Analyze(info, cache.layers, nullptr, workspace).status().code();
  };
  EXPECT_EQ(code(InfoOf(kGeometry, 100, "heads(ratio=50) | levels(m=16,low=2,group=8) | pack")),
            base::StatusCode::kFailedPrecondition);
  EXPECT_EQ(code(InfoOf(kGeometry, 0, "int4")), base::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(InfoOf(kGeometry, 1000, "int4")), base::StatusCode::kInvalidArgument);
  ObjectInfo more_layers = InfoOf(kGeometry, 100, "int4");
  more_layers.geometry.layers = 7;
  EXPECT_EQ(code(more_layers), base::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvplane::codec
