// rANS-B over byte symbols with tables of the caller: the streams of docs/formats/rans.md, section 11.
//
// The same coder as rans.h (32 lanes, 16-bit states, 7-bit probabilities, byte renormalisation), but a table
// is made for the data: asymmetric alphabets of up to 32 symbols, frequencies that sum to 128, none for
// symbols that do not occur. A stream codes `tokens` tokens of [heads, head_dim] symbols; a step is 32
// consecutive channels of one head (fewer at its end), and every step of a token may have its own table. Up
// to 8 streams of one shape advance in lockstep, which is what makes them fast; they may differ in tokens by
// some.
//
// Errors. Encoding cannot fail: symbols without a frequency are the caller's bug and make a stream that does
// not decode to them. Decoding reports corrupt streams, never reads outside the given bytes and never gives a
// symbol that its table does not have; the symbols of a corrupt stream are garbage.
//
// Thread safety: pure functions over the caller's memory. No allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kvplane/kernel/isa.h"
#include "kvplane/kernel/rans/rans.h"
#include "kvplane/kernel/rans/rans_tables.h"

namespace kvplane::kernel {

constexpr uint32_t kRansMaxAlphabet = 32;
constexpr uint32_t kRansFrequencyTotal = 128;

// One frequency per symbol; 0 for symbols that do not occur.
struct RansFrequencies {
  uint8_t of[kRansMaxAlphabet] = {};
  bool operator==(const RansFrequencies&) const = default;
};

// Counts to frequencies: every symbol that occurs gets at least 1, the rest by largest quotient
// count / (2 f + 1) (Sainte-Laguë), which is within a hair of the least code length and needs no logarithm;
// the smaller symbol wins a tie. Integers only: the same on every machine. Requires: some count is not 0, all
// are below 2^32.
RansFrequencies NormaliseRans(std::span<const uint32_t, kRansMaxAlphabet> counts);

// The frequencies in the form they travel in. Writes at most kRansMaxFrequencyBytes and returns how many.
// Requires: a sum of 128.
constexpr size_t kRansMaxFrequencyBytes = 36;
size_t WriteRansFrequencies(const RansFrequencies& frequencies, std::byte* out);
// Returns the bytes read from the front of `in`; 0 when they are not what WriteRansFrequencies() writes.
size_t ReadRansFrequencies(std::span<const std::byte> in, RansFrequencies* frequencies);

// A table in the layouts that the coders look up.
struct RansTable {
  internal::RansDecodeTable decode;
  internal::RansEncodeTable encode;
  internal::RansByteTable bytes;
  uint32_t alphabet = 0;  // one more than its largest symbol
};
// False (and *table undefined) unless the frequencies sum to 128.
bool BuildRansTable(const RansFrequencies& frequencies, RansTable* table);

// Symbol (t, h, c) of a stream lies at t * token_stride + h * head_stride + c. Requires: heads, head_dim
// >= 1.
struct RansSymbolShape {
  uint32_t heads = 0;
  uint32_t head_dim = 0;
  size_t head_stride = 0;
  size_t token_stride = 0;
  const RansTable* const* tables = nullptr;  // [heads]

  uint32_t head_groups() const { return (head_dim + kRansLanes - 1) / kRansLanes; }
};
// What a stream of so many tokens needs at most, and the length an encoder's output buffer must have.
constexpr size_t RansMaxSymbolBytes(const RansSymbolShape& shape, uint32_t tokens) {
  return kRansStateBytes + size_t{tokens} * shape.heads * shape.head_dim;
}

// `streams` in [1, kRansMaxStreams]; tokens[v] >= 1. Results are bit masks: bit v for stream v.
struct RansSymbolKernels {
  // Stream v is written so that it ends at ends[v] and has sizes[v] bytes; RansMaxSymbolBytes() before
  // ends[v] are overwritten.
  void (*encode)(const RansSymbolShape& shape, uint32_t streams, const uint8_t* const* symbols,
                 const uint32_t* tokens, std::byte* const* ends, size_t* sizes);
  // Returns the corrupt streams.
  uint32_t (*decode)(const RansSymbolShape& shape, uint32_t streams, const std::span<const std::byte>* in,
                     const uint32_t* tokens, uint8_t* const* symbols);
  // Adds the occurrences in `size` symbols, all below `alphabet` (<= 32), to `counts`; size < 2^32.
  void (*count)(const uint8_t* symbols, size_t size, uint32_t alphabet, uint32_t* counts);
};

const RansSymbolKernels& RansSymbols(Isa isa);  // requires: `isa` is available
const RansSymbolKernels& RansSymbols();         // the active one

}  // namespace kvplane::kernel
