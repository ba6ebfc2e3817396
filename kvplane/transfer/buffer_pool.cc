#include "kvplane/transfer/buffer_pool.h"

namespace kvplane::transfer {
namespace {

// Small buffers come cheaply from the allocator and would crowd out the large ones.
constexpr size_t kMinPooledBytes = 16 << 10;

}  // namespace

BufferPool::Buffer::~Buffer() {
  if (pool_ != nullptr) pool_->Return({std::move(memory_), capacity_});
}

BufferPool::Buffer BufferPool::Take(size_t size) {
  Buffer buffer;
  buffer.size_ = size;
  if (size >= kMinPooledBytes) {
    buffer.pool_ = this;
    base::MutexLock lock(mutex_);
    // From the end: the latest returned is the warmest.
    for (size_t i = idle_.size(); i-- > 0;) {
      if (idle_[i].capacity < size || idle_[i].capacity / 2 > size) continue;
      buffer.memory_ = std::move(idle_[i].memory);
      buffer.capacity_ = idle_[i].capacity;
      idle_bytes_ -= buffer.capacity_;
      idle_.erase(idle_.begin() + static_cast<ptrdiff_t>(i));
      return buffer;
    }
  }
  buffer.memory_ = std::make_unique_for_overwrite<std::byte[]>(size);
  buffer.capacity_ = size;
  return buffer;
}

void BufferPool::Return(Idle idle) {
  base::MutexLock lock(mutex_);
  if (idle_bytes_ + idle.capacity > kMaxIdleBytes) return;
  idle_bytes_ += idle.capacity;
  idle_.push_back(std::move(idle));
}

}  // namespace kvplane::transfer
