// The loader by itself: in which order it reads.

#include "kvplane/engine/prefix_loader.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kvplane/cache/block_pool.h"
#include "kvplane/engine/kv_arena.h"
#include "kvplane/engine/request_pages.h"
#include "kvplane/engine/testing/hooked_store.h"
#include "kvplane/engine/testing/prefix_fixture.h"

namespace kvplane::engine {
namespace {

constexpr tensor::KvGeometry kGeometry{.layers = 2, .kv_heads = 2, .head_dim = 16};

store::StoreKey KeyOf(uint8_t prompt, uint32_t run) {
  store::StoreKey key;
  key.chain = {std::byte{prompt}, std::byte(run)};
  return key;
}

// A store with objects of zeros, pages to load them into, and what was read of it.
struct Setting {
  std::shared_ptr<KvArena> arena =
      *KvArena::Create(tensor::PageFormat::HeadMajor(kGeometry, 64), 4 << 20, kGeometry.layers);
  cache::BlockPool pool{arena->pages()};
  RequestPages pages{pool, *arena, kGeometry.layers};
  std::shared_ptr<const PinnedPages> pinned;
  const RunShape shape{.geometry = kGeometry, .run_tokens = kRun};
  const std::shared_ptr<store::Store> memory = MemoryStore();
  HookedStore store{memory};
  std::atomic<int> done = 0;

  Setting() {
    pages.Grow(4 * kRun);
    pinned = std::make_shared<const PinnedPages>(pages.layers(), arena);
  }

  StoredRun Put(uint8_t prompt, uint32_t run) {
    codec::Workspace workspace;
    const RunCoding coding = *BindRunCoding(Parsed("lossless-max"), nullptr);
    const store::StoreKey key = KeyOf(prompt, run);
    auto object = *EncodeRun(shape, coding, key, run, *pinned, workspace);
    const auto prefix = static_cast<uint32_t>(*codec::ObjectReader::PrefixBytes(object));
    StoredRun stored{.key = key, .entry = {.bytes = object.size(), .prefix_bytes = prefix}};
    EXPECT_TRUE(memory
                    ->Put(key, {.prefix_bytes = prefix, .quality = store::kLossless, .ttl = {}},
                          store::Slice::Own(std::move(object)), {}, base::kNoDeadline)
                    .ok());
    return stored;
  }

  std::shared_ptr<LoadJob> Job(uint8_t prompt, uint32_t runs, uint32_t head_runs) {
    LoadJobOptions options;
    for (uint32_t run = 0; run < runs; ++run) options.runs.push_back(Put(prompt, run));
    options.layers = kGeometry.layers;
    options.head_runs = head_runs;
    options.pages = pinned;
    options.on_progress = [] {};
    options.on_done = [this] { ++done; };
    return std::make_shared<LoadJob>(std::move(options));
  }
};

// What an engine plans to compute itself is loaded when nothing else is left to load, of any prompt.
TEST(PrefixLoaderUnit, HeadsComeAfterTheTailsOfAll) {
  Setting setting;
  Gate gate;
  base::Mutex mutex;
  std::vector<std::pair<int, int>> reads;  // prompt and run of the first range of each round
  setting.store.before_read = [&](std::span<const store::ReadRequest> requests, base::TimePoint) {
    const base::Status opened = gate.Wait(base::kNoDeadline);
    base::MutexLock lock(mutex);
    reads.emplace_back(std::to_integer<int>(requests[0].key.chain[0]),
                       std::to_integer<int>(requests[0].key.chain[1]));
    return opened;
  };
  const store::KeySpace keys;
  PrefixOptions options;
  options.loader_threads = 1;
  options.timeout = std::chrono::seconds(60);
  PrefixContext context{
      .store = setting.store, .keys = keys, .shape = setting.shape, .profiles = {}, .options = options};
  PrefixLoader loader(context);
  const auto first = setting.Job(1, 3, 1), second = setting.Job(2, 2, 0);
  loader.Load(first);
  loader.Load(second);
  gate.open = true;
  ASSERT_TRUE(WaitUntil([&] { return setting.done == 2; }));
  const std::vector<std::pair<int, int>> expected = {
      {1, 0}, {1, 1}, {1, 1},  // opened, then both layers of runs 1 and 2
      {2, 0}, {2, 0}, {2, 0},  // opened, then both layers of runs 0 and 1
      {1, 0}};                 // the head
  base::MutexLock lock(mutex);
  EXPECT_EQ(reads, expected);
  EXPECT_TRUE(first->complete());
  EXPECT_TRUE(second->complete());
}

}  // namespace
}  // namespace kvplane::engine
