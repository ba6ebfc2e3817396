// TileRows: the rows of one head of a strided tile, as the row kernels take them.
//
// Thread safety: a value on the caller's stack; borrows the view's memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kvplane/base/check.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

template <typename Element>
class TileRows {
 public:
  // data()[t]: [head_dim] bf16 of token t and `head` (relative to the view's first).
  TileRows(const tensor::BasicTileView<Element>& view, size_t head) : head_dim_(view.head_dim) {
    KVPLANE_DCHECK(view.tokens <= tensor::kTileTokens);
    for (uint32_t r = 0; r < view.run_count; ++r) {
      Element* row = view.runs[r].base + head * view.head_stride;
      for (uint32_t i = 0; i < view.runs[r].tokens; ++i, row += view.token_stride) rows_[tokens_++] = row;
    }
    KVPLANE_DCHECK(tokens_ == view.tokens);
  }

  Element* const* data() const { return rows_.data(); }
  uint32_t tokens() const { return tokens_; }
  uint32_t head_dim() const { return head_dim_; }

 private:
  std::array<Element*, tensor::kTileTokens> rows_;
  uint32_t tokens_ = 0;
  uint32_t head_dim_;
};

}  // namespace kvplane::codec
