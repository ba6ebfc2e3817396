// Inbox: how other threads reach the engine's thread. Callers of Submit and Cancel and the callbacks of
// transfers post; the engine's thread takes everything at once, sleeping on a condition variable when it has
// nothing else to do.
//
// Ownership: shared with transfer callbacks, which may fire after the engine is gone; what they post then is
// dropped with the inbox. Bounds: at most max_queued submissions, one cancellation per call, two messages per
// transfer, one per lookup and push, one per landed run and layer of a load. Thread safety: Post from any
// thread, Take from one.
#pragma once

#include <memory>
#include <variant>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/ids.h"
#include "kvplane/base/mutex.h"
#include "kvplane/engine/request_state.h"
#include "kvplane/transfer/transfer.h"

namespace kvplane::engine {

struct SubmitMessage {
  std::unique_ptr<RequestState> request;
};
struct CancelMessage {
  base::RequestId id;
};
struct FirstTokenMessage {
  base::RequestId id;
  transfer::FirstToken token;
};
struct TransferDoneMessage {
  base::RequestId id;
  transfer::TransferOutcome outcome;
};
struct LookupDoneMessage {
  base::RequestId id;
  base::Result<std::vector<StoredRun>> found;
};
struct LoadProgressMessage {};  // some load has moved: look at all of them
struct LoadDoneMessage {
  base::RequestId id;
};
struct PushDoneMessage {
  base::RequestId id;
};
struct DrainMessage {
  base::TimePoint deadline;  // what still runs then is cancelled
};
struct StopMessage {};  // cancel everything and leave the loop

using Message =
    std::variant<SubmitMessage, CancelMessage, FirstTokenMessage, TransferDoneMessage, LookupDoneMessage,
                 LoadProgressMessage, LoadDoneMessage, PushDoneMessage, DrainMessage, StopMessage>;

class Inbox {
 public:
  void Post(Message message) KVPLANE_EXCLUDES(mutex_);

  // All messages, in the order of posting. Sleeps while there are none until `until` (of Clock::System());
  // a point in the past does not sleep.
  std::vector<Message> Take(base::TimePoint until) KVPLANE_EXCLUDES(mutex_);

 private:
  base::Mutex mutex_;
  base::CondVar posted_;
  std::vector<Message> messages_ KVPLANE_GUARDED_BY(mutex_);
};

}  // namespace kvplane::engine
