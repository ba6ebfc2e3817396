// Touches and pins in a stack of tiers, and reads that must keep to what their look-up saw.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <thread>
#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/base/endian.h"
#include "kvplane/base/rng.h"
#include "kvplane/store/read_detours.h"
#include "kvplane/store/testing/faulty_store.h"
#include "kvplane/store/tiered_store.h"
#include "kvplane/store/touch_behind.h"

namespace kvplane::store {
namespace {

using base::StatusCode;

constexpr uint64_t kObject = 1000;
constexpr uint64_t kCharge = kObject + kEntryOverheadBytes;

base::TimePoint Soon() { return base::Clock::System().Now() + std::chrono::seconds(60); }

StoreKey Key(uint64_t number) {
  StoreKey key{.tenant = 1};
  base::StoreLe(key.chain.data(), number);
  return key;
}

std::vector<std::byte> Content(uint64_t number, size_t bytes = kObject) {
  std::vector<std::byte> out(bytes);
  base::Rng rng(number);
  for (auto& b : out) b = static_cast<std::byte>(rng.Next());
  return out;
}

// Memory for four objects over two tiers that can be broken. The first of them forgets what is not used.
class TieredUsesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    TieredOptions options;
    options.dram = {.capacity_bytes = 4 * kCharge,
                    .policy = PolicyKind::kLru,
                    .max_pin_age = std::chrono::hours(1),
                    .clock = &clock_};
    for (const uint64_t capacity : {10 * kCharge, 1000 * kCharge}) {
      auto inner =
          DramStore::Create({.capacity_bytes = capacity, .policy = PolicyKind::kLru, .clock = &clock_});
      KVPLANE_CHECK(inner.ok());
      inner_.push_back(*std::move(inner));
      auto faulty = std::make_unique<FaultyStore>(inner_.back());
      lower_.push_back(faulty.get());
      SlowTier tier;
      tier.store = std::move(faulty);
      tier.lookup_budget = tier.read_budget = std::chrono::seconds(30);
      tier.breaker = {.failures_to_open = 1};
      options.tiers.push_back(std::move(tier));
    }
    auto created = TieredStore::Create(std::move(options));
    ASSERT_TRUE(created.ok()) << created.status().ToString();
    store_ = *std::move(created);
  }

  static base::Status PutInto(Store& store, uint64_t number, uint16_t quality = kLossless,
                              size_t bytes = kObject) {
    return store.Put(Key(number), {.prefix_bytes = 0, .quality = quality, .ttl = {}},
                     Slice::Own(Content(number, bytes)), {}, Soon());
  }
  static std::vector<EntryInfo> Find(Store& store, uint64_t number, uint16_t min_quality = 0) {
    const StoreKey key = Key(number);
    const auto found = store.Lookup(std::span(&key, 1), min_quality, Soon());
    EXPECT_TRUE(found.ok()) << found.status().ToString();
    return found.ok() ? *found : std::vector<EntryInfo>{};
  }
  base::Result<Slice> Read(uint64_t number) {
    const ReadRequest request{.key = Key(number)};
    return store_->Read(std::span(&request, 1), Soon())[0];
  }
  base::Status Pin(uint64_t number, base::Duration age = std::chrono::minutes(10)) {
    return store_->Pin(Key(number), age, Soon());
  }
  bool InMemory(uint64_t number) {
    const auto found = Find(*store_, number);
    return found.size() == 1 && found[0].tier == TierKind::kDram;
  }
  // Everything that memory holds without a pin goes.
  void FloodMemory() {
    for (uint64_t number = 500; number < 510; ++number) ASSERT_TRUE(PutInto(*store_, number).ok());
    ASSERT_TRUE(store_->Flush(Soon()).ok());
  }

  base::ManualClock clock_;
  std::vector<std::shared_ptr<DramStore>> inner_;
  std::vector<FaultyStore*> lower_;
  std::unique_ptr<TieredStore> store_;
};

