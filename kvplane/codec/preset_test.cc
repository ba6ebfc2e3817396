// Every preset, on tiles as a profile describes them, on awkward tiles and in objects.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/codec/dominated.h"
#include "kvplane/codec/object.h"
#include "kvplane/codec/paged_kv.h"
#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/testing/strategy_trial.h"
#include "kvplane/codec/testing/synthetic_profile.h"
#include "kvplane/kernel/testing/scoped_isa.h"

namespace kvplane::codec {
namespace {

using testing::CodeTile;
using testing::ErrorOf;
using testing::ProfileTile;
using testing::Trial;

constexpr tensor::KvGeometry kGeometry{.layers = 3, .kv_heads = 2, .head_dim = 32};

std::shared_ptr<const ModelProfile> TestProfile() {
  static const auto profile = *ModelProfile::Create(testing::SyntheticProfileData({.geometry = kGeometry}));
  return profile;
}

std::shared_ptr<const TileCodec> Bind(const Strategy& strategy, tensor::Side side) {
  const auto codec = TileCodec::Create(strategy.side(side), side, TestProfile());
  KVPLANE_CHECK(codec.ok());
  return *codec;
}

TileContext MakeContext(uint32_t layer, uint32_t first_position = 256, uint32_t end_position = 1024) {
  return {.layer = layer,
          .layers = kGeometry.layers,
          .first_head = 0,
          .kv_heads = kGeometry.kv_heads,
          .first_position = first_position,
          .end_position = end_position};
}

// Least signal to noise of each lossy preset's keys and values on the synthetic profile, in dB, means
// included. Its bases do not fit the values, so those of `pca` presets are not what a fitted profile gives.
const std::map<std::string_view, std::pair<double, double>> kLeastSnr = {
    {"fp8", {31, 31}},          {"int8", {48, 45}},
    {"int4", {24, 21}},         {"int2", {11, 7}},
    {"nvfp4", {20, 20}},        {"mxfp4", {17, 18}},
    {"kivi-4", {25, 21}},       {"kivi-2", {11, 7}},
    {"cachegen", {17, 24}},     {"cachegen-delta", {13, 20}},
    {"turboquant-4", {20, 20}}, {"kvserve-top", {14, 8}},
    {"c07", {34, 34}},          {"c08", {25, 22}},
    {"c10", {31, 21}},          {"c11", {24, 17}},
    {"c12", {25, 17}},          {"c13", {24, 16}},
    {"c14", {24, 16}},          {"c15", {21, 16}},
    {"kvtc-like", {28, 32}},    {"c19", {28, 29}},
    {"c17", {16, 9}},           {"compact", {6, 5}},
    {"tight", {2, 2}},
};

TEST(PresetUnit, NamesAreUniqueAndNoStageHasOne) {
  std::set<std::string_view> names;
  for (const Preset& preset : Presets()) {
    EXPECT_TRUE(names.insert(preset.name).second) << preset.name;
    EXPECT_EQ(FindPreset(preset.name), &preset);
    EXPECT_FALSE(preset.meaning.empty()) << preset.name;
  }
  EXPECT_EQ(FindPreset("nothing"), nullptr);
}

TEST(PresetUnit, EachParsesPrintsAndIsWorthProposing) {
  std::map<StrategyId, std::string_view> seen;
  for (const Preset& preset : Presets()) {
    const auto strategy = Strategy::Parse(preset.name);
    ASSERT_TRUE(strategy.ok()) << preset.name << ": " << strategy.status().ToString();
    const auto again = Strategy::Parse(strategy->ToString());
    ASSERT_TRUE(again.ok()) << preset.name;
    EXPECT_EQ(*again, *strategy) << preset.name;
    EXPECT_EQ(again->id(), strategy->id()) << preset.name;
    for (const tensor::Side side : tensor::kSides) {
      EXPECT_EQ(WhyDominated(strategy->side(side)), "") << preset.name;
    }
  }
}

TEST(PresetProperty, TilesComeBackWithinTheirError) {
  for (const Preset& preset : Presets()) {
    const Strategy strategy = *Strategy::Parse(preset.name);
    for (const tensor::Side side : tensor::kSides) {
      base::Rng rng(11);
      const auto codec = Bind(strategy, side);
      const TileShape shape{64, kGeometry.kv_heads, kGeometry.head_dim};
      const std::vector<uint16_t> values = ProfileTile(*TestProfile(), side, 1, shape.tokens, rng);
      const auto trial = CodeTile(*codec, values, shape, MakeContext(1));
      ASSERT_TRUE(trial.ok()) << preset.name << ": " << trial.status().ToString();
      const auto error = ErrorOf(values, trial->values);
      if (!strategy.side(side).lossy()) {
        EXPECT_TRUE(error.exact) << preset.name;
        continue;
      }
      // The steps of these two are so coarse that lanes which this profile wrongly calls idle would all be
      // escapes: something without a profile stands in.
      const bool stood_in = trial->coded[0] == static_cast<std::byte>(TileMethod::kStandIn);
      if (stood_in && (preset.name == "compact" || preset.name == "tight")) {
        EXPECT_GE(error.snr_db, 20) << preset.name;
        continue;
      }
      EXPECT_EQ(trial->coded[0], std::byte{1}) << preset.name;
      EXPECT_TRUE(error.finite) << preset.name;
      const auto least = kLeastSnr.find(preset.name);
      ASSERT_NE(least, kLeastSnr.end()) << preset.name << " has no expectation: " << error.snr_db;
      EXPECT_GE(error.snr_db, side == tensor::Side::kKey ? least->second.first : least->second.second)
          << preset.name;
    }
  }
}

// What a tile may hold beside plausible values: every one must come back exact or, from a lossy preset,
// finite and as near as its other tiles.
std::vector<std::vector<uint16_t>> AwkwardTiles(size_t count) {
  base::Rng rng(12);
  std::vector<std::vector<uint16_t>> tiles;
  for (const float constant : {0.0f, -0.0f, 1.0f, -7.25f, 0x1p-130f, 0x1p100f, -0x1p126f}) {
    tiles.emplace_back(count, tensor::FloatToBf16(constant));
  }
  std::vector<uint16_t>& denormals = tiles.emplace_back(count);
  for (uint16_t& v : denormals) v = static_cast<uint16_t>(rng.Below(128) | rng.Below(2) << 15);
  std::vector<uint16_t>& patterns = tiles.emplace_back(count);
  for (uint16_t& v : patterns) v = static_cast<uint16_t>(rng.Next());
  for (const uint16_t odd : {uint16_t{0x7fc0}, uint16_t{0x7f80}, uint16_t{0xff80}, uint16_t{0x7f81}}) {
    std::vector<uint16_t>& tile = tiles.emplace_back(count);
    for (uint16_t& v : tile) v = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
    tile[rng.Below(count)] = odd;
  }
  std::vector<uint16_t>& huge = tiles.emplace_back(count);
  for (uint16_t& v : huge) v = tensor::FloatToBf16(static_cast<float>(rng.Normal()) * 0x1p118f);
  std::vector<uint16_t>& outlier = tiles.emplace_back(count);
  for (uint16_t& v : outlier) v = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
  outlier[count / 2] = tensor::FloatToBf16(30000.0f);
  return tiles;
}

TEST(PresetProperty, AwkwardTilesAreExactOrFinite) {
  for (const Preset& preset : Presets()) {
    const Strategy strategy = *Strategy::Parse(preset.name);
    for (const tensor::Side side : tensor::kSides) {
      const auto codec = Bind(strategy, side);
      for (const uint32_t tokens : {1u, 3u, 64u}) {
        const TileShape shape{tokens, kGeometry.kv_heads, kGeometry.head_dim};
        for (const auto& values : AwkwardTiles(shape.values())) {
          const auto trial = CodeTile(*codec, values, shape, MakeContext(2));
          ASSERT_TRUE(trial.ok()) << preset.name << ": " << trial.status().ToString();
          ASSERT_GE(trial->coded.size(), codec->MinEncodedBytes(shape)) << preset.name;
          const auto error = ErrorOf(values, trial->values);
          if (!strategy.side(side).lossy() || trial->coded[0] == std::byte{0}) {
            EXPECT_TRUE(error.exact) << preset.name;
          } else {
            EXPECT_TRUE(error.finite) << preset.name;
          }
        }
      }
    }
  }
}

TEST(PresetDiff, EveryInstructionSetDecodesTheSame) {
  for (const Preset& preset : Presets()) {
    const Strategy strategy = *Strategy::Parse(preset.name);
    for (const tensor::Side side : tensor::kSides) {
      const bool has_pca = FindCall(strategy.side(side).stages(), kStagePca) != nullptr;
      base::Rng rng(13);
      for (const uint32_t tokens : {1u, 7u, 40u, 64u}) {
        const TileShape shape{tokens, kGeometry.kv_heads, kGeometry.head_dim};
        const std::vector<uint16_t> values = ProfileTile(*TestProfile(), side, 0, tokens, rng);
        std::vector<Trial> trials;
        for (const kernel::Isa isa : kernel::AvailableIsas()) {
          const kernel::testing::ScopedIsa scope(isa);
          const auto codec = Bind(strategy, side);
          auto trial = CodeTile(*codec, values, shape, MakeContext(0, 0, tokens + 100));
          ASSERT_TRUE(trial.ok()) << preset.name;
          trials.push_back(*std::move(trial));
          // What any instruction set has coded, each of them decodes to the same values.
          std::vector<uint16_t> out(values.size());
          Workspace workspace;
          ASSERT_TRUE(codec
                          ->Decode(trials.front().coded, workspace,
                                   tensor::TileView::Contiguous(out.data(), shape.tokens, shape.heads,
                                                                shape.head_dim),
                                   MakeContext(0, 0, tokens + 100))
                          .ok());
          if (has_pca) {  // sums in any order: to the last place of bf16
            EXPECT_GE(ErrorOf(trials.front().values, out).snr_db, 50)
                << preset.name << " on " << kernel::Name(isa);
          } else {
            EXPECT_EQ(out, trials.front().values) << preset.name << " on " << kernel::Name(isa);
          }
        }
        if (has_pca) continue;
        for (const Trial& trial : trials) {
          EXPECT_EQ(trial.coded, trials.front().coded) << preset.name << ", " << tokens << " tokens";
        }
      }
    }
  }
}

// Objects of two tiles a side, the second of odd length, read by the profile's id.
TEST(PresetProperty, ObjectsComeBack) {
  ProfileSet profiles;
  profiles.Add(TestProfile());
  for (const Preset& preset : Presets()) {
    ObjectInfo info;
    info.geometry = kGeometry;
    info.tokens = 64 + 37;
    info.first_token = 64;
    info.strategy = *Strategy::Parse(preset.name);
    base::Rng rng(14);
    Workspace workspace;
    auto writer = ObjectWriter::Create(info, TestProfile());
    ASSERT_TRUE(writer.ok()) << preset.name << ": " << writer.status().ToString();
    std::vector<testing::PagedLayer> in, out;
    std::vector<tensor::LayerPages> pages;
    for (uint32_t layer = 0; layer < kGeometry.layers; ++layer) {
      in.emplace_back(kGeometry, info.tokens, 16);
      in.back().FillNormal(rng, kGeometry);
      out.emplace_back(kGeometry, info.tokens, 16);
      ASSERT_TRUE(writer->AppendLayer(in.back().pages(), workspace).ok()) << preset.name;
    }
    for (const testing::PagedLayer& layer : out) pages.push_back(layer.pages());
    const std::vector<std::byte> object = *writer->Finish();
    const auto reader = ObjectReader::Open(object, {.profiles = &profiles});
    ASSERT_TRUE(reader.ok()) << preset.name << ": " << reader.status().ToString();
    EXPECT_EQ(reader->info().identity.profile == ProfileId{}.bytes, !info.strategy.needs_profile());
    const base::Status decoded = reader->DecodeAll(object, workspace, pages);
    ASSERT_TRUE(decoded.ok()) << preset.name << ": " << decoded.ToString();
    if (info.strategy.lossy()) continue;
    for (uint32_t layer = 0; layer < kGeometry.layers; ++layer) {
      // Only the pages' tokens: what lies behind the last one is not the cache's.
      const auto side_values = [&](const testing::PagedLayer& from, tensor::Side side) {
        std::vector<uint16_t> values;
        for (uint32_t t = 0; t < info.tokens; ++t) {
          for (uint32_t h = 0; h < kGeometry.kv_heads; ++h) {
            const uint16_t* row = from.pages().pages[t / 16] + from.pages().format.offset(side, t % 16, h);
            values.insert(values.end(), row, row + kGeometry.head_dim);
          }
        }
        return values;
      };
      for (const tensor::Side side : tensor::kSides) {
        EXPECT_EQ(side_values(out[layer], side), side_values(in[layer], side)) << preset.name;
      }
    }
  }
}

}  // namespace
}  // namespace kvplane::codec
