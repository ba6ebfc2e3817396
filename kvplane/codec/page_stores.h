// When a decoder writes its rows around the caches.
//
// Streaming stores spare the read of every line that is going to be overwritten whole, which is a third of a
// decoder's memory traffic and more. They pay for pages that nobody reads soon; small tiles are read soon,
// and what undoes a transform or a geometry stage reads its input at once.
#pragma once

#include <cstddef>

#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/transform/centre_stage.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

constexpr size_t kStreamingBytes = size_t{32} << 10;

// Whether the coder of `chain` decodes into pages (not into what BoundChain turns back), and enough of them.
inline bool WritesAroundCaches(Chain chain, const tensor::TileView& out) {
  if (out.values() * sizeof(uint16_t) < kStreamingBytes) return false;
  return FindCall(chain, Slot::kTransform) == nullptr &&
         (FindCall(chain, Slot::kGeometry) == nullptr || CoderTakesStaticMeans(chain));
}

}  // namespace kvplane::codec
