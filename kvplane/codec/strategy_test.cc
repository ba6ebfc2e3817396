#include "kvplane/codec/strategy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "kvplane/base/rng.h"
#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {
namespace {

using ::testing::HasSubstr;

TEST(StrategyUnit, CanonicalText) {
  const auto canonical = [](std::string_view text) {
    const auto strategy = Strategy::Parse(text);
    return strategy.ok() ? strategy->ToString() : strategy.status().ToString();
  };
  const std::string int4 =
      "k: affine(bits=4,group=64,axis=channel) | pack; "
      "v: affine(bits=4,group=64,axis=token) | pack";
  EXPECT_EQ(canonical("off"), "k: store; v: store");
  EXPECT_EQ(canonical("store"), "k: store; v: store");
  EXPECT_EQ(canonical("int4"), int4);
  EXPECT_EQ(canonical("affine|pack"), int4);
  EXPECT_EQ(canonical(" affine ( group = 64 , bits = 4 )|\tpack\n"), int4);
  EXPECT_EQ(canonical(int4), int4);
  EXPECT_EQ(canonical("v: affine | pack\nk: affine@1(bits=4) | pack\n"), int4);
  EXPECT_EQ(canonical("v: store; k: affine(bits=8,axis=token) | pack;"),
            "k: affine(bits=8,group=64,axis=token) | pack; v: store");
  EXPECT_EQ(canonical("kivi-2"),
            "k: affine(bits=2,group=32,axis=channel) | pack; v: affine(bits=2,group=32,axis=token) | pack");
}

// Ids are stored in objects and compared between builds: these literals must never change.
TEST(StrategyUnit, IdsAreStable) {
  EXPECT_EQ(Strategy().id().ToHex(), "db33e4b774c75c945426c47822a97546");
  EXPECT_EQ(Strategy::Parse("int4")->id().ToHex(), "8fe298accefa741243bee4734f3974a8");
  EXPECT_NE(Strategy::Parse("int8")->id(), Strategy::Parse("int4")->id());
}

TEST(StrategyUnit, Lossy) {
  EXPECT_FALSE(Strategy::Parse("off")->lossy());
  EXPECT_TRUE(Strategy::Parse("int8")->lossy());
  EXPECT_TRUE(Strategy::Parse("k: affine|pack; v: store")->lossy());
  EXPECT_FALSE(Strategy::Parse("k: affine|pack; v: store")->side(tensor::Side::kValue).lossy());
}

TEST(StrategyUnit, EveryErrorNamesPositionAndReason) {
  const struct {
    std::string_view text, where, why;
  } kCases[] = {
      {"", "", "empty"},
      {"int5", "column 1",
       "'int5' is neither a preset nor a stage; did you mean 'int8'? Presets: off, lossless, "},
      {"affin(bits=4) | pack", "column 1", "unknown stage 'affin'; did you mean 'affine'?"},
      {"affine | pakc", "column 10", "did you mean 'pack'?"},
      {"affine(bits=5) | pack", "column 13", "affine.bits = '5' is not one of: 2, 4, 8"},
      {"affine(group=12) | pack", "column 14", "8..128, a multiple of 8"},
      {"affine(group=4294967304) | pack", "column 14", "is not one of"},
      {"affine(axis=row) | pack", "column 13", "channel, token"},
      {"affine(width=4) | pack", "column 8", "no parameter 'width'; it has bits, group, axis"},
      {"store(level=1)", "column 7", "'store' has no parameter 'level'"},
      {"affine(bits=4,bits=4) | pack", "column 15", "given twice"},
      {"affine(bits) | pack", "column 12", "expected '='"},
      {"affine(bits=4 | pack", "column 15", "expected ',' or ')'"},
      {"affine(bits=4) pack", "column 16", "expected '|'"},
      {"affine@7 | pack", "column 1", "versions 1..1"},
      {"affine(bits=4)", "column 1", "ends-in-code"},
      {"pack", "column 1", "L1: 'pack' takes symbols"},
      {"pack | affine", "column 1", "slot-order"},
      {"pack | pack", "column 1", "slot-once"},
      {"affine | store", "column 1", "L1: 'store' takes bf16"},
      {"affine | exponent", "column 1", "L1: 'exponent' takes bf16"},
      {"int8(scale=one) | pack", "column 12", "token_head, head"},
      {"fp8(format=e3m4) | pack", "column 12", "e4m3, e5m2"},
      {"zstd(level=20)", "column 12", "1..19"},
      {"affine | affine | pack", "column 1", "slot-once"},
      {"affine |", "column 9", "expected a stage name, found the end"},
      {"k: store", "", "side 'v' is missing"},
      {"k: store; k: store", "column 11", "side 'k' is given twice"},
      {"k: store\nw: store", "line 2, column 1", "expected 'k:' or 'v:'"},
      {"k: store\nv: affine(bits=9) | pack", "line 2, column 16", "2, 4, 8"},
      {"k store; v: store", "column 3", "expected ':'"},
  };
  for (const auto& c : kCases) {
    const auto strategy = Strategy::Parse(c.text);
    ASSERT_FALSE(strategy.ok()) << c.text;
    EXPECT_EQ(strategy.status().code(), base::StatusCode::kInvalidArgument) << c.text;
    EXPECT_THAT(strategy.status().message(), HasSubstr(std::string(c.where))) << c.text;
    EXPECT_THAT(strategy.status().message(), HasSubstr(std::string(c.why))) << c.text;
  }
  EXPECT_FALSE(Strategy::Parse(std::string(kMaxStrategyTextBytes + 1, ' ')).ok());
}

TEST(StrategyUnit, WireFormIsCanonicalOnly) {
  EXPECT_TRUE(SideStrategy::ParseCanonical("store", tensor::Side::kKey).ok());
  EXPECT_TRUE(
      SideStrategy::ParseCanonical("affine(bits=2,group=8,axis=token) | pack", tensor::Side::kKey).ok());
  EXPECT_FALSE(
      SideStrategy::ParseCanonical("affine(bits=2,group=8,axis=token)|pack", tensor::Side::kKey).ok());
  EXPECT_FALSE(SideStrategy::ParseCanonical("affine | pack", tensor::Side::kKey).ok());
  EXPECT_FALSE(SideStrategy::ParseCanonical("store ", tensor::Side::kKey).ok());
  EXPECT_FALSE(SideStrategy::ParseCanonical("", tensor::Side::kKey).ok());
}

TEST(StrategyProperty, EveryLegalPointRoundTrips) {
  size_t points = 0;
  for (const uint32_t bits : {2u, 4u, 8u}) {
    for (uint32_t group = 8; group <= 128; group += 8) {
      for (const std::string_view axis : {"channel", "token"}) {
        const std::string text = fmt::format("affine(bits={},group={},axis={}) | pack", bits, group, axis);
        const auto side = SideStrategy::ParseCanonical(text, tensor::Side::kKey);
        ASSERT_TRUE(side.ok()) << side.status().ToString();
        EXPECT_EQ(side->ToString(), text);
        EXPECT_EQ(*SideStrategy::Parse(text, tensor::Side::kValue), *side);
        ++points;
      }
    }
  }
  EXPECT_EQ(points, 96u);
  for (const Preset& preset : Presets()) {
    const auto strategy = Strategy::Parse(preset.name);
    ASSERT_TRUE(strategy.ok()) << preset.name;
    EXPECT_EQ(Strategy::Parse(strategy->ToString())->id(), strategy->id());
  }
}

TEST(StrategySafety, AnyTextIsParsedOrRefused) {
  base::Rng rng(5);
  const std::string_view alphabet = "kv:;|()=,@ \n\t\r-_abcdefghiklmnoprst0123456789\xff";
  const std::string_view words[] = {"affine", "pack", "store", "(",     ")", "bits=4", "|",       "k:",
                                    "v:",     ";",    "axis=", "token", ",", "@",      "group=64"};
  for (int i = 0; i < 20'000; ++i) {
    std::string text;
    for (uint64_t n = rng.Below(24); n > 0; --n) {
      if (rng.Below(2) == 0) text += words[rng.Below(std::size(words))];
      if (rng.Below(3) == 0) text += alphabet[rng.Below(alphabet.size())];
    }
    const auto strategy = Strategy::Parse(text);
    if (!strategy.ok()) continue;
    const auto again = Strategy::Parse(strategy->ToString());
    ASSERT_TRUE(again.ok()) << text;
    ASSERT_EQ(*again, *strategy) << text;
  }
}

}  // namespace
}  // namespace kvplane::codec
