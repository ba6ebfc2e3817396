#include "kvplane/store/touch_behind.h"

#include <utility>

namespace kvplane::store {

TouchBehind::TouchBehind(Sink sink) : sink_(std::move(sink)), thread_([this] { Run(); }) {}

TouchBehind::~TouchBehind() {
  Shutdown();
  thread_.join();
}

void TouchBehind::Add(std::span<const StoreKey> keys) {
  if (keys.empty()) return;
  base::MutexLock lock(mutex_);
  if (shut_down_) return;
  while (queued_keys_ + keys.size() > kMaxKeys) {
    queued_keys_ -= queue_.front().size();
    queue_.pop_front();
    ++done_;
  }
  queue_.emplace_back(keys.begin(), keys.end());
  queued_keys_ += keys.size();
  ++added_;
  changed_.NotifyAll();
}

base::Status TouchBehind::Drain(base::TimePoint deadline) {
  base::MutexLock lock(mutex_);
  const uint64_t last = added_;
  while (done_ < last) {
    if (shut_down_) return base::Cancelled("the store was shut down");
    if (!changed_.WaitUntil(mutex_, deadline) && done_ < last) {
      return base::DeadlineExceeded("{} touches still wait", last - done_);
    }
  }
  return base::Status::Ok();
}

void TouchBehind::Shutdown() {
  base::MutexLock lock(mutex_);
  shut_down_ = true;
  queue_.clear();
  changed_.NotifyAll();
}

void TouchBehind::Run() {
  while (true) {
    std::vector<StoreKey> keys;
    {
      base::MutexLock lock(mutex_);
      while (queue_.empty() && !shut_down_) changed_.Wait(mutex_);
      if (shut_down_) return;
      keys = std::move(queue_.front());
      queue_.pop_front();
      queued_keys_ -= keys.size();
    }
    sink_(keys);
    base::MutexLock lock(mutex_);
    ++done_;
    changed_.NotifyAll();
  }
}

}  // namespace kvplane::store
