// Annotated mutex over std::mutex.
//
// Why not absl::Mutex: Debian's build of it is not instrumented, so ThreadSanitizer reports false races
// through it. Why annotated: clang -Wthread-safety rejects an unguarded access at compile time.
#pragma once

#include <absl/base/thread_annotations.h>

#include <condition_variable>
#include <mutex>

#include "kvplane/base/clock.h"

#define KVPLANE_GUARDED_BY(mutex) ABSL_GUARDED_BY(mutex)
#define KVPLANE_REQUIRES(...) ABSL_EXCLUSIVE_LOCKS_REQUIRED(__VA_ARGS__)
#define KVPLANE_EXCLUDES(...) ABSL_LOCKS_EXCLUDED(__VA_ARGS__)

namespace kvplane::base {

class ABSL_LOCKABLE Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) { mutex_.Lock(); }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// Condition variable for Mutex. Waits may wake spuriously: always loop on the condition. Deadlines are
// points of the system clock (Clock::System()); kNoDeadline waits for ever.
class CondVar {
 public:
  void NotifyOne() { cv_.notify_one(); }
  void NotifyAll() { cv_.notify_all(); }

  void Wait(Mutex& mutex) KVPLANE_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    cv_.wait(lock);
    lock.release();
  }

  // False when `deadline` passed before a notification came.
  bool WaitUntil(Mutex& mutex, TimePoint deadline) KVPLANE_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    bool notified = true;
    if (deadline == kNoDeadline) {
      cv_.wait(lock);
    } else {
      notified = cv_.wait_until(lock, deadline) == std::cv_status::no_timeout;
    }
    lock.release();
    return notified;
  }

 private:
  std::condition_variable cv_;
};

}  // namespace kvplane::base
