#include "kvplane/store/tiered_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <thread>
#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/base/endian.h"
#include "kvplane/base/rng.h"
#include "kvplane/store/testing/faulty_store.h"

namespace kvplane::store {
namespace {

using base::StatusCode;

constexpr uint64_t kObject = 1000;
constexpr uint64_t kCharge = kObject + kEntryOverheadBytes;

base::TimePoint Soon() { return base::Clock::System().Now() + std::chrono::seconds(60); }

std::unique_ptr<DramStore> Memory(uint64_t capacity, base::Clock& clock) {
  auto created = DramStore::Create({.capacity_bytes = capacity, .clock = &clock});
  KVPLANE_CHECK(created.ok());
  return *std::move(created);
}

StoreKey Key(uint64_t number, uint64_t tenant = 1) {
  StoreKey key{.tenant = tenant};
  base::StoreLe(key.chain.data(), number);
  return key;
}

std::vector<StoreKey> Keys(uint64_t first, uint64_t count) {
  std::vector<StoreKey> keys;
  for (uint64_t i = 0; i < count; ++i) keys.push_back(Key(first + i));
  return keys;
}

std::vector<std::byte> Content(uint64_t number, size_t bytes) {
  std::vector<std::byte> out(bytes);
  base::Rng rng(number);
  for (auto& b : out) b = static_cast<std::byte>(rng.Next());
  return out;
}

// Memory over one or two tiers that can be broken.
class TieredStoreTest : public ::testing::Test {
 protected:
  struct Shape {
    uint64_t memory = 100 * kCharge;
    size_t tiers = 1;
    base::Duration budget = std::chrono::seconds(30);  // tests that let it run out set a small one
    WriteBehindOptions writes{};
    uint64_t assembly = 1 << 20;
  };

  void Make(const Shape& shape) {
    TieredOptions options;
    options.dram = {.capacity_bytes = shape.memory, .policy = PolicyKind::kLru, .clock = &clock_};
    options.max_assembly_bytes = shape.assembly;
    for (size_t i = 0; i < shape.tiers; ++i) {
      inner_.push_back(Memory(1 << 30, clock_));
      auto faulty = std::make_unique<FaultyStore>(inner_.back());
      lower_.push_back(faulty.get());
      SlowTier tier;
      tier.store = std::move(faulty);
      tier.lookup_budget = tier.read_budget = shape.budget;
      tier.writes = shape.writes;
      options.tiers.push_back(std::move(tier));
    }
    auto created = TieredStore::Create(std::move(options));
    ASSERT_TRUE(created.ok()) << created.status().ToString();
    store_ = *std::move(created);
  }

  base::Status Put(uint64_t number, bool durable = false, uint16_t quality = 1, base::Duration ttl = {}) {
    return store_->Put(Key(number), {.prefix_bytes = 10, .quality = quality, .ttl = ttl},
                       Slice::Own(Content(number, kObject)), {.durable = durable}, Soon());
  }
  // Straight into a lower tier, as if from an earlier life.
  void PutBelow(size_t tier, uint64_t number, uint16_t quality = 1, base::Duration ttl = {}) {
    ASSERT_TRUE(inner_[tier]
                    ->Put(Key(number), {.prefix_bytes = 10, .quality = quality, .ttl = ttl},
                          Slice::Own(Content(number, kObject)), {}, Soon())
                    .ok());
  }
  base::Result<Slice> Read(uint64_t number, uint64_t offset = 0, uint64_t bytes = 0) {
    const ReadRequest request{.key = Key(number), .offset = offset, .bytes = bytes};
    return store_->Read(std::span(&request, 1), Soon())[0];
  }
  std::vector<EntryInfo> Lookup(std::span<const StoreKey> keys, uint16_t min_quality = 0) {
    auto found = store_->Lookup(keys, min_quality, Soon());
    EXPECT_TRUE(found.ok());
    return found.ok() ? *found : std::vector<EntryInfo>{};
  }
  bool InMemory(uint64_t number) {
    const auto keys = Keys(number, 1);
    const auto found = Lookup(keys);
    return found.size() == 1 && found[0].tier == TierKind::kDram;
  }
  static bool Holds(Store& store, uint64_t number) {
    const auto keys = Keys(number, 1);
    return store.Lookup(keys, 0, Soon())->size() == 1;
  }

