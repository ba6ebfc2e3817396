#include "kvplane/codec/bitplane/bitplane_stage.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/codec/bitplane/bitplane_code.h"
#include "kvplane/codec/pack/packed_rows.h"
#include "kvplane/codec/testing/plane_trial.h"
#include "kvplane/codec/testing/strategy_trial.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::codec {
namespace {

using ::testing::HasSubstr;
using testing::KeyCodecOf;
using testing::PlaneOfSymbols;
using Bytes = std::vector<std::byte>;

// Form bytes and raw planes.
size_t MostBytes(const PlaneOfSymbols& plane) {
  size_t bytes = 0;
  for (const uint32_t alphabet : plane.alphabets) {
    bytes += PackedWidth(alphabet) * (1 + (plane.view.head_values() + 7) / 8);
  }
  return bytes;
}

std::unique_ptr<PlaneOfSymbols> RandomPlane(base::Rng& rng) {
  const auto heads = static_cast<uint32_t>(1 + rng.Below(4));
  std::vector<uint32_t> alphabets(heads);
  for (uint32_t& a : alphabets) a = static_cast<uint32_t>(2 + rng.Below(rng.Below(2) == 0 ? 30 : 255));
  const auto tokens = static_cast<uint32_t>(1 + rng.Below(64));
  const auto head_dim = static_cast<uint32_t>(1 + rng.Below(130));
  auto plane = std::make_unique<PlaneOfSymbols>(TileShape{tokens, heads, head_dim}, std::move(alphabets));
  for (uint32_t h = 0; h < heads; ++h) {
    const uint32_t alphabet = plane->alphabets[h];
    const double spread = alphabet * (rng.Below(3) == 0 ? 0.0 : rng.Uniform() / 3);
    const double centre = rng.Below(4) == 0 ? alphabet * rng.Uniform() : alphabet / 2.0;
    for (size_t i = 0; i < plane->view.head_values(); ++i) {
      const double bell = std::round(rng.Normal() * spread + centre);
      plane->symbols[h * plane->view.head_values() + i] =
          static_cast<uint8_t>(std::clamp(bell, 0.0, alphabet - 1.0));
    }
  }
  return plane;
}

Bytes Encode(const PlaneOfSymbols& plane) {
  return testing::EncodePlane(BitplaneCode(), plane, MostBytes(plane));
}
base::Status Decode(const PlaneOfSymbols& plane, const Bytes& coded, std::vector<uint8_t>* symbols) {
  return testing::DecodePlane(BitplaneCode(), plane, coded, symbols);
}

TEST(BitplaneStageUnit, ExampleOfTheSpecification) {
  PlaneOfSymbols plane({3, 1, 3}, {6});
  plane.symbols = {3, 4, 5, 2, 1, 0, 3, 3, 5};
  const Bytes coded = Encode(plane);
  const uint8_t expected[] = {0, 0x38, 0, 0, 0x12, 0, 0, 0x24, 0x01};
  ASSERT_EQ(coded.size(), std::size(expected));
  for (size_t i = 0; i < coded.size(); ++i) EXPECT_EQ(coded[i], static_cast<std::byte>(expected[i])) << i;
}

TEST(BitplaneStageUnit, ConstantPlanesNearlyVanish) {
  PlaneOfSymbols plane({64, 1, 128}, {16});
  std::fill(plane.symbols.begin(), plane.symbols.end(), uint8_t{3});  // folds to 9: two planes of ones
  EXPECT_EQ(Encode(plane).size(), 4 * (1 + 16u));
  EXPECT_EQ(Encode(plane)[0], std::byte{2 + 4});
}

// All alphabets; never longer than raw planes; every instruction set writes the same.
TEST(BitplaneStageDiff, PlanesComeBackAndEveryIsaWritesTheSame) {
  base::Rng rng(95);
  for (int round = 0; round < 600; ++round) {
    const auto plane = RandomPlane(rng);
    const Bytes coded = Encode(*plane);
    ASSERT_GE(coded.size(), BitplaneCode().LeastBytes(plane->view.shape));
    ASSERT_LE(coded.size(), MostBytes(*plane));
    const base::Status status = testing::CheckOnEveryIsa(BitplaneCode(), *plane, coded, MostBytes(*plane));
    ASSERT_TRUE(status.ok()) << status.message();
  }
}

TEST(BitplaneStageSafety, DamagedPlanes) {
  base::Rng rng(96);
  for (int round = 0; round < 3000; ++round) {
    const auto plane = RandomPlane(rng);
    Bytes coded = Encode(*plane);
    const uint64_t kind = rng.Below(3);
    if (kind == 0) {
      coded.resize(rng.Below(coded.size()));
    } else if (kind == 1) {
      coded[rng.Below(coded.size())] = static_cast<std::byte>(rng.Next());
    } else {
      coded.insert(coded.end(), 1 + rng.Below(80), static_cast<std::byte>(rng.Below(256)));
    }
    coded.shrink_to_fit();
    std::vector<uint8_t> symbols;
    const base::Status status = Decode(*plane, coded, &symbols);
    if (kind != 1) {
      ASSERT_FALSE(status.ok());
    }
    if (!status.ok()) continue;
    ASSERT_TRUE(testing::WithinAlphabets(*plane, symbols));
  }
}

TEST(BitplaneStageSafety, ImpossiblePlanes) {
  PlaneOfSymbols plane({8, 1, 8}, {3});
  std::vector<uint8_t> symbols;
  const auto decodes = [&](std::initializer_list<int> list) {
    Bytes bytes;
    for (const int b : list) bytes.push_back(static_cast<std::byte>(b));
    return Decode(plane, bytes, &symbols).ok();
  };
  EXPECT_TRUE(decodes({1, 0x00, 1, 0x00}));
  EXPECT_FALSE(decodes({3, 0x00, 1, 0x00}));                    // no such form
  EXPECT_FALSE(decodes({4, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x00}));  // raw has no filler
  EXPECT_FALSE(decodes({9, 0x00, 1, 0x00}));
  EXPECT_FALSE(decodes({1, 0x01, 1, 0x00}));  // a marked byte too few at the end
  EXPECT_FALSE(decodes({5, 0x00, 5, 0x00}));  // all bits set: symbol 3 of 3
  EXPECT_FALSE(decodes({1, 0x00}));
  EXPECT_FALSE(decodes({2}));
}

TEST(BitplaneStageUnit, StandsBehindQuantisersOfSymbols) {
  EXPECT_THAT(std::string(KeyCodecOf("bitplane_rle").status().message()),
              HasSubstr("L1: 'bitplane_rle' takes byte symbols"));
  base::Rng rng(97);
  Workspace workspace;
  std::vector<uint16_t> values(64 * 2 * 64), a(values.size()), b(values.size());
  for (uint16_t& v : values) v = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
  for (const std::string_view quantizer : {"levels(m=16)", "levels(m=200)", "int8", "affine(bits=2)"}) {
    for (const bool planes : {true, false}) {
      const auto one = KeyCodecOf(fmt::format("{} | {}", quantizer, planes ? "bitplane_rle" : "pack"));
      ASSERT_TRUE(one.ok()) << one.status().message();
      const auto view = tensor::ConstTileView::Contiguous(values.data(), 64, 2, 64);
      Bytes out((*one)->MaxEncodedBytes(ShapeOf(view)));
      out.resize(*(*one)->Encode(view, workspace, out));
      const auto to = tensor::TileView::Contiguous((planes ? a : b).data(), 64, 2, 64);
      ASSERT_TRUE((*one)->Decode(out, workspace, to).ok());
    }
    EXPECT_EQ(a, b);
  }
}

}  // namespace
}  // namespace kvplane::codec
