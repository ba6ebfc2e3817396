// rANS-B on levels of one byte: the same streams as encode_levels() and decode_rows() of rans.h make and
// take, for shapes whose levels fit, at half the memory traffic and with less arithmetic a step.
//
// Thread safety: pure functions over the caller's memory. No allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kvplane/kernel/isa.h"
#include "kvplane/kernel/rans/rans.h"

namespace kvplane::kernel {

// Whether the levels of a rung fit. Bypass bits only with the classes that RansLadderRung() gives them.
constexpr bool RansFitsByte(RansRung rung) {
  return rung.max_level() <= 127 && rung.min_level() >= -128 &&
         (rung.bypass() == 0 || rung.rans_class() >= 10);
}

// What decoded levels become. Elements are counted as head * head_dim + channel; they and the lanes of a
// stream agree on windows of 128. An element's value is Bf16(level * step + mean), binary32, every operation
// rounded to nearest even on its own; subnormal results are zeros of their sign (docs/formats/rans.md,
// section 7). Arrays: [elements], 64-byte aligned. Requires: |mean| and step at most 2^117, head_dim a
// multiple of 32.
struct RansByteRows {
  uint32_t heads = 0;
  uint32_t head_dim = 0;
  size_t head_stride = 0;  // elements
  const float* mean = nullptr;
  const float* step = nullptr;
  // An element's lane in its window, as each instruction set takes it: the latter of RansBytePick().
  const uint8_t* lane_of_element = nullptr;
  const uint32_t* pick = nullptr;
  bool streaming_stores = false;  // around the caches, where rows are 64-byte aligned

  uint32_t elements() const { return heads * head_dim; }
};
constexpr uint32_t kRansByteWindow = 128;
// 2^23 in binary32: with a byte below it is 2^23 and that byte, which takes the place of a conversion.
constexpr uint32_t RansBytePick(uint32_t lane) { return 0x4b000000u | lane; }

// How far a decoder fetches ahead in each stream, from its front and in its bypass words: several short
// streams are too many for the hardware to follow. Callers fetch as much before.
constexpr size_t kRansBytesAhead = 320;

// Requires: channels are whole groups, every rung fits. levels[v]: [tokens, groups, 32]. Otherwise as
// RansKernels::encode_levels and decode_rows.
struct RansByteKernels {
  // Levels beyond the range of their rung are clamped.
  void (*encode)(const RansShape& shape, uint32_t streams, const int8_t* const* levels,
                 std::byte* const* ends, size_t* sizes);
  // Requires: channels are whole windows, as many as elements.
  uint32_t (*decode)(const RansShape& shape, const RansByteRows& layout, uint32_t streams,
                     const std::span<const std::byte>* in, uint16_t* const* const* rows);
};
// Null where an instruction set has none: the scalar rows forms are the definition and as good.
const RansByteKernels* RansBytes(Isa isa);
const RansByteKernels* RansBytes();  // of the active one

}  // namespace kvplane::kernel
