#include "kvplane/transfer/tile_grid.h"

#include <gtest/gtest.h>

#include <set>
#include <tuple>

#include "kvplane/transfer/testing/kv_fixture.h"

namespace kvplane::transfer {
namespace {

using base::StatusCode;

TEST(TileGridUnit, NumbersTilesBlockByBlock) {
  const TileGrid grid = *TileGrid::Create(Describe(Geometry(2, 12, 64), 130), 8);
  EXPECT_EQ(grid.blocks(), 3u);
  EXPECT_EQ(grid.groups(), 2u);
  EXPECT_EQ(grid.tiles_per_layer(), 12u);
  EXPECT_EQ(grid.tiles(), 24u);
  const TileGrid::Tile last = grid.At(1, 11);
  EXPECT_EQ(last.side, tensor::Side::kValue);
  EXPECT_EQ(last.group, 1u);
  EXPECT_EQ(last.first_head, 8u);
  EXPECT_EQ(last.heads, 4u);
  EXPECT_EQ(last.first_token, 128u);
  EXPECT_EQ(last.tokens, 2u);
  EXPECT_EQ(grid.TilesWithin(63), 0u);
  EXPECT_EQ(grid.TilesWithin(64), 4u);
  EXPECT_EQ(grid.TilesWithin(129), 8u);
  EXPECT_EQ(grid.TilesWithin(130), 12u);
}

TEST(TileGridProperty, TilesCoverEveryValueOnceAndAreFoundAgain) {
  for (const uint32_t tokens : {1u, 63u, 64u, 65u, 300u}) {
    for (const uint32_t heads : {1u, 2u, 8u, 9u, 20u}) {
      for (const uint32_t group : {1u, 8u}) {
        if (group > heads) continue;
        const TileGrid grid = *TileGrid::Create(Describe(Geometry(2, heads, 4), tokens), group);
        std::set<std::tuple<uint32_t, int, uint32_t, uint32_t>> covered;
        for (uint32_t layer = 0; layer < 2; ++layer) {
          for (uint32_t index = 0; index < grid.tiles_per_layer(); ++index) {
            const TileGrid::Tile tile = grid.At(layer, index);
            const auto found = grid.Find(layer, tile.side, tile.group, tile.first_token);
            ASSERT_TRUE(found.has_value());
            EXPECT_EQ(found->index, index);
            for (uint32_t token = 0; token < tile.tokens; ++token) {
              for (uint32_t head = 0; head < tile.heads; ++head) {
                EXPECT_TRUE(covered
                                .emplace(layer, static_cast<int>(tile.side), tile.first_token + token,
                                         tile.first_head + head)
                                .second);
              }
            }
          }
        }
        EXPECT_EQ(covered.size(), size_t{2} * 2 * tokens * heads);
      }
    }
  }
}

TEST(TileGridSafety, ForeignCoordinatesAreNotFound) {
  const TileGrid grid = *TileGrid::Create(Describe(Geometry(2, 12, 64), 130), 8);
  using tensor::Side;
  EXPECT_FALSE(grid.Find(2, Side::kKey, 0, 0).has_value());
  EXPECT_FALSE(grid.Find(0, Side::kKey, 2, 0).has_value());
  EXPECT_FALSE(grid.Find(0, Side::kKey, 0, 1).has_value());
  EXPECT_FALSE(grid.Find(0, Side::kKey, 0, 192).has_value());
  EXPECT_FALSE(grid.Find(0, Side::kKey, 0, 0xffffffc0).has_value());
}

TEST(TileGridSafety, DescriptorsAreBounded) {
  const auto code = [](const tensor::KvGeometry& geometry, uint32_t tokens) {
    return TileGrid::Create(Describe(geometry, tokens), 1).status().code();
  };
  EXPECT_EQ(code(Geometry(0, 1, 1), 1), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Geometry(1025, 1, 1), 1), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Geometry(1, 1025, 1), 1), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Geometry(1, 1, 1025), 1), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Geometry(1, 1, 1), 0), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Geometry(1024, 1024, 1), 1 << 24), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({1, 1, 1, tensor::DType::kF16}, 1), StatusCode::kUnimplemented);
}

TEST(PageTableSafety, RefusesPagesThatDoNotHoldTheKv) {
  const auto geometry = Geometry(2, 2, 8);
  const TileGrid grid = *TileGrid::Create(Describe(geometry, 100), 2);
  KvPages pages(geometry, 100, 32);
  EXPECT_TRUE(PageTable::Create(pages.layers(), grid).ok());
  EXPECT_FALSE(PageTable::Create(pages.layers().first(1), grid).ok());
  KvPages few(geometry, 64, 32);
  EXPECT_FALSE(PageTable::Create(few.layers(), grid).ok());
  KvPages thin(Geometry(2, 2, 4), 100, 32);
  EXPECT_FALSE(PageTable::Create(thin.layers(), grid).ok());
  uint16_t* const null_pages[] = {nullptr, nullptr, nullptr, nullptr};
  const tensor::LayerPages layer{null_pages, tensor::PageFormat::HeadMajor(geometry, 32)};
  const tensor::LayerPages layers[] = {layer, layer};
  EXPECT_FALSE(PageTable::Create(layers, grid).ok());
}

TEST(HashTokensUnit, IsSha256OfLittleEndianIds) {
  // SHA-256 of the bytes 01 00 00 00 ff ff ff ff (computed with an independent tool).
  const int32_t tokens[] = {1, -1};
  const Digest digest = HashTokens(tokens);
  std::string hex;
  for (const std::byte byte : digest) hex += fmt::format("{:02x}", static_cast<unsigned>(byte));
  EXPECT_EQ(hex, "b15348c8f462384c01e83b6d499c6faf3f96808f5aa07c6bab4b65b36b4445d4");
}

}  // namespace
}  // namespace kvplane::transfer