  base::ManualClock clock_;
  std::vector<std::shared_ptr<DramStore>> inner_;
  std::vector<FaultyStore*> lower_;
  std::unique_ptr<TieredStore> store_;
};

TEST_F(TieredStoreTest, PutsAreWrittenBehindUnit) {
  Make({.tiers = 2});
  for (uint64_t i = 0; i < 10; ++i) ASSERT_TRUE(Put(i).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  for (uint64_t i = 0; i < 10; ++i) {
    for (const auto& inner : inner_) EXPECT_TRUE(Holds(*inner, i));
  }
  const auto stats = store_->tier_stats();
  ASSERT_EQ(stats.size(), 3u);
  EXPECT_EQ(stats[1].writes.written, 10u);
  EXPECT_EQ(stats[2].writes.written, 10u);
  EXPECT_EQ(stats[1].writes.queued_entries, 0u);
  EXPECT_EQ(stats[1].writes.queued_bytes, 0u);
}

TEST_F(TieredStoreTest, WhatATierHasIsNotSentAgainUnit) {
  Make({});
  PutBelow(0, 1);
  ASSERT_TRUE(Put(1).ok());
  ASSERT_TRUE(Put(2).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  EXPECT_EQ(lower_[0]->put_calls(), 1u);
  EXPECT_EQ(store_->tier_stats()[1].writes.already_there, 1u);
}

TEST_F(TieredStoreTest, ALookupJoinsTiersWithGapsUnit) {
  Make({.tiers = 2});
  // memory: 0, 3; first: 1, 4; second: 2, 5, 6.
  lower_[0]->Fail(base::ResourceExhausted("no writes from above"));
  lower_[1]->Fail(base::ResourceExhausted("no writes from above"));
  for (const uint64_t i : {0u, 3u}) ASSERT_TRUE(Put(i).ok());
  (void)store_->Flush(Soon());
  lower_[0]->Fail({});
  lower_[1]->Fail({});
  for (const uint64_t i : {1u, 4u}) PutBelow(0, i);
  for (const uint64_t i : {2u, 5u, 6u}) PutBelow(1, i);
  const auto keys = Keys(0, 9);
  EXPECT_EQ(Lookup(keys).size(), 7u);
  const auto stats = store_->tier_stats();
  EXPECT_EQ(stats[0].hits, 2u);
  EXPECT_EQ(stats[1].hits, 2u);
  EXPECT_EQ(stats[2].hits, 3u);
  EXPECT_EQ(store_->stats().hits, 7u);
  std::vector<ReadRequest> requests;
  for (const StoreKey& key : keys) requests.push_back({.key = key, .offset = 5, .bytes = 10});
  const auto reads = store_->Read(requests, Soon());
  for (uint64_t i = 0; i < 7; ++i) {
    ASSERT_TRUE(reads[i].ok()) << i << ": " << reads[i].status().ToString();
    const auto content = Content(i, kObject);
    EXPECT_TRUE(std::ranges::equal(reads[i]->bytes(), std::span(content).subspan(5, 10))) << i;
  }
  EXPECT_EQ(reads[7].status().code(), StatusCode::kNotFound);
}

TEST_F(TieredStoreTest, AWholeReadInOrderGoesUpToMemoryUnit) {
  Make({});
  for (uint64_t i = 0; i < 3; ++i) PutBelow(0, i);
  const auto keys = Keys(0, 3);
  ASSERT_EQ(Lookup(keys).size(), 3u);
  // 0: whole at once; 1: header again, then layer by layer; 2: with a part missing.
  ASSERT_TRUE(Read(0).ok());
  ASSERT_TRUE(Read(1, 0, 10).ok());
  ASSERT_TRUE(Read(1, 0, 10).ok());
  ASSERT_TRUE(Read(1, 10, 490).ok());
  ASSERT_TRUE(Read(1, 500, 0).ok());
  ASSERT_TRUE(Read(2, 0, 10).ok());
  ASSERT_TRUE(Read(2, 20, 0).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  EXPECT_TRUE(InMemory(0));
  EXPECT_TRUE(InMemory(1));
  EXPECT_FALSE(InMemory(2));
  EXPECT_EQ(store_->promoter_stats().handed_on, 2u);
  const auto promoted = Read(1);
  ASSERT_TRUE(promoted.ok());
  EXPECT_TRUE(std::ranges::equal(promoted->bytes(), Content(1, kObject)));
  EXPECT_EQ(Lookup(Keys(1, 1))[0].prefix_bytes, 10u);
}

TEST_F(TieredStoreTest, AssemblyIsBoundedUnit) {
  Make({.assembly = kObject + kObject / 2});
  PutBelow(0, 0);
  PutBelow(0, 1);
  ASSERT_EQ(Lookup(Keys(0, 2)).size(), 2u);
  ASSERT_TRUE(Read(0, 0, 900).ok());
  ASSERT_TRUE(Read(1, 0, 900).ok());  // no room for both: the older one is given up
  EXPECT_EQ(store_->promoter_stats().given_up, 1u);
  EXPECT_LE(store_->promoter_stats().held_bytes, kObject + kObject / 2);
  ASSERT_TRUE(Read(1, 900, 0).ok());
  ASSERT_TRUE(Read(0, 900, 0).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  EXPECT_FALSE(InMemory(0));
  EXPECT_TRUE(InMemory(1));
  EXPECT_EQ(store_->promoter_stats().held_bytes, 0u);
}

// A node that loads some layers and computes the others reads no object to its end.
TEST_F(TieredStoreTest, PartsWhoseRestNobodyReadsAreLetGoUnit) {
  Make({});
  PutBelow(0, 0);
  PutBelow(0, 1);
  ASSERT_EQ(Lookup(Keys(0, 2)).size(), 2u);
  ASSERT_TRUE(Read(0, 0, 900).ok());
  ASSERT_TRUE(Read(1, 0, 300).ok());
  EXPECT_EQ(store_->promoter_stats().held_bytes, 1200u);
  clock_.Advance(std::chrono::seconds(20));
  ASSERT_TRUE(Read(1, 300, 300).ok());
  clock_.Advance(std::chrono::seconds(20));  // 40 s without a part of 0, 20 s without one of 1
  const base::TimePoint limit = Soon();
  while (store_->promoter_stats().given_up == 0 && base::Clock::System().Now() < limit) {
    std::this_thread::yield();
  }
  EXPECT_EQ(store_->promoter_stats().given_up, 1u);
  EXPECT_EQ(store_->promoter_stats().held_bytes, 600u);
  ASSERT_TRUE(Read(1, 600, 0).ok());
  ASSERT_TRUE(Read(0).ok());  // once more, and whole
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  EXPECT_TRUE(InMemory(0));
  EXPECT_TRUE(InMemory(1));
  EXPECT_EQ(store_->promoter_stats().held_bytes, 0u);
}

TEST_F(TieredStoreTest, AssembliesTakeAQuarterOfMemoryOrOneObjectUnit) {
  Make({.memory = 2 * kCharge, .assembly = 0});
  for (uint64_t number = 0; number < 2; ++number) PutBelow(0, number);
  ASSERT_TRUE(inner_[0]->Put(Key(2), {}, Slice::Own(Content(2, 5 * kCharge)), {}, Soon()).ok());
  ASSERT_EQ(Lookup(Keys(0, 3)).size(), 3u);
  ASSERT_TRUE(Read(0, 0, 900).ok());  // beyond the quarter, alone
  EXPECT_EQ(store_->promoter_stats().held_bytes, 900u);
  ASSERT_TRUE(Read(1, 0, 900).ok());
  EXPECT_EQ(store_->promoter_stats().held_bytes, 900u) << "instead of the other";
  ASSERT_TRUE(Read(2, 0, 100).ok());
  EXPECT_EQ(store_->promoter_stats().held_bytes, 900u) << "nothing of what memory would not take";
  ASSERT_TRUE(Read(1, 900, 0).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  EXPECT_TRUE(InMemory(1));
}

// The write that waits has run out of time: it must not stand for the one that came after it.
TEST_F(TieredStoreTest, AnExpiredQueuedWriteGivesWayToALiveOneUnit) {
  Make({});
  lower_[0]->Close();
  ASSERT_TRUE(Put(0).ok());  // the one that the writer is at
  while (lower_[0]->calls() == 0) std::this_thread::yield();
  ASSERT_TRUE(Put(1, /*durable=*/false, 1, std::chrono::seconds(10)).ok());
  clock_.Advance(std::chrono::seconds(11));
  ASSERT_TRUE(Put(1).ok());
  EXPECT_EQ(store_->tier_stats()[1].writes.queued_entries, 2u);
  lower_[0]->Open();
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  EXPECT_TRUE(Holds(*inner_[0], 1));
}

TEST_F(TieredStoreTest, APromotedCopyDoesNotOutliveItsOriginalUnit) {
  Make({});
  PutBelow(0, 0, 1, std::chrono::seconds(10));
  ASSERT_EQ(Lookup(Keys(0, 1)).size(), 1u);
  clock_.Advance(std::chrono::seconds(4));
  ASSERT_TRUE(Read(0).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  ASSERT_TRUE(InMemory(0));
  clock_.Advance(std::chrono::seconds(6));
  EXPECT_FALSE(Read(0).ok());
}

TEST_F(TieredStoreTest, WhatWasUsedIsWrittenDownAgainUnit) {
  Make({.memory = 3 * kCharge});
  for (uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(Put(i).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  for (uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(inner_[0]->Erase(Key(i), Soon()).ok());  // aged out below
  ASSERT_EQ(Lookup(Keys(1, 1)).size(), 1u);
  for (uint64_t i = 10; i < 13; ++i) ASSERT_TRUE(Put(i).ok());  // memory loses 0, 1 and 2
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  EXPECT_FALSE(Holds(*inner_[0], 0));
  EXPECT_TRUE(Holds(*inner_[0], 1)) << "the one that was used";
  EXPECT_FALSE(Holds(*inner_[0], 2));
}

TEST_F(TieredStoreTest, AFullQueueDropsTheOldestAndNeverBlocksSafety) {
  Make({.writes = {.max_bytes = 4 * kObject, .max_entries = 100}});
  lower_[0]->Close();
  ASSERT_TRUE(Put(0).ok());
  ASSERT_EQ(store_->tier_stats()[1].writes.queued_entries, 1u);
  for (uint64_t i = 1; i < 10; ++i) ASSERT_TRUE(Put(i).ok());
  const auto stats = store_->tier_stats()[1].writes;
  EXPECT_EQ(stats.queued_entries, 4u);
  EXPECT_EQ(stats.queued_bytes, 4 * kObject);
  EXPECT_EQ(stats.dropped, 6u);
  lower_[0]->Open();
  const base::Status flushed = store_->Flush(Soon());
  EXPECT_EQ(flushed.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(flushed.message().find("6 writes were lost"), std::string::npos) << flushed.ToString();
  EXPECT_TRUE(store_->Flush(Soon()).ok()) << "told once";
  EXPECT_TRUE(Holds(*inner_[0], 9)) << "the newest are kept";
  EXPECT_EQ(store_->tier_stats()[1].writes.written, 4u);
}

TEST_F(TieredStoreTest, AFlushTellsOfWritesThatFailedSafety) {
  Make({});
  lower_[0]->Fail(base::ResourceExhausted("disk full"));
  ASSERT_TRUE(Put(0).ok());
  EXPECT_EQ(store_->Flush(Soon()).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(store_->tier_stats()[1].writes.failed, 1u);
}

TEST_F(TieredStoreTest, WhatNoQueueCanHoldPushesNothingOutSafety) {
  Make({.writes = {.max_bytes = 2 * kObject, .max_entries = 100}});
  lower_[0]->Close();
  for (uint64_t i = 0; i < 2; ++i) ASSERT_TRUE(Put(i).ok());
  ASSERT_TRUE(store_
                  ->Put(Key(2), {.prefix_bytes = 10, .quality = 1, .ttl = {}},
                        Slice::Own(Content(2, 3 * kObject)), {}, Soon())
                  .ok());
  EXPECT_EQ(store_->tier_stats()[1].writes.dropped, 1u);
  lower_[0]->Open();
  EXPECT_EQ(store_->Flush(Soon()).code(), StatusCode::kResourceExhausted);
  for (uint64_t i = 0; i < 2; ++i) EXPECT_TRUE(Holds(*inner_[0], i)) << i;
}

// The write's end says nothing about a tier that was never asked.
TEST(WriteBehindSafety, AnExpiredWriteDoesNotCloseTheBreaker) {
  base::ManualClock clock;
  TierBreakers breakers({.failures_to_open = 1});
  const std::shared_ptr<DramStore> inner = Memory(1 << 20, clock);
  FaultyStore tier(inner);
  const auto writes = WriteBehind::Create(tier, breakers, clock, {});
  breakers.reads.Failed(clock.Now());
  breakers.writes.Failed(clock.Now());
  writes->Enqueue({.key = Key(0),
                   .meta = {.prefix_bytes = 0, .quality = 1, .ttl = std::chrono::milliseconds(1)},
                   .object = Slice::Own(Content(0, kObject))});
  clock.Advance(std::chrono::seconds(60));
  ASSERT_TRUE(writes->Drain(Soon()).ok());
  EXPECT_TRUE(breakers.reads.open());
  EXPECT_TRUE(breakers.writes.open());
}

TEST_F(TieredStoreTest, DurablePutsWaitAndGoFirstUnit) {
  Make({.tiers = 2});
  ASSERT_TRUE(Put(0, true).ok());
  EXPECT_TRUE(Holds(*inner_[0], 0));
  EXPECT_TRUE(Holds(*inner_[1], 0));
  lower_[0]->Fail(base::Unavailable("disk pulled"));
  EXPECT_EQ(Put(1, true).code(), StatusCode::kUnavailable);
  EXPECT_TRUE(InMemory(1)) << "it is a cache all the same";
}

TEST_F(TieredStoreTest, ADurablePutEndsAtItsDeadlineSafety) {
  Make({});
  lower_[0]->Close();
  const base::TimePoint soon = base::Clock::System().Now() + std::chrono::milliseconds(20);
  EXPECT_EQ(store_->Put(Key(0), {}, Slice::Own(Content(0, kObject)), {.durable = true}, soon).code(),
            StatusCode::kDeadlineExceeded);
}

TEST_F(TieredStoreTest, ErasedDoesNotComeBackFromQueuesSafety) {
  Make({});
  lower_[0]->Close();
  ASSERT_TRUE(Put(0, false, 1).ok());
  for (uint64_t i = 1; i < 5; ++i) ASSERT_TRUE(Put(i).ok());
  // 0 is at the tier's door or about to be; the others are queued.
  std::thread opener([&] {
    while (store_->tier_stats()[1].writes.queued_entries > 1) std::this_thread::yield();
    lower_[0]->Open();
  });
  EXPECT_EQ(*store_->EraseTenant(1, Soon()), 5u);
  opener.join();
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  for (uint64_t i = 0; i < 5; ++i) {
    EXPECT_FALSE(Holds(*inner_[0], i)) << i;
    EXPECT_EQ(Read(i).status().code(), StatusCode::kNotFound);
  }
}

TEST_F(TieredStoreTest, AWriteInFlightIsErasedBehindItSafety) {
  Make({});
  PutBelow(0, 77);  // so that the look-up before the write has something to do
  lower_[0]->Close();
  std::thread durable([&] { (void)Put(0, true); });
  lower_[0]->AwaitBlockedPut();
  std::thread eraser([&] { EXPECT_TRUE(store_->Erase(Key(0), Soon()).ok()); });
  while (store_->stats().entries > 0) std::this_thread::yield();  // gone from memory, not from the tier
  lower_[0]->Open();
  durable.join();
  eraser.join();
  EXPECT_FALSE(Holds(*inner_[0], 0));
  EXPECT_FALSE(Read(0).ok());
}

TEST_F(TieredStoreTest, ErasureStopsPromotionSafety) {
  Make({});
  PutBelow(0, 0);
  ASSERT_EQ(Lookup(Keys(0, 1)).size(), 1u);
  ASSERT_TRUE(Read(0, 0, 500).ok());
  ASSERT_TRUE(store_->Erase(Key(0), Soon()).ok());
  PutBelow(0, 0);  // another writer of the tier below
  ASSERT_TRUE(Read(0, 500, 0).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  EXPECT_EQ(store_->promoter_stats().handed_on, 0u);
}

// Somebody reads the entry of the slowest tier when all the others have erased it already; memory has room
// for two, so that it would also be written down again.
TEST_F(TieredStoreTest, AReadDuringAnErasureBringsNothingBackSafety) {
  Make({.memory = 2 * kCharge, .tiers = 2});
  const std::vector<std::function<base::Status()>> erasures = {
      [&] { return store_->Erase(Key(0), Soon()); }, [&] { return store_->EraseTenant(1, Soon()).status(); },
      [&] {
        store_->Quarantine(Key(0));
        return base::Status::Ok();
      }};
  for (size_t i = 0; i < erasures.size(); ++i) {
    PutBelow(1, 0);
    lower_[1]->BeforeErasure([&] {
      EXPECT_EQ(Lookup(Keys(0, 1)).size(), 1u);
      EXPECT_TRUE(Read(0).ok());
      EXPECT_TRUE(store_->Flush(Soon()).ok());
      EXPECT_FALSE(InMemory(0)) << i;
      for (uint64_t other = 10; other < 12; ++other) {
        EXPECT_TRUE(store_->Put(Key(other, 2), {}, Slice::Own(Content(other, kObject)), {}, Soon()).ok());
      }
      EXPECT_TRUE(store_->Flush(Soon()).ok());
    });
    ASSERT_TRUE(erasures[i]().ok()) << i;
    ASSERT_TRUE(store_->Flush(Soon()).ok());
    EXPECT_EQ(Read(0).status().code(), StatusCode::kNotFound) << i;
    EXPECT_FALSE(Holds(*inner_[0], 0)) << i;
  }
}

// A reader that got the entry during the erasure and ends after it.
TEST_F(TieredStoreTest, AReadThatOutlivesAnErasureBringsNothingBackSafety) {
  Make({});
  PutBelow(0, 0);
  lower_[0]->BeforeErasure([&] {
    EXPECT_EQ(Lookup(Keys(0, 1)).size(), 1u);
    EXPECT_TRUE(Read(0, 0, 500).ok());
  });
  ASSERT_TRUE(store_->Erase(Key(0), Soon()).ok());
  PutBelow(0, 0);  // another writer of the tier below
  ASSERT_TRUE(Read(0, 500, 0).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  EXPECT_FALSE(InMemory(0));
}

TEST_F(TieredStoreTest, AnErasureLeavesOthersAloneUnit) {
  Make({});
  PutBelow(0, 0);
  PutBelow(0, 1);
  lower_[0]->BeforeErasure([&] {
    EXPECT_EQ(Lookup(Keys(1, 1)).size(), 1u);
    EXPECT_TRUE(Read(1).ok());
    EXPECT_TRUE(store_->Flush(Soon()).ok());
    EXPECT_TRUE(InMemory(1)) << "another entry goes up meanwhile";
    EXPECT_TRUE(Put(2).ok());
  });
  ASSERT_TRUE(store_->Erase(Key(0), Soon()).ok());
  EXPECT_TRUE(InMemory(1));
  EXPECT_TRUE(InMemory(2));
}

TEST_F(TieredStoreTest, ASlowTierCostsItsBudgetAndThenNothingSafety) {
  Make({.budget = std::chrono::milliseconds(5)});
  PutBelow(0, 0);
  ASSERT_TRUE(Put(5).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  lower_[0]->Close();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Lookup(Keys(0, 1)).empty());
  auto stats = store_->tier_stats()[1];
  EXPECT_EQ(stats.errors, 3u);
  EXPECT_TRUE(stats.breaker_open);
  EXPECT_EQ(stats.breaker_opened, 1u);
  const uint64_t calls = lower_[0]->calls();
  EXPECT_TRUE(Lookup(Keys(0, 1)).empty());
  EXPECT_EQ(Read(0).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(lower_[0]->calls(), calls) << "left out";
  EXPECT_EQ(store_->tier_stats()[1].left_out, 2u);
  EXPECT_TRUE(Read(5).ok()) << "memory serves on";
  lower_[0]->Open();
  clock_.Advance(std::chrono::seconds(2));
  EXPECT_EQ(Lookup(Keys(0, 1)).size(), 1u) << "the trial call went well";
  EXPECT_FALSE(store_->tier_stats()[1].breaker_open);
  EXPECT_EQ(store_->stats().errors, 3u);
}

// A disk that fails to write: puts wait, what it has is served.
TEST_F(TieredStoreTest, ATierThatTakesNoPutsIsStillReadSafety) {
  Make({});
  PutBelow(0, 100);
  lower_[0]->FailPuts(base::Unavailable("input/output error"));
  for (uint64_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(Put(i).ok());
    EXPECT_EQ(store_->Flush(Soon()).code(), StatusCode::kUnavailable);
  }
  ASSERT_TRUE(Put(3).ok());
  auto stats = store_->tier_stats()[1];
  EXPECT_TRUE(stats.writes_left_out);
  EXPECT_EQ(stats.writes.failed, 3u);
  EXPECT_FALSE(stats.breaker_open);
  EXPECT_EQ(Lookup(Keys(100, 1)).size(), 1u);
  EXPECT_TRUE(Read(100, 0, 10).ok());
  EXPECT_EQ(store_->tier_stats()[1].left_out, 0u);
  clock_.Advance(std::chrono::seconds(2));  // one trial, in vain
  EXPECT_EQ(store_->Flush(Soon()).code(), StatusCode::kUnavailable);
  EXPECT_EQ(lower_[0]->put_calls(), 4u);
  EXPECT_EQ(Lookup(Keys(100, 1)).size(), 1u);
  lower_[0]->FailPuts({});
  ASSERT_TRUE(Put(4).ok());
  clock_.Advance(std::chrono::seconds(30));
  EXPECT_TRUE(store_->Flush(Soon()).ok());
  EXPECT_FALSE(store_->tier_stats()[1].writes_left_out);
  EXPECT_TRUE(Holds(*inner_[0], 4));
}

// A durable put is not looked up before: its failures must leave readers alone as well.
TEST_F(TieredStoreTest, FailedDurablePutsLeaveReadsAloneSafety) {
  Make({});
  PutBelow(0, 100);
  lower_[0]->FailPuts(base::Unavailable("read-only file system"));
  for (uint64_t i = 0; i < 3; ++i) EXPECT_EQ(Put(i, true).code(), StatusCode::kUnavailable);
  EXPECT_TRUE(store_->tier_stats()[1].writes_left_out);
  EXPECT_EQ(Lookup(Keys(100, 1)).size(), 1u);
  EXPECT_FALSE(store_->tier_stats()[1].breaker_open);
}

// Writes behind find out first that a tier is gone, and that it is back: no reader pays for either.
TEST_F(TieredStoreTest, ATierThatIsGoneCostsReadersNothingSafety) {
  Make({});
  PutBelow(0, 100);
  lower_[0]->Fail(base::Unavailable("cable"));
  for (uint64_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(Put(i).ok());
    EXPECT_EQ(store_->Flush(Soon()).code(), StatusCode::kUnavailable);
  }
  EXPECT_TRUE(store_->tier_stats()[1].breaker_open);
  const uint64_t calls = lower_[0]->calls();
  EXPECT_TRUE(Lookup(Keys(100, 1)).empty());
  EXPECT_FALSE(Read(100).ok());
  EXPECT_EQ(lower_[0]->calls(), calls) << "nobody waits for it";
  ASSERT_TRUE(Put(3).ok());
  lower_[0]->Fail({});
  clock_.Advance(std::chrono::seconds(2));
  EXPECT_TRUE(store_->Flush(Soon()).ok());
  EXPECT_FALSE(store_->tier_stats()[1].breaker_open);
  EXPECT_EQ(Lookup(Keys(100, 1)).size(), 1u);
}

// As of a cluster that lost one of its nodes.
TEST_F(TieredStoreTest, ATierThatFailsForSomeKeysIsThereForTheRestSafety) {
  Make({});
  PutBelow(0, 0);
  PutBelow(0, 1);
  const std::vector<ReadRequest> both = {{.key = Key(0), .offset = 10, .bytes = 5},
                                         {.key = Key(1), .offset = 10, .bytes = 5}};
  lower_[0]->FailReadsOf(Key(1), base::Unavailable("its node is down"));
  for (int i = 0; i < 6; ++i) {
    const auto results = store_->Read(both, Soon());
    EXPECT_TRUE(results[0].ok()) << i;
    EXPECT_EQ(results[1].status().code(), StatusCode::kNotFound);
  }
  EXPECT_FALSE(store_->tier_stats()[1].breaker_open);
  EXPECT_EQ(store_->tier_stats()[1].errors, 6u);
  // Time spent in vain counts, whatever else was answered.
  lower_[0]->FailReadsOf(Key(1), base::DeadlineExceeded("its node hangs"));
  for (int i = 0; i < 3; ++i) {
    (void)store_->Read(both, base::kNoDeadline);
  }
  EXPECT_TRUE(store_->tier_stats()[1].breaker_open);
}

TEST_F(TieredStoreTest, AFailingReadIsAMissWithAReasonSafety) {
  Make({.tiers = 2});
  PutBelow(0, 0);
  PutBelow(0, 1);
  PutBelow(1, 1);
  lower_[0]->Fail(base::Unavailable("cable"));
  const auto missed = Read(0);
  EXPECT_EQ(missed.status().code(), StatusCode::kNotFound);
  EXPECT_NE(missed.status().message().find("cable"), std::string::npos);
  EXPECT_TRUE(Read(1).ok()) << "the next tier has it";
  lower_[0]->Fail(base::Corrupt("bit rot"));
  EXPECT_EQ(Read(0).status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(Read(1).ok());
}

// The caller's own short deadline is no fault of the tier.
TEST_F(TieredStoreTest, AnImpatientCallerDoesNotOpenTheBreakerSafety) {
  Make({});
  lower_[0]->Close();
  const auto keys = Keys(0, 1);
  for (int i = 0; i < 5; ++i) {
    const auto found = store_->Lookup(keys, 0, base::Clock::System().Now() + std::chrono::milliseconds(1));
    EXPECT_TRUE(found.ok() && found->empty());
  }
  EXPECT_FALSE(store_->tier_stats()[1].breaker_open);
  EXPECT_EQ(store_->stats().errors, 0u);
}

TEST_F(TieredStoreTest, ABetterObjectBelowIsTheOneThatIsReadUnit) {
  Make({});
  lower_[0]->Fail(base::ResourceExhausted("no writes from above"));
  ASSERT_TRUE(store_
                  ->Put(Key(0), {.prefix_bytes = 0, .quality = 500, .ttl = {}},
                        Slice::Own(std::vector<std::byte>(10)), {}, Soon())
                  .ok());
  (void)store_->Flush(Soon());
  lower_[0]->Fail({});
  PutBelow(0, 0, kLossless);
  const auto found = Lookup(Keys(0, 1), kLossless);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].bytes, kObject);
  EXPECT_EQ(found[0].tier, TierKind::kDisk);
  EXPECT_EQ(Read(0)->size(), kObject);
}

// The head of a chain left memory, the rest of it is as good as asked for and stays.
TEST_F(TieredStoreTest, GoodCopiesStayWhereTheyAreUnit) {
  Make({.tiers = 2});
  for (uint64_t i = 0; i < 10; ++i) PutBelow(1, i, kLossless);
  for (uint64_t i = 3; i < 6; ++i) PutBelow(0, i, kLossless);
  for (uint64_t i = 1; i < 10; ++i) ASSERT_TRUE(Put(i, false, kLossless).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  for (uint64_t i = 6; i < 10; ++i) ASSERT_TRUE(inner_[0]->Erase(Key(i), Soon()).ok());
  EXPECT_EQ(Lookup(Keys(0, 10), kLossless).size(), 10u);
  for (uint64_t i = 1; i < 10; ++i) EXPECT_TRUE(InMemory(i)) << i;
  EXPECT_TRUE(Holds(*inner_[0], 4));
  EXPECT_EQ(lower_[0]->erase_calls(), 0u);
}

TEST_F(TieredStoreTest, OnlyWorseCopiesOfFasterTiersGiveWayUnit) {
  Make({.tiers = 2});
  for (uint64_t i = 0; i < 100; ++i) PutBelow(1, i, kLossless);
  // One tier up: some with gaps between them, two of them worse, the last beyond a full probe.
  for (const uint64_t i : {1u, 2u, 3u, 5u}) PutBelow(0, i, i == 2 ? 500 : kLossless);
  for (uint64_t i = 10; i < 90; ++i) PutBelow(0, i, i == 85 ? 999 : kLossless);
  EXPECT_EQ(Lookup(Keys(0, 100), kLossless).size(), 100u);
  EXPECT_EQ(lower_[0]->erase_calls(), 2u);
  for (const uint64_t i : {1u, 3u, 5u, 10u, 84u, 86u, 89u}) EXPECT_TRUE(Holds(*inner_[0], i)) << i;
  for (const uint64_t i : {2u, 85u}) EXPECT_FALSE(Holds(*inner_[0], i)) << i;
}

TEST_F(TieredStoreTest, AWorseCopyThatStaysEndsTheChainSafety) {
  Make({.tiers = 2});
  for (uint64_t i = 0; i < 5; ++i) PutBelow(1, i, kLossless);
  PutBelow(0, 2, 500);
  lower_[0]->FailErasures(base::Unavailable("read only"));
  EXPECT_EQ(Lookup(Keys(0, 5), kLossless).size(), 2u);
  EXPECT_EQ(lower_[0]->erase_calls(), 1u) << "tried once in a look-up";
  EXPECT_EQ(Lookup(Keys(0, 5)).size(), 5u);
  lower_[0]->FailErasures({});
  EXPECT_EQ(Lookup(Keys(0, 5), kLossless).size(), 5u);
  EXPECT_FALSE(Holds(*inner_[0], 2));
}

// The tier says nothing of it yet, but will have it when the read comes.
TEST_F(TieredStoreTest, AWorseCopyOnItsWayToAFasterTierIsNotReadSafety) {
  Make({.tiers = 2});
  PutBelow(1, 0, kLossless);
  PutBelow(1, 1, kLossless);
  lower_[0]->BeforePut([&] {
    EXPECT_TRUE(Put(1, false, 500).ok());
    EXPECT_EQ(Lookup(Keys(1, 1), kLossless).size(), 1u) << "it waited in the queue and is dropped";
    EXPECT_TRUE(Lookup(Keys(0, 1), kLossless).empty()) << "it is being written";
  });
  ASSERT_TRUE(Put(0, false, 500).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  EXPECT_FALSE(Holds(*inner_[0], 1));
  EXPECT_TRUE(Holds(*inner_[0], 0));
  EXPECT_EQ(Lookup(Keys(0, 2), kLossless).size(), 2u);
  EXPECT_FALSE(Holds(*inner_[0], 0));
}

// Nobody need wait for it: a quarantine gives up after a while.
TEST(WriteBehindSafety, WhatIsDroppedDuringItsWriteIsErasedBehindIt) {
  base::ManualClock clock;
  TierBreakers breakers({});
  const std::shared_ptr<DramStore> inner = Memory(1 << 20, clock);
  FaultyStore tier(inner);
  const auto writes = WriteBehind::Create(tier, breakers, clock, {});
  const auto keys = Keys(0, 1);
  for (const bool tenant : {false, true}) {
    tier.BeforePut([&] { tenant ? writes->DropTenant(1) : writes->Drop(keys[0]); });
    writes->Enqueue({.key = keys[0], .meta = {}, .object = Slice::Own(Content(0, kObject))});
    ASSERT_TRUE(writes->Drain(Soon()).ok());
    EXPECT_EQ(inner->Lookup(keys, 0, Soon())->size(), 0u) << tenant;
  }
  writes->Enqueue({.key = keys[0], .meta = {}, .object = Slice::Own(Content(0, kObject))});
  ASSERT_TRUE(writes->Drain(Soon()).ok());
  EXPECT_EQ(inner->Lookup(keys, 0, Soon())->size(), 1u) << "the next write stays";
}

TEST_F(TieredStoreTest, QueuedWritesKeepTheirTimeToLiveUnit) {
  Make({});
  lower_[0]->Close();
  ASSERT_TRUE(Put(0).ok());
  ASSERT_TRUE(Put(1, false, 1, std::chrono::seconds(5)).ok());
  ASSERT_TRUE(Put(2, false, 1, std::chrono::seconds(50)).ok());
  clock_.Advance(std::chrono::seconds(10));
  lower_[0]->Open();
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  EXPECT_FALSE(Holds(*inner_[0], 1)) << "it expired in the queue";
  const auto keys = Keys(2, 1);
  EXPECT_EQ(inner_[0]->Lookup(keys, 0, Soon())->at(0).ttl_left, std::chrono::seconds(40));
}

TEST(CircuitBreakerUnit, OpensTriesAndCloses) {
  base::ManualClock clock;
  CircuitBreaker breaker({.failures_to_open = 2,
                          .first_backoff = std::chrono::seconds(1),
                          .max_backoff = std::chrono::seconds(3)});
  breaker.Failed(clock.Now());
  breaker.Succeeded();
  breaker.Failed(clock.Now());
  EXPECT_TRUE(breaker.Allow(clock.Now())) << "not two in a row";
  breaker.Failed(clock.Now());
  EXPECT_FALSE(breaker.Allow(clock.Now()));
  EXPECT_FALSE(breaker.WouldAllow(clock.Now()));
  breaker.Failed(clock.Now());  // a call that began before: does not prolong
  clock.Advance(std::chrono::seconds(1));
  EXPECT_TRUE(breaker.WouldAllow(clock.Now()));
  EXPECT_TRUE(breaker.Allow(clock.Now())) << "asking whether did not take the trial";
  EXPECT_FALSE(breaker.Allow(clock.Now())) << "one trial at a time";
  breaker.Failed(clock.Now());
  clock.Advance(std::chrono::milliseconds(1999));
  EXPECT_FALSE(breaker.Allow(clock.Now())) << "twice as long";
  clock.Advance(std::chrono::milliseconds(1));
  EXPECT_TRUE(breaker.Allow(clock.Now()));
  breaker.Failed(clock.Now());
  clock.Advance(std::chrono::seconds(3));
  EXPECT_TRUE(breaker.Allow(clock.Now())) << "never longer than the bound";
  breaker.Succeeded();
  EXPECT_TRUE(breaker.Allow(clock.Now()));
  EXPECT_FALSE(breaker.open());
  EXPECT_EQ(breaker.times_opened(), 1u);
}

TEST(TieredStoreCreateUnit, RefusesImpossibleOptions) {
  EXPECT_EQ(TieredStore::Create({.dram = {.capacity_bytes = 0}}).status().code(),
            StatusCode::kInvalidArgument);
  TieredOptions options;
  options.tiers.emplace_back();
  EXPECT_EQ(TieredStore::Create(std::move(options)).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvplane::store
