// Rows of bf16 to nested levels and back: what `ternary` does beside entropy coding
// (kvplane/codec/ecsq/spec.md, section 6).
//
// Quality s of a tile with L refinements has levels p_s in steps of 3^(L-s): p_L is the finest, and
// p_(s-1) = floor((p_s + 1) / 3), so that bins of three steps nest. Arithmetic in binary32, each operation
// rounded to nearest even on its own (no FMA):
//   p_L = clamp(RoundToEven((x - mean) * inverse_step)); value = Bf16((p_s * 3^(L-s)) * step + mean),
// with the bounds of 3^L times the rung's range and (3^L - 1) / 2 more on either side; Bf16() as in rans.h.
// Every instruction set gives the same levels and values.
//
// Thread safety: pure functions over the caller's memory. No allocation.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/isa.h"
#include "kvplane/kernel/rans/rans.h"

namespace kvplane::kernel {

constexpr uint32_t kNestedMaxLayers = 3;
constexpr int32_t kPowerOfThree[kNestedMaxLayers + 1] = {1, 3, 9, 27};

// Levels: [tokens, groups, 32], their magnitude below 10,000. rows[t]: head 0 of token t. Shape and layout as
// rans.h has them, the layout with scratch.
struct NestedRowKernels {
  // levels[0 .. layers], dead lanes 0. layout.largest is required. False when a value is not finite or has a
  // magnitude of 2^126 or more; the levels are undefined then.
  bool (*to_levels)(const RansShape& shape, const RansRows& layout, uint32_t layers,
                    const uint16_t* const* rows, int16_t* const* levels);
  // Levels in steps of 3^missing.
  void (*from_levels)(const RansShape& shape, const RansRows& layout, uint32_t missing, const int16_t* levels,
                      uint16_t* const* rows);
};
const NestedRowKernels& NestedRows(Isa isa);  // requires: `isa` is available
const NestedRowKernels& NestedRows();         // the active one

namespace internal {
extern const NestedRowKernels kNestedRowsScalar;
extern const NestedRowKernels kNestedRowsAvx512;
}  // namespace internal

}  // namespace kvplane::kernel
