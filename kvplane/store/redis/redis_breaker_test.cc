// A stack over a real Redis that is killed and started again: what is left out, what is served meanwhile, and
// the way back to health.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <thread>
#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/base/endian.h"
#include "kvplane/base/rng.h"
#include "kvplane/store/redis/redis_store.h"
#include "kvplane/store/redis/testing/redis_processes.h"
#include "kvplane/store/tiered_store.h"

namespace kvplane::store {
namespace {

constexpr size_t kBytes = 20'000;

base::TimePoint Soon() { return base::Clock::System().Now() + std::chrono::seconds(60); }

StoreKey Key(uint64_t number) {
  StoreKey key{.tenant = 5};
  base::StoreLe(key.chain.data(), number + 1);
  return key;
}

std::vector<std::byte> Content(uint64_t number, uint16_t quality) {
  std::vector<std::byte> out(kBytes + quality);
  base::Rng rng(number * 1001 + quality);
  for (std::byte& byte : out) byte = static_cast<std::byte>(rng.Next());
  return out;
}

base::Status PutInto(Store& store, uint64_t number, uint16_t quality) {
  return store.Put(Key(number), {.prefix_bytes = 0, .quality = quality, .ttl = {}},
                   Slice::Own(Content(number, quality)), {}, Soon());
}

// Memory, a real Redis, and a third tier in memory behind it.
class RedisBreakerTest : public ::testing::Test {
 protected:
  static constexpr size_t kRedis = 1;                                            // in tier_stats()
  static constexpr base::Duration kNodePause = std::chrono::milliseconds(1100);  // 1 s at most

  void SetUp() override {
    if (!RedisServerInstalled()) GTEST_SKIP() << "redis-server is not installed (package redis-server)";
    auto server = RedisProcess::Start({}, false);
    ASSERT_TRUE(server.ok()) << server.status().ToString();
    server_ = *std::move(server);
    RedisOptions redis;
    redis.seeds = {server_->address()};
    auto transport = CreateRedisTransport(redis);
    ASSERT_TRUE(transport.ok());
    transport_ = *std::move(transport);
    direct_ = Create(redis);
    TieredOptions options;
    options.dram = {.capacity_bytes = 4 << 20, .policy = PolicyKind::kLru, .clock = &clock_};
    auto third = DramStore::Create({.capacity_bytes = 64 << 20, .clock = &clock_});
    ASSERT_TRUE(third.ok());
    third_ = third->get();
    options.tiers.push_back(Tier(Create(redis)));
    options.tiers.push_back(Tier(*std::move(third)));
    auto created = TieredStore::Create(std::move(options));
    ASSERT_TRUE(created.ok()) << created.status().ToString();
    store_ = *std::move(created);
  }

  std::unique_ptr<Store> Create(const RedisOptions& options) {
    auto created = CreateRedisStore(options, *transport_);
    KVPLANE_CHECK(created.ok());
    return *std::move(created);
  }
  static SlowTier Tier(std::unique_ptr<Store> store) {
    SlowTier tier;
    tier.store = std::move(store);
    tier.lookup_budget = tier.read_budget = std::chrono::seconds(30);  // a busy machine is no failure
    return tier;
  }
  std::vector<EntryInfo> Lookup(uint64_t number, uint16_t min_quality) {
    const StoreKey key = Key(number);
    const auto found = store_->Lookup(std::span(&key, 1), min_quality, Soon());
    EXPECT_TRUE(found.ok()) << found.status().ToString();
    return found.ok() ? *found : std::vector<EntryInfo>{};
  }
  bool Reads(uint64_t number, uint16_t quality) {
    const ReadRequest request{.key = Key(number)};
    const auto read = store_->Read(std::span(&request, 1), Soon());
    return read[0].ok() && std::ranges::equal(read[0]->bytes(), Content(number, quality));
  }
  TierStats Redis() const { return store_->tier_stats()[kRedis]; }
  // Look-ups of what is nowhere, until Redis is left out.
  void BreakRedis() {
    server_->Kill();
    for (uint64_t number = 900; !Redis().breaker_open; ++number) EXPECT_TRUE(Lookup(number, 0).empty());
  }
  // Lets the back-off pass and tries, until Redis is used again. The client leaves a node that refused alone
  // for a while of real time: every try in that while would take half a minute of the stack's.
  void HealRedis() {
    ASSERT_TRUE(server_->Restart().ok());
    std::this_thread::sleep_for(kNodePause);
    const base::TimePoint limit = Soon();
    while (Redis().breaker_open && base::Clock::System().Now() < limit) {
      clock_.Advance(std::chrono::seconds(30));
      (void)Lookup(999, 0);
    }
    ASSERT_FALSE(Redis().breaker_open);
  }

