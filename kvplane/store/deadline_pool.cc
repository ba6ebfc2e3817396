#include "kvplane/store/deadline_pool.h"

#include <utility>

namespace kvplane::store {

struct DeadlinePool::Group {
  std::atomic<bool> abandoned{false};
  size_t left = 0;  // guarded by the pool's mutex
};

DeadlinePool::DeadlinePool(size_t threads) {
  for (size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { Serve(); });
}

DeadlinePool::~DeadlinePool() {
  Stop();
  for (std::thread& thread : threads_) thread.join();
}

void DeadlinePool::Serve() {
  static constexpr std::atomic<bool> kNobodyWaits{false};
  base::MutexLock lock(mutex_);
  for (;;) {
    while (queue_.empty() && !stopped_) wake_.Wait(mutex_);
    if (stopped_) return;
    Call call = std::move(queue_.front());
    queue_.pop_front();
    mutex_.Unlock();
    call.work(call.group != nullptr ? call.group->abandoned : kNobodyWaits);
    call.work = nullptr;  // what it owns goes before its end is known
    mutex_.Lock();
    if (call.group != nullptr && --call.group->left == 0) done_.NotifyAll();
  }
}

base::Status DeadlinePool::Run(std::vector<Work> work, base::TimePoint deadline) {
  const auto group = std::make_shared<Group>();
  base::MutexLock lock(mutex_);
  if (stopped_) return base::Cancelled("shut down");
  if (queue_.size() + work.size() > kMaxQueuedCalls) {
    return base::ResourceExhausted("{} calls wait for the medium already", queue_.size());
  }
  group->left = work.size();
  for (Work& part : work) queue_.push_back({.work = std::move(part), .group = group});
  work.size() == 1 ? wake_.NotifyOne() : wake_.NotifyAll();
  while (group->left != 0 && !stopped_) {
    if (!done_.WaitUntil(mutex_, deadline)) break;
  }
  if (group->left == 0) return base::Status::Ok();
  group->abandoned = true;
  // What has not begun may own an object; a medium that hangs must not collect them.
  std::erase_if(queue_, [&](const Call& call) { return call.group == group; });
  if (stopped_) return base::Cancelled("shut down");
  return base::DeadlineExceeded("the medium did not answer in time");
}

base::Status DeadlinePool::Run(Work work, base::TimePoint deadline) {
  std::vector<Work> one;
  one.push_back(std::move(work));
  return Run(std::move(one), deadline);
}

bool DeadlinePool::Post(std::function<void()> work, bool bounded) {
  base::MutexLock lock(mutex_);
  if (stopped_ || (bounded && queue_.size() >= kMaxQueuedCalls)) return false;
  queue_.push_back(
      {.work = [work = std::move(work)](const std::atomic<bool>&) { work(); }, .group = nullptr});
  wake_.NotifyOne();
  return true;
}

void DeadlinePool::Stop() {
  base::MutexLock lock(mutex_);
  stopped_ = true;
  queue_.clear();
  wake_.NotifyAll();
  done_.NotifyAll();
}

}  // namespace kvplane::store
