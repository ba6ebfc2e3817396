#include "kvplane/codec/exponent/exponent_streams.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/base/rng.h"
#include "kvplane/codec/exponent/exponent_stage.h"
#include "kvplane/kernel/testing/scoped_isa.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::codec {
namespace {

using Bytes = std::vector<std::byte>;

struct Tile {
  TileShape shape;
  std::vector<uint16_t> values;

  tensor::ConstTileView view() const {
    return tensor::ConstTileView::Contiguous(values.data(), shape.tokens, shape.heads, shape.head_dim);
  }
};

std::shared_ptr<const TileCodec> Codec() {
  const auto side = SideStrategy::Parse("exponent(mode=rans)", tensor::Side::kKey);
  KVPLANE_CHECK(side.ok());
  return *TileCodec::Create(*side, tensor::Side::kKey);
}
Bytes Encode(const Tile& tile) {
  const auto codec = Codec();
  Workspace workspace;
  Bytes out(codec->MaxEncodedBytes(tile.shape));
  out.resize(*codec->Encode(tile.view(), workspace, out));
  out.shrink_to_fit();
  return out;
}
base::Status Decode(const Bytes& coded, const TileShape& shape, std::vector<uint16_t>* values) {
  values->assign(shape.values(), 0xbeef);
  Workspace workspace;
  const auto view = tensor::TileView::Contiguous(values->data(), shape.tokens, shape.heads, shape.head_dim);
  return Codec()->Decode(coded, workspace, view);
}

// Heads of their own scale; some values of any pattern, zeros, denormals, infinities and NaN among them.
Tile RandomTile(base::Rng& rng) {
  Tile tile;
  tile.shape = {.tokens = static_cast<uint32_t>(1 + rng.Below(64)),
                .heads = static_cast<uint32_t>(1 + rng.Below(4)),
                .head_dim = static_cast<uint32_t>(rng.Below(2) == 0 ? 64 : 1 + rng.Below(140))};
  tile.values.resize(tile.shape.values());
  const uint64_t odd = rng.Below(3) == 0 ? rng.Below(101) : rng.Below(3);
  const bool constant = rng.Below(8) == 0;
  double scale = 1;
  for (size_t i = 0; i < tile.values.size(); ++i) {
    if (i % (tile.values.size() / tile.shape.heads) == 0) {
      scale = std::exp2(rng.Uniform() * 12 - (rng.Below(3) == 0 ? 130 : 0));
    }
    const bool any = rng.Below(100) < odd;
    const auto value = tensor::FloatToBf16(static_cast<float>(rng.Normal() * scale));
    tile.values[i] = any ? static_cast<uint16_t>(rng.Next()) : value;
    if (constant) tile.values[i] = tile.values[0];
  }
  return tile;
}

TEST(ExponentStreamsDiff, EveryTileComesBackAndEveryIsaWritesTheSame) {
  base::Rng rng(90);
  size_t coded_tiles = 0;
  for (int round = 0; round < 500; ++round) {
    const Tile tile = RandomTile(rng);
    const Bytes coded = Encode(tile);
    if (coded[0] == std::byte{1}) ++coded_tiles;
    ASSERT_LE(coded.size(), 1 + tile.shape.raw_bytes());
    ASSERT_GE(coded.size(), Codec()->MinEncodedBytes(tile.shape));
    for (const kernel::Isa isa : kernel::AvailableIsas()) {
      const kernel::testing::ScopedIsa forced(isa);
      ASSERT_EQ(Encode(tile), coded) << kernel::Name(isa);
      std::vector<uint16_t> back;
      const base::Status status = Decode(coded, tile.shape, &back);
      ASSERT_TRUE(status.ok()) << status.message();
      ASSERT_EQ(back, tile.values) << kernel::Name(isa);
    }
  }
  EXPECT_GT(coded_tiles, 150u);
}

// Sign, mantissa and the 2.54 bits of a Gaussian's exponent; the states and tables of the tile on top.
TEST(ExponentStreamsProperty, GaussianTilesTakeTenAndAHalfBits) {
  base::Rng rng(91);
  for (const uint32_t heads : {2u, 8u}) {
    Tile tile{{64, heads, 128}, std::vector<uint16_t>(64 * 128 * heads)};
    for (uint16_t& v : tile.values) v = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
    const double bits =
        8.0 * static_cast<double>(Encode(tile).size()) / static_cast<double>(tile.values.size());
    EXPECT_GT(bits, 10.5);
    EXPECT_LT(bits, 10.65);
  }
}

// Infinities, NaN and the very small escape; they do not widen the window.
TEST(ExponentStreamsUnit, OutliersEscape) {
  base::Rng rng(92);
  Tile tile{{64, 2, 64}, std::vector<uint16_t>(64 * 128)};
  for (uint16_t& v : tile.values) v = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
  const size_t without = Encode(tile).size();
  const uint16_t odd[] = {0x7fc1, 0xff80, 0x0000, 0x8001, 0x7f7f};
  for (size_t i = 0; i < 5; ++i) tile.values[100 * i] = odd[i];
  const Bytes coded = Encode(tile);
  EXPECT_LT(coded.size(), without + 30);
  std::vector<uint16_t> back;
  ASSERT_TRUE(Decode(coded, tile.shape, &back).ok());
  EXPECT_EQ(back, tile.values);
}

TEST(ExponentStreamsUnit, ConstantsTakeTheRestsAndAFrame) {
  Tile tile{{64, 1, 64}, std::vector<uint16_t>(64 * 64, 0x4049)};
  // Method, width, base, length; rests; frame, table and states of one stream.
  EXPECT_EQ(Encode(tile).size(), 1 + 6 + 4096 + 2 + 1 + 64u);
}

TEST(ExponentStreamsSafety, DamagedTiles) {
  base::Rng rng(93);
  for (int round = 0; round < 2000; ++round) {
    const Tile tile = RandomTile(rng);
    Bytes coded = Encode(tile);
    const uint64_t kind = rng.Below(4);
    if (kind == 0) {
      coded.resize(1 + rng.Below(coded.size() - 1));
    } else if (kind == 1) {
      coded[1 + rng.Below(std::min<size_t>(coded.size() - 1, 12))] = static_cast<std::byte>(rng.Below(256));
    } else if (kind == 2) {
      coded[1 + rng.Below(coded.size() - 1)] ^= static_cast<std::byte>(1u << rng.Below(8));
    } else {
      coded.insert(coded.end(), 1 + rng.Below(80), static_cast<std::byte>(rng.Below(256)));
    }
    coded.shrink_to_fit();
    std::vector<uint16_t> back;
    const base::Status status = Decode(coded, tile.shape, &back);
    if (kind == 0 || kind == 3) {
      ASSERT_FALSE(status.ok());
    }
  }
}

}  // namespace
}  // namespace kvplane::codec
