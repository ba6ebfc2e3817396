// The way of ecsq tiles whose levels fit a byte: rows to levels of the whole tile, then streams; back,
// streams to rows in one pass. Streams and values are those of the fused row kernels (kernel/rans/rans.h); it
// takes 128 elements and their lanes to agree on a window, and pays where the instruction set permutes bytes.
//
// Thread safety: EcsqByteLanes is immutable; the functions work on one thread's workspace.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kvplane/codec/ecsq/ecsq_choice.h"
#include "kvplane/codec/ecsq/ecsq_lanes.h"
#include "kvplane/codec/ecsq/ecsq_plan.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/kernel/ecsq/level_rows.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

// What the encoder makes of a group whose lanes are all wider or narrower than the profile says. Shift s
// stands for s - kNone quarter octaves.
struct EcsqForecast {
  static constexpr uint32_t kShifts = 33;
  static constexpr uint32_t kNone = 16;
  static constexpr uint32_t kWider = 4;

  // Per token, in 1/256: the weighted level sizes expected, and those between one shift and the next.
  uint32_t expected = 0;
  std::array<uint32_t, kShifts - 1> above = {};
  // The cheapest rung; what it, the next wider ones and the foretold one cost a token, in 1/256 bits.
  std::array<uint8_t, kShifts> rung = {};
  std::array<std::array<uint32_t, kWider>, kShifts> cost = {};
  std::array<uint32_t, kShifts> foretold = {};
};

// What a plan knows of its elements beside its lanes.
struct EcsqByteLanes {
  // [elements]. Steps are 1 with tile scales.
  SlotFloats mean, step, inverse_step;
  std::vector<uint8_t> element_of_lane;  // [lanes], within windows of 128
  // The inverse, as decoders take it (kernel::RansByteRows): [elements / 128], [elements / 16].
  struct alignas(64) Lanes {
    uint8_t of[kernel::kLevelWindow];
  };
  static constexpr uint32_t kPicks = 16;
  struct alignas(64) Picks {
    uint32_t of[kPicks];
  };
  std::vector<Lanes> lane_of_element;
  std::vector<Picks> picks;
  // With a profile, for encoding: how the sizes of levels are added up (kernel::ToLevels), and what follows.
  std::vector<uint8_t> cap;            // [lanes]
  std::vector<int8_t> weight;          // [lanes]
  std::vector<EcsqForecast> forecast;  // [groups]
};

// Null where the lanes of `plan` do not fit. ratios: [lanes], log2(deviation / step) in 1/64 octaves; empty
// with tile scales. Requires: the rest of the plan is made.
std::shared_ptr<const EcsqByteLanes> MakeByteLanes(const EcsqPlan& plan, std::span<const int32_t> ratios);

// What ChooseEcsq() and FindEscapes() decide, from the levels of all tokens. Every instruction set decides
// alike.
enum class EcsqByteChoice : uint8_t {
  kChosen,  // `levels`: [tokens, lanes], in the workspace's kSymbols arena
  kRaw,     // code the tile raw
  kOther,   // levels that do not fit: choose the other way
};
EcsqByteChoice ChooseBytes(const EcsqPlan& plan, const EcsqConfig& config, const tensor::ConstTileView& in,
                           const uint16_t* const* rows, Workspace& workspace, EcsqChoice& choice,
                           const int8_t*& levels);

// Whether the tiles of such rungs are decoded that way here.
bool DecodesBytes(const EcsqPlan& plan, std::span<const uint8_t> ladder);

// Decodes streams of the tile's tokens, divided evenly, into `rows`. Returns the corrupt streams,
// whose rows hold garbage.
// Requires: DecodesBytes(). head_scales: [heads] with tile scales, else empty.
uint32_t DecodeByteStreams(const EcsqPlan& plan, const kernel::RansShape& shape,
                           std::span<const std::span<const std::byte>> streams,
                           std::span<const uint8_t> head_scales, bool streaming_stores,
                           const tensor::TileView& out, uint16_t* const* rows, Workspace& workspace);

}  // namespace kvplane::codec
