#include "kvplane/codec/lz/symbol_compressor.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/codec/testing/strategy_trial.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::codec {
namespace {

using ::testing::HasSubstr;
using testing::KeyCodecOf;
using Bytes = std::vector<std::byte>;

struct Tile {
  TileShape shape;
  std::vector<uint16_t> values;
};
Tile RandomTile(base::Rng& rng) {
  Tile tile;
  tile.shape = {static_cast<uint32_t>(1 + rng.Below(64)), static_cast<uint32_t>(1 + rng.Below(3)),
                static_cast<uint32_t>(1 + rng.Below(130))};
  tile.values.resize(tile.shape.values());
  for (uint16_t& v : tile.values) v = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
  return tile;
}
Bytes Encode(const TileCodec& codec, const Tile& tile) {
  Workspace workspace;
  Bytes out(codec.MaxEncodedBytes(tile.shape));
  const auto view = tensor::ConstTileView::Contiguous(tile.values.data(), tile.shape.tokens, tile.shape.heads,
                                                      tile.shape.head_dim);
  out.resize(*codec.Encode(view, workspace, out));
  out.shrink_to_fit();
  return out;
}
base::Status Decode(const TileCodec& codec, const Bytes& coded, const TileShape& shape,
                    std::vector<uint16_t>* values) {
  Workspace workspace;
  values->assign(shape.values(), 0xbeef);
  return codec.Decode(
      coded, workspace,
      tensor::TileView::Contiguous(values->data(), shape.tokens, shape.heads, shape.head_dim));
}

constexpr std::string_view kQuantizers[] = {"levels(m=2)",  "levels(m=4)",   "levels(m=7)", "levels(m=16)",
                                            "levels(m=17)", "levels(m=256)", "int8",        "cachegen"};

TEST(SymbolCompressorProperty, GivesTheValuesOfPack) {
  base::Rng rng(98);
  for (int round = 0; round < 40; ++round) {
    const Tile tile = RandomTile(rng);
    for (const std::string_view quantizer : kQuantizers) {
      const auto pack = *KeyCodecOf(fmt::format("{} | pack", quantizer));
      const Bytes packed = Encode(*pack, tile);
      std::vector<uint16_t> expected, back;
      ASSERT_TRUE(Decode(*pack, packed, tile.shape, &expected).ok());
      for (const std::string_view code : {"zstd(level=1)", "zstd(level=12)", "lz4"}) {
        const auto codec = *KeyCodecOf(fmt::format("{} | {}", quantizer, code));
        EXPECT_TRUE(codec->lossy());
        const Bytes coded = Encode(*codec, tile);
        ASSERT_LE(coded.size(), 1 + tile.shape.raw_bytes());
        ASSERT_GE(coded.size(), codec->MinEncodedBytes(tile.shape));
        const base::Status status = Decode(*codec, coded, tile.shape, &back);
        ASSERT_TRUE(status.ok()) << status.message();
        if (coded[0] == std::byte{1} && packed[0] == std::byte{1}) {
          ASSERT_EQ(back, expected) << codec->strategy().ToString();
        }
      }
    }
  }
}

TEST(SymbolCompressorProperty, ZstdIsNearTheEntropy) {
  base::Rng rng(99);
  Tile tile{{64, 8, 128}, std::vector<uint16_t>(65536)};
  for (uint16_t& v : tile.values) v = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
  for (const int levels : {4, 8, 16}) {
    const auto size = [&](std::string_view code) {
      return Encode(**KeyCodecOf(fmt::format("levels(m={}) | {}", levels, code)), tile).size();
    };
    EXPECT_LT(static_cast<double>(size("zstd(level=1)")), 1.04 * static_cast<double>(size("rans(stream)")));
    EXPECT_LT(size("zstd(level=1)"), size("pack"));
  }
}

TEST(SymbolCompressorUnit, Legality) {
  EXPECT_TRUE(KeyCodecOf("protect(sinks=4) | zstd").ok());
  EXPECT_TRUE(KeyCodecOf("hadamard | levels | zstd(level=3)").ok());
  EXPECT_THAT(std::string(KeyCodecOf("ecsq | zstd").status().message()), HasSubstr("L1"));
  EXPECT_FALSE(KeyCodecOf("delta | lz4").ok());
}

TEST(SymbolCompressorSafety, DamagedTiles) {
  base::Rng rng(100);
  for (int round = 0; round < 1500; ++round) {
    const Tile tile = RandomTile(rng);
    const auto codec = *KeyCodecOf(fmt::format("{} | {}", kQuantizers[rng.Below(std::size(kQuantizers))],
                                               rng.Below(2) == 0 ? "zstd" : "lz4"));
    Bytes coded = Encode(*codec, tile);
    if (rng.Below(2) == 0) {
      coded.resize(1 + rng.Below(coded.size() - 1));
    } else {
      for (uint64_t n = 1 + rng.Below(4); n > 0; --n) {
        coded[1 + rng.Below(coded.size() - 1)] = static_cast<std::byte>(rng.Next());
      }
    }
    coded.shrink_to_fit();
    std::vector<uint16_t> back;
    const base::Status status = Decode(*codec, coded, tile.shape, &back);
    if (!status.ok()) {
      ASSERT_EQ(status.code(), base::StatusCode::kCorrupt);
    } else if (coded[0] == std::byte{1}) {
      ASSERT_TRUE(std::all_of(back.begin(), back.end(), [](uint16_t v) { return (v & 0x7fff) < 0x7f80; }));
    }
  }
}

}  // namespace
}  // namespace kvplane::codec
