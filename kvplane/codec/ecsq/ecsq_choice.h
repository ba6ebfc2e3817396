// What an ecsq encoder decides of a tile: head scales, the rung of every group, escapes, how many streams.
// None of it is normative; it is a pure function of the values, so all machines write the same bytes.
//
// Thread safety: works on one thread's workspace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kvplane/codec/ecsq/ecsq_payload.h"
#include "kvplane/codec/ecsq/ecsq_plan.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

struct EcsqChoice {
  std::span<uint8_t> head_scales;  // [heads] with tile scales, else empty
  std::span<uint8_t> ladder;       // [groups]
  std::span<EcsqEscape> escapes;   // by rising position
  EcsqHead head;                   // streams for one section
};

// log2(step) of a head with the scale byte `code`, in 1/64 octaves. Code 0, an empty head: 0.
int32_t TileStepLog(const EcsqPlan& plan, uint32_t head, uint8_t code);

// Decides for a tile. rows[t]: head 0 of token t. False: code the tile raw (values that are not finite, head
// scales or levels beyond the code's range). The spans live in the workspace's kQuantizer arena.
bool ChooseEcsq(const EcsqPlan& plan, const EcsqConfig& config, const tensor::ConstTileView& in,
                const uint16_t* const* rows, Workspace& workspace, EcsqChoice& choice);

}  // namespace kvplane::codec
