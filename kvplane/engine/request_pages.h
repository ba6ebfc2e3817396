// RequestPages: the paged KV of one request: its page table and the addresses that the model and transfers
// want.
//
// Ownership: owns the blocks (through the table); the pool must outlive it; memory belongs to the arena. The
// views handed out stay valid until the next Grow. Thread safety: none; the engine's thread owns it. The
// pages themselves may be read or written by transfers, which the engine fences by their completion.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvplane/cache/block_pool.h"
#include "kvplane/cache/page_table.h"
#include "kvplane/engine/kv_arena.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::engine {

class RequestPages {
 public:
  RequestPages(cache::BlockPool& pool, const KvArena& arena, uint32_t layers);

  // Covers `tokens` tokens in every layer. The blocks must be there: admission reserved them.
  void Grow(uint32_t tokens);

  std::span<const tensor::LayerPages> layers() const { return views_; }  // [layers]
  uint32_t blocks() const { return table_.total_blocks(); }

 private:
  const KvArena* arena_;
  cache::PageTable table_;
  std::vector<std::vector<uint16_t*>> addresses_;  // [layers][blocks of the layer]
  std::vector<tensor::LayerPages> views_;          // [layers], into addresses_
};

}  // namespace kvplane::engine
