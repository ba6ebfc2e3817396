// KvPages: pages of one sequence for tests, filled with NaN so that reading a token that was never written
// shows.
#pragma once

#include <cstdint>
#include <vector>

#include "kvplane/tensor/kv_view.h"

namespace kvplane::model {

class KvPages {
 public:
  KvPages(const tensor::KvGeometry& geometry, uint32_t tokens, uint32_t block_tokens = 16)
      : geometry_(geometry) {
    const auto format = tensor::PageFormat::HeadMajor(geometry, block_tokens);
    const uint32_t count = (tokens + block_tokens - 1) / block_tokens;
    pages_.assign(size_t{geometry.layers} * count,
                  std::vector<uint16_t>(format.page_elements, uint16_t{0x7fff}));
    for (auto& page : pages_) pointers_.push_back(page.data());
    for (uint32_t layer = 0; layer < geometry.layers; ++layer) {
      layers_.push_back({std::span(pointers_).subspan(size_t{layer} * count, count), format});
    }
  }
  KvPages(const KvPages&) = delete;

  std::span<const tensor::LayerPages> layers() const { return layers_; }
  const std::vector<std::vector<uint16_t>>& pages() const { return pages_; }

  // [kv_heads * head_dim] of one token.
  std::vector<float> Token(uint32_t layer, tensor::Side side, uint32_t position) const {
    const tensor::LayerPages& pages = layers_[layer];
    std::vector<float> out;
    for (uint32_t head = 0; head < geometry_.kv_heads; ++head) {
      const uint16_t* values = pages.pages[position / pages.format.block_tokens] +
                               pages.format.offset(side, position % pages.format.block_tokens, head);
      for (uint32_t d = 0; d < geometry_.head_dim; ++d) out.push_back(tensor::Bf16ToFloat(values[d]));
    }
    return out;
  }

 private:
  tensor::KvGeometry geometry_;
  std::vector<std::vector<uint16_t>> pages_;
  std::vector<uint16_t*> pointers_;
  std::vector<tensor::LayerPages> layers_;
};

}  // namespace kvplane::model
