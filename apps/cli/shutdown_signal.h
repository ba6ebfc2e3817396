// ShutdownSignal: SIGTERM and SIGINT as calls on a thread of their own, where locks may be taken.
#pragma once

#include <functional>
#include <thread>

#include "kvplane/base/mutex.h"

namespace kvplane::cli {

// Construct before any other thread: the signals are blocked in the calling thread and in all it starts
// later. The first signal calls what Watch() was given; a second ends the process at once with exit code 1,
// also before Watch(): while a model is loaded, or while a disk hangs. Destroying it stops the thread.
class ShutdownSignal {
 public:
  ShutdownSignal();
  ~ShutdownSignal();
  ShutdownSignal(const ShutdownSignal&) = delete;
  ShutdownSignal& operator=(const ShutdownSignal&) = delete;

  // `on_first` is called under a lock, on the signal's thread, or here and now if the signal has come
  // already.
  void Watch(std::function<void()> on_first) KVPLANE_EXCLUDES(mutex_);

 private:
  void Run();
  void Raise() KVPLANE_EXCLUDES(mutex_);

  base::Mutex mutex_;
  bool raised_ KVPLANE_GUARDED_BY(mutex_) = false;
  std::function<void()> on_first_ KVPLANE_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace kvplane::cli
