// Owned pages of one layer for tests: the page format is any, values are bf16 patterns.
#pragma once

#include <cstdint>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec::testing {

class PagedLayer {
 public:
  PagedLayer(const tensor::KvGeometry& geometry, uint32_t tokens, uint32_t block_tokens)
      : format_(tensor::PageFormat::HeadMajor(geometry, block_tokens)),
        memory_((tokens + block_tokens - 1) / block_tokens * format_.page_elements, uint16_t{0xbeef}) {
    for (size_t at = 0; at < memory_.size(); at += format_.page_elements) pages_.push_back(&memory_[at]);
  }
  PagedLayer(PagedLayer&&) = default;

  tensor::LayerPages pages() const { return {pages_, format_}; }
  std::vector<uint16_t>& memory() { return memory_; }
  const std::vector<uint16_t>& memory() const { return memory_; }

  // Normal values, with a large mean on some channels of the keys, as caches have them.
  void FillNormal(base::Rng& rng, const tensor::KvGeometry& geometry) {
    for (size_t i = 0; i < memory_.size(); ++i) {
      const bool key = i % format_.page_elements < format_.side_stride;
      const bool outlier = key && i % geometry.head_dim % 13 == 5;
      memory_[i] = tensor::FloatToBf16(static_cast<float>(rng.Normal()) + (outlier ? 12.0f : 0.0f));
    }
  }

 private:
  tensor::PageFormat format_;
  std::vector<uint16_t> memory_;
  std::vector<uint16_t*> pages_;
};

}  // namespace kvplane::codec::testing
