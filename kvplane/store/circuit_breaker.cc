#include "kvplane/store/circuit_breaker.h"

#include <algorithm>

namespace kvplane::store {

bool CircuitBreaker::Allow(base::TimePoint now) {
  base::MutexLock lock(mutex_);
  if (backoff_ == base::Duration::zero()) return true;
  if (now < retry_at_) return false;
  retry_at_ = now + backoff_;  // this call is the trial; others wait for what it says
  trial_ = true;
  return true;
}

void CircuitBreaker::Succeeded() {
  base::MutexLock lock(mutex_);
  failures_ = 0;
  backoff_ = base::Duration::zero();
  trial_ = false;
}

void CircuitBreaker::Failed(base::TimePoint now) {
  base::MutexLock lock(mutex_);
  ++failures_;
  if (backoff_ > base::Duration::zero()) {
    if (!trial_) return;  // a call that began before it opened
    trial_ = false;
    backoff_ = std::min(backoff_ * 2, options_.max_backoff);
    retry_at_ = now + backoff_;
  } else if (failures_ >= options_.failures_to_open) {
    ++times_opened_;
    backoff_ = options_.first_backoff;
    retry_at_ = now + backoff_;
  }
}

bool CircuitBreaker::WouldAllow(base::TimePoint now) const {
  base::MutexLock lock(mutex_);
  return backoff_ == base::Duration::zero() || now >= retry_at_;
}

bool CircuitBreaker::open() const {
  base::MutexLock lock(mutex_);
  return backoff_ > base::Duration::zero();
}

uint64_t CircuitBreaker::times_opened() const {
  base::MutexLock lock(mutex_);
  return times_opened_;
}

}  // namespace kvplane::store
