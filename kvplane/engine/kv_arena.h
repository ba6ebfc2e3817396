// KvArena: the memory behind a BlockPool's ids: page i is the memory of block i.
//
// One anonymous mapping, huge pages advised (attention walks pages with long strides; 4 kB pages would miss
// the TLB), untouched memory costs nothing. Pages start at multiples of 64 bytes and are zero until written.
//
// Ownership: shared, because transfers write into pages until their completion callback: whoever may still
// touch pages holds a reference. Thread safety: immutable after Create; who may touch a page is the engine's
// business.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kvplane/base/ids.h"
#include "kvplane/base/status.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::engine {

class KvArena {
 public:
  // As many pages as fit into `bytes`, at least `min_pages`. kInvalidArgument: it is too small for them (the
  // message says how much is needed); kResourceExhausted: the system has not that much address space.
  static base::Result<std::shared_ptr<KvArena>> Create(const tensor::PageFormat& format, uint64_t bytes,
                                                       uint32_t min_pages);
  ~KvArena();
  KvArena(const KvArena&) = delete;
  KvArena& operator=(const KvArena&) = delete;

  uint32_t pages() const { return pages_; }
  uint16_t* page(base::BlockId block) const;
  const tensor::PageFormat& format() const { return format_; }

  static constexpr size_t kAlignment = 64;  // a cache line, an AVX-512 register

 private:
  KvArena(const tensor::PageFormat& format, void* memory, size_t bytes, uint32_t pages);

  tensor::PageFormat format_;
  size_t stride_bytes_;  // page_bytes rounded up to the alignment
  std::byte* memory_;
  size_t bytes_;
  uint32_t pages_;
};

}  // namespace kvplane::engine
