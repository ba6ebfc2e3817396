// PrefixPusher: brings computed runs into the store.
//
// Two threads, two bounded queues. The first codes runs from the request's pages (processor work, about a
// millisecond per megabyte, so pages are held briefly), the second puts what was coded into the store, which
// may take as long as it likes. Neither queue ever blocks who adds to it: what does not fit is dropped and
// counted. A request's pages are free again when its PushJob calls on_done.
//
// Thread safety: all public members.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <thread>
#include <unordered_set>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/mutex.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/engine/pinned_pages.h"
#include "kvplane/engine/prefix_loader.h"
#include "kvplane/engine/run_object.h"
#include "kvplane/store/entry.h"

namespace kvplane::engine {

struct PushJob {
  std::vector<int32_t> tokens;  // of the request, up to the end of the last run
  uint32_t first_run = 0;       // runs [first_run, end_run) are pushed
  uint32_t end_run = 0;
  uint16_t quality = store::kLossless;  // of the KV in the pages; that of the strategy comes on top
  bool look_first = false;              // the store may have some already
  std::set<uint32_t> loaded;            // these came from the store: coding them again would lose twice
  std::shared_ptr<const PinnedPages> pages;
  std::function<void()> on_done;  // once, when the pages are no longer needed; not called by a refused Push
  std::atomic<bool> cancelled = false;  // set by anyone: the rest is dropped for want of memory
};

class PrefixPusher {
 public:
  // A put into the store may take this long. Nobody waits for it but the queue behind it.
  static constexpr base::Duration kPutTimeout = std::chrono::seconds(5);
  // How long the destructor goes on putting what is coded.
  static constexpr base::Duration kFlushTime = std::chrono::seconds(2);

  PrefixPusher(PrefixContext& context, RunCoding coding);
  // Drops what is not coded, puts what is for at most kFlushTime.
  ~PrefixPusher();
  PrefixPusher(const PrefixPusher&) = delete;
  PrefixPusher& operator=(const PrefixPusher&) = delete;

  // False: the queue is full, or the store is suspended; the runs are counted as dropped.
  bool Push(std::shared_ptr<PushJob> job) KVPLANE_EXCLUDES(mutex_);

  // Waits until both queues are empty; false when `deadline` comes first. For tests and orderly ends.
  bool WaitUntilIdle(base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_);

 private:
  struct Coded {
    store::StoreKey key;
    store::EntryMeta meta;
    store::Slice object;
  };

  void CodeThread();
  void PutThread();
  void Code(PushJob& job, codec::Workspace& workspace);
  void CodeRun(PushJob& job, const store::StoreKey& key, uint32_t run, codec::Workspace& workspace);
  uint32_t FirstMissing(const PushJob& job, std::span<const store::StoreKey> keys);
  uint16_t QualityOf(const PushJob& job) const;
  bool Claim(const store::StoreKey& key, uint64_t bytes, PushDrop& why) KVPLANE_EXCLUDES(mutex_);
  void Release(const store::StoreKey& key, uint64_t bytes) KVPLANE_EXCLUDES(mutex_);
  void Drop(PushDrop reason, uint64_t runs = 1) {
    context_.counters.push_drops[static_cast<size_t>(reason)] += runs;
  }

  PrefixContext& context_;
  const RunCoding coding_;
  base::Mutex mutex_;
  base::CondVar changed_;
  std::deque<std::shared_ptr<PushJob>> jobs_ KVPLANE_GUARDED_BY(mutex_);
  std::deque<Coded> coded_ KVPLANE_GUARDED_BY(mutex_);
  // Runs that are being coded or wait for the store: another request with the same prefix skips them.
  std::unordered_set<store::StoreKey, store::StoreKeyHash> in_flight_ KVPLANE_GUARDED_BY(mutex_);
  uint64_t queued_runs_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint64_t coded_bytes_ KVPLANE_GUARDED_BY(mutex_) = 0;  // raw size while it is being coded
  bool coding_now_ KVPLANE_GUARDED_BY(mutex_) = false;
  bool putting_now_ KVPLANE_GUARDED_BY(mutex_) = false;
  bool stopping_ KVPLANE_GUARDED_BY(mutex_) = false;
  bool all_coded_ KVPLANE_GUARDED_BY(mutex_) = false;  // the coding thread has ended
  std::thread coder_;
  std::thread putter_;
};

}  // namespace kvplane::engine
