#include "kvplane/codec/codec_cache.h"

#include <gtest/gtest.h>

#include <string>

#include "kvplane/codec/profile_match.h"
#include "kvplane/codec/testing/synthetic_profile.h"

namespace kvplane::codec {
namespace {

Strategy Parsed(const std::string& text) { return *Strategy::Parse(text); }

TEST(CodecCacheUnit, BindsOnceAndForgetsTheLeastRecentlyUsed) {
  CodecCache cache(2);
  const auto int8 = cache.Bind(Parsed("int8"), nullptr);
  ASSERT_TRUE(int8.ok());
  EXPECT_EQ((*int8)[0]->strategy(), Parsed("int8").side(tensor::Side::kKey));
  EXPECT_EQ((*int8)[1]->strategy(), Parsed("int8").side(tensor::Side::kValue));
  EXPECT_EQ(*cache.Bind(Parsed("int8"), nullptr), *int8);
  const auto int4 = cache.Bind(Parsed("int4"), nullptr);
  EXPECT_EQ(*cache.Bind(Parsed("int8"), nullptr), *int8);  // int4 is now the older one
  ASSERT_TRUE(cache.Bind(Parsed("off"), nullptr).ok());
  EXPECT_EQ(cache.size(), 2u);
  EXPECT_EQ(*cache.Bind(Parsed("int8"), nullptr), *int8);
  EXPECT_NE(*cache.Bind(Parsed("int4"), nullptr), *int4);
}

TEST(CodecCacheUnit, ProfilesKeepStrategiesApart) {
  CodecCache cache;
  const Strategy profiled = Parsed("heads(ratio=50) | levels(m=16,low=2) | pack");
  EXPECT_EQ(cache.Bind(profiled, nullptr).status().code(), base::StatusCode::kFailedPrecondition);
  EXPECT_EQ(cache.size(), 0u);
  const auto one = testing::SyntheticProfile({.seed = 1});
  const auto two = testing::SyntheticProfile({.seed = 2});
  const SideCodecs first = *cache.Bind(profiled, one);
  EXPECT_NE(*cache.Bind(profiled, two), first);
  EXPECT_EQ(*cache.Bind(profiled, one), first);
  // A strategy that needs none is the same with any.
  EXPECT_EQ(*cache.Bind(Parsed("int8"), one), *cache.Bind(Parsed("int8"), nullptr));
  EXPECT_EQ(cache.size(), 3u);
}

TEST(ProfileMatchUnit, AnotherModelIsRefusedByWhatDiffers) {
  const auto profile = testing::SyntheticProfile({.geometry = {.layers = 2, .kv_heads = 2, .head_dim = 16}});
  const auto message = [&](tensor::KvGeometry geometry, std::array<std::byte, 32> fingerprint) {
    const base::Status status = CheckProfileMatches(*profile, geometry, fingerprint);
    EXPECT_TRUE(status.ok() || status.code() == base::StatusCode::kFailedPrecondition);
    return status.message();
  };
  tensor::KvGeometry geometry = profile->data().geometry;
  EXPECT_EQ(message(geometry, profile->data().model_fingerprint), "");
  EXPECT_EQ(message(geometry, {}), "");
  std::array<std::byte, 32> other = profile->data().model_fingerprint;
  other[31] ^= std::byte{1};
  const bool known = profile->data().model_fingerprint != std::array<std::byte, 32>{};
  EXPECT_EQ(message(geometry, other).find("fingerprints") != std::string::npos, known);
  geometry.head_dim = 8;
  EXPECT_NE(message(geometry, {}).find("head_dim 16; here are 2, 2 and 8"), std::string::npos)
      << message(geometry, {});
}

}  // namespace
}  // namespace kvplane::codec
