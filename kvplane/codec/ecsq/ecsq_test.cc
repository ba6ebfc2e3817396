#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/base/endian.h"
#include "kvplane/base/rng.h"
#include "kvplane/codec/ecsq/ecsq_choice.h"
#include "kvplane/codec/ecsq/ecsq_payload.h"
#include "kvplane/codec/ecsq/ecsq_plan.h"
#include "kvplane/codec/ecsq/ecsq_stage.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/testing/synthetic_profile.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/kernel/ecsq/ecsq_tables.h"
#include "kvplane/kernel/rans/rans.h"
#include "kvplane/kernel/testing/scoped_isa.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::codec {
namespace {

using Bytes = std::vector<std::byte>;

// One layer of channels with the given deviations; means are 3 deviations. `step_0db`: 0: that of the
// whole layer.
std::shared_ptr<const ModelProfile> ProfileOf(uint32_t heads, uint32_t head_dim,
                                              const std::vector<double>& deviations, double step_0db = 0) {
  double energy = 0;
  for (const double deviation : deviations) energy += deviation * deviation;
  const double layer_step = std::sqrt(12 * energy / static_cast<double>(deviations.size()));
  const int16_t step = testing::LogOf(step_0db > 0 ? step_0db : layer_step);
  SpaceData space;
  BasisData basis;
  basis.rank = head_dim;
  for (const double deviation : deviations) {
    space.mean.push_back(tensor::FloatToBf16(static_cast<float>(3 * deviation)));
    basis.lanes.push_back({testing::LogOf(deviation), step, step});
  }
  space.bases[0] = basis;
  ModelProfileData data;
  data.geometry = {.layers = 1, .kv_heads = heads, .head_dim = head_dim};
  data.layers.resize(1);
  data.layers[0].fill(space);
  const auto profile = ModelProfile::Create(data);
  KVPLANE_CHECK(profile.ok());
  return *profile;
}

std::shared_ptr<const TileCodec> CodecOf(std::string_view chain,
                                         std::shared_ptr<const ModelProfile> profile = nullptr) {
  const auto side = SideStrategy::Parse(chain, tensor::Side::kKey);
  KVPLANE_CHECK(side.ok());
  const auto codec = TileCodec::Create(*side, tensor::Side::kKey, std::move(profile));
  KVPLANE_CHECK(codec.ok());
  return *codec;
}

// What a tile holds that nobody has written.
constexpr uint16_t kUntouched = 0xbeef;

struct Tile {
  Tile(uint32_t tokens, uint32_t heads, uint32_t head_dim)
      : shape{tokens, heads, head_dim}, values(shape.values(), kUntouched) {}
  tensor::ConstTileView view() const {
    return tensor::ConstTileView::Contiguous(values.data(), shape.tokens, shape.heads, shape.head_dim);
  }
  tensor::TileView out() {
    return tensor::TileView::Contiguous(values.data(), shape.tokens, shape.heads, shape.head_dim);
  }
  TileShape shape;
  std::vector<uint16_t> values;
};

enum class Source { kGauss, kLaplace };
double Draw(base::Rng& rng, Source source) {
  if (source == Source::kGauss) return rng.Normal();
  const double u = rng.Uniform() - 0.5;
  return (u < 0 ? 1 : -1) * std::log(1 - 2 * std::fabs(u)) / std::sqrt(2.0);
}

Tile RandomTile(base::Rng& rng, uint32_t tokens, uint32_t heads, uint32_t head_dim,
                const std::vector<double>& deviations, double mean, Source source = Source::kGauss) {
  Tile tile(tokens, heads, head_dim);
  for (size_t i = 0; i < tile.values.size(); ++i) {
    const double deviation = deviations[i % deviations.size()];
    tile.values[i] = tensor::FloatToBf16(static_cast<float>(deviation * (mean + Draw(rng, source))));
  }
  return tile;
}

std::vector<double> SpreadDeviations(base::Rng& rng, size_t count, double spread) {
  std::vector<double> deviations(count);
  for (double& deviation : deviations) deviation = std::exp(spread * rng.Normal());
  return deviations;
}

Bytes Encode(const TileCodec& codec, const Tile& tile, const TileContext& context = {}) {
  Workspace workspace;
  Bytes out(codec.MaxEncodedBytes(tile.shape));
  const auto bytes = codec.Encode(tile.view(), workspace, out, context);
  KVPLANE_CHECK(bytes.ok());
  out.resize(*bytes);
  return out;
}

base::Status Decode(const TileCodec& codec, const Bytes& coded, Tile& tile, const TileContext& context = {}) {
  Workspace workspace;
  return codec.Decode(coded, workspace, tile.out(), context);
}

double SquaredError(const Tile& a, const Tile& b) {
  double error = 0;
  for (size_t i = 0; i < a.values.size(); ++i) {
    const double d = tensor::Bf16ToFloat(a.values[i]) - tensor::Bf16ToFloat(b.values[i]);
    error += d * d;
  }
  return error;
}

// Decibels over the variance, means not counted.
double Snr(const Tile& a, const Tile& b, const std::vector<double>& deviations) {
  double energy = 0;
  for (const double deviation : deviations) energy += deviation * deviation;
  energy *= static_cast<double>(a.values.size()) / static_cast<double>(deviations.size());
  return 10 * std::log10(energy / SquaredError(a, b));
}

TEST(EcsqUnit, LogarithmsAreExact) {
  EXPECT_EQ(EcsqExp2(0), 1.0f);
  EXPECT_EQ(EcsqExp2(-64), 0.5f);
  EXPECT_EQ(EcsqExp2(32), 1.41421354f);
  EXPECT_EQ(EcsqExp2(-32), 0.707106769f);
  EXPECT_EQ(EcsqExp2(64 * 100 + 1), std::ldexp(1.01088929f, 100));
  EXPECT_EQ(EcsqOctaves(0), 0);
  EXPECT_EQ(EcsqOctaves(6), 64);
  EXPECT_EQ(EcsqOctaves(21), 223);
  EXPECT_EQ(EcsqOctaves(60), 638);
}

TEST(EcsqUnit, RoomForEscapesIsBoundByPayloadAndValues) {
  EXPECT_EQ(EcsqEscapeRoom(2, 1000), 0u);
  EXPECT_EQ(EcsqEscapeRoom(300, 1000), 100u);
  EXPECT_EQ(EcsqEscapeRoom(1'000'000'000, 1000), 125u);
}

// Two channels of step 1, rung 9 by the profile: the payload by hand.
TEST(EcsqUnit, PayloadByHand) {
  SpaceData space;
  BasisData basis;
  basis.rank = 2;
  space.mean = {0, tensor::FloatToBf16(10)};
  basis.lanes = {{16, 223, 223}, {16, 223, 223}};  // deviation 2^(1/4), 21 dB: step 1
  space.bases[0] = basis;
  ModelProfileData data;
  data.geometry = {.layers = 1, .kv_heads = 1, .head_dim = 2};
  data.layers.resize(1);
  data.layers[0].fill(space);
  const auto profile = ModelProfile::Create(data);
  ASSERT_TRUE(profile.ok());
  const auto codec = CodecOf("centre(static) | ecsq(snr=21) | rans(class)", *profile);

  Tile tile(32, 1, 2);
  for (size_t t = 0; t < 32; ++t) {
    tile.values[2 * t] = tensor::FloatToBf16(t % 2 == 0 ? 1.0f : -2.0f);
    tile.values[2 * t + 1] = tensor::FloatToBf16(10);
  }
  tile.values[6] = tensor::FloatToBf16(100);  // an escape
  const Bytes coded = Encode(*codec, tile);
  Tile back(32, 1, 2);
  ASSERT_TRUE(Decode(*codec, coded, back).ok());
  EXPECT_EQ(back.values[6], tensor::FloatToBf16(100));
  EXPECT_EQ(back.values[1], tensor::FloatToBf16(10));
  EXPECT_EQ(back.values[0], tensor::FloatToBf16(1));
  EXPECT_EQ(back.values[2], tensor::FloatToBf16(-2));

  // Coded; one stream, rungs as nibbles, escapes; rung 9 + 4; one escape: token 3, element 0, 100 = 0x42c8.
  const Bytes head = {std::byte{1}, std::byte{0x14}, std::byte{4},   std::byte{1},
                      std::byte{6}, std::byte{0xc8}, std::byte{0x42}};
  ASSERT_GT(coded.size(), head.size());
  EXPECT_EQ(Bytes(coded.begin(), coded.begin() + 7), head);

  // The rest is the stream of the levels, the escape's clamped.
  const kernel::RansRung rung = kernel::RansLadderRung(13);
  const kernel::RansShape shape{32, 2, &rung};
  std::vector<int16_t> levels(32 * 32);
  for (size_t t = 0; t < 32; ++t) levels[t * 32] = t == 3 ? 9 : t % 2 == 0 ? 1 : -2;
  Bytes stream(kernel::RansMaxStreamBytes(shape));
  const int16_t* from = levels.data();
  std::byte* end = stream.data() + stream.size();
  size_t size = 0;
  kernel::Rans(kernel::Isa::kScalar).encode_levels(shape, 1, &from, &end, &size);
  EXPECT_EQ(Bytes(coded.begin() + 7, coded.end()), Bytes(end - size, end));
}

TEST(EcsqDiff, EveryIsaWritesTheSameBytesAndValues) {
  base::Rng rng(3);
  constexpr uint32_t kHeadDims[] = {1, 7, 32, 80, 96, 128, 129};
  const std::string_view chains[] = {"centre(static) | ecsq(snr=21) | rans(class)",
                                     "ecsq(snr=8) | rans(class)",
                                     "centre(static) | ecsq(snr=35) | rans(class)",
                                     "ecsq(snr=18,scale=tile) | rans(class)",
                                     "centre(static) | ternary(layers=2,snr=21) | rans(class)",
                                     "ternary(layers=3,snr=30) | rans(class)"};
  for (int round = 0; round < 70; ++round) {
    const uint32_t heads = static_cast<uint32_t>(1 + rng.Below(4));
    const uint32_t head_dim = kHeadDims[rng.Below(std::size(kHeadDims))];
    const auto tokens = static_cast<uint32_t>(1 + rng.Below(64));
    const auto deviations = SpreadDeviations(rng, heads * head_dim, rng.Uniform() * 1.5);
    const auto profile = ProfileOf(heads, head_dim, deviations);
    const auto codec = CodecOf(chains[rng.Below(std::size(chains))], profile);
    Tile tile = RandomTile(rng, tokens, heads, head_dim, deviations, 3,
                           rng.Below(2) == 0 ? Source::kGauss : Source::kLaplace);
    if (rng.Below(3) == 0) tile.values[rng.Below(tile.values.size())] = tensor::FloatToBf16(1e6f);
    Bytes expected;
    Tile first(tokens, heads, head_dim);
    for (const kernel::Isa isa : kernel::AvailableIsas()) {
      const kernel::testing::ScopedIsa scoped(isa);
      const Bytes coded = Encode(*codec, tile);
      Tile back(tokens, heads, head_dim);
      const base::Status status = Decode(*codec, coded, back);
      ASSERT_TRUE(status.ok()) << status.message();
      if (isa == kernel::Isa::kScalar) {
        expected = coded;
        first = back;
      }
      ASSERT_EQ(coded, expected) << Name(isa) << " round " << round;
      ASSERT_EQ(back.values, first.values) << Name(isa) << " round " << round;
    }
  }
}

// Levels that no int32 holds are clipped on the side where they lie, whichever coder takes them; the values
// come back as escapes.
TEST(EcsqDiff, ValuesFarBeyondInt32AreTheSameBytes) {
  base::Rng rng(21);
  const std::vector<double> deviations(128, 0.2);  // steps of about 2^-4
  const auto profile = ProfileOf(1, 128, deviations);
  for (const float far : {0x1p28f, -0x1p28f, 0x1p120f, -0x1p120f}) {
    for (const std::string_view chain :
         {"ecsq(snr=21) | rans(class)", "centre(static) | ecsq(snr=21) | rans(class)"}) {
      const auto codec = CodecOf(chain, profile);
      Tile tile = RandomTile(rng, 64, 1, 128, deviations, chain[0] == 'c' ? 3 : 0);
      tile.values[37 * 128 + 5] = tensor::FloatToBf16(far);
      Bytes expected;
      for (const kernel::Isa isa : kernel::AvailableIsas()) {
        const kernel::testing::ScopedIsa scoped(isa);
        const Bytes coded = Encode(*codec, tile);
        ASSERT_EQ(coded[0], static_cast<std::byte>(TileMethod::kCoded));
        if (isa == kernel::Isa::kScalar) expected = coded;
        ASSERT_EQ(coded, expected) << Name(isa) << ", " << chain << ", " << far;
        Tile back(64, 1, 128);
        ASSERT_TRUE(Decode(*codec, coded, back).ok());
        EXPECT_EQ(back.values[37 * 128 + 5], tensor::FloatToBf16(far));
      }
    }
  }
}

// Heads that are no multiple of 32 leave slots that an instruction set need not write.
TEST(EcsqSafety, WhatTheWorkspaceHeldDoesNotMatter) {
  base::Rng rng(22);
  const auto deviations = SpreadDeviations(rng, 3 * 7, 0.5);
  const auto profile = ProfileOf(3, 7, deviations);
  const Tile tile = RandomTile(rng, 64, 3, 7, deviations, 3);
  for (const std::string_view chain :
       {"centre(static) | ecsq(snr=21) | rans(class)", "ecsq(snr=21,scale=tile) | rans(class)",
        "centre(static) | ternary(layers=2) | rans(class)"}) {
    const auto codec = CodecOf(chain, profile);
    for (const kernel::Isa isa : kernel::AvailableIsas()) {
      const kernel::testing::ScopedIsa scoped(isa);
      Workspace workspace;
      const auto dirt = workspace.Scratch(1 << 16, Workspace::Use::kQuantizer);
      for (size_t i = 0; i < dirt.size(); i += sizeof(uint32_t)) {
        base::StoreLe(dirt.data() + i, 0x7fffffffu);  // no number, and the largest integer
      }
      Bytes coded(codec->MaxEncodedBytes(tile.shape));
      const auto bytes = codec->Encode(tile.view(), workspace, coded);
      ASSERT_TRUE(bytes.ok());
      coded.resize(*bytes);
      EXPECT_EQ(coded, Encode(*codec, tile)) << Name(isa) << ", " << chain;
    }
  }
}

// Lanes that the profile says are idle have no stream: what decodes in their place must be written, whatever
// the shape.
TEST(EcsqDiff, LanesLeftOutComeBackOnEveryIsa) {
  base::Rng rng(14);
  constexpr struct {
    uint32_t heads, head_dim, tokens;
  } kShapes[] = {{1, 128, 64}, {2, 64, 20},  {2, 128, 64}, {4, 64, 64},
                 {8, 128, 64}, {3, 128, 64}, {5, 16, 9}};
  constexpr bool (*kIdle[])(uint32_t, uint32_t) = {
      [](uint32_t e, uint32_t) { return e >= 128; },      // the last windows
      [](uint32_t e, uint32_t) { return e < 128; },       // the first one
      [](uint32_t e, uint32_t n) { return e >= n / 2; },  // the last half
      [](uint32_t e, uint32_t n) { return e + 1 == n; },  // the last lane
      [](uint32_t e, uint32_t n) { return e == n / 3; },  // one lane
      [](uint32_t e, uint32_t n) { return e != n / 3; },  // all but one
      [](uint32_t e, uint32_t) { return e * 2654435761u % 4 == 0; },
      [](uint32_t, uint32_t) { return true; },
  };
  constexpr double kStep = 0.1;
  constexpr int kSnr = 20;
  for (const auto& [heads, head_dim, tokens] : kShapes) {
    const uint32_t elements = heads * head_dim;
    for (const auto idle : kIdle) {
      std::vector<double> deviations = SpreadDeviations(rng, elements, 0.5);
      for (uint32_t e = 0; e < elements; ++e) {
        if (idle(e, elements)) deviations[e] = 0.001;
      }
      const auto profile = ProfileOf(heads, head_dim, deviations, kStep * std::pow(10, kSnr / 20.0));
      for (const std::string_view chain :
           {"centre(static) | ecsq(snr=20) | rans(class)", "ecsq(snr=20) | rans(class)",
            "centre(static) | ternary(layers=1,snr=20) | rans(class)"}) {
        const auto codec = CodecOf(chain, profile);
        const Tile tile = RandomTile(rng, tokens, heads, head_dim, deviations, 3);
        Bytes expected;
        Tile first(tokens, heads, head_dim);
        for (const kernel::Isa isa : kernel::AvailableIsas()) {
          const kernel::testing::ScopedIsa scoped(isa);
          const Bytes coded = Encode(*codec, tile);
          Tile back(tokens, heads, head_dim);
          ASSERT_TRUE(Decode(*codec, coded, back).ok());
          if (isa == kernel::Isa::kScalar) {
            expected = coded;
            first = back;
          }
          ASSERT_EQ(coded, expected) << Name(isa) << ", " << chain << ", " << heads << " x " << head_dim;
          ASSERT_EQ(back.values, first.values)
              << Name(isa) << ", " << chain << ", " << heads << " x " << head_dim;
        }
        for (size_t i = 0; i < tile.values.size(); ++i) {
          const double a = tensor::Bf16ToFloat(tile.values[i]);
          ASSERT_NEAR(tensor::Bf16ToFloat(first.values[i]), a, 2.6 * kStep + std::fabs(a) / 128) << chain;
        }
      }
    }
  }
}

// The promise of a strategy: its snr on data as the profile describes them, at the price of the classes.
TEST(EcsqProperty, SnrIsAsAsked) {
  base::Rng rng(4);
  for (const Source source : {Source::kGauss, Source::kLaplace}) {
    for (const double snr : {18.0, 21.0, 31.0}) {
      const std::vector<double> deviations(256, 0.37);
      const auto profile = ProfileOf(2, 128, deviations);
      const auto codec = CodecOf(
          "centre(static) | ecsq(snr=" + std::to_string(static_cast<int>(snr)) + ") | rans(class)", profile);
      const Tile tile = RandomTile(rng, 64, 2, 128, deviations, 3, source);
      Tile back(64, 2, 128);
      ASSERT_TRUE(Decode(*codec, Encode(*codec, tile), back).ok());
      EXPECT_NEAR(Snr(tile, back, deviations), snr, source == Source::kGauss ? 0.2 : 0.35) << snr;
    }
  }
}

TEST(EcsqProperty, TileScalesGiveTheSnrOfEveryHead) {
  base::Rng rng(5);
  const auto codec = CodecOf("ecsq(snr=21,scale=tile) | rans(class)");
  std::vector<double> deviations(4 * 64);
  for (size_t i = 0; i < deviations.size(); ++i)
    deviations[i] = std::exp2(static_cast<double>(i / 64) * 3 - 9);
  const Tile tile = RandomTile(rng, 64, 4, 64, deviations, 0);
  Tile back(64, 4, 64);
  ASSERT_TRUE(Decode(*codec, Encode(*codec, tile), back).ok());
  for (size_t h = 0; h < 4; ++h) {
    double error = 0, energy = 0;
    for (size_t i = 0; i < tile.values.size(); ++i) {
      if (i / 64 % 4 != h) continue;
      const double a = tensor::Bf16ToFloat(tile.values[i]);
      error += std::pow(a - tensor::Bf16ToFloat(back.values[i]), 2);
      energy += a * a;
    }
    EXPECT_NEAR(10 * std::log10(energy / error), 21, 0.5) << h;
  }
}

TEST(EcsqProperty, QualityIsMonotone) {
  base::Rng rng(6);
  const auto deviations = SpreadDeviations(rng, 128, 0.6);
  const auto profile = ProfileOf(1, 128, deviations);
  for (const std::string_view chain : {"centre(static) | ecsq(snr=15) | rans(class)",
                                       "centre(static) | ternary(layers=1,snr=15) | rans(class)"}) {
    const auto codec = CodecOf(chain, profile);
    const Tile tile = RandomTile(rng, 64, 1, 128, deviations, 3);
    size_t bytes = 0;
    double error = 1e30;
    for (const uint32_t quality : {64u, 96u, 112u, 128u, 144u, 160u, 192u}) {
      TileContext context;
      context.quality = static_cast<uint8_t>(quality);
      const Bytes coded = Encode(*codec, tile, context);
      Tile back(64, 1, 128);
      ASSERT_TRUE(Decode(*codec, coded, back, context).ok());
      EXPECT_GT(coded.size(), bytes) << quality;
      EXPECT_LT(SquaredError(tile, back), error) << quality;
      bytes = coded.size();
      error = SquaredError(tile, back);
      if (quality != 128) continue;
      EXPECT_EQ(Encode(*codec, tile), coded);  // 0 is 128
    }
  }
}

// Rows far larger than the profile says, lone giants, dropped lanes that wake up: none may be clipped away.
TEST(EcsqProperty, OutliersAreNotClipped) {
  base::Rng rng(7);
  std::vector<double> deviations(128, 1.0);
  for (size_t i = 96; i < 128; ++i) deviations[i] = 1e-4;
  const auto profile = ProfileOf(1, 128, deviations);
  const auto codec = CodecOf("centre(static) | ecsq(snr=20) | rans(class)", profile);
  Tile tile = RandomTile(rng, 64, 1, 128, deviations, 3);
  const double step = std::sqrt(12 * 96.0 / 128) / 10;
  tile.values[5 * 128 + 17] = tensor::FloatToBf16(400.0f);
  tile.values[7 * 128 + 100] = tensor::FloatToBf16(-33.0f);
  for (size_t c = 0; c < 128; ++c) {
    const float x = tensor::Bf16ToFloat(tile.values[20 * 128 + c]);
    tile.values[20 * 128 + c] = tensor::FloatToBf16(x * 9);
  }
  Tile back(64, 1, 128);
  const Bytes coded = Encode(*codec, tile);
  EXPECT_LT(coded.size(), tile.shape.raw_bytes() / 3);
  ASSERT_TRUE(Decode(*codec, coded, back).ok());
  for (size_t i = 0; i < tile.values.size(); ++i) {
    const double a = tensor::Bf16ToFloat(tile.values[i]);
    EXPECT_NEAR(tensor::Bf16ToFloat(back.values[i]), a, 2.6 * step + std::fabs(a) / 256) << i;
  }
}

TEST(EcsqProperty, EverySizeComesBack) {
  base::Rng rng(8);
  for (uint32_t tokens = 1; tokens <= 64; tokens += 3) {
    for (const uint32_t head_dim : {1u, 3u, 31u, 33u, 65u, 127u}) {
      const std::vector<double> deviations(2 * head_dim, 0.5);
      const auto profile = ProfileOf(2, head_dim, deviations);
      for (const std::string_view chain :
           {"centre(static) | ecsq(snr=21) | rans(class)", "ecsq(snr=21,scale=tile) | rans(class)",
            "centre(static) | ternary(layers=2) | rans(class)"}) {
        const auto codec = CodecOf(chain, profile);
        const Tile tile = RandomTile(rng, tokens, 2, head_dim, deviations, 3);
        const Bytes coded = Encode(*codec, tile);
        EXPECT_LE(coded.size(), codec->MaxEncodedBytes(tile.shape));
        EXPECT_GE(coded.size(), codec->MinEncodedBytes(tile.shape));
        Tile back(tokens, 2, head_dim);
        ASSERT_TRUE(Decode(*codec, coded, back).ok());
        EXPECT_LT(std::sqrt(SquaredError(tile, back) / static_cast<double>(tile.values.size())), 0.2)
            << chain << " " << tokens << " x " << head_dim;
      }
    }
  }
}

TEST(EcsqProperty, ZerosConstantsAndWhatIsNoNumber) {
  const std::vector<double> deviations(64, 0.5);
  const auto profile = ProfileOf(1, 64, deviations);
  for (const std::string_view chain :
       {"ecsq(snr=21) | rans(class)", "centre(static) | ecsq(snr=21) | rans(class)",
        "ecsq(snr=21,scale=tile) | rans(class)", "centre(block) | ecsq(snr=21,scale=tile) | rans(class)",
        "ternary(layers=2) | rans(class)"}) {
    const auto codec = CodecOf(chain, profile);
    for (const float constant : {0.0f, -0.0f, 1.5f, -700.0f, 1e-30f, 1e-40f, 3e38f}) {
      Tile tile(64, 1, 64);
      std::fill(tile.values.begin(), tile.values.end(), tensor::FloatToBf16(constant));
      Tile back(64, 1, 64);
      ASSERT_TRUE(Decode(*codec, Encode(*codec, tile), back).ok()) << chain << constant;
      for (const uint16_t bits : back.values) {
        ASSERT_NEAR(tensor::Bf16ToFloat(bits), constant, 0.25 + std::fabs(constant) / 8) << chain << constant;
      }
    }
    for (const uint16_t bits : {uint16_t{0x7f80}, uint16_t{0xff80}, uint16_t{0x7fc1}}) {
      Tile tile(64, 1, 64);
      tile.values[64 * 37 + 5] = bits;
      const Bytes coded = Encode(*codec, tile);
      EXPECT_EQ(coded[0], std::byte{0}) << chain;  // raw
      Tile back(64, 1, 64);
      ASSERT_TRUE(Decode(*codec, coded, back).ok());
      EXPECT_EQ(back.values, tile.values);
    }
  }
}

// Bits that the frequencies of the rungs give to data as the profile describes them, and escapes at their
// cost.
TEST(EcsqProperty, SizeIsThatOfTheClasses) {
  base::Rng rng(9);
  const std::vector<double> deviations(1024, 1.0);
  const auto profile = ProfileOf(8, 128, deviations);
  for (const int snr : {14, 18, 21, 27}) {
    const auto codec =
        CodecOf("centre(static) | ecsq(snr=" + std::to_string(snr) + ") | rans(class)", profile);
    const Tile tile = RandomTile(rng, 64, 8, 128, deviations, 3);
    const Bytes coded = Encode(*codec, tile);
    const auto plan = EcsqPlans(codec->strategy().stages(), tensor::Side::kKey, profile).Of({}, {64, 8, 128});
    ASSERT_NE(plan, nullptr);
    const kernel::RansRung rung = kernel::RansLadderRung(plan->foretold[0]);
    const kernel::RansClass& rans_class = kernel::kRansClassTable[rung.rans_class()];
    double bits = 0;
    for (size_t i = 0; i < tile.values.size(); ++i) {
      const float inverse = plan->inverse_step[plan->slot_of_element[i % 1024]];
      const float scaled = (tensor::Bf16ToFloat(tile.values[i]) - 3.0f) * inverse;
      const int level =
          std::clamp(static_cast<int>(std::nearbyint(scaled)), rung.min_level(), rung.max_level());
      const int upper = (level + (1 << rung.bypass() >> 1)) >> rung.bypass();
      bits += 7 - std::log2(rans_class.frequency[upper + rans_class.half_range]) + rung.bypass();
      if (std::fabs(scaled) > EcsqReach(plan->foretold[0], 1)) bits += kernel::kEcsqEscapeBits;
    }
    // States and head, and wider rungs than foretold where outliers call for them.
    EXPECT_LT(static_cast<double>(coded.size()) * 8, bits * 1.02) << snr;
  }
}

TEST(EcsqUnit, IllegalChainsAreNamed) {
  const auto reason = [](std::string_view chain) {
    return std::string(SideStrategy::Parse(chain, tensor::Side::kKey).status().message());
  };
  EXPECT_NE(reason("ecsq(snr=21) | pack").find("L1"), std::string::npos);
  EXPECT_NE(reason("ecsq(snr=21) | rans(stream)").find("L1"), std::string::npos);
  EXPECT_NE(reason("ternary(layers=2) | zstd").find("L1"), std::string::npos);
  EXPECT_NE(reason("ecsq(weight=model,scale=tile) | rans(class)").find("L4"), std::string::npos);
}

// A prefix of the sections is the same tile at a lower quality, 9.54 dB a section.
TEST(TernaryProperty, SectionsNest) {
  base::Rng rng(12);
  const std::vector<double> deviations(256, 1.0);
  const auto profile = ProfileOf(2, 128, deviations);
  for (const uint32_t layers : {1u, 2u, 3u}) {
    const auto codec = CodecOf(
        "centre(static) | ternary(layers=" + std::to_string(layers) + ",snr=30) | rans(class)", profile);
    const Tile tile = RandomTile(rng, 64, 2, 128, deviations, 3);
    const Bytes whole = Encode(*codec, tile);
    ASSERT_EQ(whole[0], std::byte{1});
    for (uint32_t sections = 1; sections <= layers + 1; ++sections) {
      Bytes cut = whole;
      const auto length = TruncateNested(std::span(cut).subspan(1), sections);
      ASSERT_TRUE(length.ok()) << length.status().message();
      cut.resize(1 + *length);
      if (sections == layers + 1) {
        EXPECT_EQ(cut, whole);
      }
      Tile back(64, 2, 128);
      const base::Status status = Decode(*codec, cut, back);
      ASSERT_TRUE(status.ok()) << status.message();
      const double lost = 9.54 * (layers + 1 - sections);
      if (30 - lost > 10) {
        EXPECT_NEAR(Snr(tile, back, deviations), 30 - lost, 0.35) << sections;
      }
    }
    Bytes cut = whole;
    EXPECT_FALSE(TruncateNested(std::span(cut).subspan(1), 0).ok());
    EXPECT_FALSE(TruncateNested(std::span(cut).subspan(1), layers + 2).ok());
  }
}

// Nesting is free: the sections together are as long as the levels coded at once.
TEST(TernaryProperty, AllSectionsCostWhatOneDoes) {
  base::Rng rng(13);
  const auto deviations = SpreadDeviations(rng, 1024, 0.3);
  const auto profile = ProfileOf(8, 128, deviations);
  const Tile tile = RandomTile(rng, 64, 8, 128, deviations, 3);
  const Bytes direct = Encode(*CodecOf("centre(static) | ecsq(snr=24) | rans(class)", profile), tile);
  for (const uint32_t layers : {1u, 2u}) {
    const auto codec = CodecOf(
        "centre(static) | ternary(layers=" + std::to_string(layers) + ",snr=24) | rans(class)", profile);
    const Bytes nested = Encode(*codec, tile);
    EXPECT_LT(static_cast<double>(nested.size()), 1.01 * static_cast<double>(direct.size())) << layers;
  }
}

// --- Hostile payloads ---

// Whatever it says, the decoder stays inside its buffers (ASan) and fails or gives finite values.
void ExpectHarmless(const TileCodec& codec, const Bytes& coded, const TileShape& shape) {
  auto exact = std::make_unique<std::byte[]>(coded.size());
  std::copy(coded.begin(), coded.end(), exact.get());
  Workspace workspace;
  Tile back(shape.tokens, shape.heads, shape.head_dim);
  const base::Status status = codec.Decode({exact.get(), coded.size()}, workspace, back.out());
  if (!status.ok() || coded[0] == std::byte{0}) return;
  for (const uint16_t bits : back.values) ASSERT_LT(bits & 0x7fff, 0x7f80);
}

TEST(EcsqSafety, MutatedPayloadsAreHarmless) {
  base::Rng rng(10);
  const auto deviations = SpreadDeviations(rng, 192, 1.2);
  const auto profile = ProfileOf(2, 96, deviations);
  for (const std::string_view chain :
       {"centre(static) | ecsq(snr=21) | rans(class)", "ecsq(snr=3) | rans(class)",
        "ecsq(snr=21,scale=tile) | rans(class)", "centre(static) | ternary(layers=2) | rans(class)"}) {
    const auto codec = CodecOf(chain, profile);
    for (const uint32_t tokens : {1u, 7u, 64u}) {
      Tile tile = RandomTile(rng, tokens, 2, 96, deviations, 3);
      tile.values[rng.Below(tile.values.size())] = tensor::FloatToBf16(1e5f);
      const Bytes coded = Encode(*codec, tile);
      for (int round = 0; round < 1500; ++round) {
        Bytes mutated = coded;
        const uint64_t kind = rng.Below(4);
        const size_t reach = rng.Below(2) == 0 ? mutated.size() : std::min<size_t>(mutated.size(), 24);
        if (kind == 0) mutated.resize(rng.Below(mutated.size() + 1));
        if (kind == 1) mutated.insert(mutated.end(), 1 + rng.Below(9), std::byte{7});
        for (uint64_t i = kind < 2 ? 0 : 1 + rng.Below(3); i > 0; --i) {
          mutated[rng.Below(reach)] = static_cast<std::byte>(rng.Below(256));
        }
        ExpectHarmless(*codec, mutated, tile.shape);
      }
    }
  }
}

TEST(EcsqSafety, WrongHeadsAreCorrupt) {
  base::Rng rng(11);
  const std::vector<double> deviations(64, 0.5);
  const auto profile = ProfileOf(1, 64, deviations);
  const auto codec = CodecOf("centre(static) | ecsq(snr=21) | rans(class)", profile);
  const Tile tile = RandomTile(rng, 63, 1, 64, deviations, 3);
  const Bytes coded = Encode(*codec, tile);
  Tile back(63, 1, 64);
  ASSERT_TRUE(Decode(*codec, coded, back).ok());
  const auto status_with_mode = [&](unsigned mode) {
    Bytes changed = coded;
    changed[1] = static_cast<std::byte>(mode);
    return Decode(*codec, changed, back).code();
  };
  const auto mode = static_cast<unsigned>(coded[1]);
  EXPECT_EQ(status_with_mode(mode | 1), base::StatusCode::kCorrupt);     // two streams of 63 tokens
  EXPECT_EQ(status_with_mode(mode | 0x0c), base::StatusCode::kCorrupt);  // no such rung form
  EXPECT_EQ(status_with_mode(mode | 0x40), base::StatusCode::kCorrupt);  // sections
  EXPECT_EQ(status_with_mode(mode | 0x20), base::StatusCode::kCorrupt);  // not raw
  Bytes shorter = coded;
  shorter.pop_back();
  EXPECT_EQ(Decode(*codec, shorter, back).code(), base::StatusCode::kCorrupt);
}

}  // namespace
}  // namespace kvplane::codec
