// Conformance of stores: what is put, looked up and read.
#include <sys/mman.h>

#include <memory>
#include <utility>
#include <vector>

#include "kvplane/store/testing/conformance_calls.h"
#include "kvplane/store/testing/store_conformance.h"

namespace kvplane::store {

void LinkConformanceOfReads();  // named by StoreCaseName()
void LinkConformanceOfReads() {}

namespace {

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

}  // namespace
}  // namespace kvplane::store
