// bf16 rows to quantiser levels of one byte in coding order: what lies before the entropy coder where levels
// fit (rans/rans_bytes.h, which also has the way back).
//
// Elements are counted as head * head_dim + channel, lanes in coding order. Both orders agree on windows of
// 128: lane i of a window is one of its elements. Per element, binary32, every operation rounded to nearest
// even on its own (no FMA):
//   level = RoundToEven((x - mean) * inverse_step), clamped to -128..127; -128 where that is not in int32
// Every instruction set gives the same levels and sums.
//
// Thread safety: pure functions over the caller's memory. No allocation.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/isa.h"

namespace kvplane::kernel {

constexpr uint32_t kLevelWindow = 128;
constexpr uint32_t kLevelGroup = 32;

// Requires: head_dim is a multiple of 32, elements() of 128 and below 2^24; at most 256 tokens.
struct LevelRows {
  uint32_t tokens = 0;  // at least 1
  uint32_t heads = 0;
  uint32_t head_dim = 0;
  size_t head_stride = 0;  // elements

  uint32_t elements() const { return heads * head_dim; }
  uint32_t windows() const { return elements() / kLevelWindow; }
  uint32_t groups() const { return elements() / kLevelGroup; }
  // Whether the layout is one that the functions take.
  static constexpr bool Fits(uint32_t heads, uint32_t head_dim) {
    return head_dim % kLevelGroup == 0 && size_t{heads} * head_dim % kLevelWindow == 0;
  }
};

// [elements] each, 64-byte aligned. Requires: finite, |mean| < 2^126.
struct ToLevels {
  const float* mean = nullptr;
  const float* inverse_step = nullptr;
  const uint8_t* element_of_lane = nullptr;  // [lanes], within the window
  // Of the sums, by lane: a level counts as weight * min(|level|, cap); caps at most 127.
  const uint8_t* cap = nullptr;
  const int8_t* weight = nullptr;
};

// A token and a lane in 32 bits; they rise in the order of [tokens, lanes].
constexpr uint32_t kLaneBits = 24;
constexpr uint32_t LevelPosition(uint32_t token, uint32_t lane) { return token << kLaneBits | lane; }
constexpr uint32_t TokenOf(uint32_t position) { return position >> kLaneBits; }
constexpr uint32_t LaneOf(uint32_t position) { return position & ((1u << kLaneBits) - 1); }

// levels: [tokens, lanes], 64-byte aligned. rows[t]: head 0 of token t.
struct LevelRowKernels {
  // sums: [groups], over all tokens.
  void (*to_levels)(const LevelRows& shape, const ToLevels& how, const uint16_t* const* rows, int8_t* levels,
                    uint32_t* sums);
  // Where levels are of a larger magnitude than `highest` of their lane, in rising order; at most `room`.
  // Returns how many there are. highest: [lanes], below 128.
  size_t (*find_above)(const LevelRows& shape, const uint8_t* highest, const int8_t* levels, size_t room,
                       uint32_t* positions);
};
const LevelRowKernels& LevelRowsOf(Isa isa);  // requires: `isa` is available
const LevelRowKernels& LevelRowsOf();         // the active one

namespace internal {
extern const LevelRowKernels kLevelRowsScalar;
extern const LevelRowKernels kLevelRowsAvx2;
extern const LevelRowKernels kLevelRowsAvx512;
}  // namespace internal

}  // namespace kvplane::kernel
