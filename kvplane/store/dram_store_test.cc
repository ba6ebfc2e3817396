#include "kvplane/store/dram_store.h"

#include <gtest/gtest.h>

#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/base/endian.h"
#include "kvplane/base/rng.h"
#include "kvplane/store/testing/store_conformance.h"

namespace kvplane::store {
namespace {

using base::StatusCode;

class DramHarness final : public StoreHarness {
 public:
  DramHarness(uint64_t capacity, PolicyKind policy) {
    auto created = DramStore::Create(
        {.capacity_bytes = capacity, .policy = policy, .quotas = {}, .clock = &clock_, .on_evict = {}});
    KVPLANE_CHECK(created.ok());
    store_ = *std::move(created);
  }
  Store& store() override { return *store_; }
  void Advance(base::Duration by) override { clock_.Advance(by); }

 private:
  base::ManualClock clock_;
  std::unique_ptr<DramStore> store_;
};

StoreCase DramCase(const char* name, PolicyKind policy) {
  StoreCase out;
  out.name = name;
  out.create = [policy](uint64_t capacity) { return std::make_unique<DramHarness>(capacity, policy); };
  return out;
}

INSTANTIATE_TEST_SUITE_P(Dram, StoreConformance,
                         ::testing::Values(DramCase("S3Fifo", PolicyKind::kS3Fifo),
                                           DramCase("Lru", PolicyKind::kLru)),
                         StoreCaseName);

constexpr uint64_t kObject = 1000;
constexpr uint64_t kCharge = kObject + kEntryOverheadBytes;

StoreKey Key(uint64_t number, uint64_t tenant = 1) {
  StoreKey key{.tenant = tenant};
  base::StoreLe(key.chain.data(), number);
  return key;
}

// A small store with a clock of its own.
class DramStoreTest : public ::testing::Test {
 protected:
  void Make(DramOptions options) {
    options.clock = &clock_;
    auto created = DramStore::Create(options);
    ASSERT_TRUE(created.ok()) << created.status().ToString();
    store_ = *std::move(created);
  }
  base::Status Put(const StoreKey& key, uint64_t bytes = kObject, base::Duration ttl = {}) {
    return store_->Put(key, {.prefix_bytes = 0, .quality = 1, .ttl = ttl},
                       Slice::Own(std::vector<std::byte>(bytes)), {}, base::kNoDeadline);
  }
  bool Has(const StoreKey& key) { return Read(key).ok(); }  // no use, unlike a look-up
  base::Result<Slice> Read(const StoreKey& key) {
    const ReadRequest request{.key = key};
    return store_->Read(std::span(&request, 1), base::kNoDeadline)[0];
  }
  void Touch(const StoreKey& key) { ASSERT_TRUE(store_->Touch(std::span(&key, 1), base::kNoDeadline).ok()); }

