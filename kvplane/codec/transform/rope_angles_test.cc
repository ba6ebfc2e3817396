#include "kvplane/codec/transform/rope_angles.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>
#include <vector>

#include "kvplane/codec/testing/synthetic_profile.h"
#include "kvplane/codec/transform/profile_tables.h"

namespace kvplane::codec {
namespace {

RopeData RopeOf(uint32_t half, float magnitude) {
  RopeData rope{.magnitude = magnitude, .inverse_frequencies = {}};
  for (uint32_t i = 0; i < half; ++i) {
    rope.inverse_frequencies.push_back(std::pow(10000.0f, -static_cast<float>(i) / static_cast<float>(half)));
  }
  return rope;
}

TEST(RopeAnglesUnit, RowsOfPositionsByHand) {
  RopeAngles angles(RopeData{.magnitude = 2.0f, .inverse_frequencies = {1.0f, 0.5f}});
  const RopeAngles::Rows rows = angles.At(63, 2);
  EXPECT_EQ(angles.half(), 2u);
  EXPECT_FLOAT_EQ(rows.data()[0][0], 1.9717932f);   // 2 cos 63
  EXPECT_FLOAT_EQ(rows.data()[1][1], 1.6684467f);   // 2 cos 32
  EXPECT_FLOAT_EQ(rows.data()[1][2], 1.8400521f);   // 2 sin 64
  EXPECT_FLOAT_EQ(rows.data()[0][3], 0.16794891f);  // 2 sin 31.5
}

// The angle is a binary32 product, which is what the model's checkpoints were trained with; far out it is
// units away from the real one.
TEST(RopeAnglesProperty, AnglesAreRoundedToBinary32) {
  const RopeData rope = RopeOf(64, 1.25f);
  RopeAngles angles(rope);
  for (const uint32_t first : {0u, 100u, 131000u, 16777217u, 0xffffffffu}) {
    const RopeAngles::Rows rows = angles.At(first, 64);
    for (uint32_t t = 0; t < 64; ++t) {
      for (uint32_t i = 0; i < 64; ++i) {
        const float angle = static_cast<float>(uint64_t{first} + t) * rope.inverse_frequencies[i];
        ASSERT_NEAR(rows.data()[t][i], 1.25 * std::cos(static_cast<double>(angle)), 2e-7);
        ASSERT_NEAR(rows.data()[t][64 + i], 1.25 * std::sin(static_cast<double>(angle)), 2e-7);
      }
    }
  }
}

TEST(RopeAnglesProperty, MemoryIsBoundedAndHeldRowsStay) {
  RopeAngles angles(RopeOf(512, 1.0f));  // 256 KiB a block
  const RopeAngles::Rows first = angles.At(0, 64);
  const float expected = first.data()[5][7];
  for (uint32_t block = 0; block < 200; ++block) angles.At(block * 64, 64);
  EXPECT_LE(angles.cached_bytes(), kMaxRopeBytes);
  EXPECT_GT(angles.cached_bytes(), kMaxRopeBytes / 2);
  EXPECT_EQ(first.data()[5][7], expected);
  EXPECT_EQ(angles.At(0, 64).data()[5][7], expected);
}

TEST(RopeAnglesProperty, ThreadsSeeTheSameRows) {
  RopeAngles angles(RopeOf(16, 1.0f));
  RopeAngles alone(RopeOf(16, 1.0f));
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (size_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&angles, &wrong, thread] {
      RopeAngles own(RopeOf(16, 1.0f));
      for (uint32_t i = 0; i < 200; ++i) {
        const uint32_t position = i * 37 % 3000;
        const auto shared_rows = angles.At(position, 64);
        const auto own_rows = own.At(position, 64);
        for (uint32_t t = 0; t < 64; ++t) {
          for (uint32_t c = 0; c < 32; ++c)
            wrong[thread] += shared_rows.data()[t][c] != own_rows.data()[t][c];
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(ProfileTablesUnit, OnePerProfileWhileItLives) {
  auto profile = testing::SyntheticProfile({.seed = 1});
  const auto other = testing::SyntheticProfile({.seed = 2});
  const auto tables = ProfileTables::Of(profile);
  EXPECT_EQ(ProfileTables::Of(profile), tables);
  EXPECT_NE(ProfileTables::Of(other), tables);
  const std::weak_ptr<ProfileTables> watched = ProfileTables::Of(profile);
  profile.reset();
  EXPECT_EQ(tables.use_count(), 2);  // ours and the registry's
  ProfileTables::Of(other);          // lets go of what belongs to no profile
  EXPECT_EQ(tables.use_count(), 1);
}

TEST(ProfileTablesUnit, BasesArePackedOnce) {
  const auto profile = testing::SyntheticProfile({.geometry = {.layers = 2, .kv_heads = 2, .head_dim = 16}});
  const auto tables = ProfileTables::Of(profile);
  const BasisKey key{1, KvSpace::kValue, Basis::kLayer, ProjectionWay::kInverse};
  const auto packed = tables->Packed(*profile, key);
  EXPECT_EQ(tables->Packed(*profile, key), packed);
  ASSERT_EQ(packed->size(), 2u);
  EXPECT_EQ((*packed)[1].rows(), 32u);
  EXPECT_EQ((*packed)[1].columns(), 16u);
  const auto forward = tables->Packed(*profile, {1, KvSpace::kValue, Basis::kLayer, ProjectionWay::kForward});
  ASSERT_EQ(forward->size(), 1u);
  EXPECT_EQ((*forward)[0].rows(), 32u);
}

}  // namespace
}  // namespace kvplane::codec
