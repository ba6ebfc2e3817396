#include "kvplane/transport/handshake_gate.h"

#include <algorithm>

namespace kvplane::transport {

base::Status HandshakeGate::Pass(base::TimePoint deadline,
                                 const std::function<base::Status(base::TimePoint)>& run) {
  if (done_.load(std::memory_order_acquire)) return base::Status::Ok();
  base::MutexLock lock(mutex_);
  if (ends_at_ == base::kNoDeadline) ends_at_ = base::Clock::System().Now() + limit_;
  while (state_ == State::kRunning) {
    if (!changed_.WaitUntil(mutex_, deadline) && state_ == State::kRunning) {
      return base::DeadlineExceeded("the handshake is still under way");
    }
  }
  if (state_ == State::kDone) return base::Status::Ok();
  if (state_ == State::kFailed) return failure_;

  state_ = State::kRunning;
  const base::TimePoint ends_at = ends_at_;
  mutex_.Unlock();
  base::Status status = run(std::min(deadline, ends_at));
  mutex_.Lock();
  if (status.ok()) {
    state_ = State::kDone;
    done_.store(true, std::memory_order_release);
  } else if (status.code() == base::StatusCode::kDeadlineExceeded && deadline < ends_at) {
    state_ = State::kIdle;
  } else {
    state_ = State::kFailed;
    failure_ = status.code() == base::StatusCode::kDeadlineExceeded
                   ? base::DeadlineExceeded("no handshake within {:.0f} s: {}", base::ToSeconds(limit_),
                                            status.message())
                   : status;
    status = failure_;
  }
  changed_.NotifyAll();
  return status;
}

}  // namespace kvplane::transport