  base::ManualClock clock_;
  std::unique_ptr<RedisProcess> server_;
  std::shared_ptr<transport::Transport> transport_;
  std::unique_ptr<Store> direct_;  // to Redis, past the stack
  DramStore* third_ = nullptr;
  std::unique_ptr<TieredStore> store_;
};

TEST_F(RedisBreakerTest, OneCallAtATimeTriesWhetherItIsBackSafety) {
  BreakRedis();
  const TierStats broken = Redis();
  EXPECT_EQ(broken.breaker_opened, 1u);
  for (uint64_t number = 0; number < 20; ++number) EXPECT_TRUE(Lookup(number, 0).empty());
  EXPECT_EQ(Redis().errors, broken.errors) << "nobody waits for it";
  EXPECT_EQ(Redis().left_out, broken.left_out + 20);
  // Half open: the one trial fails while the server is away, and the wait doubles.
  clock_.Advance(std::chrono::milliseconds(1001));
  for (uint64_t number = 0; number < 20; ++number) EXPECT_TRUE(Lookup(number, 0).empty());
  EXPECT_EQ(Redis().errors, broken.errors + 1);
  EXPECT_TRUE(Redis().breaker_open);
  clock_.Advance(std::chrono::milliseconds(1001));
  EXPECT_TRUE(Lookup(0, 0).empty());
  EXPECT_EQ(Redis().errors, broken.errors + 1) << "two seconds now";

  HealRedis();
  EXPECT_EQ(Redis().breaker_opened, 1u);
  ASSERT_TRUE(PutInto(*store_, 1, 500).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  const StoreKey key = Key(1);
  const auto there = direct_->Lookup(std::span(&key, 1), 500, Soon());
  ASSERT_TRUE(there.ok()) << there.status().ToString();
  EXPECT_EQ(there->size(), 1u) << "writes go to it again";
}

// The tier behind has the entry worse than the one that is away.
TEST_F(RedisBreakerTest, AWorseCopyBehindServesOnlyWhoTakesItUnit) {
  BreakRedis();
  ASSERT_TRUE(PutInto(*third_, 1, 500).ok());
  EXPECT_TRUE(Lookup(1, 900).empty()) << "a miss, never a worse copy";
  const auto found = Lookup(1, 0);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].quality, 500);
  EXPECT_TRUE(Reads(1, 500));  // and so it goes up to memory
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  HealRedis();
  ASSERT_TRUE(PutInto(*direct_, 1, 950).ok());
  const auto better = Lookup(1, 900);
  ASSERT_EQ(better.size(), 1u);
  EXPECT_EQ(better[0].quality, 950);
  EXPECT_TRUE(Reads(1, 950)) << "not the copy in memory";
}

// The tier that is away has it worse than the one behind, and comes back between look-up and read.
TEST_F(RedisBreakerTest, AWorseCopyThatComesBackIsNotReadSafety) {
  ASSERT_TRUE(PutInto(*third_, 1, 950).ok());
  ASSERT_TRUE(PutInto(*third_, 2, 950).ok());
  BreakRedis();
  ASSERT_EQ(Lookup(1, 900).size(), 1u);
  HealRedis();
  ASSERT_TRUE(PutInto(*direct_, 1, 500).ok());
  ASSERT_TRUE(PutInto(*direct_, 2, 500).ok());
  EXPECT_TRUE(Reads(1, 950)) << "what the look-up promised";
  // From the next look-up on Redis is asked again, and loses its worse copy.
  ASSERT_EQ(Lookup(2, 900).size(), 1u);
  EXPECT_TRUE(Reads(2, 950));
  const StoreKey key = Key(2);
  const auto left = direct_->Lookup(std::span(&key, 1), 0, Soon());
  ASSERT_TRUE(left.ok());
  EXPECT_TRUE(left->empty());
}

TEST_F(RedisBreakerTest, TouchesReachRedisUnit) {
  ASSERT_TRUE(PutInto(*store_, 1, 500).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  const std::string name = RedisKey("kvplane", Key(1));
  // Seconds since the last use, as Redis tells; a touch sets it back.
  const auto idle = [&] {
    const auto reply = server_->Command({"OBJECT", "IDLETIME", name});
    return reply.ok() ? reply->integer : -1;
  };
  const base::TimePoint limit = Soon();
  while (idle() < 2 && base::Clock::System().Now() < limit) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  const int64_t before = idle();
  ASSERT_GE(before, 2);
  const std::vector<StoreKey> keys = {Key(1), Key(404)};
  ASSERT_TRUE(store_->Touch(keys, Soon()).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  EXPECT_LT(idle(), before);
}

}  // namespace
}  // namespace kvplane::store
