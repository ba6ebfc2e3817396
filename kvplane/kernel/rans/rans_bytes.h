// rANS-B on levels of one byte: the same streams as encode_levels() and decode_levels() of rans.h make and
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

// Requires: channels are whole groups, every rung fits. levels[v]: [tokens, groups, 32]. Otherwise as
// RansKernels::encode_levels and decode_levels.
struct RansByteKernels {
  // Levels beyond the range of their rung are clamped.
  void (*encode)(const RansShape& shape, uint32_t streams, const int8_t* const* levels,
                 std::byte* const* ends, size_t* sizes);
  uint32_t (*decode)(const RansShape& shape, uint32_t streams, const std::span<const std::byte>* in,
                     int8_t* const* levels);
};
// Null where an instruction set has none: its rows forms are as good.
const RansByteKernels* RansBytes(Isa isa);
const RansByteKernels* RansBytes();  // of the active one

}  // namespace kvplane::kernel
