// TouchBehind: carries touches to slower tiers behind the caller's back, so that saying "this is in use"
// costs a request nothing. Bounded: when more keys wait than kMaxKeys the oldest calls are forgotten, which
// costs recency and nothing else.
//
// Thread safety: all members may be called from any thread. Ownership: the sink is called from a thread of
// this object, one call at a time, and must outlive it.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <thread>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/mutex.h"
#include "kvplane/base/status.h"
#include "kvplane/store/entry.h"

namespace kvplane::store {

class TouchBehind {
 public:
  static constexpr size_t kMaxKeys = kMaxKeysPerCall;

  using Sink = std::function<void(std::span<const StoreKey> keys)>;

  explicit TouchBehind(Sink sink);
  ~TouchBehind();
  TouchBehind(const TouchBehind&) = delete;
  TouchBehind& operator=(const TouchBehind&) = delete;

  // Never blocks. Requires: at most kMaxKeys.
  void Add(std::span<const StoreKey> keys) KVPLANE_EXCLUDES(mutex_);

  // Until what was added before the call has gone to the sink. kDeadlineExceeded, kCancelled.
  base::Status Drain(base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_);

  // What waits is dropped; a call of the sink in progress ends by itself.
  void Shutdown() KVPLANE_EXCLUDES(mutex_);

 private:
  void Run();

  const Sink sink_;
  base::Mutex mutex_;
  base::CondVar changed_;
  std::deque<std::vector<StoreKey>> queue_ KVPLANE_GUARDED_BY(mutex_);
  size_t queued_keys_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint64_t added_ KVPLANE_GUARDED_BY(mutex_) = 0;  // calls so far
  uint64_t done_ KVPLANE_GUARDED_BY(mutex_) = 0;   // of those: handed on or forgotten
  bool shut_down_ KVPLANE_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace kvplane::store
