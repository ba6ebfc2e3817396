// Strategies as flags of the benchmarks name them.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/codec/strategy.h"

namespace kvplane::cli {

// How strategies are grouped in pictures; the order is that of their colours.
enum class StrategyFamily : uint8_t { kEntropyCoded, kPublished, kTransformed, kFixedWidth, kLossless };
std::string_view Name(StrategyFamily family);
// Published: a method of others. Entropy-coded: our steps (ecsq, ternary), with or without a transform.
StrategyFamily FamilyOf(const codec::Strategy& strategy, bool published);

struct NamedStrategy {
  std::string
      label;  // short enough for tables and plots: names of presets ("kivi-2 = int2"), or "s1", "s2" ...
  codec::Strategy strategy;
  StrategyFamily family = StrategyFamily::kLossless;
  bool numbered = false;  // the label is "s1", "s2" ...

  // "s1 is k: ...": for those whose label is no name; else empty.
  std::string Explanation() const;
};

// The entries of lists that are separated by commas outside parentheses, as they are written.
std::vector<std::string> SplitStrategyLists(std::span<const std::string> lists);

// Each list holds presets' names or strategy texts, separated by commas outside parentheses; no lists stand
// for all presets. Equal strategies are merged, at the place of the first. kInvalidArgument: not a strategy.
base::Result<std::vector<NamedStrategy>> ReadStrategyLists(std::span<const std::string> lists);

}  // namespace kvplane::cli
