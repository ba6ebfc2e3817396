// SequenceKv: the KV cache of one sequence, in the engine's page format, owned in one piece of memory.
//
// Thread safety: none; different sequences may be used by different threads.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvplane/tensor/kv_view.h"

namespace kvplane::profile {

class SequenceKv {
 public:
  // Zeros, room for `tokens` tokens rounded up to whole blocks. Requires block_tokens >= 1.
  SequenceKv(const tensor::KvGeometry& geometry, uint32_t block_tokens, uint32_t tokens);
  SequenceKv(SequenceKv&&) = default;  // page addresses survive the move

  std::span<const tensor::LayerPages> layers() const { return layers_; }  // [layers]
  std::span<const uint16_t> memory() const { return memory_; }

 private:
  tensor::PageFormat format_;
  std::vector<uint16_t> memory_;
  std::vector<std::vector<uint16_t*>> pages_;  // [layers][blocks]
  std::vector<tensor::LayerPages> layers_;
};

}  // namespace kvplane::profile
