#include "kvplane/engine/pinned_pages.h"

#include <utility>

namespace kvplane::engine {

PinnedPages::PinnedPages(std::span<const tensor::LayerPages> layers, std::shared_ptr<KvArena> arena)
    : arena_(std::move(arena)) {
  addresses_.reserve(layers.size());
  layers_.reserve(layers.size());
  for (const tensor::LayerPages& layer : layers) {
    addresses_.emplace_back(layer.pages.begin(), layer.pages.end());
    layers_.push_back({addresses_.back(), layer.format});
  }
}

}  // namespace kvplane::engine
