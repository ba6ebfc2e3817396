// DeadlinePool: threads for calls that may block longer than their caller may wait.
//
// A file system that hangs keeps a system call for minutes, and no database call takes a deadline. So such
// work runs on threads of its own, and who asked for it waits until it is done or until the deadline,
// whichever comes first. Late work that has not begun is never begun; work in progress ends unobserved, so it
// must own everything it touches (shared state, not the caller's stack).
//
// Bounds: `threads` calls in progress, kMaxQueuedCalls waiting behind them.
//
// Thread safety: all members may be called from any thread. The destructor waits for work in progress, as
// long as that takes.
#pragma once

#include <atomic>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/mutex.h"
#include "kvplane/base/status.h"

namespace kvplane::store {

// Far above what callers that wait can queue; reached only when the medium hangs and callers keep coming.
constexpr size_t kMaxQueuedCalls = 4096;

class DeadlinePool {
 public:
  // Gets a flag that turns true when nobody waits for its result any more.
  using Work = std::function<void(const std::atomic<bool>& abandoned)>;

  explicit DeadlinePool(size_t threads);
  ~DeadlinePool();
  DeadlinePool(const DeadlinePool&) = delete;
  DeadlinePool& operator=(const DeadlinePool&) = delete;

  // Runs `work`, on as many threads as there are, and waits for the end of all of it. OK: it ran.
  // kDeadlineExceeded: it did not end in time (and may still be running); kResourceExhausted: too many calls
  // wait, nothing was begun; kCancelled: Stop().
  base::Status Run(std::vector<Work> work, base::TimePoint deadline);
  base::Status Run(Work work, base::TimePoint deadline);

  // Runs `work` some time, unless Stop() comes first. False: not taken, because of Stop() or, when `bounded`,
  // because too many calls wait.
  bool Post(std::function<void()> work, bool bounded = true);

  // Every wait in Run() ends with kCancelled; nothing is begun any more.
  void Stop();

 private:
  struct Group;
  struct Call {
    Work work;
    std::shared_ptr<Group> group;  // null: nobody waits
  };
  void Serve();

  base::Mutex mutex_;
  base::CondVar wake_;
  base::CondVar done_;
  std::deque<Call> queue_ KVPLANE_GUARDED_BY(mutex_);
  bool stopped_ KVPLANE_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace kvplane::store
