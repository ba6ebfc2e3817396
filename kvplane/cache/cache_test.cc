#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/cache/block_pool.h"
#include "kvplane/cache/page_table.h"

namespace kvplane::cache {
namespace {

using base::BlockId;

TEST(BlockPoolUnit, AllocatesAllOrNothing) {
  BlockPool pool(5);
  std::vector<BlockId> blocks;
  ASSERT_TRUE(pool.Allocate(3, blocks));
  EXPECT_EQ(blocks, (std::vector<BlockId>{{0}, {1}, {2}}));
  EXPECT_FALSE(pool.Allocate(3, blocks));
  EXPECT_EQ(blocks.size(), 3u);
  EXPECT_EQ(pool.used(), 3u);
  ASSERT_TRUE(pool.Allocate(2, blocks));
  EXPECT_EQ(pool.free(), 0u);
  EXPECT_FALSE(pool.Allocate(1, blocks));
  EXPECT_TRUE(pool.Allocate(0, blocks));
  pool.Release(blocks);
  EXPECT_EQ(pool.free(), 5u);
  EXPECT_EQ(pool.counters().allocated, 5u);
  EXPECT_EQ(pool.counters().freed, 5u);
  EXPECT_EQ(pool.counters().refused, 2u);
  EXPECT_EQ(pool.counters().used_at_most, 5u);
}

TEST(BlockPoolUnit, SharedBlockLivesUntilItsLastOwner) {
  BlockPool pool(1);
  std::vector<BlockId> blocks;
  ASSERT_TRUE(pool.Allocate(1, blocks));
  pool.Share(blocks[0]);
  EXPECT_EQ(pool.owners(blocks[0]), 2u);
  pool.Release(blocks[0]);
  EXPECT_EQ(pool.used(), 1u);
  pool.Release(blocks[0]);
  EXPECT_EQ(pool.used(), 0u);
}

// What was never needed at once stays untouched, however many blocks come and go.
TEST(BlockPoolUnit, TheLowestFreeBlockComesFirst) {
  BlockPool pool(1000);
  std::vector<BlockId> first, second;
  ASSERT_TRUE(pool.Allocate(100, first));
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(pool.Allocate(70, second));
    for (const BlockId block : second) EXPECT_LT(block.value, 170u);
    pool.Release(i % 2 == 0 ? second : first);
    if (i % 2 == 0) {
      second.clear();
    } else {
      first = std::exchange(second, {});
      ASSERT_TRUE(pool.Allocate(30, first));
    }
  }
  EXPECT_EQ(pool.counters().used_at_most, 170u);
}

TEST(BlockPoolUnit, EmptyPoolRefuses) {
  BlockPool pool(0);
  std::vector<BlockId> blocks;
  EXPECT_FALSE(pool.Allocate(1, blocks));
}

TEST(BlockPoolSafety, DoubleFreeAndStrangersDie) {
  BlockPool pool(2);
  std::vector<BlockId> blocks;
  ASSERT_TRUE(pool.Allocate(1, blocks));
  pool.Release(blocks[0]);
  EXPECT_DEATH(pool.Release(blocks[0]), "owners > 0");
  EXPECT_DEATH(pool.Share(blocks[0]), "owners > 0");
  EXPECT_DEATH(pool.Release(BlockId{2}), "block.value < total_");
}

TEST(BlockPoolProperty, RandomStormsHandOutEachBlockOnce) {
  base::Rng rng(7);
  BlockPool pool(200);
  std::vector<BlockId> held;
  for (int i = 0; i < 20000; ++i) {
    if (rng.Below(2) == 0) {
      const size_t before = held.size();
      const uint64_t count = rng.Below(20);
      EXPECT_EQ(pool.Allocate(count, held), before + count <= 200);
    } else if (!held.empty()) {
      const size_t at = rng.Below(held.size());
      pool.Release(held[at]);
      held[at] = held.back();
      held.pop_back();
    }
    ASSERT_EQ(pool.used(), held.size());
  }
  std::sort(held.begin(), held.end());
  EXPECT_EQ(std::adjacent_find(held.begin(), held.end()), held.end());
  pool.Release(held);
  EXPECT_EQ(pool.used(), 0u);
  EXPECT_EQ(pool.counters().allocated, pool.counters().freed);
}

TEST(PageTableUnit, GrowsEveryLayerToATokenCount) {
  BlockPool pool(12);
  PageTable table(pool, 3, 16);
  EXPECT_TRUE(table.Grow(0));
  EXPECT_EQ(table.total_blocks(), 0u);
  EXPECT_TRUE(table.Grow(17));
  EXPECT_EQ(table.blocks(2).size(), 2u);
  EXPECT_EQ(pool.used(), 6u);
  EXPECT_TRUE(table.Grow(5));  // never shrinks
  EXPECT_EQ(pool.used(), 6u);
  EXPECT_FALSE(table.Grow(16 * 4 + 1));  // 15 blocks
  EXPECT_EQ(pool.used(), 6u);
  EXPECT_TRUE(table.Grow(16 * 4));
  EXPECT_EQ(pool.free(), 0u);
}

TEST(PageTableUnit, LayersGrowAndLeaveAlone) {
  BlockPool pool(4);
  PageTable table(pool, 2, 8);
  EXPECT_TRUE(table.GrowLayer(1, 24));
  EXPECT_EQ(table.blocks(0).size(), 0u);
  EXPECT_EQ(table.blocks(1).size(), 3u);
  EXPECT_FALSE(table.GrowLayer(0, 16));
  EXPECT_EQ(table.blocks(0).size(), 0u);
  table.ReleaseLayer(1);
  EXPECT_EQ(pool.used(), 0u);
  EXPECT_TRUE(table.Grow(16));
}

TEST(PageTableUnit, SharesWholeBlocksAndReturnsThemOnDestruction) {
  BlockPool pool(8);
  auto first = std::make_unique<PageTable>(pool, 2, 8);
  ASSERT_TRUE(first->Grow(20));
  {
    PageTable second(pool, 2, 8);
    second.Share(*first, 16);
    EXPECT_EQ(second.blocks(1)[1], first->blocks(1)[1]);
    ASSERT_TRUE(second.Grow(24));
    EXPECT_NE(second.blocks(1)[2], first->blocks(1)[2]);
    EXPECT_EQ(pool.used(), 8u);
    first.reset();
    EXPECT_EQ(pool.used(), 6u);
    PageTable moved = std::move(second);
    EXPECT_EQ(pool.used(), 6u);
  }
  EXPECT_EQ(pool.used(), 0u);
}

TEST(PageTableProperty, StormsOfGrowShareFreeLeakNothing) {
  base::Rng rng(11);
  BlockPool pool(300);
  std::vector<PageTable> tables;
  for (int i = 0; i < 5000; ++i) {
    const uint64_t action = rng.Below(5);
    if (tables.empty() || action == 0) {
      tables.emplace_back(pool, 4, 16);
    }
    const size_t at = rng.Below(tables.size());
    if (action == 1) {
      const uint32_t used = pool.used();
      if (!tables[at].Grow(static_cast<uint32_t>(rng.Below(400)))) {
        EXPECT_EQ(pool.used(), used);
      }
    } else if (action == 2) {
      PageTable copy(pool, 4, 16);
      size_t whole = 1000;
      for (uint32_t layer = 0; layer < 4; ++layer) {
        whole = std::min(whole, tables[at].blocks(layer).size());
      }
      copy.Share(tables[at], static_cast<uint32_t>(rng.Below(whole + 1) * 16));
      tables.push_back(std::move(copy));
    } else if (action == 3) {
      tables[at].ReleaseLayer(static_cast<uint32_t>(rng.Below(4)));
    } else if (action == 4) {
      std::swap(tables[at], tables.back());
      tables.pop_back();
    }
    std::set<BlockId> distinct;
    for (const PageTable& table : tables) {
      for (uint32_t layer = 0; layer < 4; ++layer) {
        distinct.insert(table.blocks(layer).begin(), table.blocks(layer).end());
      }
    }
    ASSERT_EQ(pool.used(), distinct.size());
  }
  tables.clear();
  EXPECT_EQ(pool.used(), 0u);
}

}  // namespace
}  // namespace kvplane::cache
