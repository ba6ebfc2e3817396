// The rules of docs/strategies.md: each is refused by its name, or holds in what is coded.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/codec/dominated.h"
#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/testing/strategy_trial.h"
#include "kvplane/codec/testing/synthetic_profile.h"

namespace kvplane::codec {
namespace {

using testing::CodeTile;
using ::testing::HasSubstr;
using testing::ProfileTile;

constexpr tensor::KvGeometry kGeometry{.layers = 3, .kv_heads = 4, .head_dim = 16};

std::shared_ptr<const ModelProfile> TestProfile() {
  static const auto profile = *ModelProfile::Create(testing::SyntheticProfileData({.geometry = kGeometry}));
  return profile;
}

SideStrategy Chain(std::string_view text, tensor::Side side = tensor::Side::kKey) {
  const auto strategy = SideStrategy::Parse(text, side);
  KVPLANE_CHECK(strategy.ok());
  return *strategy;
}

base::Result<std::shared_ptr<const TileCodec>> Bind(std::string_view text,
                                                    std::shared_ptr<const ModelProfile> profile) {
  return TileCodec::Create(Chain(text), tensor::Side::kKey, std::move(profile));
}

TileContext MakeContext(uint32_t layer, uint32_t first_position, uint32_t end_position) {
  return {.layer = layer,
          .layers = kGeometry.layers,
          .first_head = 0,
          .kv_heads = kGeometry.kv_heads,
          .first_position = first_position,
          .end_position = end_position};
}

TEST(StrategySpaceUnit, EveryRuleIsNamed) {
  const struct {
    std::string_view chain, rule;
    tensor::Side side = tensor::Side::kKey;
  } kCases[] = {
      {"affine | protect | pack", "slot-order: 'protect' (select) must stand before 'affine' (quantize)"},
      {"centre | unrope | affine | pack", "slot-order: 'unrope' must stand before 'centre'"},
      {"heads | protect | levels(low=2) | pack", "slot-order: 'protect' must stand before 'heads'"},
      {"protect | protect | store", "slot-order: 'protect' must stand once"},
      {"hadamard | pca | affine | pack", "slot-once: 'hadamard' and 'pca' both fill the slot 'transform'"},
      {"affine | levels | pack", "slot-once"},
      {"hadamard | levels", "ends-in-code"},
      {"unrope | affine | pack", "keys-only: 'unrope' has no meaning for values", tensor::Side::kValue},
      {"heads | affine | pack", "bands: "},
      {"layers | store", "bands: "},
      {"heads | pca(layer) | ecsq(low=3) | rans(class)", "bands: 'pca' mixes the heads"},
      {"levels(m=8,low=4) | pack", "bands: 'levels' has low = 4 without a band"},
      {"ecsq(low=3) | rans(class)", "bands: 'ecsq' has low = 3 without a band"},
      {"ecsq(low=1,scale=tile) | rans(class)", "bands: 'ecsq' has low = 1 without a band"},
      {"heads | levels(m=4,low=8) | pack", "levels: low = 8"},
      {"hadamard | store", "L1: 'hadamard' makes values for a quantiser"},
      {"pca | exponent", "L1: 'pca' makes values for a quantiser"},
      {"centre | lz4", "L1: 'centre' makes values for a quantiser"},
      {"ecsq | pack", "L1: 'ecsq' makes levels"},
      {"ternary | rans(stream)", "L1: 'ternary' makes levels"},
      {"affine | rans(class)", "L1: "},
      {"ecsq(weight=model,scale=tile) | rans(class)", "L4: "},
      {"affine | store", "L1: 'store' takes bf16"},
      {"rans", "L1: "},
      {"bitplane_rle", "L1: "},
      {"pack", "L1: "},
  };
  for (const auto& c : kCases) {
    const auto strategy = SideStrategy::Parse(c.chain, c.side);
    ASSERT_FALSE(strategy.ok()) << c.chain;
    EXPECT_EQ(strategy.status().code(), base::StatusCode::kInvalidArgument) << c.chain;
    EXPECT_THAT(strategy.status().message(), HasSubstr(std::string(c.rule))) << c.chain;
  }
  EXPECT_TRUE(SideStrategy::Parse("unrope | affine | pack", tensor::Side::kKey).ok());
}

// A bare chain stands for both sides, so it breaks a rule of either.
TEST(StrategySpaceUnit, KeyOnlyStagesNeedSides) {
  const auto both = Strategy::Parse("unrope | affine | pack");
  ASSERT_FALSE(both.ok());
  EXPECT_THAT(both.status().message(), HasSubstr("keys-only"));
  EXPECT_TRUE(Strategy::Parse("k: unrope | affine | pack; v: affine | pack").ok());
  const std::string wire = Chain("unrope | affine | pack").ToString();
  EXPECT_TRUE(SideStrategy::ParseCanonical(wire, tensor::Side::kKey).ok());
  EXPECT_FALSE(SideStrategy::ParseCanonical(wire, tensor::Side::kValue).ok());
}

TEST(StrategySpaceUnit, WithoutAProfileNothingIsGuessed) {
  const std::string_view kNeedy[] = {
      "heads | levels(low=4) | pack",    "unrope | affine | pack",     "centre(static) | affine | pack",
      "pca(head) | affine | pack",       "pca(layer) | levels | pack", "ecsq | rans(class)",
      "ternary(layers=1) | rans(class)",
  };
  for (const std::string_view chain : kNeedy) {
    EXPECT_TRUE(Chain(chain).needs_profile()) << chain;
    const auto refused = Bind(chain, nullptr);
    ASSERT_FALSE(refused.ok()) << chain;
    EXPECT_EQ(refused.status().code(), base::StatusCode::kFailedPrecondition) << chain;
    EXPECT_THAT(refused.status().message(), HasSubstr("L4: ")) << chain;
    const auto bound = Bind(chain, TestProfile());
    EXPECT_TRUE(bound.ok()) << chain << ": " << bound.status().ToString();
  }
  for (const std::string_view chain :
       {"store", "layers | levels(low=4) | pack", "centre(block) | affine | pack", "hadamard | levels | pack",
        "delta | affine | pack", "ecsq(scale=tile) | rans(class)"}) {
    EXPECT_FALSE(Chain(chain).needs_profile()) << chain;
    EXPECT_TRUE(Bind(chain, nullptr).ok()) << chain;
  }
}

// A profile may lack what a stage takes: refused when bound, not when a tile is there.
TEST(StrategySpaceUnit, WhatTheProfileLacksIsNamed) {
  ModelProfileData data = testing::SyntheticProfileData({.geometry = kGeometry});
  data.rope.reset();
  data.head_rank.clear();
  for (auto& layer : data.layers) {
    for (auto& space : layer) {
      for (size_t basis = 1; basis < kBases; ++basis) space->bases[basis].reset();
    }
  }
  const auto bare = *ModelProfile::Create(std::move(data));
  for (const std::string_view chain : {"unrope | affine | pack", "heads | levels(low=4) | pack",
                                       "pca(head) | affine | pack", "pca(layer,attention) | levels | pack"}) {
    const auto refused = Bind(chain, bare);
    ASSERT_FALSE(refused.ok()) << chain;
    EXPECT_EQ(refused.status().code(), base::StatusCode::kFailedPrecondition)
        << chain << ": " << refused.status().ToString();
  }
  EXPECT_TRUE(Bind("centre(static) | ecsq | rans(class)", bare).ok());
}

TEST(StrategySpaceUnit, LayerBasesTakeWholeLayers) {
  base::Rng rng(1);
  const auto codec = *Bind("pca(layer) | levels | pack", TestProfile());
  const TileShape half{16, 2, 16};
  const std::vector<uint16_t> values(half.values(), tensor::FloatToBf16(1.0f));
  const auto refused = CodeTile(*codec, values, half, MakeContext(0, 0, 64));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), base::StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.status().message(), HasSubstr("L12: "));
  EXPECT_TRUE(
      CodeTile(**Bind("pca(head) | levels | pack", TestProfile()), values, half, MakeContext(0, 0, 64)).ok());
}

