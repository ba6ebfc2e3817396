#include "kvplane/engine/testing/recorder.h"

#include "kvplane/base/check.h"

namespace kvplane::engine {

void Recorder::OnToken(const TokenEvent& event) {
  base::MutexLock lock(mutex_);
  if (finish_ || event.index != events_.size()) out_of_order_ = true;
  events_.push_back(event);
  changed_.NotifyAll();
}

void Recorder::OnFinish(const FinishEvent& event) {
  base::MutexLock lock(mutex_);
  if (finish_) out_of_order_ = true;
  finish_ = event;
  changed_.NotifyAll();
}

bool Recorder::WaitForFinish() {
  const base::TimePoint deadline = base::Clock::System().Now() + kPatience;
  base::MutexLock lock(mutex_);
  while (!finish_) {
    if (base::Clock::System().Now() >= deadline) return false;
    changed_.WaitUntil(mutex_, deadline);
  }
  return true;
}

bool Recorder::WaitForTokens(size_t count) {
  const base::TimePoint deadline = base::Clock::System().Now() + kPatience;
  base::MutexLock lock(mutex_);
  while (events_.size() < count) {
    if (base::Clock::System().Now() >= deadline) return false;
    changed_.WaitUntil(mutex_, deadline);
  }
  return true;
}

std::vector<int32_t> Recorder::tokens() const {
  base::MutexLock lock(mutex_);
  std::vector<int32_t> tokens;
  for (const TokenEvent& event : events_) tokens.push_back(event.id);
  return tokens;
}

std::vector<TokenEvent> Recorder::events() const {
  base::MutexLock lock(mutex_);
  return events_;
}

FinishEvent Recorder::finish() const {
  base::MutexLock lock(mutex_);
  KVPLANE_CHECK(finish_.has_value());
  return *finish_;
}

bool Recorder::in_order() const {
  base::MutexLock lock(mutex_);
  return !out_of_order_;
}

}  // namespace kvplane::engine
