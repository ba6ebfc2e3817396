#include "kvplane/codec/transform/rope_angles.h"

#include <algorithm>
#include <cmath>

#include "kvplane/base/check.h"

namespace kvplane::codec {

RopeAngles::Rows RopeAngles::At(uint32_t first_position, uint32_t tokens) {
  KVPLANE_CHECK(tokens <= tensor::kTileTokens);
  Rows rows;
  const uint64_t first_block = first_position / kBlockPositions;
  for (uint32_t t = 0; t < tokens; ++t) {
    const uint64_t position = uint64_t{first_position} + t;
    std::shared_ptr<const Block>& block = rows.held_[position / kBlockPositions - first_block];
    if (block == nullptr) block = Get(position / kBlockPositions);
    rows.rows_[t] = block->data() + position % kBlockPositions * 2 * half();
  }
  return rows;
}

size_t RopeAngles::cached_bytes() const {
  base::MutexLock lock(mutex_);
  return blocks_.size() * BlockBytes();
}

std::shared_ptr<const RopeAngles::Block> RopeAngles::Get(uint64_t index) {
  {
    base::MutexLock lock(mutex_);
    const auto found = blocks_.find(index);
    if (found != blocks_.end()) {
      found->second.last_use = ++uses_;
      return found->second.block;
    }
  }
  // Made without the lock: two threads may make the same block, which costs less than waiting for each other.
  std::shared_ptr<const Block> block = Make(index);
  base::MutexLock lock(mutex_);
  if ((blocks_.size() + 1) * BlockBytes() > kMaxRopeBytes) {
    auto oldest = blocks_.begin();
    for (auto at = blocks_.begin(); at != blocks_.end(); ++at) {
      if (at->second.last_use < oldest->second.last_use) oldest = at;
    }
    blocks_.erase(oldest);
  }
  blocks_[index] = {block, ++uses_};
  return block;
}

std::shared_ptr<const RopeAngles::Block> RopeAngles::Make(uint64_t index) const {
  auto block = std::make_shared<Block>(size_t{kBlockPositions} * 2 * half());
  float* to = block->data();
  for (uint32_t i = 0; i < kBlockPositions; ++i) {
    const auto position = static_cast<float>(index * kBlockPositions + i);
    for (size_t c = 0; c < half(); ++c) {
      const double angle = position * rope_.inverse_frequencies[c];
      to[c] = static_cast<float>(std::cos(angle)) * rope_.magnitude;
      to[half() + c] = static_cast<float>(std::sin(angle)) * rope_.magnitude;
    }
    to += size_t{2} * half();
  }
  return block;
}

}  // namespace kvplane::codec
