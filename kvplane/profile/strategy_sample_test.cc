// Points of the grid on real tiles: whatever is enumerated can be bound, and gives back what it took.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/testing/strategy_trial.h"
#include "kvplane/codec/testing/synthetic_profile.h"
#include "kvplane/profile/strategy_enumerator.h"
#include "kvplane/profile/strategy_grid.h"

namespace kvplane::profile {
namespace {

using codec::SideStrategy;
using codec::TileCodec;

constexpr tensor::KvGeometry kGeometry{.layers = 3, .kv_heads = 2, .head_dim = 32};
constexpr uint32_t kLayerRank = kGeometry.kv_heads * kGeometry.head_dim;

std::shared_ptr<const codec::ModelProfile> TestProfile() {
  static const auto profile =
      *codec::ModelProfile::Create(codec::testing::SyntheticProfileData({.geometry = kGeometry}));
  return profile;
}

// Whether the chain wants more principal components than the test's profile has.
bool WantsMoreThanTheProfileHas(const SideStrategy& strategy) {
  const codec::StageCall* pca = codec::FindCall(strategy.stages(), codec::kStagePca);
  return pca != nullptr && pca->params[2] > kLayerRank;
}

void Try(const SideStrategy& strategy, tensor::Side side, uint32_t tokens, base::Rng& rng) {
  const std::string text = strategy.ToString();
  const auto codec = TileCodec::Create(strategy, side, TestProfile());
  if (WantsMoreThanTheProfileHas(strategy)) {
    EXPECT_EQ(codec.status().code(), base::StatusCode::kFailedPrecondition) << text;
    return;
  }
  ASSERT_TRUE(codec.ok()) << text << ": " << codec.status().ToString();
  const auto layer = static_cast<uint32_t>(rng.Below(kGeometry.layers));
  const codec::TileShape shape{tokens, kGeometry.kv_heads, kGeometry.head_dim};
  const codec::TileContext context{.layer = layer,
                                   .layers = kGeometry.layers,
                                   .first_head = 0,
                                   .kv_heads = kGeometry.kv_heads,
                                   .first_position = static_cast<uint32_t>(rng.Below(300)),
                                   .end_position = 1000};
  const auto values = codec::testing::ProfileTile(*TestProfile(), side, layer, tokens, rng);
  const auto trial = codec::testing::CodeTile(**codec, values, shape, context);
  ASSERT_TRUE(trial.ok()) << text << ": " << trial.status().ToString();
  EXPECT_LE(trial->coded.size(), 1 + shape.raw_bytes()) << text;
  EXPECT_GE(trial->coded.size(), (*codec)->MinEncodedBytes(shape)) << text;
  const auto error = codec::testing::ErrorOf(values, trial->values);
  if (!strategy.lossy()) {
    EXPECT_TRUE(error.exact) << text;
    return;
  }
  EXPECT_TRUE(error.finite) << text;
  // The coarsest points (three levels over a range with outliers, 6 dB in a basis that does not fit) are
  // about as good as zeros; none may be much worse.
  EXPECT_GT(error.snr_db, -1.0) << text << ", " << tokens << " tokens";
}

TEST(StrategySampleProperty, PointsOfEverySubspaceBindAndComeBack) {
  base::Rng rng(21);
  std::unordered_set<std::string> tried;
  for (const Subspace& subspace : Subspaces()) {
    std::vector<codec::Strategy> points;
    ASSERT_TRUE(EnumerateStrategies({.grid = subspace.name}, [&](const GridPoint& point) {
                  points.push_back(point.strategy);
                  return true;
                }).ok());
    ASSERT_FALSE(points.empty()) << subspace.name;
    for (int i = 0; i < 60; ++i) {
      const codec::Strategy& strategy = points[rng.Below(points.size())];
      for (const tensor::Side side : tensor::kSides) {
        const std::string name =
            (side == tensor::Side::kKey ? "k: " : "v: ") + strategy.side(side).ToString();
        if (!tried.insert(name).second) continue;
        const uint32_t tokens = i % 3 == 0 ? static_cast<uint32_t>(1 + rng.Below(64)) : 64;
        Try(strategy.side(side), side, tokens, rng);
        ASSERT_FALSE(HasFatalFailure());
      }
    }
  }
  EXPECT_GE(tried.size(), 300u);
}

// A point may be left out for a rule, never because a chain of the table is misspelt.
TEST(StrategySampleUnit, EverySubspaceHasLegalPointsOnly) {
  // Sub-spaces written as a plain product, with points that a rule refuses.
  const std::unordered_set<std::string_view> kWithIllegalPoints = {"class-bands", "kvtc"};
  for (const Subspace& subspace : Subspaces()) {
    const auto counts = EnumerateStrategies({.grid = subspace.name}, [](const GridPoint&) { return true; });
    ASSERT_TRUE(counts.ok());
    uint64_t product = 1;
    for (const GridAxis& axis : subspace.axes) product *= axis.values.size();
    EXPECT_EQ(counts->points + counts->illegal + counts->duplicates, product) << subspace.name;
    EXPECT_EQ(counts->illegal > 0, kWithIllegalPoints.contains(subspace.name)) << subspace.name;
    EXPECT_EQ(counts->duplicates, 0u) << subspace.name;
  }
}

}  // namespace
}  // namespace kvplane::profile
