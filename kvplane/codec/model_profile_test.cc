#include "kvplane/codec/model_profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "kvplane/base/endian.h"
#include "kvplane/base/rng.h"
#include "kvplane/codec/profile_format.h"
#include "kvplane/codec/testing/synthetic_profile.h"
#include "kvplane/kernel/checksum/checksum.h"

namespace kvplane::codec {
namespace {

using ::testing::HasSubstr;
using testing::SyntheticProfile;
using testing::SyntheticProfileData;
using testing::SyntheticProfileOptions;

constexpr size_t kHeaderBytes = 32;

std::vector<std::byte> Copy(std::span<const std::byte> bytes) { return {bytes.begin(), bytes.end()}; }

void FixCrc(std::vector<std::byte>& bytes) {
  const size_t at = bytes.size() - sizeof(uint32_t);
  base::StoreLe(bytes.data() + at, kernel::Crc32c({bytes.data(), at}));
}

template <typename T>
void Overwrite(std::vector<std::byte>& bytes, size_t at, T value) {
  base::StoreLe(bytes.data() + at, value);
  FixCrc(bytes);
}

// One layer, one head of two channels, values only: small enough to write out.
ModelProfileData TinyData() {
  ModelProfileData data;
  data.geometry = {.layers = 1, .kv_heads = 1, .head_dim = 2};
  data.model_fingerprint[0] = std::byte{0xab};
  data.rope = RopeData{.magnitude = 1.0f, .inverse_frequencies = {0.5f}};
  data.layers.resize(1);
  SpaceData& values = data.layers[0][static_cast<size_t>(KvSpace::kValue)].emplace();
  values.mean = {0x3f80, 0xbf80};
  values.bases[0] = BasisData{.rank = 2, .lanes = {{1, 2, 3}, {-1, -2, -3}}, .forward = {}, .inverse = {}};
  values.bases[1] = BasisData{.rank = 1, .lanes = {{4, 5, 6}}, .forward = {7, 8}, .inverse = {9, 10}};
  data.head_rank = {0};
  data.note = "hi";
  return data;
}

TEST(ModelProfileUnit, BytesAreThoseOfTheSpecification) {
  const auto profile = ModelProfile::Create(TinyData());
  ASSERT_TRUE(profile.ok()) << profile.status().ToString();
  std::vector<std::byte> expected;
  const auto put = [&expected](std::initializer_list<int> bytes) {
    for (const int byte : bytes) expected.push_back(static_cast<std::byte>(byte));
  };
  put({'K', 'V', 'P', 'F', 1, 0, 3, 0, 1, 0, 1, 0, 2, 0, 2, 0});  // magic .. reserved
  put({120, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});        // file bytes, reserved
  put({0xab});
  expected.resize(expected.size() + 31);                        // fingerprint
  put({2, 0, 'h', 'i'});                                        // note
  put({0, 0, 0x80, 0x3f, 1, 0, 0, 0, 0, 0x3f});                 // rope
  put({0, 0});                                                  // head ranks
  put({4, 3, 0x80, 0x3f, 0x80, 0xbf});                          // values; channel and head; means
  put({2, 0, 1, 0, 2, 0, 3, 0, 255, 255, 254, 255, 253, 255});  // channel lanes
  put({1, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8, 0, 9, 0, 10, 0});       // head
  expected.resize(expected.size() + 4);
  FixCrc(expected);
  EXPECT_EQ(Copy((*profile)->bytes()), expected);
  EXPECT_EQ((*profile)->id().ToHex().size(), 32u);
}

TEST(ModelProfileUnit, HoldsWhatItWasGiven) {
  const auto profile = *ModelProfile::Create(TinyData());
  EXPECT_EQ(profile->space(0, KvSpace::kKeyRotated), nullptr);
  ASSERT_NE(profile->basis(0, KvSpace::kValue, Basis::kHead), nullptr);
  EXPECT_EQ(profile->basis(0, KvSpace::kValue, Basis::kHead)->rank, 1u);
  EXPECT_EQ(profile->basis(0, KvSpace::kValue, Basis::kLayer), nullptr);
  EXPECT_EQ(profile->basis(0, KvSpace::kKeyUnrotated, Basis::kChannel), nullptr);
}

TEST(ModelProfileProperty, ParseGivesBackWhatWasCreated) {
  const SyntheticProfileOptions cases[] = {
      {},
      {.geometry = {.layers = 1, .kv_heads = 1, .head_dim = 1}, .rope = false},
      {.geometry = {.layers = 3, .kv_heads = 4, .head_dim = 5}, .seed = 7, .head_rank = 3, .layer_rank = 11},
      {.geometry = {.layers = 8, .kv_heads = 2, .head_dim = 64}, .seed = 9}};
  for (const SyntheticProfileOptions& options : cases) {
    const auto profile = SyntheticProfile(options);
    EXPECT_EQ(profile->bytes().size(), ProfileFileBytes(profile->data()));
    const auto parsed = ModelProfile::Parse(profile->bytes());
    ASSERT_TRUE(parsed.ok()) << parsed.status().ToString();
    EXPECT_TRUE((*parsed)->data() == profile->data());
    EXPECT_TRUE((*parsed)->id() == profile->id());
    EXPECT_FALSE(profile->id().none());
  }
}

TEST(ModelProfileProperty, EveryValueChangesTheId) {
  const auto profile = *ModelProfile::Create(TinyData());
  ModelProfileData other = TinyData();
  other.layers[0][2]->bases[1]->lanes[0].weighted_step = 7;
  EXPECT_FALSE((*ModelProfile::Create(other))->id() == profile->id());
  other = TinyData();
  other.note = "ho";
  EXPECT_FALSE((*ModelProfile::Create(other))->id() == profile->id());
}

TEST(ModelProfileUnit, RefusesWhatContradictsItself) {
  struct Case {
    std::string_view reason;
    std::function<void(ModelProfileData&)> spoil;
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Case cases[] = {
      {"0 layers", [](auto& d) { d.geometry.layers = 0; }},
      {"KV heads", [](auto& d) { d.geometry.kv_heads = 1025; }},
      {"not of f32", [](auto& d) { d.geometry.dtype = tensor::DType::kF32; }},
      {"layers of data", [](auto& d) { d.layers.resize(2); }},
      {"rope magnitude", [](auto& d) { d.rope->magnitude = 0; }},
      {"rope frequencies", [](auto& d) { d.rope->inverse_frequencies = {1, 1}; }},
      {"rope frequency", [nan](auto& d) { d.rope->inverse_frequencies = {nan}; }},
      {"rope frequency", [](auto& d) { d.rope->inverse_frequencies = {-0.0f}; }},
      {"permutation", [](auto& d) { d.head_rank = {1}; }},
      {"head ranks", [](auto& d) { d.head_rank = {0, 1}; }},
      {"at most 65536",
       [](auto& d) {
         d.geometry.layers = 1024;
         d.geometry.kv_heads = 65;
         d.head_rank.resize(1024 * 65);
       }},
      {"note", [](auto& d) { d.note.assign(1025, 'x'); }},
      {"printable", [](auto& d) { d.note = "\x1b[2J"; }},
      {"printable", [](auto& d) { d.note = "\xc3\xa9"; }},
      {"values: 1 means", [](auto& d) { d.layers[0][2]->mean.pop_back(); }},
      {"means hold nan", [](auto& d) { d.layers[0][2]->mean[0] = 0x7fc0; }},
      {"means hold -inf", [](auto& d) { d.layers[0][2]->mean[1] = 0xff80; }},
      {"beyond 2^64", [](auto& d) { d.layers[0][2]->mean[1] = 0x5f80; }},
      {"no channel lanes", [](auto& d) { d.layers[0][2]->bases[0].reset(); }},
      {"channel: rank", [](auto& d) { d.layers[0][2]->bases[0]->rank = 1; }},
      {"head: rank", [](auto& d) { d.layers[0][2]->bases[1]->rank = 3; }},
      {"head: rank", [](auto& d) { d.layers[0][2]->bases[1]->rank = 0; }},
      {"head: 2 lanes", [](auto& d) { d.layers[0][2]->bases[1]->lanes.resize(2); }},
      {"matrices of 3", [](auto& d) { d.layers[0][2]->bases[1]->forward.resize(3); }},
      {"inverse matrices", [](auto& d) { d.layers[0][2]->bases[1]->inverse[0] = 0x7f80; }},
      {"octaves", [](auto& d) { d.layers[0][2]->bases[1]->lanes[0].deviation = kMaxLaneLog + 1; }},
      {"octaves", [](auto& d) { d.layers[0][2]->bases[0]->lanes[1].uniform_step = kMinLaneLog - 1; }},
  };
  for (const Case& c : cases) {
    ModelProfileData data = TinyData();
    c.spoil(data);
    const auto profile = ModelProfile::Create(std::move(data));
    ASSERT_FALSE(profile.ok()) << c.reason;
    EXPECT_EQ(profile.status().code(), base::StatusCode::kInvalidArgument) << c.reason;
    EXPECT_THAT(profile.status().message(), HasSubstr(c.reason));
  }
}

TEST(ModelProfileSafety, EveryTruncationIsRefused) {
  const auto profile = *ModelProfile::Create(TinyData());
  for (size_t length = 0; length < profile->bytes().size(); ++length) {
    std::vector<std::byte> bytes = Copy(profile->bytes().first(length));
    EXPECT_FALSE(ModelProfile::Parse(bytes).ok()) << length;
    // Length and checksum made good: what is missing must be noticed all the same.
    if (length < kHeaderBytes + sizeof(uint32_t)) continue;
    base::StoreLe(bytes.data() + 16, uint64_t{length});
    FixCrc(bytes);
    const auto parsed = ModelProfile::Parse(bytes);
    ASSERT_FALSE(parsed.ok()) << length;
    EXPECT_EQ(parsed.status().code(), base::StatusCode::kCorrupt) << parsed.status().ToString();
  }
}

TEST(ModelProfileSafety, EveryFlippedBitIsRefused) {
  const auto profile = *ModelProfile::Create(TinyData());
  for (size_t bit = 0; bit < 8 * profile->bytes().size(); ++bit) {
    std::vector<std::byte> bytes = Copy(profile->bytes());
    bytes[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
    EXPECT_FALSE(ModelProfile::Parse(bytes).ok()) << bit;
  }
}

// Behind a good checksum: never a crash, and what is accepted is a profile with exactly these bytes.
TEST(ModelProfileSafety, FlippedBitsBehindAGoodChecksum) {
  const auto profile = *ModelProfile::Create(TinyData());
  size_t accepted = 0;
  for (size_t bit = 0; bit < 8 * (profile->bytes().size() - sizeof(uint32_t)); ++bit) {
    std::vector<std::byte> bytes = Copy(profile->bytes());
    bytes[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
    FixCrc(bytes);
    const auto parsed = ModelProfile::Parse(bytes);
    if (!parsed.ok()) continue;
    ++accepted;
    EXPECT_TRUE(ValidateProfile((*parsed)->data()).ok());
    EXPECT_EQ(Copy((*parsed)->bytes()), bytes);
  }
  EXPECT_GT(accepted, 256u);  // every bit of the fingerprint at least
}

TEST(ModelProfileSafety, AbsurdSizesTakeNoMemory) {
  const auto profile = *ModelProfile::Create(TinyData());
  const std::vector<std::byte> good = Copy(profile->bytes());
  struct Case {
    size_t at;
    uint16_t value;
    std::string_view reason;
  };
  const Case cases[] = {{8, 1024, "head ranks"},   {8, 65535, "outside"}, {10, 1024, "head ranks"},
                        {12, 1024, "means"},       {64, 65535, "note"},   {72, 65535, "rope frequencies"},
                        {12, 0, "outside"},        {6, 7, "flags"},       {86, 65535, "channel: rank"},
                        {100, 65535, "head: rank"}};
  for (const Case& c : cases) {
    std::vector<std::byte> bytes = good;
    Overwrite(bytes, c.at, c.value);
    const auto parsed = ModelProfile::Parse(bytes);
    ASSERT_FALSE(parsed.ok()) << c.reason;
    EXPECT_THAT(parsed.status().message(), HasSubstr(c.reason)) << c.at;
  }
}

TEST(ModelProfileUnit, NamesWhatItCannotRead) {
  const auto profile = *ModelProfile::Create(TinyData());
  std::vector<std::byte> bytes = Copy(profile->bytes());
  bytes[4] = std::byte{2};
  EXPECT_EQ(ModelProfile::Parse(bytes).status().code(), base::StatusCode::kUnimplemented);
  bytes = Copy(profile->bytes());
  bytes.push_back(std::byte{0});
  EXPECT_THAT(ModelProfile::Parse(bytes).status().message(), HasSubstr("claims 120 bytes, 121 are here"));
  base::StoreLe(bytes.data() + 16, uint64_t{121});
  FixCrc(bytes);
  EXPECT_EQ(ModelProfile::Parse(bytes).status().message(), "profile: 1 bytes after the last layer");
  EXPECT_THAT(ModelProfile::Parse({}).status().message(), HasSubstr("magic"));
}

TEST(ProfileSetUnit, FindsById) {
  const auto one = SyntheticProfile({.seed = 1});
  const auto two = SyntheticProfile({.seed = 2});
  ProfileSet set;
  set.Add(one);
  set.Add(two);
  set.Add(*ModelProfile::Parse(one->bytes()));
  EXPECT_EQ(set.all().size(), 2u);
  EXPECT_EQ(set.Find(two->id()), two);
  EXPECT_EQ(set.Find(ProfileId{}), nullptr);
}

// Forward and inverse undo each other: what tests of transforms rely on.
TEST(SyntheticProfileProperty, BasesAreInverse) {
  const auto profile = SyntheticProfile({.geometry = {.layers = 1, .kv_heads = 2, .head_dim = 8}});
  for (const Basis kind : {Basis::kLayer, Basis::kLayerAttention}) {
    const BasisData& basis = *profile->basis(0, KvSpace::kValue, kind);
    for (size_t i = 0; i < 16; ++i) {
      for (size_t j = 0; j < 16; ++j) {
        float sum = 0;
        for (size_t c = 0; c < 16; ++c) {
          sum +=
              tensor::Bf16ToFloat(basis.forward[i * 16 + c]) * tensor::Bf16ToFloat(basis.inverse[c * 16 + j]);
        }
        EXPECT_NEAR(sum, i == j ? 1.0f : 0.0f, 0.03f);
      }
    }
  }
}

}  // namespace
}  // namespace kvplane::codec
