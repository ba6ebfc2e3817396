// What an ecsq encoder decides of a tile: head scales, the rung of every group, how many streams, escapes.
// None of it is normative; it is a pure function of the values, so all machines write the same bytes.
//
// Thread safety: works on one thread's workspace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kvplane/codec/ecsq/ecsq_lanes.h"
#include "kvplane/codec/ecsq/ecsq_payload.h"
#include "kvplane/codec/ecsq/ecsq_plan.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

struct EcsqChoice {
  std::span<uint8_t> head_scales;  // [heads] with tile scales, else empty
  std::span<uint8_t> ladder;       // [groups]
  std::span<EcsqEscape> escapes;   // by rising position; before FindEscapes(): room for them
  EcsqHead head;                   // streams for one section
  // [groups][32] in RansScale's order, zeros: the kernel's RansRows::largest. And that of measured slots.
  std::span<float> lane_largest;
  std::span<const float> slot_largest;
};

// From which magnitude of (x - mean) * inverse_step a value is an escape, in a group of rung k. `layers`:
// refinements of ternary, whose inverse steps are those of the finest step; 0 for ecsq.
float EcsqReach(uint32_t k, uint32_t layers);

// log2(step) of a head with the scale byte `code`, in 1/64 octaves. Code 0, an empty head: 0.
int32_t TileStepLog(const EcsqPlan& plan, uint32_t head, uint8_t code);

// log2 of the streams of a tile: as many as its size pays for and its tokens divide into. `bits`: what its
// levels take, about, without refinements.
uint32_t EcsqStreamsLog(const EcsqPlan& plan, const EcsqConfig& config, uint32_t tokens, uint64_t bits);

// Decides for a tile. rows[t]: head 0 of token t. False: code the tile raw (values that are not finite, head
// scales or levels beyond the code's range). The spans live in the workspace's kQuantizer arena.
bool ChooseEcsq(const EcsqPlan& plan, const EcsqConfig& config, const tensor::ConstTileView& in,
                const uint16_t* const* rows, Workspace& workspace, EcsqChoice& choice);

// Fills in the escapes of a chosen tile once lane_largest is known. False: more than the format holds, code
// the tile raw.
bool FindEscapes(const EcsqPlan& plan, const EcsqLaneTables& tables, uint32_t layers,
                 const tensor::ConstTileView& in, const uint16_t* const* rows, EcsqChoice& choice);

}  // namespace kvplane::codec
