#include "kvplane/store/disk_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <latch>
#include <system_error>
#include <thread>
#include <utility>

#include "kvplane/store/chunk_db_rocks.h"
#include "kvplane/store/deadline_pool.h"
#include "kvplane/store/disk_index.h"
#include "kvplane/store/testing/numbered_object.h"
#include "kvplane/store/testing/store_conformance.h"
#include "kvplane/store/testing/temp_folder.h"

namespace kvplane::store {
namespace {

using base::StatusCode;

base::TimePoint Soon() { return base::Clock::System().Now() + std::chrono::seconds(60); }

class DiskHarness final : public StoreHarness {
 public:
  explicit DiskHarness(uint64_t capacity_bytes) {
    options_.folder = folder_.path();
    options_.capacity_bytes = capacity_bytes;
    options_.clock = &clock_;
    options_.flush_on_close = false;
    Reopen();
  }
  Store& store() override { return *store_; }
  void Advance(base::Duration by) override { clock_.Advance(by); }
  void Reopen() override {
    store_.reset();
    auto opened = DiskStore::Open(options_);
    KVPLANE_CHECK(opened.ok());
    store_ = *std::move(opened);
  }

 private:
  TempFolder folder_;
  base::ManualClock clock_;
  DiskStoreOptions options_;
  std::unique_ptr<DiskStore> store_;
};

StoreCase DiskCase() {
  StoreCase tested;
  tested.name = "Disk";
  tested.create = [](uint64_t capacity_bytes) { return std::make_unique<DiskHarness>(capacity_bytes); };
  tested.pins = false;
  tested.durable = true;
  return tested;
}

INSTANTIATE_TEST_SUITE_P(Disk, StoreConformance, ::testing::Values(DiskCase()), StoreCaseName);

class DiskStoreTest : public ::testing::Test {
 protected:
  void Open() {
    store_.reset();
    auto opened = DiskStore::Open(options());
    ASSERT_TRUE(opened.ok()) << opened.status().ToString();
    store_ = *std::move(opened);
  }
  DiskStoreOptions options() {
    options_.folder = folder_.path();
    options_.clock = &clock_;
    return options_;
  }
  base::Status Put(uint64_t number, size_t bytes, bool durable = false, base::Duration ttl = {}) {
    return store_->Put(NumberedKey(number), {.prefix_bytes = 0, .quality = 5, .ttl = ttl},
                       Slice::Own(std::vector<std::byte>(bytes, static_cast<std::byte>(number))),
                       {.durable = durable}, Soon());
  }
  bool Has(uint64_t number) {
    const ReadRequest request{.key = NumberedKey(number), .offset = 0, .bytes = 0};
    const auto read = store_->Read(std::span(&request, 1), Soon());
    if (!read[0].ok()) return false;
    return std::ranges::all_of(read[0]->bytes(),
                               [&](std::byte b) { return b == static_cast<std::byte>(number); });
  }
  bool Listed(uint64_t number) {
    const StoreKey key = NumberedKey(number);
    const auto found = store_->Lookup(std::span(&key, 1), 0, Soon());
    return found.ok() && found->size() == 1;
  }
  uint64_t FolderBytes(std::string_view extension = {}) {
    uint64_t bytes = 0;
    for (const auto& file : std::filesystem::recursive_directory_iterator(folder_.path())) {
      if (!extension.empty() && file.path().extension() != extension) continue;
      std::error_code gone;  // files whose entries have left go in the background
      const uint64_t size = file.is_regular_file(gone) ? file.file_size(gone) : 0;
      if (!gone) bytes += size;
    }
    return bytes;
  }
  size_t Tables() {
    size_t count = 0;
    for (const auto& file : std::filesystem::recursive_directory_iterator(folder_.path())) {
      count += file.path().extension() == ".sst";
    }
    return count;
  }

