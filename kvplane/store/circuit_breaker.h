// CircuitBreaker: leaves a failing tier alone for a while, so that each request does not pay its timeout
// again. After `failures_to_open` failures in a row the tier is out for a back-off time; then one call may
// try; its success closes the breaker, its failure doubles the time, up to a bound.
//
// Thread safety: all members may be called from any thread.
#pragma once

#include <cstdint>

#include "kvplane/base/clock.h"
#include "kvplane/base/mutex.h"

namespace kvplane::store {

struct BreakerOptions {
  uint32_t failures_to_open = 3;
  base::Duration first_backoff = std::chrono::seconds(1);
  base::Duration max_backoff = std::chrono::seconds(30);
};

class CircuitBreaker {
 public:
  explicit CircuitBreaker(const BreakerOptions& options) : options_(options) {}

  // Whether a call may be made now. Every call that was allowed reports how it went.
  bool Allow(base::TimePoint now);
  void Succeeded();
  void Failed(base::TimePoint now);

  // What Allow() would say, without making the caller the one that tries.
  bool WouldAllow(base::TimePoint now) const;
  bool open() const;
  uint64_t times_opened() const;

 private:
  const BreakerOptions options_;
  mutable base::Mutex mutex_;
  uint32_t failures_ KVPLANE_GUARDED_BY(mutex_) = 0;  // in a row
  uint64_t times_opened_ KVPLANE_GUARDED_BY(mutex_) = 0;
  base::Duration backoff_ KVPLANE_GUARDED_BY(mutex_){};  // zero: closed
  bool trial_ KVPLANE_GUARDED_BY(mutex_) = false;        // a call may have been let through while open
  base::TimePoint retry_at_ KVPLANE_GUARDED_BY(mutex_){};
};

// Those of one tier. A medium may serve what it has while it takes nothing new (a disk that fails to write),
// so puts that fail leave look-ups and reads alone.
struct TierBreakers {
  explicit TierBreakers(const BreakerOptions& options) : reads(options), writes(options) {}

  CircuitBreaker reads;   // look-ups, reads and touches
  CircuitBreaker writes;  // puts
};

}  // namespace kvplane::store