constexpr std::string_view kChains[] = {
    "store",
    "exponent(window)",
    "affine | pack",
    "hadamard | levels(m=6) | rans(stream)",
    "delta | levels(m=16) | zstd",
    "unrope | centre(static) | pca(layer) | ecsq | rans(class)",
    "centre(static) | ecsq | rans(class)",
    "unrope | centre(static) | pca(head) | ternary | rans(class)",
};

// L14: whatever else the chain does, the first and the last tokens come back as they were.
TEST(StrategySpaceProperty, ProtectedTokensAreExact) {
  for (const std::string_view chain : kChains) {
    base::Rng rng(2);
    const auto codec = *Bind(fmt::format("protect(sinks=5,recent=9) | {}", chain), TestProfile());
    const TileShape shape{48, kGeometry.kv_heads, kGeometry.head_dim};
    const size_t row = size_t{shape.heads} * shape.head_dim;
    const auto values = ProfileTile(*TestProfile(), tensor::Side::kKey, 1, shape.tokens, rng);
    // Tokens 2..49 of 50: three sinks and nine recent ones lie in the tile.
    const auto trial = CodeTile(*codec, values, shape, MakeContext(1, 2, 50));
    ASSERT_TRUE(trial.ok()) << chain << ": " << trial.status().ToString();
    EXPECT_EQ(trial->coded[0], chain == "store" ? std::byte{0} : std::byte{1}) << chain;
    EXPECT_TRUE(
        std::equal(values.begin(), values.begin() + static_cast<ptrdiff_t>(3 * row), trial->values.begin()))
        << chain;
    EXPECT_TRUE(std::equal(values.end() - static_cast<ptrdiff_t>(9 * row), values.end(),
                           trial->values.end() - static_cast<ptrdiff_t>(9 * row)))
        << chain;
    EXPECT_EQ(trial->values == values, !codec->lossy()) << chain;
  }
}

