#include "kvplane/codec/bound_chain.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/codec/testing/strategy_trial.h"
#include "kvplane/codec/testing/synthetic_profile.h"
#include "kvplane/kernel/testing/scoped_isa.h"

namespace kvplane::codec {
namespace {

using testing::CodeTile;
using testing::ErrorOf;
using testing::KeyCodecOf;
using testing::ProfileTile;

constexpr tensor::KvGeometry kGeometry{.layers = 2, .kv_heads = 2, .head_dim = 32};
constexpr TileShape kShape{64, kGeometry.kv_heads, kGeometry.head_dim};
constexpr TileContext kContext{.layer = 1,
                               .layers = kGeometry.layers,
                               .first_head = 0,
                               .kv_heads = kGeometry.kv_heads,
                               .first_position = 256,
                               .end_position = 1024,
                               .quality = 0};

// Steps of the profile, on the channels, on a basis, and in three sections.
constexpr std::string_view kByProfile[] = {
    "centre(static) | ecsq(snr=12,weight=model) | rans(class)",
    "unrope | centre(static) | pca(layer,attention) | ecsq(snr=8,weight=model) | rans(class)",
    "protect(sinks=2,recent=5) | unrope | centre(static) | pca(head) | ecsq(snr=5) | rans(class)",
    "centre(static) | ternary(layers=2,snr=18) | rans(class)",
};

std::shared_ptr<const TileCodec> Bind(std::string_view chain) {
  static const auto profile = *ModelProfile::Create(testing::SyntheticProfileData({.geometry = kGeometry}));
  const auto side = SideStrategy::Parse(chain, tensor::Side::kKey);
  KVPLANE_CHECK(side.ok());
  return *TileCodec::Create(*side, tensor::Side::kKey, profile);
}

// What the profile describes, `gain` times as large.
std::vector<uint16_t> Tile(float gain, uint64_t seed) {
  static const auto profile = *ModelProfile::Create(testing::SyntheticProfileData({.geometry = kGeometry}));
  base::Rng rng(seed);
  std::vector<uint16_t> values = ProfileTile(*profile, tensor::Side::kKey, 1, kShape.tokens, rng);
  for (uint16_t& v : values) v = tensor::FloatToBf16(gain * tensor::Bf16ToFloat(v));
  return values;
}

constexpr auto kRaw = static_cast<std::byte>(TileMethod::kRaw);
constexpr auto kCoded = static_cast<std::byte>(TileMethod::kCoded);
constexpr auto kStandIn = static_cast<std::byte>(TileMethod::kStandIn);

TEST(StandInUnit, WhatStandsInForWhat) {
  const auto stand_in = [](std::string_view chain) {
    const auto found = StandInFor(*SideStrategy::Parse(chain, tensor::Side::kKey), tensor::Side::kKey);
    return found.has_value() ? found->ToString() : std::string("nothing");
  };
  const auto at = [](int snr) {
    return "centre(scope=block) | ecsq(snr=" + std::to_string(snr) +
           ",low=0,weight=uniform,scale=tile) | rans(table=class)";
  };
  EXPECT_EQ(stand_in("centre(static) | pca(layer) | ecsq(snr=5,weight=model) | rans(class)"), at(21));
  EXPECT_EQ(stand_in("ecsq(snr=15) | rans(class)"), at(21));
  EXPECT_EQ(stand_in("ecsq(snr=31) | rans(class)"), at(37));
  EXPECT_EQ(stand_in("ecsq(snr=58) | rans(class)"), at(60));
  EXPECT_EQ(stand_in("ternary(layers=3,snr=30) | rans(class)"), at(36));
  EXPECT_EQ(stand_in("ecsq(snr=21,scale=tile) | rans(class)"), "nothing");
  EXPECT_EQ(stand_in("centre(static) | pca(head) | levels(m=16) | pack"), "nothing");
  EXPECT_EQ(stand_in("exponent"), "nothing");
}

TEST(StandInProperty, TilesThatFitAreCodedByTheirChain) {
  for (const std::string_view chain : {kByProfile[0], kByProfile[3]}) {
    const auto trial = CodeTile(*Bind(chain), Tile(1, 20), kShape, kContext);
    ASSERT_TRUE(trial.ok());
    EXPECT_EQ(trial->coded[0], kCoded) << chain;
  }
}

// Far from what the profile says: never raw, never much more than the stand-in takes
// by itself, and where it stands in, its error is small beside the tile.
TEST(StandInProperty, TilesThatDoNotFitKeepARatio) {
  for (const std::string_view chain : kByProfile) {
    const auto codec = Bind(chain);
    bool stood_in = false;
    for (const float gain : {1.0f, 4.0f, 32.0f, 1024.0f}) {
      const std::vector<uint16_t> values = Tile(gain, 21);
      const auto trial = CodeTile(*codec, values, kShape, kContext);
      ASSERT_TRUE(trial.ok()) << chain << ", gain " << gain << ": " << trial.status().message();
      ASSERT_NE(trial->coded[0], kRaw) << chain << ", gain " << gain;
      // Seven protected tokens at 16 bits, the others at 5.
      EXPECT_LT(static_cast<double>(trial->coded.size() * 8), 6.3 * static_cast<double>(values.size()))
          << chain;
      const auto error = ErrorOf(values, trial->values);
      EXPECT_TRUE(error.finite) << chain;
      if (trial->coded[0] != kStandIn) continue;
      stood_in = true;
      EXPECT_GE(error.snr_db, 20) << chain << ", gain " << gain;
    }
    EXPECT_TRUE(stood_in) << chain;
  }
}

TEST(StandInDiff, EveryIsaDecidesAndWritesTheSame) {
  for (const std::string_view chain : {kByProfile[0], kByProfile[3]}) {
    for (const float gain : {1.0f, 6.0f, 50.0f}) {
      const std::vector<uint16_t> values = Tile(gain, 22);
      const auto expected = CodeTile(*Bind(chain), values, kShape, kContext);
      ASSERT_TRUE(expected.ok());
      for (const kernel::Isa isa : kernel::AvailableIsas()) {
        const kernel::testing::ScopedIsa forced(isa);
        const auto trial = CodeTile(*Bind(chain), values, kShape, kContext);
        ASSERT_TRUE(trial.ok());
        EXPECT_EQ(trial->coded, expected->coded) << kernel::Name(isa);
        EXPECT_EQ(trial->values, expected->values) << kernel::Name(isa);
      }
    }
  }
}

TEST(StandInSafety, WhatNothingHoldsIsRaw) {
  for (const std::string_view chain : {kByProfile[0], kByProfile[1]}) {
    std::vector<uint16_t> not_finite = Tile(100, 23);
    not_finite[1000] = 0x7fc0;
    // Beyond the scales of ecsq, 2^-16..2^16.
    for (const std::vector<uint16_t>& values : {not_finite, Tile(0x1p40f, 23), Tile(0x1p100f, 23)}) {
      const auto trial = CodeTile(*Bind(chain), values, kShape, kContext);
      ASSERT_TRUE(trial.ok());
      EXPECT_EQ(trial->coded[0], kRaw) << chain;
      EXPECT_EQ(trial->values, values) << chain;
    }
  }
}

TEST(StandInSafety, DamagedTiles) {
  base::Rng rng(24);
  for (const std::string_view chain : kByProfile) {
    const auto codec = Bind(chain);
    const auto whole = CodeTile(*codec, Tile(1024, 25), kShape, kContext);
    ASSERT_TRUE(whole.ok());
    ASSERT_EQ(whole->coded[0], kStandIn) << chain;
    for (int round = 0; round < 300; ++round) {
      std::vector<std::byte> coded = whole->coded;
      const bool cut = rng.Below(2) == 0;
      if (cut) {
        coded.resize(1 + rng.Below(coded.size() - 1));
      } else {
        coded[1 + rng.Below(coded.size() - 1)] ^= static_cast<std::byte>(1 + rng.Below(255));
      }
      coded.shrink_to_fit();
      Workspace workspace;
      std::vector<uint16_t> out(kShape.values());
      const auto to = tensor::TileView::Contiguous(out.data(), kShape.tokens, kShape.heads, kShape.head_dim);
      const base::Status status = codec->Decode(coded, workspace, to, kContext);
      if (cut) {
        EXPECT_EQ(status.code(), base::StatusCode::kCorrupt) << chain;
      }
    }
  }
}

TEST(StandInSafety, OnlyChainsByProfileHaveOne) {
  const auto trial = CodeTile(*Bind(kByProfile[0]), Tile(1024, 26), kShape, kContext);
  ASSERT_TRUE(trial.ok());
  Workspace workspace;
  std::vector<uint16_t> out(kShape.values());
  const auto to = tensor::TileView::Contiguous(out.data(), kShape.tokens, kShape.heads, kShape.head_dim);
  for (const std::string_view chain : {"store", "affine | pack", "ecsq(snr=21,scale=tile) | rans(class)"}) {
    const base::Status status = (*KeyCodecOf(chain))->Decode(trial->coded, workspace, to, kContext);
    EXPECT_EQ(status.code(), base::StatusCode::kCorrupt) << chain;
  }
}

}  // namespace
}  // namespace kvplane::codec
