// Rotary position embedding of one head (Su et al., "RoFormer", 2021), in the half-split pairing of published
// Llama-family checkpoints: element i is paired with element i + half.
//
//   y[i]        = x[i] * cos[i] - x[i + half] * sin[i]
//   y[i + half] = x[i + half] * cos[i] + x[i] * sin[i]
//
// cos and sin come from a table made elsewhere (model/rope_table.h), where the context extensions live.
//
// Thread safety: pure functions. Pointers need no alignment. half is a multiple of 4 (head_dim of 8).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/isa.h"

namespace kvplane::kernel {

struct RopeKernels {
  // x: [2 * half] f32, in place; cos, sin: [half]
  void (*rotate)(float* x, const float* cos, const float* sin, size_t half);
  // y: [2 * half] bf16, rounded to nearest even; x is left alone
  void (*rotate_to_bf16)(const float* x, const float* cos, const float* sin, size_t half, uint16_t* y);
};

// Requires: `isa` is one of AvailableIsas().
const RopeKernels& RopeKernelsFor(Isa isa);

// The tables of the instruction sets; use RopeKernelsFor.
extern const RopeKernels kRopeScalar;
extern const RopeKernels kRopeAvx2;
extern const RopeKernels kRopeAvx512;

}  // namespace kvplane::kernel
