#include "kvplane/engine/request_pages.h"

#include "kvplane/base/check.h"

namespace kvplane::engine {

RequestPages::RequestPages(cache::BlockPool& pool, const KvArena& arena, uint32_t layers)
    : arena_(&arena), table_(pool, layers, arena.format().block_tokens), addresses_(layers), views_(layers) {
  for (tensor::LayerPages& view : views_) view.format = arena.format();
}

void RequestPages::Grow(uint32_t tokens) {
  KVPLANE_CHECK(table_.Grow(tokens));
  for (uint32_t layer = 0; layer < table_.layers(); ++layer) {
    const auto blocks = table_.blocks(layer);
    auto& addresses = addresses_[layer];
    for (size_t i = addresses.size(); i < blocks.size(); ++i) addresses.push_back(arena_->page(blocks[i]));
    views_[layer].pages = addresses;
  }
}

}  // namespace kvplane::engine
