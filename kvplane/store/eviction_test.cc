#include <gtest/gtest.h>

#include <deque>

#include "kvplane/base/rng.h"
#include "kvplane/store/lru.h"
#include "kvplane/store/s3_fifo.h"

namespace kvplane::store {
namespace {

using IntNode = EvictionNode<int>;
constexpr base::TimePoint kNow = base::TimePoint(std::chrono::seconds(1));

std::deque<IntNode> Nodes(int count) {
  std::deque<IntNode> nodes(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    nodes[static_cast<size_t>(i)].key = i;
    nodes[static_cast<size_t>(i)].weight = 1;
  }
  return nodes;
}

TEST(LruUnit, EvictsInOrderOfLastUse) {
  auto nodes = Nodes(4);
  Lru<int> lru;
  for (auto& node : nodes) lru.Insert(node);
  lru.Use(nodes[0]);
  lru.Remove(nodes[2]);
  nodes[1].pinned_until = kNow + std::chrono::seconds(1);
  EXPECT_EQ(lru.Evict(kNow), &nodes[3]);
  EXPECT_EQ(lru.Evict(kNow), &nodes[0]);
  EXPECT_EQ(lru.Evict(kNow), nullptr) << "only the pinned one is left";
  EXPECT_EQ(lru.Evict(kNow + std::chrono::seconds(1)), &nodes[1]);
  EXPECT_EQ(lru.Evict(kNow), nullptr);
}

// The paper's algorithm 1 by hand: capacity 10, small queue 1.
TEST(S3FifoUnit, FollowsThePaper) {
  auto nodes = Nodes(6);
  S3Fifo<int> policy(10, kPaperS3FifoShape);
  for (int i = 0; i < 4; ++i) policy.Insert(nodes[static_cast<size_t>(i)]);
  policy.Use(nodes[0]);
  policy.Use(nodes[0]);  // used twice: goes on to the main queue
  policy.Use(nodes[1]);  // used once: leaves, remembered
  EXPECT_EQ(policy.Evict(kNow), &nodes[1]);
  EXPECT_EQ(policy.small_weight(), 2u);
  EXPECT_EQ(policy.main_weight(), 1u);
  EXPECT_EQ(policy.ghost_weight(), 1u);
  policy.Insert(nodes[1]);  // its ghost is there: main queue at once
  EXPECT_EQ(policy.small_weight(), 2u);
  EXPECT_EQ(policy.main_weight(), 2u);
  EXPECT_EQ(policy.ghost_weight(), 0u);
  EXPECT_EQ(policy.Evict(kNow), &nodes[2]);
  EXPECT_EQ(policy.Evict(kNow), &nodes[3]);
  policy.Use(nodes[0]);  // the main queue's oldest, used: another round
  EXPECT_EQ(policy.Evict(kNow), &nodes[1]);
  EXPECT_EQ(policy.Evict(kNow), &nodes[0]);
  EXPECT_EQ(policy.Evict(kNow), nullptr);
}

TEST(S3FifoUnit, PinnedEntriesStayAndAnAllPinnedQueueGivesUp) {
  auto nodes = Nodes(3);
  S3Fifo<int> policy(3);
  for (auto& node : nodes) {
    node.pinned_until = kNow + std::chrono::seconds(1);
    policy.Insert(node);
    policy.Use(node);
  }
  EXPECT_EQ(policy.Evict(kNow), nullptr);
  EXPECT_NE(policy.Evict(kNow + std::chrono::seconds(1)), nullptr);
}

// What left the small queue and came back widens it, what left the main queue and came back narrows it.
TEST(S3FifoUnit, TheSmallQueueFollowsTheGhosts) {
  auto nodes = Nodes(4);
  S3Fifo<int> policy(10);
  const double before = policy.small_target();
  EXPECT_EQ(before, 5);
  policy.Insert(nodes[0]);
  EXPECT_EQ(policy.Evict(kNow), &nodes[0]);
  policy.Insert(nodes[0]);  // comes back from the small queue's ghosts, into the main queue
  EXPECT_EQ(policy.main_weight(), 1u);
  EXPECT_EQ(policy.small_target(), before + 1);
  EXPECT_EQ(policy.Evict(kNow), &nodes[0]);
  policy.Insert(nodes[0]);  // and from the main queue's
  EXPECT_EQ(policy.main_weight(), 1u);
  EXPECT_EQ(policy.small_target(), before);
}

TEST(S3FifoUnit, AUseRenews) {
  auto nodes = Nodes(3);
  S3Fifo<int> policy(3);
  for (auto& node : nodes) policy.Insert(node);
  policy.Use(nodes[0]);
  EXPECT_EQ(policy.Evict(kNow), &nodes[1]) << "0 went to the front";
  EXPECT_EQ(policy.Evict(kNow), &nodes[2]);
  EXPECT_EQ(policy.Evict(kNow), &nodes[0]);
}

// Weights of all queues are those of the nodes linked in them, whatever happens; ghosts stay in their bound.
TEST(S3FifoProperty, WeightsBalance) {
  constexpr uint64_t kCapacity = 500;
  for (const S3FifoShape& shape : {S3FifoShape{}, kPaperS3FifoShape}) {
    base::Rng rng(3);
    auto nodes = Nodes(200);
    S3Fifo<int> policy(kCapacity, shape);
    uint64_t linked = 0;
    for (int step = 0; step < 100'000; ++step) {
      IntNode& node = nodes[rng.Below(nodes.size())];
      if (node.queue != 0) {
        if (rng.Below(10) == 0) {
          policy.Remove(node);
          linked -= node.weight;
        } else {
          policy.Use(node);
        }
        continue;
      }
      node.weight = 1 + rng.Below(20);
      while (linked + node.weight > kCapacity) {
        const IntNode* const victim = policy.Evict(kNow);
        ASSERT_NE(victim, nullptr);
        ASSERT_EQ(victim->queue, 0);
        linked -= victim->weight;
      }
      policy.Insert(node);
      linked += node.weight;
      ASSERT_EQ(policy.small_weight() + policy.main_weight(), linked);
      ASSERT_LE(static_cast<double>(policy.ghost_weight()), kCapacity * shape.ghost_share);
      ASSERT_GE(policy.small_target(), kCapacity * 0.01);
      ASSERT_LE(policy.small_target(), kCapacity * 0.95);
    }
  }
}

}  // namespace
}  // namespace kvplane::store
