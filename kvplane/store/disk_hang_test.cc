// A disk that hangs: calls into the file system do not come back, for as long as the test likes. Who asks the
// tier gets an answer by the deadline, and who ends it is not kept.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "kvplane/store/disk_store.h"
#include "kvplane/store/testing/hanging_env.h"
#include "kvplane/store/testing/numbered_object.h"
#include "kvplane/store/testing/temp_folder.h"
#include "kvplane/store/tiered_store.h"

namespace kvplane::store {
namespace {

using base::StatusCode;

base::TimePoint Now() { return base::Clock::System().Now(); }
base::TimePoint Soon() { return Now() + std::chrono::seconds(60); }
base::TimePoint In(int ms) { return Now() + std::chrono::milliseconds(ms); }

constexpr size_t kBytes = 300'000;

class DiskHangTest : public ::testing::Test {
 protected:
  void TearDown() override {
    disk_.GoOn();
    store_.reset();
    AwaitNoneLeftBehind();
  }
  static void AwaitNoneLeftBehind() {
    while (DiskStore::left_behind() > 0) std::this_thread::yield();
  }
  std::unique_ptr<DiskStore> Open(base::Duration close_timeout = std::chrono::seconds(60)) {
    DiskStoreOptions options;
    options.folder = folder_.path();
    options.capacity_bytes = 256 << 20;
    options.close_timeout = close_timeout;
    options.env = disk_.env();
    auto opened = DiskStore::Open(options);
    EXPECT_TRUE(opened.ok()) << opened.status().ToString();
    return opened.ok() ? *std::move(opened) : nullptr;
  }
  static base::Status Put(Store& store, uint64_t number, bool durable, base::TimePoint deadline = Soon()) {
    return store.Put(NumberedKey(number), {.prefix_bytes = 0, .quality = 5, .ttl = {}},
                     Slice::Own(std::vector<std::byte>(kBytes, static_cast<std::byte>(number))),
                     {.durable = durable}, deadline);
  }
  static base::Status Read(Store& store, uint64_t number, base::TimePoint deadline = Soon()) {
    const ReadRequest request{.key = NumberedKey(number)};
    const auto read = std::move(store.Read(std::span(&request, 1), deadline).front());
    if (!read.ok()) return read.status();
    const bool right = read->size() == kBytes && std::ranges::all_of(read->bytes(), [&](std::byte b) {
                         return b == static_cast<std::byte>(number);
                       });
    return right ? base::Status::Ok() : base::Internal("other bytes");
  }
  static size_t Found(Store& store, uint64_t number, base::TimePoint deadline = Soon()) {
    const StoreKey key = NumberedKey(number);
    const auto found = store.Lookup(std::span(&key, 1), 0, deadline);
    EXPECT_TRUE(found.ok()) << found.status().ToString();
    return found.ok() ? found->size() : 0;
  }

