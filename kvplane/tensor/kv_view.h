// Shapes and views of the KV cache: geometry of a model's cache, the layout of a page, strided views of a
// tile.
//
// Terms (docs/glossary.md): a block is a fixed number of tokens of one layer, K and V; a page is the memory
// of one block; a tile is up to 64 tokens of one layer, one side, one head group: the unit of coding,
// checksum, retry.
//
// Nothing here owns memory. Elements are bf16 patterns in uint16_t.
//
// Thread safety: values and pure functions. Who may use the elements at the same time is the owners' affair.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kvplane/base/check.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::tensor {

constexpr uint32_t kTileTokens = 64;

// Wire ids: never renumber.
enum class Side : uint8_t { kKey = 0, kValue = 1 };
constexpr Side kSides[] = {Side::kKey, Side::kValue};

// The shape of one model's KV cache. Two engines may exchange KV only when all fields agree.
struct KvGeometry {
  uint32_t layers = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  DType dtype = DType::kBf16;

  uint64_t values_per_token_side() const { return uint64_t{kv_heads} * head_dim; }  // one layer, one side
  uint64_t bytes_per_token_layer() const { return 2 * values_per_token_side() * SizeOf(dtype); }
  uint64_t bytes_per_token() const { return bytes_per_token_layer() * layers; }
  bool operator==(const KvGeometry&) const = default;
};

// How one page lies in memory, in elements. The engine's own format is HeadMajor:
// [side][kv_head][token][head_dim], so that one head's keys are contiguous for attention. The last dimension
// is always contiguous.
struct PageFormat {
  uint32_t block_tokens = 0;
  size_t side_stride = 0;
  size_t head_stride = 0;
  size_t token_stride = 0;
  size_t page_elements = 0;

  static PageFormat HeadMajor(const KvGeometry& geometry, uint32_t block_tokens);

  size_t page_bytes() const { return page_elements * sizeof(uint16_t); }
  size_t offset(Side side, uint32_t token, uint32_t head) const {
    return static_cast<size_t>(side) * side_stride + head * head_stride + token * token_stride;
  }
  bool operator==(const PageFormat&) const = default;
};

// One layer of one request: page base addresses in token order. Token t lives in
// pages[t / format.block_tokens] at slot t % format.block_tokens.
struct LayerPages {
  std::span<uint16_t* const> pages;
  PageFormat format;
};

// View of [tokens, heads, head_dim] bf16, one layer, one side, `heads` from `first_head`. Tokens lie in runs
// (one per page touched); within a run the token stride is constant. At most kTileTokens tokens, at most
// kMaxRuns runs.
template <typename Element>
struct BasicTileView {
  static constexpr size_t kMaxRuns = kTileTokens;
  struct Run {
    Element* base = nullptr;  // (first token of the run, first head)
    uint32_t tokens = 0;
  };

  Run runs[kMaxRuns];
  uint32_t run_count = 0;
  uint32_t tokens = 0;
  uint32_t heads = 0;
  uint32_t head_dim = 0;
  size_t head_stride = 0;
  size_t token_stride = 0;

  size_t values() const { return size_t{tokens} * heads * head_dim; }

  // A view of contiguous [tokens, heads, head_dim].
  static BasicTileView Contiguous(Element* base, uint32_t tokens, uint32_t heads, uint32_t head_dim) {
    BasicTileView view;
    view.runs[0] = {base, tokens};
    view.run_count = tokens == 0 ? 0 : 1;
    view.tokens = tokens;
    view.heads = heads;
    view.head_dim = head_dim;
    view.head_stride = head_dim;
    view.token_stride = size_t{heads} * head_dim;
    return view;
  }
};

using TileView = BasicTileView<uint16_t>;
using ConstTileView = BasicTileView<const uint16_t>;

// Tile [first_token, first_token + tokens) x [first_head, first_head + heads) of `side` in `layer`.
// Requires: tokens <= kTileTokens, block_tokens >= 1, the pages cover the tokens.
TileView MakeTileView(const LayerPages& layer, Side side, uint32_t first_token, uint32_t tokens,
                      uint32_t first_head, uint32_t heads, uint32_t head_dim);
ConstTileView AsConst(const TileView& view);

// Tokens [first, first + tokens) of a view. Requires: they are there.
template <typename Element>
BasicTileView<Element> SliceTokens(const BasicTileView<Element>& view, uint32_t first, uint32_t tokens) {
  KVPLANE_CHECK(first <= view.tokens && tokens <= view.tokens - first);
  BasicTileView<Element> slice;
  slice.tokens = tokens;
  slice.heads = view.heads;
  slice.head_dim = view.head_dim;
  slice.head_stride = view.head_stride;
  slice.token_stride = view.token_stride;
  uint32_t skip = first;
  uint32_t left = tokens;
  for (uint32_t r = 0; r < view.run_count && left > 0; ++r) {
    const auto& run = view.runs[r];
    const uint32_t skipped = skip < run.tokens ? skip : run.tokens;
    const uint32_t taken = run.tokens - skipped < left ? run.tokens - skipped : left;
    skip -= skipped;
    if (taken == 0) continue;
    slice.runs[slice.run_count++] = {run.base + skipped * view.token_stride, taken};
    left -= taken;
  }
  return slice;
}

}  // namespace kvplane::tensor
