// BufferPool: reuses the memory of coded tiles. Fresh large allocations cost a page fault per 4 KiB, which at
// wire speed is more than the copy itself.
//
// Thread safety: all members may be called from any thread. Ownership: the pool must outlive its buffers.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kvplane/base/mutex.h"

namespace kvplane::transfer {

// Idle memory kept by one pool; what comes back beyond it is freed.
constexpr size_t kMaxIdleBytes = 8 << 20;

class BufferPool {
 public:
  // Bytes on loan; goes back to the pool (or is freed) when destroyed.
  class Buffer {
   public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept { *this = std::move(other); }
    Buffer& operator=(Buffer&& other) noexcept {
      std::swap(pool_, other.pool_);
      std::swap(memory_, other.memory_);
      std::swap(capacity_, other.capacity_);
      std::swap(size_, other.size_);
      return *this;
    }
    ~Buffer();

    std::span<std::byte> bytes() { return {memory_.get(), size_}; }
    std::span<const std::byte> bytes() const { return {memory_.get(), size_}; }
    size_t size() const { return size_; }
    void Shrink(size_t size) { size_ = size; }  // size <= size()

   private:
    friend class BufferPool;
    BufferPool* pool_ = nullptr;
    std::unique_ptr<std::byte[]> memory_;
    size_t capacity_ = 0;
    size_t size_ = 0;
  };

  // `size` bytes with undefined contents, in memory of at most twice that size.
  Buffer Take(size_t size) KVPLANE_EXCLUDES(mutex_);

 private:
  struct Idle {
    std::unique_ptr<std::byte[]> memory;
    size_t capacity = 0;
  };
  void Return(Idle idle) KVPLANE_EXCLUDES(mutex_);

  base::Mutex mutex_;
  std::vector<Idle> idle_ KVPLANE_GUARDED_BY(mutex_);
  size_t idle_bytes_ KVPLANE_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvplane::transfer
