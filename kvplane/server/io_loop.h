// IoLoop: the one thread of an HTTP server or router, and Event, the way its coroutines wait for each other.
// Internal: the only header besides http_client.h that shows Asio.
//
// Why an own task queue in front of asio::post: tasks hold exchanges that may outlive the loop; a queue that
// can be closed drops them, where a handler stuck in a stopped io_context would leak or run too late.
//
// Thread safety: Post and Close from any thread; the rest on the thread that calls Run.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/experimental/as_tuple.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <functional>
#include <memory>
#include <vector>

#include "kvplane/base/mutex.h"

namespace kvplane::server {

// Completion token of every asynchronous call here: results come as values, never as exceptions.
inline constexpr auto kAsTuple = asio::experimental::as_tuple(asio::use_awaitable);

class IoLoop {
 public:
  IoLoop() : work_(asio::make_work_guard(context_)) {}

  asio::io_context& context() { return context_; }

  void Post(std::function<void()> task);
  // Runs until Finish() was called and nothing is left to wait for.
  void Run();
  // Lets Run return once every coroutine has ended.
  void Finish() { work_.reset(); }
  // Drops queued tasks and refuses further ones.
  void Close();

 private:
  void RunTasks();

  asio::io_context context_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  base::Mutex mutex_;
  std::vector<std::function<void()>> tasks_ KVPLANE_GUARDED_BY(mutex_);
  bool closed_ KVPLANE_GUARDED_BY(mutex_) = false;
};

// Wakes the coroutines that wait for it. Waiters check their condition before and after, as with a condition
// variable; no wake-up is lost because all of them run on one thread.
class Event {
 public:
  explicit Event(asio::io_context& context) : timer_(context, asio::steady_timer::time_point::max()) {}
  void Notify() { timer_.cancel(); }
  asio::awaitable<void> Wait() { return WaitUntil(asio::steady_timer::time_point::max()); }
  // Returns at `deadline` at the latest. One deadline at a time: the last waiter's holds for all.
  asio::awaitable<void> WaitUntil(asio::steady_timer::time_point deadline) {
    if (timer_.expiry() != deadline) timer_.expires_at(deadline);
    co_await timer_.async_wait(kAsTuple);
  }

 private:
  asio::steady_timer timer_;
};

}  // namespace kvplane::server
