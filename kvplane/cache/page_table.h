// PageTable: the blocks of one request, one list per layer.
//
// Layers grow, shrink and are shared separately, so that a policy may keep them in different tiers; today's
// engine grows all of them together. Token t of a layer lies in
// blocks(layer)[t / block_tokens] at slot t % block_tokens.
//
// Ownership: owns one reference on every block it lists and returns them when destroyed; the pool must
// outlive it. Thread safety: none; the engine's thread owns it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvplane/base/ids.h"
#include "kvplane/cache/block_pool.h"

namespace kvplane::cache {

// Blocks that `tokens` tokens take in one layer.
constexpr uint32_t BlocksFor(uint32_t tokens, uint32_t block_tokens) {
  return tokens / block_tokens + (tokens % block_tokens != 0 ? 1 : 0);
}

class PageTable {
 public:
  PageTable(BlockPool& pool, uint32_t layers, uint32_t block_tokens);  // empty
  ~PageTable();
  PageTable(PageTable&& other) noexcept;
  PageTable& operator=(PageTable&& other) noexcept;

  // Adds blocks until the layer (every layer) covers `tokens` tokens; never shrinks. All or nothing: false
  // leaves the table as it was.
  [[nodiscard]] bool Grow(uint32_t tokens);
  [[nodiscard]] bool GrowLayer(uint32_t layer, uint32_t tokens);

  // Makes this (empty) table refer to the first `tokens` tokens of `from`: the same blocks, one more owner
  // each. `tokens` is a whole number of blocks, so that nobody writes into a block that others read.
  void Share(const PageTable& from, uint32_t tokens);

  void ReleaseLayer(uint32_t layer);
  void Release();

  uint32_t layers() const { return static_cast<uint32_t>(blocks_.size()); }
  uint32_t block_tokens() const { return block_tokens_; }
  std::span<const base::BlockId> blocks(uint32_t layer) const { return blocks_[layer]; }
  uint32_t total_blocks() const;  // all layers

 private:
  BlockPool* pool_;
  uint32_t block_tokens_;
  std::vector<std::vector<base::BlockId>> blocks_;  // [layers]
};

}  // namespace kvplane::cache
