#include "kvplane/engine/shared_state.h"

namespace kvplane::engine {

base::Result<base::RequestId> SharedState::Register() {
  base::MutexLock lock(mutex_);
  if (refuse_new_) return base::Unavailable("the engine is draining and takes no new requests");
  if (queued_ >= max_queued_) {
    return base::ResourceExhausted("the queue is full: {} requests wait (max_queued)", queued_);
  }
  ++queued_;
  ++live_;
  return base::RequestId{++submitted_};
}

void SharedState::LeaveQueue() {
  base::MutexLock lock(mutex_);
  --queued_;
}

void SharedState::Retire() {
  base::MutexLock lock(mutex_);
  if (--live_ == 0) idle_.NotifyAll();
}

void SharedState::RefuseNew() {
  base::MutexLock lock(mutex_);
  refuse_new_ = true;
}

bool SharedState::WaitUntilIdle(base::TimePoint deadline) {
  base::MutexLock lock(mutex_);
  while (live_ > 0) {
    if (base::Clock::System().Now() >= deadline) return false;
    idle_.WaitUntil(mutex_, deadline);
  }
  return true;
}

void SharedState::Publish(const EngineStats& stats) {
  base::MutexLock lock(mutex_);
  stats_ = stats;
}

EngineStats SharedState::stats() const {
  base::MutexLock lock(mutex_);
  EngineStats stats = stats_;
  stats.requests_submitted = submitted_;
  stats.queued = queued_;
  return stats;
}

}  // namespace kvplane::engine
