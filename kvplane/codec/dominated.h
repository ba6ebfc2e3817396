// Chains that are legal but that the profiler never proposes: another chain of the space is never worse.
//
// Thread safety: pure functions.
#pragma once

#include <string_view>

#include "kvplane/codec/strategy.h"

namespace kvplane::codec {

// Why, in a few words that begin with the rule; empty when nothing dominates the chain.
// - L2: `hadamard` before `rans(class)`. Rotation makes all channels alike, and the differences between their
//   deviations are what class tables live on; it costs the coding gain and its own time.
// - bands: `heads` or `layers` where no head, or every head, is in the low band, or where both bands are
//   coded alike: the chain without the stage gives the same values.
// - protect: `protect(sinks=0,recent=0)` protects nothing.
std::string_view WhyDominated(const SideStrategy& strategy);

inline bool Dominated(const SideStrategy& strategy) { return !WhyDominated(strategy).empty(); }

}  // namespace kvplane::codec
