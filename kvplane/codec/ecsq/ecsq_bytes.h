// The way of ecsq tiles whose levels fit a byte: rows to levels of the whole tile, then streams, and back.
// Streams and values are those of the fused row kernels (kernel/rans/rans.h); it takes 128 elements and their
// lanes to agree on a window, and pays where the instruction set permutes bytes.
//
// Thread safety: EcsqByteLanes is immutable; the functions work on one thread's workspace.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kvplane/codec/ecsq/ecsq_lanes.h"
#include "kvplane/codec/ecsq/ecsq_plan.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/kernel/ecsq/level_rows.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

// What a plan knows of its elements beside its lanes.
struct EcsqByteLanes {
  // [elements]. Steps are 1 with tile scales.
  SlotFloats mean, step, inverse_step;
  std::vector<uint8_t> element_of_lane;  // [lanes], within windows of 128
  std::vector<uint8_t> lane_of_element;  // [elements], the inverse
};

// Null where the lanes of `plan` do not fit. Requires: the rest of the plan is made.
std::shared_ptr<const EcsqByteLanes> MakeByteLanes(const EcsqPlan& plan);

// Whether the tiles of such rungs are decoded that way here.
bool DecodesBytes(const EcsqPlan& plan, std::span<const uint8_t> ladder);

// Decodes streams of the tile's tokens, divided evenly, into `rows`. Returns the corrupt streams.
// Requires: DecodesBytes(). head_scales: [heads] with tile scales, else empty.
uint32_t DecodeByteStreams(const EcsqPlan& plan, const kernel::RansShape& shape,
                           std::span<const std::span<const std::byte>> streams,
                           std::span<const uint8_t> head_scales, bool streaming_stores,
                           const tensor::TileView& out, uint16_t* const* rows, Workspace& workspace);

}  // namespace kvplane::codec