// What an object claims is judged by the least a tile can take, so that must hold where raw rows are cheaper
// than coded ones: few tokens that share a scale.
TEST(StrategySpaceProperty, ProtectedTilesTakeNoLessThanTheirLeast) {
  base::Rng rng(4);
  const auto codec =
      *Bind("protect(sinks=3,recent=2) | delta(group=4) | affine(bits=4,group=8) | pack", nullptr);
  for (uint32_t tokens = 1; tokens <= 20; ++tokens) {
    const TileShape shape{tokens, 2, 24};
    std::vector<uint16_t> values(shape.values());
    for (uint16_t& v : values) v = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
    for (const uint32_t first : {0u, 1u, 2u, 3u, 100u}) {
      for (const uint32_t beyond : {0u, 1u, 5u}) {
        const auto trial = CodeTile(*codec, values, shape, MakeContext(0, first, first + tokens + beyond));
        ASSERT_TRUE(trial.ok());
        EXPECT_GE(trial->coded.size(), codec->MinEncodedBytes(shape)) << tokens << " from " << first;
        EXPECT_LE(trial->coded.size(), codec->MaxEncodedBytes(shape));
      }
    }
  }
}

// L5, L6: the bytes of a tile depend on nothing but its own values and its place.
TEST(StrategySpaceProperty, TilesStandAlone) {
  for (const std::string_view chain : kChains) {
    base::Rng rng(3);
    const auto codec = *Bind(chain, TestProfile());
    const TileShape shape{64, kGeometry.kv_heads, kGeometry.head_dim};
    const auto values = ProfileTile(*TestProfile(), tensor::Side::kKey, 1, shape.tokens, rng);
    const auto first = CodeTile(*codec, values, shape, MakeContext(1, 128, 500));
    ASSERT_TRUE(first.ok()) << chain << ": " << first.status().ToString();
    // Other tiles in between, other layers too, on the same codec.
    for (uint32_t layer = 0; layer < kGeometry.layers; ++layer) {
      const auto other = ProfileTile(*TestProfile(), tensor::Side::kKey, layer, shape.tokens, rng);
      ASSERT_TRUE(CodeTile(*codec, other, shape, MakeContext(layer, 64 * layer, 500)).ok()) << chain;
    }
    const auto again = CodeTile(*codec, values, shape, MakeContext(1, 128, 500));
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again->coded, first->coded) << chain;
    EXPECT_EQ(again->values, first->values) << chain;
  }
}

