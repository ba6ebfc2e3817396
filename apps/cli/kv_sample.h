// KV in the engine's pages for benchmarks, and a generator of values that look like a cache's.
//
// Thread safety: none; one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "apps/cli/npy_file.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::cli {

// Pages of all layers in the engine's format, in one piece of memory.
class PagedKv {
 public:
  PagedKv(const tensor::KvGeometry& geometry, uint32_t tokens);
  PagedKv(PagedKv&&) = default;  // page addresses survive the move
  static PagedKv Copy(RawKv& kv);

  const tensor::KvGeometry& geometry() const { return geometry_; }
  uint32_t tokens() const { return tokens_; }
  tensor::LayerPages layer(uint32_t index) const;
  std::span<uint16_t> memory() { return memory_; }

 private:
  tensor::KvGeometry geometry_;
  uint32_t tokens_;
  tensor::PageFormat format_;
  std::vector<uint16_t> memory_;
  std::vector<std::vector<uint16_t*>> pages_;  // [layers][blocks]
};

// Channels with log-normal deviations, a few with means of 8 to 15 deviations on the keys, log-normal token
// gains and four weak sink tokens: the shape of measured caches. All layers hold the first layer's values.
PagedKv SyntheticKv(const tensor::KvGeometry& geometry, uint32_t tokens, uint64_t seed);

}  // namespace kvplane::cli
