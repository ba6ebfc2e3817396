// The gated activation of Llama-family MLPs and the rounding of rows to bf16.
//
// SwiGLU (Shazeer, "GLU Variants Improve Transformer", 2020): y = silu(gate) * up, silu(x) = x / (1 +
// exp(-x)). The vector forms approximate exp to about 2 units in the last place.
//
// Thread safety: pure functions. Pointers need no alignment. Arrays do not overlap.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/isa.h"

namespace kvplane::kernel {

struct ActivationKernels {
  // gate, up, y: [n] f32
  void (*swiglu_f32)(const float* gate, const float* up, size_t n, float* y);
  // y: [n] bf16, rounded to nearest even
  void (*swiglu_bf16)(const float* gate, const float* up, size_t n, uint16_t* y);
  // y[i] = tensor::FloatToBf16(x[i]); denormal results may become zero
  void (*round_to_bf16)(const float* x, size_t n, uint16_t* y);
};

// Requires: `isa` is one of AvailableIsas().
const ActivationKernels& ActivationKernelsFor(Isa isa);

// The tables of the instruction sets; use ActivationKernelsFor.
extern const ActivationKernels kActivationScalar;
extern const ActivationKernels kActivationAvx2;
extern const ActivationKernels kActivationAvx512;

}  // namespace kvplane::kernel
