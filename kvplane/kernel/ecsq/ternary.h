// Ternary refinement of quantiser levels: q = 3 p + r with r in {-1, 0, 1}, r coded with rANS below its
// parent p.
//
// The state machine, lanes, layout and corruption rules are those of rANS-B (docs/formats/rans.md, sections
// 1, 2, 4, 5, without bypass words); only the model differs. The symbol is r folded by the parent's sign (-r
// below negative parents), plus 1; its frequencies are kTernaryFrequency[table][min(|p|, 2)]. By the chain
// rule base and refinements together cost what the refined levels would (kvplane/codec/ecsq/spec.md).
//
// Streams of one shape advance in lockstep, as in rans.h; bit v of a result is stream v. All refinements of a
// tile may be streams of one call, also those of the same levels: each step refines what the streams before
// it made of it.
//
// Thread safety: pure functions over the caller's memory. No allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kvplane/kernel/isa.h"
#include "kvplane/kernel/rans/rans.h"

namespace kvplane::kernel {

// Requires: tokens, channels >= 1.
struct TernaryShape {
  uint32_t tokens = 0;
  uint32_t channels = 0;

  uint32_t groups() const { return (channels + kRansLanes - 1) / kRansLanes; }
};
constexpr uint32_t kTernaryMaxStreams = 3 * kRansMaxStreams;  // in one call

// What a stream of this shape needs at most.
size_t TernaryMaxStreamBytes(const TernaryShape& shape);

// tables[v]: [groups], below kTernaryTables. Levels and parents of a stream: [tokens, groups, 32], magnitudes
// of levels below 10,000; dead lanes are ignored.
struct TernaryKernels {
  // Stream v ends at ends[v] and has sizes[v] bytes; TernaryMaxStreamBytes() before ends[v] may be
  // overwritten. Requires: |levels - 3 parents| <= 1 in live lanes.
  void (*encode)(const TernaryShape& shape, uint32_t streams, const uint8_t* const* tables,
                 const int16_t* const* parents, const int16_t* const* levels, std::byte* const* ends,
                 size_t* sizes);
  // In place: parents become levels; streams of the same levels[v] refine them one after the other. Returns
  // the corrupt streams, whose levels are garbage. Never reads outside `in`. Dead lanes are undefined.
  uint32_t (*decode)(const TernaryShape& shape, uint32_t streams, const uint8_t* const* tables,
                     const std::span<const std::byte>* in, int16_t* const* levels);
};
const TernaryKernels& Ternary(Isa isa);  // requires: `isa` is available
const TernaryKernels& Ternary();         // the active one

namespace internal {
extern const TernaryKernels kTernaryScalar;
extern const TernaryKernels kTernaryAvx512;
}  // namespace internal

}  // namespace kvplane::kernel
