// Strategies as flags of the benchmarks name them.
//
// Thread safety: pure functions.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/codec/strategy.h"

namespace kvplane::cli {

struct NamedStrategy {
  std::string
      label;  // short enough for tables and plots: names of presets ("kivi-2 = int2"), or "s1", "s2" ...
  codec::Strategy strategy;
  bool published = false;  // a method of others (Preset::source)

  // "s1 is k: ...": for those whose label is no name; else empty.
  std::string Explanation() const;
  bool numbered = false;
};

// Each list holds presets' names or strategy texts, separated by commas outside parentheses; no lists stand
// for all presets. Equal strategies are merged, at the place of the first. kInvalidArgument: not a strategy.
base::Result<std::vector<NamedStrategy>> ReadStrategyLists(std::span<const std::string> lists);

}  // namespace kvplane::cli
