// Conformance of stores: how long an entry stays: erasure, times to live, eviction, uses, pins, durability.

#include "kvplane/store/testing/conformance_calls.h"
#include "kvplane/store/testing/store_conformance.h"

namespace kvplane::store {

void LinkConformanceOfLives();  // named by StoreCaseName()
void LinkConformanceOfLives() {}

namespace {

TEST_P(StoreConformance, ErasedIsGoneAndMayComeBackUnit) {
  for (uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(PutObject(store(), i, 100).ok());
  ASSERT_TRUE(store().Erase(Key(1), Soon()).ok());
  EXPECT_EQ(Found(store(), Keys(0, 3)), 1u);
  EXPECT_EQ(ReadRange(store(), Key(1), 0, 0).status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(Has(store(), Key(2)));
  ASSERT_TRUE(PutObject(store(), 1, 50, 7).ok()) << "worse than what was erased, but that is gone";
  const auto read = ReadRange(store(), Key(1), 0, 0);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(Copy(*read), Content(1, 7, 50));
}

TEST_P(StoreConformance, TenantsStayApartUnit) {
  const EntryMeta meta{.prefix_bytes = 0, .quality = kLossless, .ttl = {}};
  // The same chain under two tenants cannot come out of KeyChain(), and must stay apart all the same.
  StoreKey twin = Key(0);
  twin.tenant = kOtherTenant;
  for (uint64_t i = 0; i < 5; ++i) {
    ASSERT_TRUE(store().Put(Key(i), meta, Object(i, 1, 100), {}, Soon()).ok());
    ASSERT_TRUE(store().Put(Key(i, kOtherTenant), meta, Object(i, 2, 200), {}, Soon()).ok());
  }
  EXPECT_FALSE(Has(store(), twin));
  ASSERT_TRUE(store().Put(twin, meta, Object(9, 9, 300), {}, Soon()).ok());
  const auto erased = store().EraseTenant(kTenant, Soon());
  ASSERT_TRUE(erased.ok()) << erased.status().ToString();
  if (GetParam().counts_entries) {
    EXPECT_EQ(*erased, 5u);
  }
  for (uint64_t i = 0; i < 5; ++i) {
    EXPECT_EQ(ReadRange(store(), Key(i), 0, 0).status().code(), StatusCode::kNotFound) << i;
    const auto other = ReadRange(store(), Key(i, kOtherTenant), 0, 0);
    ASSERT_TRUE(other.ok()) << i << ": " << other.status().ToString();
    EXPECT_EQ(Copy(*other), Content(i, 2, 200));
  }
  EXPECT_TRUE(Has(store(), twin));
  ASSERT_TRUE(PutObject(store(), 1, 10).ok()) << "an erased tenant may come back";
  EXPECT_TRUE(Has(store(), Key(1)));
}

TEST_P(StoreConformance, EntriesExpireUnit) {
  base::Duration ttl = GetParam().ttl;
  const auto put = [&](uint64_t number, base::Duration time_to_live) {
    return store().Put(Key(number), {.prefix_bytes = 0, .quality = 5, .ttl = time_to_live},
                       Object(number, 0, 100), {}, Soon());
  };
  base::Result<std::vector<EntryInfo>> found = std::vector<EntryInfo>{};
  for (;; ttl *= 2) {
    const base::TimePoint begun = base::Clock::System().Now();
    ASSERT_TRUE(put(0, ttl).ok());
    ASSERT_TRUE(put(1, base::Duration::zero()).ok());
    ASSERT_TRUE(put(2, 1000 * ttl).ok());
    found = store().Lookup(Keys(0, 3), 0, Soon());
    ASSERT_TRUE(found.ok());
    // Where time is real a busy machine may be too slow for the first.
    if (found->size() == 3 || base::Clock::System().Now() - begun < ttl) break;
  }
  ASSERT_EQ(found->size(), 3u);
  if (GetParam().tells_ttl) {
    EXPECT_GT((*found)[0].ttl_left, base::Duration::zero());
    EXPECT_LE((*found)[0].ttl_left, ttl + std::chrono::milliseconds(1));
    EXPECT_EQ((*found)[1].ttl_left, base::Duration::zero()) << "for ever";
    EXPECT_GT((*found)[2].ttl_left, ttl);
  }
  // A write on its way down takes along the time that was left when it set out.
  ASSERT_TRUE(store().Flush(Soon()).ok());
  harness_->Advance(ttl + std::chrono::milliseconds(50));
  EXPECT_FALSE(Has(store(), Key(0)));
  EXPECT_EQ(ReadRange(store(), Key(0), 0, 0).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(Found(store(), Keys(1, 2)), 2u);
  ASSERT_TRUE(put(0, 1000 * ttl).ok());
  EXPECT_TRUE(Has(store(), Key(0))) << "what expired does not stand in the way of a new object";
}

TEST_P(StoreConformance, QuarantinedIsNeverServedAgainUnit) {
  ASSERT_TRUE(PutObject(store(), 0, 100).ok());
  ASSERT_TRUE(PutObject(store(), 1, 100).ok());
  const uint64_t corrupt = store().stats().corrupt;
  store().Quarantine(Key(0));
  EXPECT_FALSE(Has(store(), Key(0)));
  EXPECT_EQ(ReadRange(store(), Key(0), 0, 0).status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(Has(store(), Key(1)));
  EXPECT_EQ(store().stats().corrupt, corrupt + 1);
  ASSERT_TRUE(PutObject(store(), 0, 80, 3).ok());
  const auto fresh = ReadRange(store(), Key(0), 0, 0);
  ASSERT_TRUE(fresh.ok()) << "new bytes under the name are welcome";
  EXPECT_EQ(Copy(*fresh), Content(0, 3, 80));
}

TEST_P(StoreConformance, CapacityIsHeldUnit) {
  if (!GetParam().bounded) GTEST_SKIP() << "the medium bounds itself";
  constexpr uint64_t kObjectBytes = 10'000;
  constexpr uint64_t kCapacity = 50 * kObjectBytes;
  Create(kCapacity);
  EXPECT_EQ(PutObject(store(), 1000, kCapacity + 1).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(store().stats().capacity_bytes, kCapacity);
  for (uint64_t i = 0; i < 200; ++i) {
    ASSERT_TRUE(PutObject(store(), i, kObjectBytes).ok());
    ASSERT_LE(store().stats().bytes, kCapacity) << "after put " << i;
  }
  size_t kept = 0;
  for (uint64_t i = 0; i < 200; ++i) {
    const auto read = ReadRange(store(), Key(i), 0, 0);
    if (!read.ok()) {
      EXPECT_EQ(read.status().code(), StatusCode::kNotFound);
      continue;
    }
    ++kept;
    EXPECT_EQ(Copy(*read), Content(i, kLossless, kObjectBytes));
  }
  EXPECT_GE(kept, 25u) << "a store that keeps less than half of what it may is of little use";
  EXPECT_LE(kept, 50u);
  EXPECT_GE(store().stats().evictions, 150u);
}

TEST_P(StoreConformance, PinsKeepFromEvictionForAWhileUnit) {
  constexpr uint64_t kObjectBytes = 10'000;
  Create(20 * kObjectBytes);
  ASSERT_TRUE(PutObject(store(), 0, kObjectBytes).ok());
  const base::Status pinned = store().Pin(Key(0), std::chrono::seconds(10), Soon());
  if (!GetParam().pins) {
    EXPECT_EQ(pinned.code(), StatusCode::kUnimplemented) << pinned.ToString();
    return;
  }
  ASSERT_TRUE(pinned.ok()) << pinned.ToString();
  EXPECT_EQ(store().Pin(Key(404), std::chrono::seconds(10), Soon()).code(), StatusCode::kNotFound);
  if (GetParam().bounded) {
    for (uint64_t i = 1; i < 100; ++i) ASSERT_TRUE(PutObject(store(), i, kObjectBytes).ok());
    EXPECT_TRUE(ReadRange(store(), Key(0), 0, 1).ok());
    harness_->Advance(std::chrono::seconds(11));
    for (uint64_t i = 100; i < 400; ++i) {
      ASSERT_TRUE(PutObject(store(), i, kObjectBytes).ok());
      // In use, so that no policy has a reason to prefer key 0 to all of them.
      for (int use = 0; use < 2; ++use) (void)Has(store(), Key(i));
    }
    EXPECT_FALSE(Has(store(), Key(0))) << "the pin had its time";
  }

  ASSERT_TRUE(PutObject(store(), 0, kObjectBytes).ok());
  ASSERT_TRUE(store().Pin(Key(0), std::chrono::seconds(10), Soon()).ok());
  EXPECT_TRUE(store().Pin(Key(0), base::Duration::zero(), Soon()).ok()) << "that unpins";
  ASSERT_TRUE(store().Pin(Key(0), std::chrono::seconds(10), Soon()).ok());
  ASSERT_TRUE(store().Erase(Key(0), Soon()).ok()) << "a pin is no shield against erasure";
  EXPECT_FALSE(Has(store(), Key(0)));
}

// Memory lost it long ago, a slower tier has it: a pin brings it back, and there it stays.
TEST_P(StoreConformance, APinHoldsInMemoryWhatOnlySlowerTiersHaveUnit) {
  if (!GetParam().stacked || GetParam().bounded) GTEST_SKIP() << "one tier";
  constexpr uint64_t kObjectBytes = 10'000;
  Create(20 * kObjectBytes);
  for (uint64_t i = 0; i < 100; ++i) ASSERT_TRUE(PutObject(store(), i, kObjectBytes).ok());
  ASSERT_TRUE(store().Flush(Soon()).ok());
  const base::Status pinned = store().Pin(Key(0), std::chrono::minutes(5), Soon());
  ASSERT_TRUE(pinned.ok()) << pinned.ToString();
  for (uint64_t i = 100; i < 200; ++i) ASSERT_TRUE(PutObject(store(), i, kObjectBytes).ok());
  const StoreKey key = Key(0);
  const auto found = store().Lookup(std::span(&key, 1), kLossless, Soon());
  ASSERT_TRUE(found.ok());
  ASSERT_EQ(found->size(), 1u);
  EXPECT_EQ((*found)[0].tier, TierKind::kDram);
  const auto read = ReadRange(store(), key, 0, 0);
  ASSERT_TRUE(read.ok()) << read.status().ToString();
  EXPECT_EQ(Copy(*read), Content(0, kLossless, kObjectBytes));
  EXPECT_EQ(store().Pin(Key(404), std::chrono::seconds(10), Soon()).code(), StatusCode::kNotFound);
  ASSERT_TRUE(store().Erase(key, Soon()).ok());
  EXPECT_EQ(store().Pin(key, std::chrono::seconds(10), Soon()).code(), StatusCode::kNotFound);
}

TEST_P(StoreConformance, TouchesKeepFromEvictionUnit) {
  if (!GetParam().bounded) GTEST_SKIP() << "the medium bounds itself";
  constexpr uint64_t kObjectBytes = 10'000;
  Create(20 * kObjectBytes);
  ASSERT_TRUE(PutObject(store(), 0, kObjectBytes).ok());
  const auto keys = Keys(0, 1);
  for (uint64_t i = 1; i < 200; ++i) {
    ASSERT_TRUE(store().Touch(keys, Soon()).ok());
    ASSERT_TRUE(PutObject(store(), i, kObjectBytes).ok());
  }
  EXPECT_TRUE(Has(store(), Key(0)));
  EXPECT_FALSE(Has(store(), Key(1))) << "which nobody touched";
}

// A time to live is a promise about what users wrote: no use makes it longer, in no tier.
TEST_P(StoreConformance, TouchesDoNotProlongALifeUnit) {
  base::Duration ttl = GetParam().ttl;
  ASSERT_TRUE(
      store().Put(Key(0), {.prefix_bytes = 0, .quality = 5, .ttl = ttl}, Object(0, 0, 100), {}, Soon()).ok());
  ASSERT_TRUE(store().Flush(Soon()).ok()) << "on its way down it has the time that was left when it set out";
  const auto keys = Keys(0, 1);
  for (int part = 0; part < 4; ++part) {
    ASSERT_TRUE(store().Touch(keys, Soon()).ok());
    harness_->Advance(ttl / 4);
  }
  harness_->Advance(std::chrono::milliseconds(50));
  EXPECT_FALSE(Has(store(), Key(0)));
  EXPECT_EQ(ReadRange(store(), Key(0), 0, 0).status().code(), StatusCode::kNotFound);
}

TEST_P(StoreConformance, DurableObjectsSurviveUnit) {
  if (!GetParam().durable) GTEST_SKIP() << "no medium";
  const EntryMeta meta{.prefix_bytes = 17, .quality = 990, .ttl = {}};
  for (uint64_t i = 0; i < 10; ++i) {
    ASSERT_TRUE(store().Put(Key(i), meta, Object(i, 0, 5000 + i), {.durable = true}, Soon()).ok());
  }
  harness_->Reopen();
  const auto found = store().Lookup(Keys(0, 11), 0, Soon());
  ASSERT_TRUE(found.ok());
  ASSERT_EQ(found->size(), 10u);
  for (uint64_t i = 0; i < 10; ++i) {
    EXPECT_EQ((*found)[i].prefix_bytes, 17u);
    EXPECT_EQ((*found)[i].quality, 990);
    const auto read = ReadRange(store(), Key(i), 0, 0);
    ASSERT_TRUE(read.ok()) << read.status().ToString();
    EXPECT_EQ(Copy(*read), Content(i, 0, 5000 + i));
  }
  ASSERT_TRUE(PutObject(store(), 20, 100).ok());
  ASSERT_TRUE(store().Flush(Soon()).ok());
  ASSERT_TRUE(store().Erase(Key(3), Soon()).ok());
  ASSERT_TRUE(store().Flush(Soon()).ok());
  harness_->Reopen();
  EXPECT_TRUE(Has(store(), Key(20)));
  EXPECT_FALSE(Has(store(), Key(3))) << "what was erased must not rise again";
}

}  // namespace
}  // namespace kvplane::store
