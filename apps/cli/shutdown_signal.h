// ShutdownSignal: SIGTERM and SIGINT as calls on a thread of their own, where locks may be taken.
#pragma once

#include <functional>
#include <thread>

namespace kvplane::cli {

// Construct before any other thread: the signals are blocked in the calling thread and in all it starts
// later. The first signal calls `on_first`; a second ends the process at once with exit code 1. Destroying it
// stops the thread.
class ShutdownSignal {
 public:
  ShutdownSignal();
  ~ShutdownSignal();
  ShutdownSignal(const ShutdownSignal&) = delete;
  ShutdownSignal& operator=(const ShutdownSignal&) = delete;

  void Watch(std::function<void()> on_first);

 private:
  std::thread thread_;
};

}  // namespace kvplane::cli