TEST(DominatedUnit, NamesItsRule) {
  const struct {
    std::string_view chain, why;
  } kCases[] = {
      {"hadamard | ecsq | rans(class)", "L2: "},
      {"unrope | hadamard | ternary | rans(class)", "L2: "},
      {"hadamard | levels | rans(stream)", ""},
      {"hadamard | affine | pack", ""},
      {"ecsq | rans(class)", ""},
      {"heads(ratio=0) | levels(low=4) | pack", "bands: "},
      {"layers(ratio=100) | levels(low=4) | pack", "bands: "},
      {"heads | levels(m=8,low=8) | pack", "bands: "},
      {"heads | levels(m=8) | pack", "bands: "},
      {"heads | ecsq | rans(class)", "bands: "},
      {"heads | ecsq(low=3) | rans(class)", ""},
      {"layers | levels(m=8,low=4) | pack", ""},
      {"protect(sinks=0,recent=0) | store", "protect: "},
      {"protect | store", ""},
      {"store", ""},
  };
  for (const auto& c : kCases) {
    const std::string_view why = WhyDominated(Chain(c.chain));
    EXPECT_EQ(why.empty(), c.why.empty()) << c.chain << ": " << why;
    EXPECT_TRUE(why.starts_with(c.why)) << c.chain << ": " << why;
    EXPECT_EQ(Dominated(Chain(c.chain)), !c.why.empty()) << c.chain;
  }
}

// The page people read names every stage with its parameters and choices, and every preset with its text.
TEST(StrategySpaceUnit, TheDocumentIsComplete) {
  std::ifstream file(std::string(KVPLANE_SOURCE_DIR) + "/docs/strategies.md");
  const std::string page((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  for (const StageDescriptor& stage : Stages()) {
    const size_t row = page.find(fmt::format("\n| `{}` | ", stage.name));
    ASSERT_NE(row, std::string::npos) << stage.name;
    const std::string line = page.substr(row + 1, page.find('\n', row + 1) - row - 1);
    for (const ParamSpec& param : stage.params) {
      EXPECT_THAT(line, HasSubstr(fmt::format("`{}`", param.name))) << stage.name;
      for (const std::string_view choice : param.choices) {
        EXPECT_THAT(line, HasSubstr(std::string(choice))) << stage.name;
      }
      if (param.choices.empty() && param.allowed.empty()) {
        EXPECT_THAT(line, HasSubstr(fmt::format("{}..{}", param.min, param.max))) << stage.name;
      }
    }
  }
  for (const Preset& preset : Presets()) {
    const size_t row = page.find(fmt::format("\n| `{}` | ", preset.name), page.find("\n## 6. Presets"));
    ASSERT_NE(row, std::string::npos) << preset.name;
    const std::string line = page.substr(row + 1, page.find('\n', row + 1) - row - 1);
    std::string text;  // as it stands in a cell of a table
    for (const char c : preset.text) {
      if (c == '|') text += '\\';
      text += c;
    }
    EXPECT_THAT(line, HasSubstr(text)) << preset.name;
    EXPECT_THAT(line, HasSubstr(Strategy::Parse(preset.name)->needs_profile() ? "| yes |" : "| no |"))
        << preset.name;
  }
}

}  // namespace
}  // namespace kvplane::codec