  TempFolder folder_;
  HangingEnv disk_;
  std::unique_ptr<DiskStore> store_;
};

TEST_F(DiskHangTest, CallsEndAtTheirDeadlinesSafety) {
  store_ = Open();
  for (uint64_t number = 1; number <= 4; ++number) ASSERT_TRUE(Put(*store_, number, true).ok());
  disk_.Hang();
  // More than there are threads to read.
  for (int i = 0; i < 12; ++i) EXPECT_EQ(Read(*store_, 1, In(20)).code(), StatusCode::kDeadlineExceeded);
  disk_.AwaitHanging(1);
  EXPECT_EQ(Found(*store_, 1), 1u) << "what is there is known without the disk";
  const std::vector<StoreKey> keys = {NumberedKey(1)};
  EXPECT_TRUE(store_->Touch(keys, Soon()).ok());
  EXPECT_EQ(Put(*store_, 5, true, In(20)).code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(store_->Flush(In(20)).code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(store_->Erase(NumberedKey(2), In(20)).code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(store_->EraseTenant(99, In(20)).status().code(), StatusCode::kDeadlineExceeded);
  store_->Quarantine(NumberedKey(3));
  EXPECT_EQ(Found(*store_, 3), 0u);
  EXPECT_GE(store_->stats().errors, 12u);

  disk_.GoOn();
  EXPECT_TRUE(Read(*store_, 1).ok());
  ASSERT_TRUE(Put(*store_, 6, true).ok());
  EXPECT_TRUE(Read(*store_, 6).ok());
}

// Memory for writes is bounded: when it is full, puts wait for the disk, until their deadlines.
TEST_F(DiskHangTest, PutsBeyondTheWriteBuffersAreRefusedInTimeSafety) {
  store_ = Open();
  ASSERT_TRUE(Put(*store_, 1, true).ok());
  disk_.Hang();
  uint64_t taken = 0;
  base::Status status;
  for (uint64_t number = 2; status.ok() && number < 1000; ++number) {
    status = Put(*store_, number, false, In(1000));
    taken += status.ok();
  }
  EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded) << status.ToString();
  EXPECT_LT(taken * kBytes, 64u << 20) << "three buffers of 4 MiB, and what was on its way";
  disk_.GoOn();
  ASSERT_TRUE(Put(*store_, 2000, true).ok());
  EXPECT_TRUE(Read(*store_, 2000).ok());
}

TEST_F(DiskHangTest, ShutdownWakesWhoWaitsSafety) {
  store_ = Open();
  ASSERT_TRUE(Put(*store_, 1, true).ok());
  disk_.Hang();
  std::atomic<int> cancelled{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] { cancelled += Read(*store_, 1).code() == StatusCode::kCancelled; });
  }
  threads.emplace_back([&] { cancelled += Put(*store_, 2, true).code() == StatusCode::kCancelled; });
  disk_.AwaitHanging(4);  // three reads and the flush
  store_->Shutdown();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(cancelled.load(), 4);
}

TEST_F(DiskHangTest, TheDestructorDoesNotWaitForEverSafety) {
  store_ = Open(std::chrono::milliseconds(50));
  ASSERT_TRUE(Put(*store_, 1, true).ok());
  ASSERT_TRUE(Put(*store_, 2, false).ok());
  disk_.Hang();
  EXPECT_EQ(Read(*store_, 1, In(20)).code(), StatusCode::kDeadlineExceeded);
  disk_.AwaitHanging(1);
  store_.reset();  // or the test ends here
  EXPECT_EQ(DiskStore::left_behind(), 1u);
  DiskStoreOptions again;
  again.folder = folder_.path();
  EXPECT_EQ(DiskStore::Open(again).status().code(), StatusCode::kFailedPrecondition)
      << "nobody else may use the folder meanwhile";
  disk_.GoOn();
  AwaitNoneLeftBehind();
  store_ = Open();
  ASSERT_NE(store_, nullptr);
  EXPECT_TRUE(Read(*store_, 1).ok());
  EXPECT_TRUE(Read(*store_, 2).ok()) << "it was flushed when the disk came back";
}

// In a stack: the disk is left out after a few deadlines, everything else goes on.
TEST_F(DiskHangTest, AStackDoesWithoutItsDiskSafety) {
  base::ManualClock clock;
  auto disk = Open(std::chrono::milliseconds(50));
  ASSERT_TRUE(Put(*disk, 1, true).ok());
  TieredOptions options;
  options.dram = {.capacity_bytes = 16 << 20, .clock = &clock};
  SlowTier tier;
  tier.store = std::move(disk);
  tier.read_budget = std::chrono::milliseconds(50);
  tier.writes.budget = std::chrono::milliseconds(50);
  options.tiers.push_back(std::move(tier));
  auto created = TieredStore::Create(std::move(options));
  ASSERT_TRUE(created.ok());
  TieredStore& stack = **created;
  disk_.Hang();
  while (!stack.tier_stats()[1].breaker_open) EXPECT_EQ(Read(stack, 1).code(), StatusCode::kNotFound);
  const uint64_t errors = stack.tier_stats()[1].errors;
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Read(stack, 1).code(), StatusCode::kNotFound);
  EXPECT_EQ(stack.tier_stats()[1].errors, errors) << "nobody waits for the disk any more";
  ASSERT_TRUE(Put(stack, 2, false).ok());
  EXPECT_TRUE(Read(stack, 2).ok());
  EXPECT_EQ(Put(stack, 3, true, In(20)).code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(stack.Erase(NumberedKey(1), In(20)).code(), StatusCode::kDeadlineExceeded);
  stack.Shutdown();
  created->reset();
  EXPECT_EQ(DiskStore::left_behind(), 1u);
}

}  // namespace
}  // namespace kvplane::store
