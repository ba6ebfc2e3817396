#include "kvplane/engine/kv_arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include "kvplane/base/check.h"

namespace kvplane::engine {

namespace {

size_t StrideBytes(const tensor::PageFormat& format) {
  return (format.page_bytes() + KvArena::kAlignment - 1) / KvArena::kAlignment * KvArena::kAlignment;
}

}  // namespace

base::Result<std::shared_ptr<KvArena>> KvArena::Create(const tensor::PageFormat& format, uint64_t bytes,
                                                       uint32_t min_pages) {
  const uint64_t stride = StrideBytes(format);
  const uint64_t pages = std::min<uint64_t>(bytes / stride, std::numeric_limits<uint32_t>::max());
  if (pages < min_pages || pages == 0) {
    return base::InvalidArgument("kv_bytes {} holds {} blocks of {} bytes; at least {} bytes are needed",
                                 bytes, pages, stride, stride * std::max(min_pages, 1u));
  }
  const size_t size = pages * stride;
  void* memory =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return base::ResourceExhausted("mapping {} bytes for the KV cache: {}", size, std::strerror(errno));
  }
  madvise(memory, size, MADV_HUGEPAGE);  // advice: a kernel without huge pages is slower, not wrong
  return std::shared_ptr<KvArena>(new KvArena(format, memory, size, static_cast<uint32_t>(pages)));
}

KvArena::KvArena(const tensor::PageFormat& format, void* memory, size_t bytes, uint32_t pages)
    : format_(format),
      stride_bytes_(StrideBytes(format)),
      memory_(static_cast<std::byte*>(memory)),
      bytes_(bytes),
      pages_(pages) {}

KvArena::~KvArena() { munmap(memory_, bytes_); }

uint16_t* KvArena::page(base::BlockId block) const {
  KVPLANE_DCHECK(block.value < pages_);
  return reinterpret_cast<uint16_t*>(memory_ + block.value * stride_bytes_);
}

}  // namespace kvplane::engine
