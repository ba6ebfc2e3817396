// BlockPool: which layer-blocks of one memory tier are free, and how many owners each used one has.
//
// A block is a fixed number of tokens of one layer, K and V. The pool knows ids and counts only; the memory
// behind them (the pages) belongs to the engine. All layers share one pool because their blocks have one
// size: that is what lets a request keep some layers here and others elsewhere (LayerKV, arXiv 2410.00428,
// section 3).
//
// Free blocks are a bitmap, and the lowest is handed out first: ids come in ascending runs (neighbouring
// pages), and a pool touches no more of its memory than it has ever used at once, so that the rest costs
// nothing. Neither a call nor a block costs memory beyond a bit and a count.
//
// Invariants, checked (a violation is our own bug): a block is freed exactly when its last owner releases it;
// nobody releases or shares a free block. Thread safety: none; the engine's thread owns it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kvplane/base/ids.h"

namespace kvplane::cache {

struct BlockPoolCounters {
  uint64_t allocated = 0;  // blocks handed out, ever
  uint64_t freed = 0;      // blocks that came back; allocated - freed are in use
  uint64_t shared = 0;     // additional owners, ever
  uint64_t refused = 0;    // Allocate calls that did not fit
  uint32_t used_at_most = 0;
};

class BlockPool {
 public:
  explicit BlockPool(uint32_t blocks);

  // Appends `count` blocks with one owner each to `out`, or returns false and changes nothing.
  [[nodiscard]] bool Allocate(size_t count, std::vector<base::BlockId>& out);

  void Share(base::BlockId block);                      // one more owner
  void Release(base::BlockId block);                    // one owner less; the last one frees it
  void Release(std::span<const base::BlockId> blocks);  // each of them

  uint32_t total() const { return total_; }
  uint32_t used() const { return used_; }
  uint32_t free() const { return total_ - used_; }
  uint32_t owners(base::BlockId block) const;  // 0: free
  const BlockPoolCounters& counters() const { return counters_; }

 private:
  uint32_t TakeFree();  // requires free() > 0

  uint32_t total_;
  uint32_t used_ = 0;
  size_t hint_ = 0;                  // no word of free_bits_ before it has a bit
  std::vector<uint64_t> free_bits_;  // 1: free
  std::vector<uint32_t> owners_;     // [total_]
  BlockPoolCounters counters_;
};

}  // namespace kvplane::cache