  TempFolder folder_;
  base::ManualClock clock_;
  DiskStoreOptions options_;
  std::unique_ptr<DiskStore> store_;
};

TEST_F(DiskStoreTest, EverythingSurvivesAnOrderlyRestartUnit) {
  Open();
  for (uint64_t i = 0; i < 20; ++i) ASSERT_TRUE(Put(i, 100'000 * i).ok());
  Open();
  EXPECT_EQ(store_->stats().entries, 20u);
  EXPECT_EQ(store_->stats().bytes, 19'000'000u);
  for (uint64_t i = 0; i < 20; ++i) EXPECT_TRUE(Has(i)) << i;
  EXPECT_EQ(store_->opening_damage(), "");
}

TEST_F(DiskStoreTest, TimesToLiveGoOnOverRestartsUnit) {
  options_.ttl = std::chrono::seconds(100);
  Open();
  ASSERT_TRUE(Put(1, 10, false, std::chrono::seconds(10)).ok());
  ASSERT_TRUE(Put(2, 10).ok());
  ASSERT_TRUE(Put(3, 10, false, std::chrono::seconds(1000)).ok());
  clock_.Advance(std::chrono::seconds(11));
  Open();
  EXPECT_FALSE(Listed(1));
  EXPECT_TRUE(Listed(2));
  clock_.Advance(std::chrono::seconds(90));
  EXPECT_FALSE(Listed(2)) << "the tier's time";
  EXPECT_FALSE(Listed(3)) << "the tier's time is an upper bound";
  EXPECT_EQ(store_->stats().expirations, 2u);
}

// The client names the keys, also one many times over; what is found at first must not expire in mid-call.
TEST_F(DiskStoreTest, AnEntryThatExpiresDuringALookupIsWholeOrGoneSafety) {
  class HastyClock final : public base::Clock {  // every look is a millisecond later
   public:
    base::TimePoint Now() const override { return System().Now(); }
    void SleepUntil(base::TimePoint when) override { System().SleepUntil(when); }
    double UnixSeconds() const override { return 1e-3 * static_cast<double>(++looks_); }

   private:
    mutable std::atomic<uint64_t> looks_ = 1000;
  };
  HastyClock hasty;
  options_.folder = folder_.path();
  options_.clock = &hasty;
  auto opened = DiskStore::Open(options_);
  ASSERT_TRUE(opened.ok()) << opened.status().ToString();
  store_ = *std::move(opened);
  ASSERT_TRUE(Put(1, 10, false, std::chrono::milliseconds(50)).ok());
  const std::vector<StoreKey> same(1000, NumberedKey(1));
  size_t found = 1;
  for (int i = 0; i < 60 && found > 0; ++i) {
    const auto looked = store_->Lookup(same, 0, Soon());
    ASSERT_TRUE(looked.ok());
    found = looked->size();
    EXPECT_TRUE(found == 0 || found == same.size()) << found;
    EXPECT_TRUE(store_->Touch(same, Soon()).ok());
  }
  EXPECT_EQ(found, 0u) << "it does expire";
}

// Scrubbed while a good object is put in place of the damaged one: only that one may go.
TEST_F(DiskStoreTest, ScrubbingErasesOnlyWhatItVerifiedSafety) {
  class HeldClock final : public base::Clock {  // the second look after Hold() waits for Release()
   public:
    base::TimePoint Now() const override { return System().Now(); }
    void SleepUntil(base::TimePoint when) override { System().SleepUntil(when); }
    double UnixSeconds() const override {
      if (looks_++ == 1) {
        while (!released_.load()) std::this_thread::yield();
      }
      return System().UnixSeconds();
    }
    void Hold() { looks_ = 0; }
    void Release() { released_ = true; }
    void AwaitLooks(uint64_t looks) const {
      while (looks_.load() < looks) std::this_thread::yield();
    }

   private:
    mutable std::atomic<uint64_t> looks_ = 1000;
    std::atomic<bool> released_ = false;
  };
  HeldClock clock;
  options_.folder = folder_.path();
  options_.clock = &clock;
  auto opened = DiskStore::Open(options_);
  ASSERT_TRUE(opened.ok()) << opened.status().ToString();
  store_ = *std::move(opened);
  const auto put = [&](uint16_t quality, base::Duration ttl) {
    return store_->Put(NumberedKey(1), {.prefix_bytes = 0, .quality = quality, .ttl = ttl},
                       Slice::Own(std::vector<std::byte>(100, std::byte{1})), {}, Soon());
  };
  ASSERT_TRUE(put(1, {}).ok());  // no object at all: damage to the scrubber
  clock.Hold();
  base::Status better;
  std::thread writer([&] { better = put(2, std::chrono::hours(1)); });
  clock.AwaitLooks(2);  // the disk's writer is busy with it: the erasure comes after it
  base::Result<ScrubReport> report = ScrubReport{};
  std::thread scrubber([&] { report = store_->Scrub({.repair = true}); });
  clock.AwaitLooks(3);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // to verify 100 bytes
  clock.Release();
  writer.join();
  scrubber.join();
  EXPECT_TRUE(better.ok()) << better.ToString();
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  const StoreKey key = NumberedKey(1);
  const auto found = store_->Lookup(std::span(&key, 1), 2, Soon());
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->size(), 1u);
}

TEST_F(DiskStoreTest, TheFolderStaysWithinItsCapacityUnit) {
  options_.capacity_bytes = 32 << 20;
  Open();
  for (uint64_t i = 0; i < 128; ++i) {
    ASSERT_TRUE(Put(i, 1'000'000).ok());
    ASSERT_LE(store_->stats().bytes, options_.capacity_bytes);
  }
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  const base::TimePoint limit = Soon();
  while (FolderBytes(".sst") > options_.capacity_bytes && base::Clock::System().Now() < limit) {
    std::this_thread::yield();
  }
  EXPECT_LE(FolderBytes(".sst"), options_.capacity_bytes);
  EXPECT_GE(store_->stats().evictions, 90u);
  EXPECT_TRUE(Has(127));
  EXPECT_FALSE(Has(0));
  // A smaller budget holds from the next opening on.
  options_.capacity_bytes = 8 << 20;
  Open();
  EXPECT_LE(store_->stats().bytes, options_.capacity_bytes);
  EXPECT_TRUE(Has(127));
}

// One file has everything and is more than the new budget: with it everything goes.
TEST_F(DiskStoreTest, WhatASmallerBudgetDropsIsNotPromisedUnit) {
  options_.capacity_bytes = 4ull << 30;
  Open();
  for (uint64_t i = 0; i < 5; ++i) ASSERT_TRUE(Put(i, 4 << 20).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  options_.capacity_bytes = 16 << 20;
  Open();
  const base::TimePoint limit = Soon();
  while (store_->stats().entries > 0 && base::Clock::System().Now() < limit) std::this_thread::yield();
  EXPECT_EQ(store_->stats().entries, 0u);
  EXPECT_LT(FolderBytes(".sst"), 4u << 20);
  ASSERT_TRUE(Put(7, 4 << 20).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  Open();
  EXPECT_TRUE(Has(7));
}

TEST_F(DiskStoreTest, WhatIsUsedLateInItsLifeIsWrittenAgainUnit) {
  options_.capacity_bytes = 32 << 20;
  Open();
  ASSERT_TRUE(Put(1000, 1'000'000).ok());
  ASSERT_TRUE(Put(1001, 1'000'000).ok());
  for (uint64_t i = 0; i < 128; ++i) {
    ASSERT_TRUE(Put(i, 1'000'000).ok());
    EXPECT_TRUE(Listed(1000)) << "a use, after put " << i;
  }
  EXPECT_TRUE(Has(1000));
  EXPECT_FALSE(Has(1001)) << "nobody used it";
}

TEST_F(DiskStoreTest, ManyDurablePutsDoNotEndInManyFilesUnit) {
  options_.capacity_bytes = 64 << 20;
  Open();
  for (uint64_t i = 0; i < 300; ++i) ASSERT_TRUE(Put(i, 3000, true).ok());
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  EXPECT_LT(Tables(), 150u);
  for (uint64_t i = 0; i < 300; ++i) EXPECT_TRUE(Has(i)) << i;
  Open();
  for (uint64_t i = 0; i < 300; ++i) EXPECT_TRUE(Has(i)) << i;
}

TEST_F(DiskStoreTest, ObjectsLargerThanAFileStayUnit) {
  options_.capacity_bytes = 64 << 20;
  Open();
  for (uint64_t i = 0; i < 4; ++i) ASSERT_TRUE(Put(i, 5'000'000).ok());
  // Flushes, and with them compactions of entries whose files go: the index looks what is left.
  for (uint64_t i = 100; i < 150; ++i) ASSERT_TRUE(Put(i, 1000, true).ok());
  for (uint64_t i = 0; i < 4; ++i) EXPECT_TRUE(Has(i)) << i;
  EXPECT_EQ(store_->stats().evictions, 0u);
  Open();
  for (uint64_t i = 0; i < 4; ++i) EXPECT_TRUE(Has(i)) << i;
}

TEST_F(DiskStoreTest, AnErasedTenantStaysErasedAfterACrashUnit) {
  options_.flush_on_close = false;
  Open();
  ASSERT_TRUE(Put(1, 1000, true).ok());
  ASSERT_TRUE(Put(2, 1000, true).ok());
  const auto erased = store_->EraseTenant(NumberedKey(0).tenant, Soon());
  ASSERT_TRUE(erased.ok()) << erased.status().ToString();
  EXPECT_EQ(*erased, 2u);
  Open();
  EXPECT_EQ(store_->stats().entries, 0u);
}

// Holds up the first thread that asks for the time after Arm(), until Release().
class GateClock final : public base::Clock {
 public:
  base::TimePoint Now() const override { return base::Clock::System().Now(); }
  void SleepUntil(base::TimePoint when) override { base::Clock::System().SleepUntil(when); }
  double UnixSeconds() const override {
    if (armed_.exchange(false)) {
      held_.count_down();
      released_.wait();
    }
    return base::Clock::System().UnixSeconds();
  }
  void Arm() { armed_ = true; }
  void AwaitHeld() { held_.wait(); }
  void Release() { released_.count_down(); }

 private:
  mutable std::atomic<bool> armed_{false};
  mutable std::latch held_{1};
  mutable std::latch released_{1};
};

// A repair that still waits behind a put is not done, and must not be called so: the process may end now.
TEST_F(DiskStoreTest, ARepairThatReturnsIsDoneUnit) {
  GateClock clock;
  DiskStoreOptions options = this->options();
  options.clock = &clock;
  options.flush_on_close = false;
  auto opened = DiskStore::Open(options);
  ASSERT_TRUE(opened.ok()) << opened.status().ToString();
  store_ = *std::move(opened);
  ASSERT_TRUE(Put(1, 1000, true).ok()) << "bytes that are no object";
  clock.Arm();
  std::thread put([&] { EXPECT_TRUE(Put(2, 1000, false, std::chrono::hours(1)).ok()); });
  clock.AwaitHeld();  // on the writer's thread, which takes the time for the time to live
  EXPECT_EQ(store_->Scrub({.repair = true, .deadline = base::Clock::System().Now() + std::chrono::seconds(1)})
                .status()
                .code(),
            StatusCode::kDeadlineExceeded);
  clock.Release();
  put.join();
  const auto report = store_->Scrub({.repair = true});
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  ASSERT_TRUE(store_->Flush(Soon()).ok());
  store_.reset();
  opened = DiskStore::Open(options);
  ASSERT_TRUE(opened.ok()) << opened.status().ToString();
  EXPECT_EQ((*opened)->stats().entries, 0u);
}

TEST_F(DiskStoreTest, AnErasedEntryStaysErasedAfterACrashUnit) {
  options_.flush_on_close = false;
  options_.capacity_bytes = 4 << 20;
  Open();
  for (uint64_t i = 0; i < 6; ++i) ASSERT_TRUE(Put(i, 1'000'000, true).ok());
  EXPECT_FALSE(Listed(0)) << "evicted, but its file is still there";
  ASSERT_TRUE(store_->Erase(NumberedKey(0), Soon()).ok());
  ASSERT_TRUE(store_->Erase(NumberedKey(5), Soon()).ok());
  options_.capacity_bytes = 64 << 20;
  Open();
  EXPECT_FALSE(Listed(0));
  EXPECT_FALSE(Listed(5));
  EXPECT_TRUE(Has(4));
}

TEST_F(DiskStoreTest, ReadsOfManyPiecesUnit) {
  Open();
  const std::vector<std::byte> object = NumberedObject(3, 1000);  // 8 MB: chunks and pieces of all kinds
  ASSERT_TRUE(store_
                  ->Put(NumberedKey(3), {.prefix_bytes = 64, .quality = kLossless, .ttl = {}},
                        Slice::Own(object), {}, Soon())
                  .ok());
  std::vector<ReadRequest> requests;
  for (uint64_t at = 0; at + 70'000 < object.size(); at += 70'000) {
    requests.push_back({.key = NumberedKey(3), .offset = at, .bytes = 70'000});
  }
  requests.push_back({.key = NumberedKey(3), .offset = 5, .bytes = object.size() - 9});
  const auto results = store_->Read(requests, Soon());
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_TRUE(results[i].ok()) << results[i].status().ToString();
    EXPECT_TRUE(std::ranges::equal(results[i]->bytes(),
                                   std::span(object).subspan(requests[i].offset, requests[i].bytes)));
  }
}

TEST_F(DiskStoreTest, OneStorePerFolderSafety) {
  Open();
  const auto second = DiskStore::Open(options());
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(second.status().message(), ::testing::HasSubstr("another store has this folder open"));
  Open();
}

TEST_F(DiskStoreTest, ANewFolderIsItsOwnersSafety) {
  DiskStoreOptions options = this->options();
  options.folder = folder_.path() + "/a/b";
  ASSERT_TRUE(DiskStore::Open(options).ok());
  EXPECT_EQ(std::filesystem::status(options.folder).permissions(), std::filesystem::perms::owner_all);
}

TEST_F(DiskStoreTest, BadOptionsAreRefusedSafety) {
  EXPECT_EQ(DiskStore::Open({}).status().code(), StatusCode::kInvalidArgument);
  options_.create = false;
  EXPECT_EQ(DiskStore::Open(options()).status().code(), StatusCode::kNotFound);
  options_.create = true;
  options_.read_threads = 0;
  EXPECT_EQ(DiskStore::Open(options()).status().code(), StatusCode::kInvalidArgument);
}

TEST(DeadlinePoolTest, NobodyWaitsLongerThanItsDeadlineSafety) {
  DeadlinePool pool(1);
  std::latch release(1);
  std::latch busy(1);
  std::thread first([&] {
    const auto status = pool.Run(
        [&](const std::atomic<bool>&) {
          busy.count_down();
          release.wait();
        },
        Soon());
    EXPECT_TRUE(status.ok()) << status.ToString();
  });
  busy.wait();
  const auto late = base::Clock::System().Now() + std::chrono::milliseconds(20);
  bool ran = false;
  EXPECT_EQ(pool.Run([&](const std::atomic<bool>&) { ran = true; }, late).code(),
            StatusCode::kDeadlineExceeded);
  release.count_down();
  first.join();
  EXPECT_TRUE(pool.Run([](const std::atomic<bool>&) {}, Soon()).ok());
  EXPECT_FALSE(ran) << "late work is not begun";
}

TEST(DeadlinePoolTest, StopEndsWaitsSafety) {
  DeadlinePool pool(1);
  std::latch release(1);
  std::latch busy(1);
  std::thread waiting([&] {
    const auto status = pool.Run(
        [&](const std::atomic<bool>& abandoned) {
          busy.count_down();
          release.wait();
          EXPECT_TRUE(abandoned.load());
        },
        base::kNoDeadline);
    EXPECT_EQ(status.code(), StatusCode::kCancelled);
  });
  busy.wait();
  pool.Stop();
  waiting.join();
  release.count_down();
  EXPECT_EQ(pool.Run([](const std::atomic<bool>&) {}, Soon()).code(), StatusCode::kCancelled);
  EXPECT_FALSE(pool.Post([] {}));
}

TEST(ChunkDbTest, ATenantIsErasedWhollyAndAloneUnit) {
  constexpr uint64_t kLast = ~uint64_t{0};
  const TempFolder folder;
  const ChunkDbOptions options{
      .folder = folder.path(), .budget_bytes = 64 << 20, .write_buffer_bytes = 1 << 20};
  const auto open = [&](ChunkDbContents& contents) {
    auto db = ChunkDb::Open(options, contents, [] {});
    KVPLANE_CHECK(db.ok());
    return *std::move(db);
  };
  {
    ChunkDbContents contents;
    const auto db = open(contents);
    uint64_t sequence = 0;
    for (const uint64_t tenant : {uint64_t{0}, uint64_t{6}, uint64_t{7}, uint64_t{8}, kLast}) {
      for (const uint8_t fill : {uint8_t{0}, uint8_t{0x7f}, uint8_t{0xff}}) {
        StoreKey key{.tenant = tenant};
        key.chain.fill(std::byte{fill});
        ASSERT_TRUE(db->WriteChunk(++sequence, 0, {}).ok());
        ASSERT_TRUE(db->WriteEntry({.header = {.key = key}, .sequence = sequence}).ok());
      }
    }
    ASSERT_TRUE(db->Flush().ok());
    ASSERT_TRUE(db->EraseTenant(7).ok());
    ASSERT_TRUE(db->EraseTenant(kLast).ok());
    ASSERT_TRUE(db->Flush().ok());
  }
  ChunkDbContents contents;
  open(contents);
  std::vector<uint64_t> left;
  for (const ChunkedObject& object : contents.objects) left.push_back(object.header.key.tenant);
  EXPECT_EQ(left, (std::vector<uint64_t>{0, 0, 0, 6, 6, 6, 8, 8, 8}));
  EXPECT_EQ(contents.damaged_entries, 0u);
}

TEST(ChunkDbTest, KeysAndValuesUnit) {
  const auto chunk = EncodeChunkKey({.sequence = 0x0102030405060708, .chunk = 0x0a0b0c0d});
  EXPECT_EQ(std::string(chunk.data(), chunk.size()), "\x01\x02\x03\x04\x05\x06\x07\x08\x0a\x0b\x0c\x0d");
  EXPECT_EQ(DecodeChunkKey({chunk.data(), chunk.size()}),
            (ChunkName{.sequence = 0x0102030405060708, .chunk = 0x0a0b0c0d}));
  EXPECT_EQ(DecodeChunkKey("short"), std::nullopt);

  StoreKey key{.tenant = 0x1112131415161718};
  key.chain[0] = std::byte{0x21};
  key.chain[31] = std::byte{0x22};
  const auto name = EncodeEntryKey(key);
  EXPECT_EQ(std::string(name.data(), name.size()),
            "\x11\x12\x13\x14\x15\x16\x17\x18\x21" + std::string(30, '\0') + "\x22");
  EXPECT_EQ(DecodeEntryKey({name.data(), name.size()}), key);
  EXPECT_EQ(DecodeEntryKey("short"), std::nullopt);

  const ChunkedObject object{.header = {.object_bytes = 1000, .prefix_bytes = 10, .quality = 7, .key = key},
                             .sequence = 0x31,
                             .chunk_bytes = 0x40000};
  auto value = EncodeEntryValue(object);
  EXPECT_EQ(value[64], std::byte{0x31});
  EXPECT_EQ(value[74], std::byte{0x04});
  const auto decoded = DecodeEntryValue(value, key);
  ASSERT_TRUE(decoded.ok()) << decoded.status().ToString();
  EXPECT_EQ(decoded->sequence, 0x31u);
  EXPECT_EQ(decoded->chunk_bytes, 0x40000u);
  EXPECT_EQ(decoded->header.object_bytes, 1000u);
  for (size_t at = 0; at < value.size(); ++at) {
    value[at] ^= std::byte{4};
    EXPECT_FALSE(DecodeEntryValue(value, key).ok()) << at;
    value[at] ^= std::byte{4};
  }
  EXPECT_FALSE(DecodeEntryValue(std::span(value).first(79), key).ok());
  key.chain[0] = std::byte{0};
  EXPECT_FALSE(DecodeEntryValue(value, key).ok()) << "of another key";
}

TEST(DiskIndexTest, OldestGoFirstUnit) {
  DiskIndex index;
  for (uint64_t i = 1; i <= 5; ++i) index.Insert(NumberedKey(i), {.sequence = i, .bytes = 10});
  index.Insert(NumberedKey(2), {.sequence = 6, .bytes = 30});  // replaced: young again
  EXPECT_EQ(index.bytes(), 70u);
  std::vector<StoreKey> gone;
  index.EvictTo(50, gone);
  EXPECT_EQ(gone, (std::vector<StoreKey>{NumberedKey(1), NumberedKey(3)}));
  gone.clear();
  index.EvictBelow(6, gone);
  EXPECT_EQ(gone, (std::vector<StoreKey>{NumberedKey(4), NumberedKey(5)}));
  EXPECT_EQ(index.entries(), 1u);
  EXPECT_EQ(index.AgeBytes(*index.Find(NumberedKey(2))), 30u);
  EXPECT_FALSE(index.Erase(NumberedKey(2), 2));
  EXPECT_TRUE(index.Erase(NumberedKey(2), 6));
  EXPECT_EQ(index.bytes(), 0u);
}

}  // namespace
}  // namespace kvplane::store
