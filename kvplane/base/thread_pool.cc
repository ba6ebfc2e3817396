#include "kvplane/base/thread_pool.h"

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/base/mutex.h"

namespace kvplane::base {

struct ThreadPool::State {
  Mutex mutex;
  CondVar start;
  CondVar done;
  uint64_t generation KVPLANE_GUARDED_BY(mutex) = 0;
  bool stopping KVPLANE_GUARDED_BY(mutex) = false;
  size_t running KVPLANE_GUARDED_BY(mutex) = 0;
  const std::function<void(size_t, size_t)>* body = nullptr;  // published by `generation`
  size_t count = 0;
  std::atomic<size_t> next{0};
  std::vector<std::thread> threads;

  void Drain(size_t worker) {
    for (size_t i = next.fetch_add(1, std::memory_order_relaxed); i < count;
         i = next.fetch_add(1, std::memory_order_relaxed)) {
      (*body)(i, worker);
    }
  }

  void WorkerLoop(size_t worker) {
    uint64_t seen = 0;
    while (true) {
      {
        MutexLock lock(mutex);
        while (generation == seen && !stopping) start.Wait(mutex);
        if (stopping) return;
        seen = generation;
      }
      Drain(worker);
      MutexLock lock(mutex);
      if (--running == 0) done.NotifyOne();
    }
  }
};

ThreadPool::ThreadPool(size_t threads) : state_(std::make_unique<State>()) {
  KVPLANE_CHECK(threads >= 1);
  for (size_t worker = 1; worker < threads; ++worker) {
    state_->threads.emplace_back([state = state_.get(), worker] { state->WorkerLoop(worker); });
  }
}

ThreadPool::~ThreadPool() {
  {
    MutexLock lock(state_->mutex);
    state_->stopping = true;
  }
  state_->start.NotifyAll();
  for (std::thread& thread : state_->threads) thread.join();
}

size_t ThreadPool::size() const { return state_->threads.size() + 1; }

void ThreadPool::ParallelFor(size_t count, const std::function<void(size_t, size_t)>& body) {
  if (count == 0) return;
  if (state_->threads.empty() || count == 1) {
    for (size_t i = 0; i < count; ++i) body(i, 0);
    return;
  }
  {
    MutexLock lock(state_->mutex);
    KVPLANE_CHECK(state_->running == 0);  // one owner, no nesting
    state_->body = &body;
    state_->count = count;
    state_->next.store(0, std::memory_order_relaxed);
    state_->running = state_->threads.size();
    ++state_->generation;
  }
  state_->start.NotifyAll();
  state_->Drain(0);
  MutexLock lock(state_->mutex);
  while (state_->running != 0) state_->done.Wait(state_->mutex);
}

}  // namespace kvplane::base
