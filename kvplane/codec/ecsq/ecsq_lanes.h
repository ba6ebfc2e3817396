// The lanes of one tile on their way through the coder: rungs and scales of the groups, the rows of the
// tokens.
//
// Thread safety: works on one thread's workspace.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kvplane/codec/ecsq/ecsq_plan.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/kernel/rans/rans.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

// rows[t]: head 0 of token t of a tile.
template <typename Element>
struct TokenRows {
  explicit TokenRows(const tensor::BasicTileView<Element>& view) {
    uint32_t token = 0;
    for (uint32_t r = 0; r < view.run_count; ++r) {
      Element* row = view.runs[r].base;
      for (uint32_t i = 0; i < view.runs[r].tokens; ++i, row += view.token_stride) rows[token++] = row;
    }
  }
  std::array<Element*, tensor::kTileTokens> rows;
};

// What the kernels take of a tile. Borrows the plan and the workspace's kCoder arena.
struct EcsqLaneTables {
  const kernel::RansRung* rungs = nullptr;    // [groups]
  const kernel::RansScale* scales = nullptr;  // [groups]
  std::byte* scratch = nullptr;

  // What the kernels call a shape and a layout, for streams of `tokens`.
  kernel::RansShape Shape(const EcsqPlan& plan, uint32_t tokens) const { return {tokens, plan.lanes, rungs}; }
  kernel::RansRows Rows(const EcsqPlan& plan, size_t head_stride) const {
    kernel::RansRows rows;
    rows.scales = scales;
    rows.heads = plan.rows.heads;
    rows.head_dim = plan.rows.head_dim;
    rows.head_stride = head_stride;
    rows.order = plan.ordered ? &plan.order : nullptr;
    rows.absent = plan.dropped.empty() ? nullptr : plan.absent.data();
    rows.scratch = scratch;
    return rows;
  }
};

// ladder: [groups]; head_scales: [heads] with tile scales, else empty.

EcsqLaneTables MakeLaneTables(const EcsqPlan& plan, std::span<const uint8_t> ladder,
                              std::span<const uint8_t> head_scales, Workspace& workspace);

// Elements without a lane decode as their mean, where no kernel has seen to it.
void FillDropped(const EcsqPlan& plan, const tensor::TileView& out, uint16_t* const* rows);

}  // namespace kvplane::codec