TEST_F(TieredUsesTest, ATouchIsAUseInEveryTierUnit) {
  for (uint64_t number = 0; number < 10; ++number) ASSERT_TRUE(PutInto(*inner_[0], number).ok());
  const std::vector<StoreKey> touched = {Key(0), Key(1), Key(404)};
  ASSERT_TRUE(store_->Touch(touched, Soon()).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  for (uint64_t number = 10; number < 18; ++number) ASSERT_TRUE(PutInto(*inner_[0], number).ok());
  for (uint64_t number = 0; number < 18; ++number) {
    EXPECT_EQ(Find(*inner_[0], number).size(), number < 2 || number >= 10 ? 1u : 0u) << number;
  }
}

TEST_F(TieredUsesTest, ATouchWaitsForNobodySafety) {
  lower_[0]->Close();
  const std::vector<StoreKey> keys = {Key(0)};
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(store_->Touch(keys, Soon()).ok());
  EXPECT_EQ(store_->Flush(base::Clock::System().Now()).code(), StatusCode::kDeadlineExceeded);
  lower_[0]->Fail(base::Unavailable("gone"));
  lower_[0]->Open();
  const base::TimePoint limit = Soon();
  while (store_->tier_stats()[1].left_out == 0 && base::Clock::System().Now() < limit) {
    std::this_thread::yield();
  }
  EXPECT_GT(store_->tier_stats()[1].left_out, 0u) << "touches of a tier that fails are dropped";
  EXPECT_EQ(store_->tier_stats()[1].errors, 1u);
}

TEST_F(TieredUsesTest, PinsBringUpWhatMemoryLacksUnit) {
  ASSERT_TRUE(PutInto(*inner_[1], 7, 800).ok());
  const base::Status pinned = Pin(7);
  ASSERT_TRUE(pinned.ok()) << pinned.ToString();
  EXPECT_EQ(store_->pinned_bytes(), kCharge);
  FloodMemory();
  ASSERT_TRUE(InMemory(7));
  EXPECT_EQ(Find(*store_, 7)[0].quality, 800);
  const auto read = Read(7);
  ASSERT_TRUE(read.ok());
  EXPECT_TRUE(std::ranges::equal(read->bytes(), Content(7)));
  ASSERT_TRUE(Pin(7, base::Duration::zero()).ok());
  EXPECT_EQ(store_->pinned_bytes(), 0u);
  FloodMemory();
  EXPECT_FALSE(InMemory(7));
}

TEST_F(TieredUsesTest, PinsThatCannotBeSayWhySafety) {
  EXPECT_EQ(Pin(1).code(), StatusCode::kNotFound) << "in no tier";
  EXPECT_EQ(Pin(1, base::Duration::zero()).code(), StatusCode::kNotFound);
  ASSERT_TRUE(PutInto(*inner_[1], 2, kLossless, 5 * kCharge).ok());
  EXPECT_EQ(Pin(2).code(), StatusCode::kResourceExhausted) << "larger than memory";
  for (uint64_t number = 10; number < 13; ++number) ASSERT_TRUE(PutInto(*inner_[1], number).ok());
  EXPECT_TRUE(Pin(10).ok());
  EXPECT_TRUE(Pin(11).ok());
  EXPECT_EQ(Pin(12).code(), StatusCode::kResourceExhausted) << "half of memory is pinned";
  lower_[1]->Fail(base::Unavailable("gone"));
  EXPECT_EQ(Pin(13).code(), StatusCode::kUnavailable) << "it may be there";
  EXPECT_EQ(Pin(13).code(), StatusCode::kUnavailable) << "the tier is left alone now";
  EXPECT_EQ(store_->tier_stats()[2].left_out, 1u);
}

TEST_F(TieredUsesTest, AnErasureDuringAPinWinsSafety) {
  ASSERT_TRUE(PutInto(*inner_[0], 7).ok());
  base::Status pinned;
  // In the middle of the erasure, when memory has been emptied and the first slower tier not yet.
  lower_[0]->BeforeErasure([&] { pinned = Pin(7); });
  ASSERT_TRUE(store_->Erase(Key(7), Soon()).ok());
  EXPECT_EQ(pinned.code(), StatusCode::kNotFound) << pinned.ToString();
  EXPECT_TRUE(Find(*store_, 7).empty());
  EXPECT_EQ(store_->pinned_bytes(), 0u);
}

// A tier is left out of the look-up and is back for the read, with a copy worse than was asked for.
TEST_F(TieredUsesTest, ReadsKeepToTheLookupThatSkippedATierSafety) {
  ASSERT_TRUE(PutInto(*inner_[0], 7, 500, 700).ok());
  ASSERT_TRUE(PutInto(*inner_[1], 7, 900).ok());
  lower_[0]->Fail(base::Unavailable("away"));
  EXPECT_TRUE(Find(*store_, 404).empty());  // opens the breaker
  ASSERT_EQ(Find(*store_, 7, 900).size(), 1u);
  lower_[0]->Fail(base::Status::Ok());
  clock_.Advance(std::chrono::seconds(2));
  EXPECT_TRUE(Find(*store_, 404).empty());  // the trial closes it
  ASSERT_FALSE(store_->tier_stats()[1].breaker_open);
  auto read = Read(7);
  ASSERT_TRUE(read.ok()) << read.status().ToString();
  EXPECT_EQ(read->size(), kObject) << "the better one";
  // The next look-up meets the worse copy and takes it away.
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  FloodMemory();
  ASSERT_EQ(Find(*store_, 7, 900).size(), 1u);
  EXPECT_TRUE(Find(*inner_[0], 7).empty());
}

TEST(ReadDetoursUnit, NotesEndByThemselvesAndOnRequest) {
  base::ManualClock clock;
  ReadDetours detours;
  const std::vector<StoreKey> keys = {Key(1), Key(2)};
  EXPECT_EQ(detours.Of(Key(1), clock.Now()), 0u);
  ASSERT_TRUE(detours.Add(keys, 0b101, clock.Now()));
  EXPECT_EQ(detours.Of(Key(1), clock.Now()), 0b101u);
  detours.Remove(std::span(keys).first(1), 0b001);
  EXPECT_EQ(detours.Of(Key(1), clock.Now()), 0b100u);
  EXPECT_EQ(detours.Of(Key(2), clock.Now()), 0b101u);
  clock.Advance(ReadDetours::kLifetime / 2);
  ASSERT_TRUE(detours.Add(std::span(keys).first(1), 0b010, clock.Now()));
  clock.Advance(ReadDetours::kLifetime / 2);
  EXPECT_EQ(detours.Of(Key(1), clock.Now()), 0b110u) << "renewed";
  EXPECT_EQ(detours.Of(Key(2), clock.Now()), 0u);
  const std::vector<StoreKey> many(ReadDetours::kMaxNotes, Key(9));
  EXPECT_FALSE(detours.Add(many, 1, clock.Now())) << "one is there still";
  clock.Advance(ReadDetours::kLifetime);
  EXPECT_TRUE(detours.Add(many, 1, clock.Now()));
  EXPECT_FALSE(detours.Add(keys, 1, clock.Now()));
}

TEST(TouchBehindUnit, TheOldestAreForgottenWhenTooManyWait) {
  base::Mutex mutex;
  base::CondVar changed;
  bool entered = false;
  bool open = false;
  std::vector<size_t> calls;
  TouchBehind touches([&](std::span<const StoreKey> keys) {
    base::MutexLock lock(mutex);
    calls.push_back(keys.size());
    entered = true;
    changed.NotifyAll();
    while (!open) changed.Wait(mutex);
  });
  const std::vector<StoreKey> one(1);
  const std::vector<StoreKey> half(TouchBehind::kMaxKeys / 2);
  const std::vector<StoreKey> all(TouchBehind::kMaxKeys);
  touches.Add(one);
  {
    base::MutexLock lock(mutex);
    while (!entered) changed.Wait(mutex);
  }
  touches.Add({});
  touches.Add(half);
  touches.Add(one);
  touches.Add(half);  // too many: the first half goes
  EXPECT_EQ(touches.Drain(base::Clock::System().Now()).code(), StatusCode::kDeadlineExceeded);
  {
    base::MutexLock lock(mutex);
    open = true;
    changed.NotifyAll();
  }
  ASSERT_TRUE(touches.Drain(Soon()).ok());
  touches.Add(all);
  ASSERT_TRUE(touches.Drain(Soon()).ok());
  touches.Shutdown();
  touches.Add(one);
  base::MutexLock lock(mutex);
  EXPECT_EQ(calls, (std::vector<size_t>{1, 1, half.size(), all.size()}));
}

}  // namespace
}  // namespace kvplane::store
