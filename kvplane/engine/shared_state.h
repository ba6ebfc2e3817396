// SharedState: the little that callers of the engine and its thread both touch.
//
// Thread safety: all members may be called from any thread.
#pragma once

#include <cstdint>

#include "kvplane/base/clock.h"
#include "kvplane/base/ids.h"
#include "kvplane/base/mutex.h"
#include "kvplane/base/status.h"
#include "kvplane/engine/engine.h"

namespace kvplane::engine {

class SharedState {
 public:
  explicit SharedState(uint32_t max_queued) : max_queued_(max_queued) {}

  // Counts a submission in and names it. kUnavailable: draining; kResourceExhausted: the queue is full.
  base::Result<base::RequestId> Register() KVPLANE_EXCLUDES(mutex_);

  // The request left the queue (admitted, or finished there).
  void LeaveQueue() KVPLANE_EXCLUDES(mutex_);
  // The request is gone: finished, and nothing touches its pages.
  void Retire() KVPLANE_EXCLUDES(mutex_);

  void RefuseNew() KVPLANE_EXCLUDES(mutex_);
  // Waits until every registered request has retired; false when `deadline` comes first.
  bool WaitUntilIdle(base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_);

  // Replaces the published counters; requests_submitted and queued are this object's own.
  void Publish(const EngineStats& stats) KVPLANE_EXCLUDES(mutex_);
  EngineStats stats() const KVPLANE_EXCLUDES(mutex_);

 private:
  const uint32_t max_queued_;
  mutable base::Mutex mutex_;
  base::CondVar idle_;
  EngineStats stats_ KVPLANE_GUARDED_BY(mutex_);
  uint64_t submitted_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint32_t queued_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint32_t live_ KVPLANE_GUARDED_BY(mutex_) = 0;  // registered and not retired
  bool refuse_new_ KVPLANE_GUARDED_BY(mutex_) = false;
};

}  // namespace kvplane::engine
