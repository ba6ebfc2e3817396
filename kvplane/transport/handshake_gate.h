// HandshakeGate: runs a stream's handshake once, on whichever of its threads needs it first, and keeps the
// others waiting. Internal to the transports that have a handshake.
//
// A caller whose own deadline ends first leaves the handshake where it is; the next caller goes on with it,
// until the gate's limit. Any other failure is final and is what every later call gets.
//
// Thread safety: Pass() from any thread.
#pragma once

#include <atomic>
#include <functional>

#include "kvplane/base/clock.h"
#include "kvplane/base/mutex.h"
#include "kvplane/base/status.h"

namespace kvplane::transport {

class HandshakeGate {
 public:
  explicit HandshakeGate(base::Duration limit) : limit_(limit) {}

  // OK once the handshake is done. `run` goes on with it until a deadline; never two at a time. Where it can
  // not be continued after a deadline (half a message was written), `run` returns another code.
  base::Status Pass(base::TimePoint deadline, const std::function<base::Status(base::TimePoint)>& run)
      KVPLANE_EXCLUDES(mutex_);

 private:
  enum class State { kIdle, kRunning, kDone, kFailed };

  const base::Duration limit_;
  std::atomic<bool> done_{false};  // the common case, without the lock
  base::Mutex mutex_;
  base::CondVar changed_;
  State state_ KVPLANE_GUARDED_BY(mutex_) = State::kIdle;
  base::Status failure_ KVPLANE_GUARDED_BY(mutex_);
  base::TimePoint ends_at_ KVPLANE_GUARDED_BY(mutex_) = base::kNoDeadline;  // set by the first caller
};

}  // namespace kvplane::transport
