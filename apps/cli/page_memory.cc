#include "apps/cli/page_memory.h"

#include <sys/mman.h>

#include "kvplane/base/check.h"

namespace kvplane::cli {
namespace {

uint16_t* Map(size_t values) {
  if (values == 0) return nullptr;
  const size_t bytes = values * sizeof(uint16_t);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  KVPLANE_CHECK(memory != MAP_FAILED);
  madvise(memory, bytes, MADV_HUGEPAGE);  // advice: a kernel without huge pages is slower, not wrong
  return static_cast<uint16_t*>(memory);
}

}  // namespace

PageMemory::PageMemory(size_t values) : memory_(Map(values), Unmap{values}) {}

void PageMemory::Unmap::operator()(uint16_t* memory) const { munmap(memory, values * sizeof(uint16_t)); }

}  // namespace kvplane::cli
