// Measuring a tile of bf16 rows lane by lane: what an encoder needs to choose classes and to find values that
// no class holds.
//
// A slot is one element of a token in the order in which vector code widens bf16: heads are padded to whole
// groups of 32, and within a group the even elements lie before the odd ones. Per slot, in binary32, every
// operation rounded to nearest even on its own (no FMA), tokens in order:
//   level = (x - mean) * inverse_step; largest = max |level|; energy = sum of level^2
// Every instruction set gives the same floats. Padding slots are undefined.
//
// Thread safety: pure functions over the caller's memory. No allocation.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/isa.h"

namespace kvplane::kernel {

struct EcsqRows {
  uint32_t tokens = 0;     // at least 1
  uint32_t heads = 0;      // at least 1
  uint32_t head_dim = 0;   // at least 1
  size_t head_stride = 0;  // elements

  static constexpr uint32_t kGroup = 32;
  uint32_t head_groups() const { return (head_dim + kGroup - 1) / kGroup; }
  size_t slots() const { return size_t{heads} * head_groups() * kGroup; }
  size_t slot(uint32_t head, uint32_t channel) const {
    const uint32_t lane = channel % kGroup;
    return (size_t{head} * head_groups() + channel / kGroup) * kGroup + (lane & 1) * (kGroup / 2) + lane / 2;
  }
};

// [slots()] each, 64-byte aligned. Requires: those of live slots are finite.
struct EcsqLanes {
  const float* mean = nullptr;
  const float* inverse_step = nullptr;
};
struct EcsqMeasures {
  float* largest = nullptr;
  float* energy = nullptr;
};

// rows[t]: head 0 of token t. False when a value is not finite or has a magnitude of 2^126 or more; the
// measures are undefined then.
using EcsqMeasureFunction = bool (*)(const EcsqRows& shape, const uint16_t* const* rows,
                                     const EcsqLanes& lanes, const EcsqMeasures& measures);
EcsqMeasureFunction EcsqMeasure(Isa isa);  // requires: `isa` is available
EcsqMeasureFunction EcsqMeasure();         // the active one

namespace internal {
bool EcsqMeasureScalar(const EcsqRows& shape, const uint16_t* const* rows, const EcsqLanes& lanes,
                       const EcsqMeasures& measures);
bool EcsqMeasureAvx2(const EcsqRows& shape, const uint16_t* const* rows, const EcsqLanes& lanes,
                     const EcsqMeasures& measures);
bool EcsqMeasureAvx512(const EcsqRows& shape, const uint16_t* const* rows, const EcsqLanes& lanes,
                       const EcsqMeasures& measures);
}  // namespace internal

}  // namespace kvplane::kernel
