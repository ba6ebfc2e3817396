#include "kvplane/cache/block_pool.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "kvplane/base/check.h"

namespace kvplane::cache {

namespace {
constexpr uint32_t kWordBits = 64;
}  // namespace

BlockPool::BlockPool(uint32_t blocks)
    : total_(blocks), free_bits_((size_t{blocks} + kWordBits - 1) / kWordBits), owners_(blocks) {
  for (uint32_t block = 0; block < blocks; ++block) {
    free_bits_[block / kWordBits] |= uint64_t{1} << (block % kWordBits);
  }
}

uint32_t BlockPool::TakeFree() {
  while (free_bits_[hint_] == 0) ++hint_;
  const int bit = std::countr_zero(free_bits_[hint_]);
  free_bits_[hint_] &= free_bits_[hint_] - 1;
  return static_cast<uint32_t>(hint_ * kWordBits + static_cast<size_t>(bit));
}

bool BlockPool::Allocate(size_t count, std::vector<base::BlockId>& out) {
  if (count > free()) {
    ++counters_.refused;
    return false;
  }
  out.reserve(out.size() + count);
  for (size_t i = 0; i < count; ++i) {
    const uint32_t block = TakeFree();
    KVPLANE_CHECK(owners_[block] == 0);
    owners_[block] = 1;
    out.push_back({block});
  }
  used_ += static_cast<uint32_t>(count);
  counters_.allocated += count;
  counters_.used_at_most = std::max(counters_.used_at_most, used_);
  return true;
}

void BlockPool::Share(base::BlockId block) {
  KVPLANE_CHECK(block.value < total_);
  uint32_t& owners = owners_[block.value];
  KVPLANE_CHECK(owners > 0 && owners < std::numeric_limits<uint32_t>::max());
  ++owners;
  ++counters_.shared;
}

void BlockPool::Release(base::BlockId block) {
  KVPLANE_CHECK(block.value < total_);
  uint32_t& owners = owners_[block.value];
  KVPLANE_CHECK(owners > 0);  // otherwise freed twice
  if (--owners > 0) return;
  const size_t word = block.value / kWordBits;
  free_bits_[word] |= uint64_t{1} << (block.value % kWordBits);
  hint_ = std::min(hint_, word);
  --used_;
  ++counters_.freed;
}

void BlockPool::Release(std::span<const base::BlockId> blocks) {
  for (const base::BlockId block : blocks) Release(block);
}

uint32_t BlockPool::owners(base::BlockId block) const {
  KVPLANE_CHECK(block.value < total_);
  return owners_[block.value];
}

}  // namespace kvplane::cache
