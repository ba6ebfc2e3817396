// Row kernels around the residual stream: RMSNorm and addition.
//
// RMSNorm (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019): y = x / sqrt(mean(x^2) +
// epsilon) * weight. One call works on one row, so a row's result cannot depend on its neighbours. Within one
// instruction set the result is a pure function of the inputs; between instruction sets the order of
// summation differs.
//
// Thread safety: pure functions. Pointers need no alignment. x and y may be the same array, never overlap
// partly.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/isa.h"

namespace kvplane::kernel {

struct NormKernels {
  // x, weight, y: [n] f32
  void (*rms_norm_f32)(const float* x, const float* weight, size_t n, float epsilon, float* y);
  // y: [n] bf16, rounded to nearest even
  void (*rms_norm_bf16)(const float* x, const float* weight, size_t n, float epsilon, uint16_t* y);
  // x[i] += delta[i]
  void (*add)(float* x, const float* delta, size_t n);
};

// Requires: `isa` is one of AvailableIsas().
const NormKernels& NormKernelsFor(Isa isa);

// The tables of the instruction sets; use NormKernelsFor.
extern const NormKernels kNormScalar;
extern const NormKernels kNormAvx2;
extern const NormKernels kNormAvx512;

}  // namespace kvplane::kernel
