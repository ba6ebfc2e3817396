// PinnedPages: where a request's KV lies, for threads other than the engine's.
//
// A copy of the page addresses (the request's own tables may grow meanwhile) and a hold on the memory behind
// them. It does not keep the blocks from being given to another request: that is the engine's fence (a
// request retires only when its loads and pushes are done with its pages). Thread safety: immutable.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kvplane/engine/kv_arena.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::engine {

class PinnedPages {
 public:
  PinnedPages(std::span<const tensor::LayerPages> layers, std::shared_ptr<KvArena> arena);
  PinnedPages(const PinnedPages&) = delete;
  PinnedPages& operator=(const PinnedPages&) = delete;

  const tensor::LayerPages& layer(uint32_t index) const { return layers_[index]; }

 private:
  std::shared_ptr<KvArena> arena_;
  std::vector<std::vector<uint16_t*>> addresses_;  // [layers][pages]
  std::vector<tensor::LayerPages> layers_;         // into addresses_
};

}  // namespace kvplane::engine