  base::ManualClock clock_;
  std::unique_ptr<DramStore> store_;
};

TEST_F(DramStoreTest, LruPutsOutTheLeastRecentlyUsedUnit) {
  Make({.capacity_bytes = 3 * kCharge, .policy = PolicyKind::kLru});
  for (uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(Put(Key(i)).ok());
  Touch(Key(0));
  ASSERT_TRUE(Put(Key(3)).ok());
  EXPECT_TRUE(Has(Key(0)));
  EXPECT_FALSE(Has(Key(1)));
  EXPECT_TRUE(Has(Key(2)));
  EXPECT_EQ(store_->stats().evictions, 1u);
  EXPECT_EQ(store_->stats().bytes, 3 * kCharge);
}

// A look-up uses the tail first: when room is needed, the tail of the chain goes before its head.
TEST_F(DramStoreTest, TheHeadOfAChainOutlivesItsTailUnit) {
  Make({.capacity_bytes = 4 * kCharge, .policy = PolicyKind::kLru});
  const std::vector<StoreKey> chain = {Key(0), Key(1), Key(2), Key(3)};
  for (const StoreKey& key : chain) ASSERT_TRUE(Put(key).ok());
  ASSERT_EQ(store_->Lookup(chain, 0, base::kNoDeadline)->size(), 4u);
  ASSERT_TRUE(Put(Key(10)).ok());
  ASSERT_TRUE(Put(Key(11)).ok());
  EXPECT_EQ(store_->Lookup(chain, 0, base::kNoDeadline)->size(), 2u);
  EXPECT_FALSE(Has(Key(2)));
  EXPECT_FALSE(Has(Key(3)));
}

TEST_F(DramStoreTest, AScanDoesNotDisplaceWhatIsInUseUnit) {
  Make({.capacity_bytes = 20 * kCharge});
  for (uint64_t i = 0; i < 10; ++i) {
    ASSERT_TRUE(Put(Key(i)).ok());
    Touch(Key(i));
    Touch(Key(i));
  }
  for (uint64_t i = 100; i < 200; ++i) ASSERT_TRUE(Put(Key(i)).ok());
  for (uint64_t i = 0; i < 10; ++i) EXPECT_TRUE(Has(Key(i))) << i;
}

TEST_F(DramStoreTest, MemoryIsFreedWhenTheLastReaderLeavesUnit) {
  Make({.capacity_bytes = 10 * kCharge});
  ASSERT_TRUE(Put(Key(0)).ok());
  base::Result<Slice> reader = Read(Key(0));
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ(store_->detached_bytes(), 0u);
  ASSERT_TRUE(store_->Erase(Key(0), base::kNoDeadline).ok());
  EXPECT_EQ(store_->stats().bytes, 0u);
  EXPECT_EQ(store_->detached_bytes(), kObject);
  EXPECT_EQ(reader->bytes()[kObject - 1], std::byte{0}) << "readers keep what they have";
  Slice part = reader->Sub(10, 1);
  reader = base::NotFound("let go");
  EXPECT_EQ(store_->detached_bytes(), kObject) << "a part holds the whole";
  part = Slice();
  EXPECT_EQ(store_->detached_bytes(), 0u);
}

TEST_F(DramStoreTest, NothingIsCopiedUnit) {
  Make({.capacity_bytes = 10 * kCharge});
  const Slice object = Slice::Own(std::vector<std::byte>(kObject));
  ASSERT_TRUE(store_->Put(Key(0), {}, object, {}, base::kNoDeadline).ok());
  EXPECT_EQ(Read(Key(0))->bytes().data(), object.bytes().data());
}

TEST_F(DramStoreTest, ATenantOverItsQuotaLosesItsOwnOldestUnit) {
  Make({.capacity_bytes = 100 * kCharge, .tenant_quota_bytes = 3 * kCharge, .quotas = {{2, 5 * kCharge}}});
  for (uint64_t i = 0; i < 5; ++i) {
    ASSERT_TRUE(Put(Key(i, 1)).ok());
    ASSERT_TRUE(Put(Key(i, 2)).ok());
  }
  for (uint64_t i = 0; i < 5; ++i) {
    EXPECT_EQ(Has(Key(i, 1)), i >= 2) << i;
    EXPECT_TRUE(Has(Key(i, 2))) << i;
  }
  EXPECT_EQ(Put(Key(9, 1), 3 * kCharge).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(store_->stats().puts_refused, 1u);
  EXPECT_EQ(*store_->EraseTenant(2, base::kNoDeadline), 5u);
  EXPECT_EQ(store_->stats().entries, 3u);
}

TEST_F(DramStoreTest, PinsAreCappedInShareAndAgeUnit) {
  Make({.capacity_bytes = 10 * kCharge, .max_pin_age = std::chrono::seconds(60), .pinned_share = 0.2});
  for (uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(Put(Key(i)).ok());
  const auto pin = [&](uint64_t number, base::Duration age) {
    return store_->Pin(Key(number), age, base::kNoDeadline).code();
  };
  EXPECT_EQ(pin(0, std::chrono::hours(24)), StatusCode::kOk);
  EXPECT_EQ(pin(1, std::chrono::seconds(10)), StatusCode::kOk);
  EXPECT_EQ(pin(1, std::chrono::seconds(20)), StatusCode::kOk) << "a pinned entry costs nothing more";
  EXPECT_EQ(pin(2, std::chrono::seconds(10)), StatusCode::kResourceExhausted);
  EXPECT_EQ(store_->pinned_bytes(), 2 * kCharge);
  EXPECT_EQ(pin(1, base::Duration::zero()), StatusCode::kOk);
  EXPECT_EQ(pin(2, std::chrono::seconds(10)), StatusCode::kOk);
  clock_.Advance(std::chrono::seconds(61));
  ASSERT_TRUE(Put(Key(5)).ok());
  EXPECT_EQ(store_->pinned_bytes(), 0u) << "an hour was asked for, a minute is the most";
}

TEST_F(DramStoreTest, APinnedShareOfAllCanRefusePutsSafety) {
  Make({.capacity_bytes = 2 * kCharge, .pinned_share = 1});
  for (uint64_t i = 0; i < 2; ++i) {
    ASSERT_TRUE(Put(Key(i)).ok());
    ASSERT_TRUE(store_->Pin(Key(i), std::chrono::seconds(9), base::kNoDeadline).ok());
  }
  EXPECT_EQ(Put(Key(2)).code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(Has(Key(0)) && Has(Key(1)));
  clock_.Advance(std::chrono::seconds(10));
  EXPECT_TRUE(Put(Key(2)).ok());
}

TEST_F(DramStoreTest, ExpiredEntriesMakeRoomWithoutBeingAskedForUnit) {
  Make({.capacity_bytes = 100 * kCharge, .default_ttl = std::chrono::seconds(5)});
  for (uint64_t i = 0; i < 10; ++i) ASSERT_TRUE(Put(Key(i)).ok());
  ASSERT_TRUE(Put(Key(50), kObject, std::chrono::seconds(50)).ok());
  clock_.Advance(std::chrono::seconds(6));
  ASSERT_TRUE(Put(Key(99)).ok());
  EXPECT_EQ(store_->stats().entries, 2u);
  EXPECT_EQ(store_->stats().expirations, 10u);
  EXPECT_EQ(store_->stats().evictions, 0u);
  EXPECT_EQ(store_->detached_bytes(), 0u);
}

TEST_F(DramStoreTest, EvictionIsReportedWithWhatIsLeftUnit) {
  std::vector<EvictedEntry> evicted;
  Make({.capacity_bytes = 2 * kCharge, .policy = PolicyKind::kLru, .on_evict = [&](EvictedEntry entry) {
          evicted.push_back(std::move(entry));
        }});
  ASSERT_TRUE(Put(Key(0), kObject, std::chrono::seconds(10)).ok());
  Touch(Key(0));
  clock_.Advance(std::chrono::seconds(4));
  for (uint64_t i = 1; i < 4; ++i) ASSERT_TRUE(Put(Key(i)).ok());
  ASSERT_EQ(evicted.size(), 2u);
  EXPECT_EQ(evicted[0].key, Key(0));
  EXPECT_EQ(evicted[0].uses, 1u);
  EXPECT_EQ(evicted[0].meta.ttl, std::chrono::seconds(6));
  EXPECT_EQ(evicted[0].object.size(), kObject);
  EXPECT_EQ(evicted[1].key, Key(1));
  EXPECT_EQ(evicted[1].uses, 0u);
  EXPECT_EQ(evicted[1].meta.ttl, base::Duration::zero());
}

TEST_F(DramStoreTest, EmptyObjectsAreChargedSafety) {
  Make({.capacity_bytes = 10 * kEntryOverheadBytes});
  for (uint64_t i = 0; i < 1000; ++i) ASSERT_TRUE(Put(Key(i), 0).ok());
  EXPECT_EQ(store_->stats().entries, 10u);
}

// Random calls with TTLs, pins, quotas and a moving clock: the books must balance at every step.
TEST_F(DramStoreTest, BooksBalanceProperty) {
  for (const PolicyKind policy : {PolicyKind::kLru, PolicyKind::kS3Fifo}) {
    Make({.capacity_bytes = 40 * kCharge,
          .policy = policy,
          .pinned_share = 0.3,
          .tenant_quota_bytes = 25 * kCharge});
    base::Rng rng(7);
    for (int step = 0; step < 20'000; ++step) {
      const StoreKey key = Key(rng.Below(100), rng.Below(3));
      switch (rng.Below(8)) {
        case 0:
        case 1:
        case 2:
          (void)Put(key, rng.Below(3 * kObject), std::chrono::milliseconds(rng.Below(2) * 500));
          break;
        case 3:
          Touch(key);
          break;
        case 4:
          (void)store_->Pin(key, std::chrono::milliseconds(rng.Below(800)), base::kNoDeadline);
          break;
        case 5:
          clock_.Advance(std::chrono::milliseconds(rng.Below(20)));
          break;
        case 6:
          (void)store_->Lookup(std::vector<StoreKey>(2, key), 0, base::kNoDeadline);
          break;
        default:
          ASSERT_TRUE(store_->Erase(key, base::kNoDeadline).ok());
      }
      ASSERT_LE(store_->stats().bytes, 40 * kCharge);
      ASSERT_LE(store_->pinned_bytes(), 12 * kCharge);
      ASSERT_EQ(store_->detached_bytes(), 0u);
    }
    for (uint64_t tenant = 0; tenant < 3; ++tenant) {
      ASSERT_TRUE(store_->EraseTenant(tenant, base::kNoDeadline).ok());
    }
    EXPECT_EQ(store_->stats().bytes, 0u);
    EXPECT_EQ(store_->stats().entries, 0u);
    EXPECT_EQ(store_->pinned_bytes(), 0u);
  }
}

TEST(DramStoreCreateUnit, RefusesImpossibleOptions) {
  EXPECT_EQ(DramStore::Create({.capacity_bytes = 0}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(DramStore::Create({.pinned_share = 1.5}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(DramStore::Create({.default_ttl = std::chrono::seconds(-1)}).status().code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvplane::store
