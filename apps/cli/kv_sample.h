// PagedKv: the KV of one sequence in the engine's pages, owned in one piece of memory, for benchmarks.
//
// Thread safety: none; different threads may read it, or write to different pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "apps/cli/npy_file.h"
#include "apps/cli/page_memory.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::cli {

class PagedKv {
 public:
  static constexpr uint32_t kBlockTokens = 64;  // the engine's default

  // Zeros; room for `tokens` rounded up to whole blocks.
  PagedKv(const tensor::KvGeometry& geometry, uint32_t tokens);
  PagedKv(PagedKv&&) = default;  // page addresses survive the move
  static PagedKv Copy(RawKv& kv);

  const tensor::KvGeometry& geometry() const { return geometry_; }
  uint32_t tokens() const { return tokens_; }
  std::span<const tensor::LayerPages> layers() const { return layers_; }  // [layers]
  // [layers][blocks] pages one after the other.
  std::span<uint16_t> memory() { return memory_.values(); }
  std::span<const uint16_t> memory() const { return memory_.values(); }
  // The pages of blocks [first, first + count) of a layer, in one piece.
  std::span<uint16_t> blocks(uint32_t layer, uint32_t first, uint32_t count);

  const uint16_t* row(uint32_t layer, tensor::Side side, uint32_t token, uint32_t head) const;
  uint16_t* row(uint32_t layer, tensor::Side side, uint32_t token, uint32_t head);

 private:
  uint32_t block_count() const { return (tokens_ + kBlockTokens - 1) / kBlockTokens; }

  tensor::KvGeometry geometry_;
  uint32_t tokens_;
  tensor::PageFormat format_;
  PageMemory memory_;
  std::vector<std::vector<uint16_t*>> pages_;  // [layers][blocks]
  std::vector<tensor::LayerPages> layers_;
};

}  // namespace kvplane::cli
