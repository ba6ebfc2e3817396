// Enumerates the legal strategies of a grid (strategy_grid.h) in a stable order, without duplicates.
//
// Order: sub-spaces as the grid lists them, inside one the axes as an odometer. A strategy that two
// sub-spaces hold belongs to the first. The order and the strategies of a grid are part of a release:
// profiles of a search name points by their id, not by their place.
//
// Cost: every chain of a side is parsed once per grid; a point costs about a microsecond.
//
// Thread safety: EnumerateStrategies() keeps nothing; the callback runs on the caller's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "kvplane/base/status.h"
#include "kvplane/codec/strategy.h"

namespace kvplane::profile {

// How the chains of the two sides are put together.
enum class SidePairs : uint8_t {
  kFamily,  // both of one sub-space, shared axes equal, the axes of one side free
  kSame,    // the same, and partner axes (snr_k, snr_v) equal too
  kAll,     // every key chain of the grid with every value chain of the grid: millions, see `limit`
};

struct EnumerateOptions {
  std::string_view grid = "full";  // of a grid, or of one sub-space
  SidePairs side_pairs = SidePairs::kFamily;
  bool dominated = true;      // false: leave out what the profiler never proposes (codec/dominated.h)
  bool needs_profile = true;  // false: leave out what takes a profile
  uint64_t limit = 0;         // points at most; 0: all
};

struct GridPoint {
  codec::Strategy strategy;
  std::string_view subspace;  // the first that holds it; of the key's chain where the sides differ
  bool dominated = false;
};

struct EnumerateCounts {
  uint64_t points = 0;      // given to the callback
  uint64_t illegal = 0;     // points of the plain product that break a rule
  uint64_t duplicates = 0;  // points that came before, in this sub-space or in another
  uint64_t left_out = 0;    // by the options
};

// Calls `visit` with each point until it returns false or the grid ends. kNotFound: no such grid, with the
// nearest name.
base::Result<EnumerateCounts> EnumerateStrategies(const EnumerateOptions& options,
                                                  const std::function<bool(const GridPoint&)>& visit);

}  // namespace kvplane::profile
