#include "kvplane/store/redis/redis_slots.h"

#include <gtest/gtest.h>

#include "kvplane/store/redis/testing/memory_stream.h"

namespace kvplane::store {
namespace {

const RedisAddress kAsked = {"10.0.0.9", 7000};

base::Result<SlotMap> ParseSlots(std::string_view bytes) {
  MemoryStream stream(bytes);
  RespReader reader(stream);
  const auto reply = reader.Next(kClusterSlotsLimits, base::kNoDeadline);
  EXPECT_TRUE(reply.ok()) << reply.status().ToString();
  if (!reply.ok()) return reply.status();
  return ParseClusterSlots(*reply, kAsked);
}

TEST(Crc16Unit, CheckValueOfXmodem) {
  EXPECT_EQ(Crc16("123456789"), 0x31c3);
  EXPECT_EQ(Crc16(""), 0);
}

// Values that `CLUSTER KEYSLOT` gives.
TEST(RedisSlotUnit, KnownKeysAndHashTags) {
  EXPECT_EQ(RedisSlot("foo"), 12182);
  EXPECT_EQ(RedisSlot("bar"), 5061);
  EXPECT_EQ(RedisSlot("hello"), 866);
  EXPECT_EQ(RedisSlot("{user1000}.following"), RedisSlot("user1000"));
  EXPECT_EQ(RedisSlot("foo{}{bar}"), Crc16("foo{}{bar}") % 16384);
  EXPECT_EQ(RedisSlot("foo{{bar}}zap"), RedisSlot("{bar"));
  EXPECT_EQ(RedisSlot("foo{bar}{zap}"), RedisSlot("bar"));
  EXPECT_EQ(RedisSlot("foo{bar"), Crc16("foo{bar") % 16384);
}

TEST(SlotMapUnit, ReadsClusterSlots) {
  // Two ranges: the first master with a replica and metadata, the second without a name of its own.
  const auto map = ParseSlots(
      "*2\r\n"
      "*4\r\n:0\r\n:8191\r\n"
      "*4\r\n$9\r\n127.0.0.1\r\n:7001\r\n$2\r\nid\r\n*0\r\n"
      "*4\r\n$9\r\n127.0.0.1\r\n:7004\r\n$2\r\nid\r\n*0\r\n"
      "*3\r\n:8192\r\n:16383\r\n"
      "*4\r\n$-1\r\n:7002\r\n$2\r\nid\r\n*2\r\n$2\r\nip\r\n$7\r\n1.2.3.4\r\n");
  ASSERT_TRUE(map.ok()) << map.status().ToString();
  EXPECT_TRUE(map->complete());
  EXPECT_EQ(map->nodes().size(), 2u);
  EXPECT_EQ(*map->Find(0), (RedisAddress{"127.0.0.1", 7001}));
  EXPECT_EQ(*map->Find(8191), (RedisAddress{"127.0.0.1", 7001}));
  EXPECT_EQ(*map->Find(8192), (RedisAddress{"10.0.0.9", 7002}));
  EXPECT_EQ(*map->Find(16383), (RedisAddress{"10.0.0.9", 7002}));
}

TEST(SlotMapUnit, SlotsWithoutOwner) {
  const auto map = ParseSlots("*1\r\n*3\r\n:5\r\n:6\r\n*2\r\n$1\r\na\r\n:1\r\n");
  ASSERT_TRUE(map.ok());
  EXPECT_FALSE(map->complete());
  EXPECT_EQ(map->Find(4), nullptr);
  EXPECT_NE(map->Find(5), nullptr);
  EXPECT_TRUE(SlotMap::Single(kAsked).complete());
}

TEST(SlotMapSafety, ImpossibleMapsAreCorrupt) {
  for (const std::string_view bytes :
       {"+OK\r\n", "*1\r\n:1\r\n", "*1\r\n*2\r\n:0\r\n:1\r\n",
        "*1\r\n*3\r\n:6\r\n:5\r\n*2\r\n$1\r\na\r\n:1\r\n",
        "*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n$1\r\na\r\n:1\r\n",
        "*1\r\n*3\r\n:-1\r\n:5\r\n*2\r\n$1\r\na\r\n:1\r\n",
        "*1\r\n*3\r\n:0\r\n:5\r\n*2\r\n$1\r\na\r\n:65536\r\n", "*1\r\n*3\r\n:0\r\n:5\r\n*1\r\n$1\r\na\r\n",
        "*1\r\n*3\r\n:0\r\n:5\r\n:1\r\n", "*1\r\n*3\r\n$1\r\n0\r\n:5\r\n*2\r\n$1\r\na\r\n:1\r\n"}) {
    EXPECT_EQ(ParseSlots(bytes).status().code(), base::StatusCode::kCorrupt) << bytes;
  }
}

TEST(SlotMapSafety, TheNumberOfNodesIsBounded) {
  SlotMap map;
  for (uint16_t i = 0; i < kMaxRedisNodes; ++i)
    ASSERT_TRUE(map.Assign(i, i, {"h", static_cast<uint16_t>(i + 1)}));
  EXPECT_FALSE(map.Assign(0, 0, {"h", 60'000}));
  EXPECT_TRUE(map.Assign(0, 0, {"h", 1}));
}

TEST(RedirectUnit, MovedAndAsk) {
  const auto moved = ParseRedirect("MOVED 3999 127.0.0.1:6381", kAsked);
  ASSERT_TRUE(moved.has_value());
  EXPECT_FALSE(moved->ask);
  EXPECT_EQ(moved->slot, 3999);
  EXPECT_EQ(moved->to, (RedisAddress{"127.0.0.1", 6381}));
  const auto ask = ParseRedirect("ASK 16383 ::1:6381", kAsked);
  ASSERT_TRUE(ask.has_value());
  EXPECT_TRUE(ask->ask);
  EXPECT_EQ(ask->to, (RedisAddress{"::1", 6381}));
  EXPECT_EQ(ParseRedirect("MOVED 1 :6381", kAsked)->to, (RedisAddress{"10.0.0.9", 6381}));
  for (const std::string_view other :
       {"ERR x", "MOVED", "MOVED 1", "MOVED 1 a", "MOVED 16384 a:1", "MOVED -1 a:1", "MOVED 1 a:0",
        "MOVED 1 a:65536", "MOVED a:1 b", "ASKING 1 a:1", "MOVED  1 a:1"}) {
    EXPECT_FALSE(ParseRedirect(other, kAsked).has_value()) << other;
  }
}

TEST(RedisSlotsUnit, WhatANodeSaysOfItself) {
  const std::string others =
      "07c3 10.0.0.2:6379@16379,host master - 0 1426238316232 2 connected 5461-10922\n";
  EXPECT_EQ(OwnSlots(others + "e7d1 10.0.0.1:6379@16379 myself,master - 0 0 1 connected 0-5460 6000\n"),
            "1 connected 0-5460 6000");
  const std::string moving =
      "e7d1 :6379@16379 myself,master - 0 0 1 connected 0-5460 [93->-07c3] [77-<-07c3]";
  EXPECT_EQ(OwnSlots(moving), "1 connected 0-5460 [93->-07c3] [77-<-07c3]");
  EXPECT_TRUE(SlotsAreMoving("1 connected 0-5460 [93->-07c3]"));
  EXPECT_TRUE(SlotsAreMoving("1 connected [77-<-07c3]"));
  EXPECT_FALSE(SlotsAreMoving("1 connected 0-5460 6000"));
  EXPECT_EQ(OwnSlots("e7d1 :6379@16379 myself,master - 0 0 1 connected\n"), "1 connected");
  EXPECT_EQ(OwnSlots(others), std::nullopt);
  EXPECT_EQ(OwnSlots("e7d1 :6379 myself,master -"), std::nullopt);
  EXPECT_EQ(OwnSlots(""), std::nullopt);
}

}  // namespace
}  // namespace kvplane::store
