#include "kvplane/store/testing/store_conformance.h"

#include <gmock/gmock.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "kvplane/base/endian.h"
#include "kvplane/base/rng.h"

namespace kvplane::store {

std::string StoreCaseName(const ::testing::TestParamInfo<StoreCase>& info) { return info.param.name; }

void StoreConformance::Create(uint64_t capacity_bytes) {
  harness_.reset();
  harness_ = GetParam().create(capacity_bytes);
  ASSERT_NE(harness_, nullptr);
}

namespace {

using base::StatusCode;

constexpr uint64_t kTenant = 71;
constexpr uint64_t kOtherTenant = 72;

// For calls that must succeed: only a hang reaches it.
base::TimePoint Soon() { return base::Clock::System().Now() + std::chrono::seconds(60); }
base::TimePoint Past() { return base::Clock::System().Now() - std::chrono::milliseconds(1); }

StoreKey Key(uint64_t number, uint64_t tenant = kTenant) {
  StoreKey key{.tenant = tenant};
  base::Rng rng(number * 1000 + tenant);
  for (size_t at = 0; at < key.chain.size(); at += 8) base::StoreLe(&key.chain[at], rng.Next());
  return key;
}

std::vector<StoreKey> Keys(uint64_t first, uint64_t count) {
  std::vector<StoreKey> keys;
  for (uint64_t i = 0; i < count; ++i) keys.push_back(Key(first + i));
  return keys;
}

// Bytes that say which object and which version they are of, wherever a range begins.
std::vector<std::byte> Content(uint64_t number, uint64_t version, size_t bytes) {
  std::vector<std::byte> out(bytes);
  base::Rng rng(number * 7919 + version);
  for (auto& b : out) b = static_cast<std::byte>(rng.Next());
  return out;
}

Slice Object(uint64_t number, uint64_t version, size_t bytes) {
  return Slice::Own(Content(number, version, bytes));
}

std::vector<std::byte> Copy(const Slice& slice) { return {slice.bytes().begin(), slice.bytes().end()}; }

bool Same(const Slice& slice, const std::vector<std::byte>& expected) {
  return std::ranges::equal(slice.bytes(), expected);
}

std::vector<std::byte> Part(const std::vector<std::byte>& content, uint64_t offset, uint64_t bytes) {
  const auto part = std::span(content).subspan(offset, bytes);
  return {part.begin(), part.end()};
}

base::Status PutObject(Store& store, uint64_t number, size_t bytes, uint16_t quality = kLossless) {
  return store.Put(Key(number), {.prefix_bytes = 0, .quality = quality, .ttl = {}},
                   Object(number, quality, bytes), {}, Soon());
}

base::Result<Slice> ReadRange(Store& store, const StoreKey& key, uint64_t offset, uint64_t bytes) {
  const ReadRequest request{.key = key, .offset = offset, .bytes = bytes};
  auto results = store.Read(std::span(&request, 1), Soon());
  if (results.size() != 1) return base::Internal("{} results for one request", results.size());
  return std::move(results[0]);
}

size_t Found(Store& store, std::span<const StoreKey> keys, uint16_t min_quality = 0) {
  const auto found = store.Lookup(keys, min_quality, Soon());
  EXPECT_TRUE(found.ok()) << found.status().ToString();
  return found.ok() ? found->size() : 0;
}

bool Has(Store& store, const StoreKey& key) { return Found(store, std::span(&key, 1)) == 1; }

TEST_P(StoreConformance, WhatWasPutIsFoundAndReadUnit) {
  const Slice object = Object(1, 0, 10'000);
  ASSERT_TRUE(store().Put(Key(1), {.prefix_bytes = 320, .quality = 975, .ttl = {}}, object, {}, Soon()).ok());
  const StoreKey key = Key(1);
  const auto found = store().Lookup(std::span(&key, 1), 0, Soon());
  ASSERT_TRUE(found.ok()) << found.status().ToString();
  ASSERT_EQ(found->size(), 1u);
  EXPECT_EQ((*found)[0].bytes, 10'000u);
  EXPECT_EQ((*found)[0].prefix_bytes, 320u);
  EXPECT_EQ((*found)[0].quality, 975);
  if (!GetParam().stacked) {
    EXPECT_EQ((*found)[0].tier, store().kind());
  }
  const auto read = ReadRange(store(), key, 0, 0);
  ASSERT_TRUE(read.ok()) << read.status().ToString();
  EXPECT_EQ(Copy(*read), Content(1, 0, 10'000));
  EXPECT_FALSE(store().name().empty());
}

TEST_P(StoreConformance, RangesAreExactUnit) {
  constexpr uint64_t kBytes = 5000;
  ASSERT_TRUE(PutObject(store(), 1, kBytes).ok());
  const auto content = Content(1, kLossless, kBytes);
  const std::vector<std::pair<uint64_t, uint64_t>> ranges = {
      {0, 1}, {kBytes - 1, 1}, {0, kBytes}, {1234, 777}, {4096, 0}, {kBytes - 1, 0}, {kBytes, 0}};
  std::vector<ReadRequest> requests;
  for (const auto& [offset, bytes] : ranges) requests.push_back({Key(1), offset, bytes});
  const auto results = store().Read(requests, Soon());
  ASSERT_EQ(results.size(), ranges.size());
  for (size_t i = 0; i < ranges.size(); ++i) {
    ASSERT_TRUE(results[i].ok()) << i << ": " << results[i].status().ToString();
    const auto& [offset, bytes] = ranges[i];
    const uint64_t end = bytes == 0 ? kBytes : offset + bytes;
    EXPECT_TRUE(Same(*results[i], Part(content, offset, end - offset))) << "range " << i;
  }
}

TEST_P(StoreConformance, RangesBeyondTheEndAreRefusedOneByOneUnit) {
  ASSERT_TRUE(PutObject(store(), 1, 100).ok());
  const std::vector<ReadRequest> requests = {{Key(1), 101, 0},   {Key(1), 100, 1},   {Key(1), 0, 101},
                                             {Key(1), ~0ull, 0}, {Key(1), 1, ~0ull}, {Key(1), 10, 20},
                                             {Key(404), 0, 0}};
  const auto results = store().Read(requests, Soon());
  ASSERT_EQ(results.size(), requests.size());
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(results[i].status().code(), StatusCode::kInvalidArgument) << i;
  ASSERT_TRUE(results[5].ok()) << "a bad request beside it must not harm a good one";
  EXPECT_EQ(results[5]->size(), 20u);
  EXPECT_EQ(results[6].status().code(), StatusCode::kNotFound);
}

TEST_P(StoreConformance, LookupStopsAtTheFirstGapUnit) {
  for (const uint64_t present : {0u, 1u, 2u, 4u, 5u})
    ASSERT_TRUE(PutObject(store(), present, 64 + present).ok());
  const auto keys = Keys(0, 6);
  const auto found = store().Lookup(keys, 0, Soon());
  ASSERT_TRUE(found.ok());
  ASSERT_EQ(found->size(), 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ((*found)[i].bytes, 64 + i);
  EXPECT_EQ(Found(store(), std::span(keys).subspan(3)), 0u);
  EXPECT_EQ(Found(store(), std::span(keys).subspan(4)), 2u);
  EXPECT_EQ(Found(store(), {}), 0u);
}

TEST_P(StoreConformance, LongChainsUnit) {
  constexpr uint64_t kCount = 500;
  for (uint64_t i = 0; i < kCount; ++i) ASSERT_TRUE(PutObject(store(), i, 100 + i).ok());
  const auto keys = Keys(0, kCount);
  EXPECT_EQ(Found(store(), keys), kCount);
  std::vector<ReadRequest> requests;
  for (const StoreKey& key : keys) requests.push_back({key, 1, 8});
  const auto results = store().Read(requests, Soon());
  ASSERT_EQ(results.size(), kCount);
  for (uint64_t i = 0; i < kCount; ++i) {
    ASSERT_TRUE(results[i].ok()) << i << ": " << results[i].status().ToString();
    EXPECT_TRUE(Same(*results[i], Part(Content(i, kLossless, 100 + i), 1, 8)));
  }
}

TEST_P(StoreConformance, LookupTakesOnlyGoodEnoughQualityUnit) {
  ASSERT_TRUE(PutObject(store(), 0, 100, kLossless).ok());
  ASSERT_TRUE(PutObject(store(), 1, 100, 950).ok());
  ASSERT_TRUE(PutObject(store(), 2, 100, 0).ok());
  const auto keys = Keys(0, 3);
  EXPECT_EQ(Found(store(), keys, 0), 3u);
  EXPECT_EQ(Found(store(), keys, 1), 2u);
  EXPECT_EQ(Found(store(), keys, 950), 2u);
  EXPECT_EQ(Found(store(), keys, 951), 1u);
  EXPECT_EQ(Found(store(), keys, kLossless), 1u);
}

TEST_P(StoreConformance, OnlyABetterObjectReplacesUnit) {
  const StoreKey key = Key(1);
  const auto put = [&](uint16_t quality, uint64_t version, size_t bytes) {
    return store().Put(key, {.prefix_bytes = 1, .quality = quality, .ttl = {}}, Object(1, version, bytes), {},
                       Soon());
  };
  const auto content = [&]() -> std::vector<std::byte> {
    const auto read = ReadRange(store(), key, 0, 0);
    return read.ok() ? Copy(*read) : std::vector<std::byte>{};
  };
  ASSERT_TRUE(put(500, 1, 1000).ok());
  ASSERT_TRUE(put(500, 2, 900).ok()) << "not needed, but no error";
  EXPECT_EQ(content(), Content(1, 1, 1000));
  ASSERT_TRUE(put(499, 3, 800).ok());
  EXPECT_EQ(content(), Content(1, 1, 1000));
  ASSERT_TRUE(put(kLossless, 4, 2000).ok());
  EXPECT_EQ(content(), Content(1, 4, 2000));
  const auto found = store().Lookup(std::span(&key, 1), kLossless, Soon());
  ASSERT_TRUE(found.ok());
  ASSERT_EQ(found->size(), 1u);
  EXPECT_EQ((*found)[0].bytes, 2000u);
  if (GetParam().counts_entries) {
    EXPECT_EQ(store().stats().entries, 1u);
  }
}

TEST_P(StoreConformance, MissesUnit) {
  EXPECT_EQ(ReadRange(store(), Key(1), 0, 0).status().code(), StatusCode::kNotFound);
  EXPECT_FALSE(Has(store(), Key(1)));
  EXPECT_TRUE(store().Erase(Key(1), Soon()).ok());
  const auto keys = Keys(0, 3);
  EXPECT_TRUE(store().Touch(keys, Soon()).ok());
  EXPECT_TRUE(store().Touch({}, Soon()).ok());
  EXPECT_TRUE(store().Read({}, Soon()).empty());
  store().Quarantine(Key(1));
  EXPECT_TRUE(store().Flush(Soon()).ok());
}

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
  const base::Duration ttl = GetParam().ttl;
  const auto put = [&](uint64_t number, base::Duration time_to_live) {
    return store().Put(Key(number), {.prefix_bytes = 0, .quality = 5, .ttl = time_to_live},
                       Object(number, 0, 100), {}, Soon());
  };
  ASSERT_TRUE(put(0, ttl).ok());
  ASSERT_TRUE(put(1, base::Duration::zero()).ok());
  ASSERT_TRUE(put(2, 1000 * ttl).ok());
  const auto found = store().Lookup(Keys(0, 3), 0, Soon());
  ASSERT_TRUE(found.ok());
  ASSERT_EQ(found->size(), 3u);
  if (GetParam().tells_ttl) {
    EXPECT_GT((*found)[0].ttl_left, base::Duration::zero());
    EXPECT_LE((*found)[0].ttl_left, ttl + std::chrono::milliseconds(1));
    EXPECT_EQ((*found)[1].ttl_left, base::Duration::zero()) << "for ever";
    EXPECT_GT((*found)[2].ttl_left, ttl);
  }
  harness_->Advance(ttl + std::chrono::milliseconds(50));
  EXPECT_FALSE(Has(store(), Key(0)));
  EXPECT_EQ(ReadRange(store(), Key(0), 0, 0).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(Found(store(), Keys(1, 2)), 2u);
  ASSERT_TRUE(put(0, 1000 * ttl).ok());
  EXPECT_TRUE(Has(store(), Key(0))) << "what expired does not stand in the way of a new object";
}

// A call whose deadline has passed may still answer, but only rightly, and must not break the store.
TEST_P(StoreConformance, DeadlinesInThePastUnit) {
  ASSERT_TRUE(PutObject(store(), 0, 1000).ok());
  const auto late_or_ok = [](const base::Status& status) {
    EXPECT_TRUE(status.ok() || status.code() == StatusCode::kDeadlineExceeded) << status.ToString();
  };
  const auto keys = Keys(0, 1);
  const auto found = store().Lookup(keys, 0, Past());
  late_or_ok(found.status());
  if (found.ok()) {
    EXPECT_EQ(found->size(), 1u);
  }
  const std::vector<ReadRequest> requests(3, ReadRequest{.key = keys[0], .offset = 10, .bytes = 20});
  const auto reads = store().Read(requests, Past());
  ASSERT_EQ(reads.size(), 3u);
  for (const auto& read : reads) {
    late_or_ok(read.status());
    if (read.ok()) {
      EXPECT_TRUE(Same(*read, Part(Content(0, kLossless, 1000), 10, 20)));
    }
  }
  late_or_ok(store().Put(Key(1), {}, Object(1, 0, 1000), {}, Past()));
  late_or_ok(store().Touch(keys, Past()));
  late_or_ok(store().EraseTenant(kOtherTenant, Past()).status());
  late_or_ok(store().Flush(Past()));
  EXPECT_TRUE(Has(store(), Key(0)));
  const auto whole = ReadRange(store(), Key(0), 0, 0);
  ASSERT_TRUE(whole.ok()) << whole.status().ToString();
  EXPECT_EQ(Copy(*whole), Content(0, kLossless, 1000));
  late_or_ok(store().Erase(Key(0), Past()));
  ASSERT_TRUE(store().Erase(Key(0), Soon()).ok());
  EXPECT_FALSE(Has(store(), Key(0)));
}

TEST_P(StoreConformance, EmptyAndLargeObjectsUnit) {
  ASSERT_TRUE(PutObject(store(), 0, 0).ok());
  const auto empty = ReadRange(store(), Key(0), 0, 0);
  ASSERT_TRUE(empty.ok()) << empty.status().ToString();
  EXPECT_EQ(empty->size(), 0u);
  EXPECT_EQ(ReadRange(store(), Key(0), 0, 1).status().code(), StatusCode::kInvalidArgument);

  const uint64_t bytes = GetParam().large_object_bytes;
  ASSERT_TRUE(PutObject(store(), 1, bytes).ok());
  const auto content = Content(1, kLossless, bytes);
  const auto whole = ReadRange(store(), Key(1), 0, 0);
  ASSERT_TRUE(whole.ok()) << whole.status().ToString();
  EXPECT_TRUE(Same(*whole, content));
  const auto half = ReadRange(store(), Key(1), bytes / 2 - 3, bytes / 3);
  ASSERT_TRUE(half.ok());
  EXPECT_TRUE(Same(*half, Part(content, bytes / 2 - 3, bytes / 3)));
  EXPECT_EQ(Found(store(), Keys(0, 2)), 2u);
}

TEST_P(StoreConformance, ImpossibleArgumentsAreRefusedSafety) {
  EXPECT_EQ(
      store().Put(Key(1), {.prefix_bytes = 11, .quality = 1, .ttl = {}}, Object(1, 0, 10), {}, Soon()).code(),
      StatusCode::kInvalidArgument);
  EXPECT_EQ(store()
                .Put(Key(1), {.prefix_bytes = 0, .quality = 1001, .ttl = {}}, Object(1, 0, 10), {}, Soon())
                .code(),
            StatusCode::kInvalidArgument);
  const std::vector<StoreKey> many(kMaxKeysPerCall + 1);
  EXPECT_EQ(store().Lookup(many, 0, Soon()).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(store().Touch(many, Soon()).code(), StatusCode::kInvalidArgument);

  // Address space without access: a store that looked at a byte of it before it looked at the size would
  // die.
  constexpr size_t kTooLarge = kMaxStoredBytes + 1;
  void* space = ::mmap(nullptr, kTooLarge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(space, MAP_FAILED);
  const std::shared_ptr<const void> owner(space,
                                          [](const void* at) { ::munmap(const_cast<void*>(at), kTooLarge); });
  const Slice huge(owner, {static_cast<const std::byte*>(space), kTooLarge});
  EXPECT_EQ(store().Put(Key(1), {}, huge, {}, Soon()).code(), StatusCode::kResourceExhausted);
  EXPECT_FALSE(Has(store(), Key(1)));
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

TEST_P(StoreConformance, CountersUnit) {
  const StoreStats before = store().stats();
  for (uint64_t i = 0; i < 4; ++i) ASSERT_TRUE(PutObject(store(), i, 100).ok());
  EXPECT_EQ(Found(store(), Keys(0, 6)), 4u);
  EXPECT_EQ(Found(store(), Keys(5, 2)), 0u);
  ASSERT_TRUE(ReadRange(store(), Key(0), 10, 30).ok());
  ASSERT_TRUE(ReadRange(store(), Key(1), 0, 0).ok());
  ASSERT_FALSE(ReadRange(store(), Key(9), 0, 0).ok());
  const StoreStats after = store().stats();
  EXPECT_EQ(after.puts - before.puts, 4u);
  EXPECT_EQ(after.put_bytes - before.put_bytes, 400u);
  EXPECT_EQ(after.lookups - before.lookups, 2u);
  EXPECT_EQ(after.lookup_keys - before.lookup_keys, 8u);
  EXPECT_EQ(after.hits - before.hits, 4u);
  EXPECT_EQ(after.reads - before.reads, 2u);
  EXPECT_EQ(after.read_bytes - before.read_bytes, 130u);
  EXPECT_EQ(after.misses - before.misses, 1u);
  EXPECT_EQ(after.errors, before.errors);
  EXPECT_EQ(after.corrupt, before.corrupt);
  if (GetParam().counts_entries) {
    EXPECT_EQ(after.entries, 4u);
    EXPECT_GE(after.bytes, 400u);
  }
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
  ASSERT_TRUE(store().Erase(Key(0), Soon()).ok()) << "a pin is no shield against erasure";
  EXPECT_FALSE(Has(store(), Key(0)));
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

// Random operations on few keys against a plain map: every answer must be the one the map gives.
TEST_P(StoreConformance, AgreesWithAModelProperty) {
  struct Held {
    uint64_t version = 0;
    uint64_t bytes = 0;
    uint16_t quality = 0;
  };
  constexpr uint64_t kKeys = 12;
  std::map<std::pair<uint64_t, uint64_t>, Held> model;  // (tenant, number)
  base::Rng rng(20'261'121);
  for (size_t step = 1; step <= GetParam().random_operations; ++step) {
    const uint64_t tenant = rng.Below(2) == 0 ? kTenant : kOtherTenant;
    const uint64_t number = rng.Below(kKeys);
    const StoreKey key = Key(number, tenant);
    const auto held = model.find({tenant, number});
    const uint64_t dice = rng.Below(100);
    if (dice < 40) {
      const auto quality = static_cast<uint16_t>(rng.Below(4) * 250);
      const uint64_t bytes = rng.Below(3000);
      ASSERT_TRUE(store()
                      .Put(key, {.prefix_bytes = 0, .quality = quality, .ttl = {}},
                           Object(number, step, bytes), {}, Soon())
                      .ok());
      if (held == model.end() || quality > held->second.quality) {
        model[{tenant, number}] = {.version = step, .bytes = bytes, .quality = quality};
      }
    } else if (dice < 60) {
      const auto min_quality = static_cast<uint16_t>(rng.Below(4) * 250);
      std::vector<StoreKey> keys;
      size_t expected = 0;
      for (uint64_t i = number; i < kKeys; ++i) {
        keys.push_back(Key(i, tenant));
        const auto at = model.find({tenant, i});
        const bool good = at != model.end() && at->second.quality >= min_quality;
        if (expected == i - number && good) ++expected;
      }
      ASSERT_EQ(Found(store(), keys, min_quality), expected) << "step " << step;
    } else if (dice < 90) {
      const auto read = ReadRange(store(), key, 0, 0);
      if (held == model.end()) {
        ASSERT_EQ(read.status().code(), StatusCode::kNotFound) << "step " << step;
      } else {
        ASSERT_TRUE(read.ok()) << "step " << step << ": " << read.status().ToString();
        ASSERT_EQ(Copy(*read), Content(number, held->second.version, held->second.bytes));
      }
    } else if (dice < 98) {
      ASSERT_TRUE(store().Erase(key, Soon()).ok());
      model.erase({tenant, number});
    } else {
      ASSERT_TRUE(store().EraseTenant(tenant, Soon()).ok());
      std::erase_if(model, [&](const auto& entry) { return entry.first.first == tenant; });
    }
  }
  if (GetParam().counts_entries) {
    EXPECT_EQ(store().stats().entries, model.size());
  }
}

// Objects of this size all begin with their version, so that a reader can tell what it must have got.
constexpr size_t kSharedBytes = 4096;

Slice SharedObject(uint64_t number, uint64_t version) {
  std::vector<std::byte> bytes = Content(number, version, kSharedBytes);
  base::StoreLe(bytes.data(), version);
  return Slice::Own(std::move(bytes));
}

bool IsSharedObject(uint64_t number, std::span<const std::byte> bytes) {
  if (bytes.size() != kSharedBytes) return false;
  const auto version = base::LoadLe<uint64_t>(bytes.data());
  return std::ranges::equal(bytes, SharedObject(number, version).bytes());
}

// One thread of the concurrency test: a few hundred random calls; every answer must be whole and of its key.
void WorkOnSharedKeys(Store& store, uint64_t seed, std::atomic<uint64_t>& wrong) {
  constexpr uint64_t kKeys = 8;
  base::Rng rng(seed);
  for (int step = 0; step < 400; ++step) {
    const uint64_t number = rng.Below(kKeys);
    const StoreKey key = Key(number);
    const uint64_t dice = rng.Below(100);
    if (dice < 35) {
      const auto quality = static_cast<uint16_t>(rng.Below(1001));
      if (!store
               .Put(key, {.prefix_bytes = 8, .quality = quality, .ttl = {}}, SharedObject(number, rng.Next()),
                    {}, Soon())
               .ok()) {
        ++wrong;
      }
    } else if (dice < 60) {
      const auto read = ReadRange(store, key, 0, 0);
      if (read.ok() ? !IsSharedObject(number, read->bytes())
                    : read.status().code() != StatusCode::kNotFound) {
        ++wrong;
      }
    } else if (dice < 85) {
      const auto found = store.Lookup(Keys(0, kKeys), 0, Soon());
      if (!found.ok() || found->size() > kKeys) {
        ++wrong;
      } else {
        for (const EntryInfo& info : *found) wrong += info.bytes != kSharedBytes || info.prefix_bytes != 8;
      }
    } else if (dice < 96) {
      if (!store.Erase(key, Soon()).ok()) ++wrong;
    } else if (dice < 98) {
      if (!store.Touch(Keys(0, kKeys), Soon()).ok()) ++wrong;
      (void)store.stats();
    } else {
      store.Quarantine(key);
    }
  }
}

TEST_P(StoreConformance, ThreadsAtOnceSafety) {
  std::atomic<uint64_t> wrong{0};
  std::vector<std::thread> threads;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    threads.emplace_back([&, seed] { WorkOnSharedKeys(store(), seed, wrong); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0u);
  const StoreStats stats = store().stats();
  EXPECT_LE(stats.hits, stats.lookup_keys);
  EXPECT_EQ(stats.errors, 0u);
  ASSERT_TRUE(store().EraseTenant(kTenant, Soon()).ok());
  EXPECT_EQ(Found(store(), Keys(0, 8)), 0u);
  if (GetParam().counts_entries) {
    EXPECT_EQ(store().stats().entries, 0u);
    EXPECT_EQ(store().stats().bytes, 0u);
  }
}

TEST_P(StoreConformance, ShutdownEndsCallsOfAllThreadsSafety) {
  constexpr int kThreads = 3;
  std::atomic<int> busy{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      const auto number = static_cast<uint64_t>(thread);
      // Ends only when the store says that it was shut down: otherwise the test hangs into its time limit.
      for (int round = 0;; ++round) {
        if (round == 3) ++busy;
        base::Status status = PutObject(store(), number, 2000);
        if (status.code() == StatusCode::kCancelled) break;
        status = ReadRange(store(), Key(number), 0, 0).status();
        if (status.code() == StatusCode::kCancelled) break;
        status = store().Lookup(Keys(0, kThreads), 0, Soon()).status();
        if (status.code() == StatusCode::kCancelled) break;
      }
    });
  }
  while (busy.load() < kThreads) std::this_thread::yield();
  store().Shutdown();
  for (std::thread& thread : threads) thread.join();
  const auto keys = Keys(0, 1);
  EXPECT_EQ(store().Lookup(keys, 0, Soon()).status().code(), StatusCode::kCancelled);
  EXPECT_EQ(ReadRange(store(), keys[0], 0, 0).status().code(), StatusCode::kCancelled);
  EXPECT_EQ(PutObject(store(), 0, 10).code(), StatusCode::kCancelled);
  EXPECT_EQ(store().Erase(keys[0], Soon()).code(), StatusCode::kCancelled);
  EXPECT_EQ(store().EraseTenant(kTenant, Soon()).status().code(), StatusCode::kCancelled);
  EXPECT_EQ(store().Touch(keys, Soon()).code(), StatusCode::kCancelled);
  store().Quarantine(keys[0]);
  (void)store().stats();
  store().Shutdown();
}

}  // namespace
}  // namespace kvplane::store
