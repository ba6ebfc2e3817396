// Ternary refinement of quantiser levels: q = 3 p + r with r in {-1, 0, 1}, r coded with rANS below its
// parent p.
//
// The state machine, lanes, layout and corruption rules are those of rANS-B (docs/formats/rans.md, sections
// 1, 2, 4, 5, without bypass words); only the model differs. The symbol is r folded by the parent's sign (-r
// below negative parents), plus 1; its frequencies are kTernaryFrequency[table][min(|p|, 2)]. By the chain
// rule base and refinements together cost what the refined levels would (kvplane/codec/ecsq/spec.md).
//
// Thread safety: pure functions over the caller's memory. No allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kvplane/kernel/isa.h"

namespace kvplane::kernel {

// Requires: tokens, channels >= 1, tables below kTernaryTables.
struct TernaryShape {
  uint32_t tokens = 0;
  uint32_t channels = 0;
  const uint8_t* tables = nullptr;  // [ceil(channels / 32)]
};

// What a stream of this shape needs at most.
size_t TernaryMaxStreamBytes(const TernaryShape& shape);

// Levels and parents: [tokens, groups, 32], magnitudes of levels below 10,000; dead lanes are ignored.
struct TernaryKernels {
  // The stream ends at `end`; its first byte is returned. TernaryMaxStreamBytes() before `end` may be
  // overwritten. Requires: |levels - 3 parents| <= 1 in live lanes.
  std::byte* (*encode)(const TernaryShape& shape, const int16_t* parents, const int16_t* levels,
                       std::byte* end);
  // In place: parents become levels. False when the stream is corrupt; the levels are garbage then. Never
  // reads outside `in`. Dead lanes are undefined.
  bool (*decode)(const TernaryShape& shape, std::span<const std::byte> in, int16_t* levels);
};
const TernaryKernels& Ternary(Isa isa);  // requires: `isa` is available
const TernaryKernels& Ternary();         // the active one

namespace internal {
extern const TernaryKernels kTernaryScalar;
extern const TernaryKernels kTernaryAvx512;
}  // namespace internal

}  // namespace kvplane::kernel
