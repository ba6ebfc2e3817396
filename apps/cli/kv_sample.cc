#include "apps/cli/kv_sample.h"

#include <algorithm>

namespace kvplane::cli {

PagedKv::PagedKv(const tensor::KvGeometry& geometry, uint32_t tokens)
    : geometry_(geometry),
      tokens_(tokens),
      format_(tensor::PageFormat::HeadMajor(geometry, kBlockTokens)),
      memory_(size_t{geometry.layers} * block_count() * format_.page_elements) {
  const uint32_t blocks = block_count();
  for (uint32_t i = 0; i < geometry.layers; ++i) {
    std::vector<uint16_t*>& pages = pages_.emplace_back();
    for (uint32_t b = 0; b < blocks; ++b) {
      pages.push_back(memory().data() + (size_t{i} * blocks + b) * format_.page_elements);
    }
  }
  for (const std::vector<uint16_t*>& pages : pages_) layers_.push_back({pages, format_});
}

std::span<uint16_t> PagedKv::blocks(uint32_t layer, uint32_t first, uint32_t count) {
  return {pages_[layer][first], count * format_.page_elements};
}

uint16_t* PagedKv::row(uint32_t layer, tensor::Side side, uint32_t token, uint32_t head) {
  return pages_[layer][token / kBlockTokens] + format_.offset(side, token % kBlockTokens, head);
}

const uint16_t* PagedKv::row(uint32_t layer, tensor::Side side, uint32_t token, uint32_t head) const {
  return pages_[layer][token / kBlockTokens] + format_.offset(side, token % kBlockTokens, head);
}

PagedKv PagedKv::Copy(RawKv& kv) {
  PagedKv paged(kv.geometry, kv.tokens);
  for (uint32_t i = 0; i < kv.geometry.layers; ++i) {
    const uint16_t* page = kv.layer_page(i);
    for (const tensor::Side side : tensor::kSides) {
      for (uint32_t t = 0; t < kv.tokens; ++t) {
        for (uint32_t h = 0; h < kv.geometry.kv_heads; ++h) {
          std::copy_n(page + kv.page_format().offset(side, t, h), kv.geometry.head_dim,
                      paged.row(i, side, t, h));
        }
      }
    }
  }
  return paged;
}

}  // namespace kvplane::cli
