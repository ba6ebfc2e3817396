// ThreadPool: the compute workers. One pool per process, sized by --threads; no nested pools.
//
// ParallelFor is a fork-join over an index range; the caller takes part, so a pool of size 1 has no extra
// thread and runs everything inline.
//
// Thread safety: ParallelFor may be called from one thread at a time (the pool's owner).
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace kvplane::base {

class ThreadPool {
 public:
  // `threads` >= 1, counting the caller of ParallelFor.
  explicit ThreadPool(size_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  size_t size() const;

  // Calls body(index, worker) for every index in [0, count); worker is in [0, size()). Returns when all calls
  // have returned. Indices are handed out one at a time, in order.
  void ParallelFor(size_t count, const std::function<void(size_t index, size_t worker)>& body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvplane::base
