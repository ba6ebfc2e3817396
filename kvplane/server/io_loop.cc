#include "kvplane/server/io_loop.h"

#include <asio/post.hpp>
#include <utility>

namespace kvplane::server {

void IoLoop::Post(std::function<void()> task) {
  base::MutexLock lock(mutex_);
  if (closed_) return;
  tasks_.push_back(std::move(task));
  if (tasks_.size() == 1) asio::post(context_, [this] { RunTasks(); });
}

void IoLoop::RunTasks() {
  std::vector<std::function<void()>> tasks;
  {
    base::MutexLock lock(mutex_);
    tasks.swap(tasks_);
  }
  for (const auto& task : tasks) task();
}

void IoLoop::Run() { context_.run(); }

void IoLoop::Close() {
  std::vector<std::function<void()>> dropped;  // destroyed outside the lock: they may own anything
  base::MutexLock lock(mutex_);
  closed_ = true;
  dropped.swap(tasks_);
}

}  // namespace kvplane::server
