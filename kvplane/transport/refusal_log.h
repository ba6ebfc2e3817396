// RefusalLog: tells the operator who was refused, without letting a port scanner fill the disk. Internal.
//
// Thread safety: Note() from any thread.
#pragma once

#include <cstdint>

#include "kvplane/base/clock.h"
#include "kvplane/base/mutex.h"
#include "kvplane/base/status.h"

namespace kvplane::transport {

class RefusalLog {
 public:
  // Logs at most one line per second; what was left out is counted in the next.
  void Note(const base::Status& status) KVPLANE_EXCLUDES(mutex_);

 private:
  base::Mutex mutex_;
  base::TimePoint quiet_until_ KVPLANE_GUARDED_BY(mutex_){};
  uint64_t left_out_ KVPLANE_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvplane::transport
