#include "kvplane/tensor/kv_view.h"

#include <algorithm>

namespace kvplane::tensor {

PageFormat PageFormat::HeadMajor(const KvGeometry& geometry, uint32_t block_tokens) {
  PageFormat format;
  format.block_tokens = block_tokens;
  format.token_stride = geometry.head_dim;
  format.head_stride = size_t{block_tokens} * geometry.head_dim;
  format.side_stride = geometry.kv_heads * format.head_stride;
  format.page_elements = 2 * format.side_stride;
  return format;
}

TileView MakeTileView(const LayerPages& layer, Side side, uint32_t first_token, uint32_t tokens,
                      uint32_t first_head, uint32_t heads, uint32_t head_dim) {
  const PageFormat& format = layer.format;
  KVPLANE_CHECK(tokens <= kTileTokens && format.block_tokens >= 1);
  TileView view;
  view.tokens = tokens;
  view.heads = heads;
  view.head_dim = head_dim;
  view.head_stride = format.head_stride;
  view.token_stride = format.token_stride;
  const uint32_t end = first_token + tokens;
  for (uint32_t token = first_token; token < end;) {
    const uint32_t page = token / format.block_tokens;
    const uint32_t slot = token % format.block_tokens;
    const uint32_t count = std::min(format.block_tokens - slot, end - token);
    KVPLANE_CHECK(page < layer.pages.size());
    view.runs[view.run_count++] = {layer.pages[page] + format.offset(side, slot, first_head), count};
    token += count;
  }
  return view;
}

ConstTileView AsConst(const TileView& view) {
  ConstTileView out;
  for (uint32_t i = 0; i < view.run_count; ++i) out.runs[i] = {view.runs[i].base, view.runs[i].tokens};
  out.run_count = view.run_count;
  out.tokens = view.tokens;
  out.heads = view.heads;
  out.head_dim = view.head_dim;
  out.head_stride = view.head_stride;
  out.token_stride = view.token_stride;
  return out;
}

}  // namespace kvplane::tensor
