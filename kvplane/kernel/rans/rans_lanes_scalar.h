// Internal: the states of a stream one lane at a time, shared by the definitions of the class form
// (rans_scalar.cc) and the form with tables of the caller (rans_symbols_scalar.cc).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kvplane/base/endian.h"
#include "kvplane/kernel/rans/rans.h"
#include "kvplane/kernel/rans/rans_tables.h"

namespace kvplane::kernel::internal {

struct EncodeState {
  explicit EncodeState(std::byte* end) : at(end) { std::fill_n(x, kRansLanes, uint16_t{kRansLowerBound}); }

  void Push(uint32_t lane, uint32_t symbol, const RansEncodeTable& table) {
    const uint32_t f = table.frequency[symbol];
    uint32_t state = x[lane];
    if (state >= f * 512) {
      *--at = static_cast<std::byte>(state & 0xff);
      state >>= 8;
    }
    uint32_t quotient = state * table.reciprocal[symbol] >> 16;
    uint32_t remainder = state - quotient * f;
    if (remainder >= f) {
      ++quotient;
      remainder -= f;
    }
    x[lane] = static_cast<uint16_t>(quotient * kRansTotal + remainder + table.start[symbol]);
  }

  std::byte* Finish() {
    at -= kRansStateBytes;
    for (uint32_t lane = 0; lane < kRansLanes; ++lane) base::StoreLe(at + lane * sizeof(uint16_t), x[lane]);
    return at;
  }

  std::byte* at;
  uint16_t x[kRansLanes];
};

struct DecodeState {
  DecodeState(const std::byte* from, const std::byte* to) : at(from), end(to) {}
  DecodeState(const std::byte* states, const std::byte* from, const std::byte* to) : at(from), end(to) {
    for (uint32_t lane = 0; lane < kRansLanes; ++lane) {
      x[lane] = base::LoadLe<uint16_t>(states + lane * sizeof(uint16_t));
    }
  }

  uint32_t Pop(uint32_t lane, const RansDecodeTable& table) {
    const uint32_t slot = x[lane] % kRansTotal;
    uint32_t state = table.frequency[slot] * (x[lane] / kRansTotal) + table.offset[slot];
    if (state < kRansLowerBound) {
      uint32_t next = 0;
      if (at != end) {
        next = static_cast<uint32_t>(*at++);
      } else {
        overrun = true;
      }
      state = state << 8 | next;
    }
    x[lane] = static_cast<uint16_t>(state);
    return table.symbol[slot];
  }

  bool Corrupt() const {
    return overrun || at != end ||
           std::any_of(x, x + kRansLanes, [](uint16_t s) { return s != kRansLowerBound; });
  }

  const std::byte* at;
  const std::byte* end;
  bool overrun = false;
  uint16_t x[kRansLanes];
};

}  // namespace kvplane::kernel::internal
