// Conformance of stores: random operations, many threads, deadlines and the end.
#include <algorithm>
#include <atomic>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "kvplane/base/endian.h"
#include "kvplane/base/rng.h"
#include "kvplane/store/testing/conformance_calls.h"
#include "kvplane/store/testing/store_conformance.h"

namespace kvplane::store {

void LinkConformanceOfThreads();  // named by StoreCaseName()
void LinkConformanceOfThreads() {}

namespace {

using Calls = ConformanceCalls;

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
  std::vector<std::byte> bytes = Calls::Content(number, version, kSharedBytes);
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
    const StoreKey key = Calls::Key(number);
    const uint64_t dice = rng.Below(100);
    if (dice < 35) {
      const auto quality = static_cast<uint16_t>(rng.Below(1001));
      if (!store
               .Put(key, {.prefix_bytes = 8, .quality = quality, .ttl = {}}, SharedObject(number, rng.Next()),
                    {}, Calls::Soon())
               .ok()) {
        ++wrong;
      }
    } else if (dice < 60) {
      const auto read = Calls::ReadRange(store, key, 0, 0);
      if (read.ok() ? !IsSharedObject(number, read->bytes())
                    : read.status().code() != Calls::StatusCode::kNotFound) {
        ++wrong;
      }
    } else if (dice < 85) {
      const auto found = store.Lookup(Calls::Keys(0, kKeys), 0, Calls::Soon());
      if (!found.ok() || found->size() > kKeys) {
        ++wrong;
      } else {
        for (const EntryInfo& info : *found) wrong += info.bytes != kSharedBytes || info.prefix_bytes != 8;
      }
    } else if (dice < 96) {
      if (!store.Erase(key, Calls::Soon()).ok()) ++wrong;
    } else if (dice < 98) {
      if (!store.Touch(Calls::Keys(0, kKeys), Calls::Soon()).ok()) ++wrong;
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
