#include "kvplane/cache/page_table.h"

#include <algorithm>
#include <utility>

#include "kvplane/base/check.h"

namespace kvplane::cache {

PageTable::PageTable(BlockPool& pool, uint32_t layers, uint32_t block_tokens)
    : pool_(&pool), block_tokens_(block_tokens), blocks_(layers) {
  KVPLANE_CHECK(block_tokens >= 1);
}

PageTable::~PageTable() { Release(); }

PageTable::PageTable(PageTable&& other) noexcept
    : pool_(other.pool_), block_tokens_(other.block_tokens_), blocks_(std::exchange(other.blocks_, {})) {}

PageTable& PageTable::operator=(PageTable&& other) noexcept {
  if (this != &other) {
    Release();
    pool_ = other.pool_;
    block_tokens_ = other.block_tokens_;
    blocks_ = std::exchange(other.blocks_, {});
  }
  return *this;
}

bool PageTable::Grow(uint32_t tokens) {
  const size_t wanted = BlocksFor(tokens, block_tokens_);
  size_t missing = 0;
  for (const auto& layer : blocks_) missing += wanted - std::min(wanted, layer.size());
  if (missing == 0) return true;
  if (missing > pool_->free()) return false;
  for (auto& layer : blocks_) {
    if (layer.size() < wanted) KVPLANE_CHECK(pool_->Allocate(wanted - layer.size(), layer));
  }
  return true;
}

bool PageTable::GrowLayer(uint32_t layer, uint32_t tokens) {
  auto& blocks = blocks_[layer];
  const size_t wanted = BlocksFor(tokens, block_tokens_);
  return blocks.size() >= wanted || pool_->Allocate(wanted - blocks.size(), blocks);
}

void PageTable::Share(const PageTable& from, uint32_t tokens) {
  KVPLANE_CHECK(pool_ == from.pool_ && block_tokens_ == from.block_tokens_ && layers() == from.layers());
  KVPLANE_CHECK(total_blocks() == 0 && tokens % block_tokens_ == 0);
  const size_t wanted = tokens / block_tokens_;
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    KVPLANE_CHECK(from.blocks_[layer].size() >= wanted);
    for (size_t i = 0; i < wanted; ++i) {
      pool_->Share(from.blocks_[layer][i]);
      blocks_[layer].push_back(from.blocks_[layer][i]);
    }
  }
}

void PageTable::ReleaseLayer(uint32_t layer) {
  pool_->Release(blocks_[layer]);
  blocks_[layer].clear();
}

void PageTable::Release() {
  for (uint32_t layer = 0; layer < layers(); ++layer) ReleaseLayer(layer);
}

uint32_t PageTable::total_blocks() const {
  size_t total = 0;
  for (const auto& layer : blocks_) total += layer.size();
  return static_cast<uint32_t>(total);
}

}  // namespace kvplane::cache
