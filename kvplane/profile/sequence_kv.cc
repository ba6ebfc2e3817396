#include "kvplane/profile/sequence_kv.h"

namespace kvplane::profile {

SequenceKv::SequenceKv(const tensor::KvGeometry& geometry, uint32_t block_tokens, uint32_t tokens)
    : format_(tensor::PageFormat::HeadMajor(geometry, block_tokens)) {
  const uint32_t blocks = (tokens + block_tokens - 1) / block_tokens;
  memory_.resize(size_t{geometry.layers} * blocks * format_.page_elements);
  for (uint32_t layer = 0; layer < geometry.layers; ++layer) {
    auto& pages = pages_.emplace_back();
    for (uint32_t block = 0; block < blocks; ++block) {
      pages.push_back(memory_.data() + (size_t{layer} * blocks + block) * format_.page_elements);
    }
  }
  for (const auto& pages : pages_) layers_.push_back({pages, format_});
}

}  // namespace kvplane::profile
