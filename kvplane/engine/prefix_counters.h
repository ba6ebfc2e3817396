// PrefixCounters: PrefixStats as the engine's, the loader's and the pusher's threads count them.
//
// Thread safety: all members; counters are independent of each other.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "kvplane/engine/prefix_options.h"

namespace kvplane::engine {

struct PrefixCounters {
  using Counter = std::atomic<uint64_t>;
  Counter lookups = 0, lookup_errors = 0;
  Counter lookup_tokens = 0, hit_tokens = 0;
  Counter loads = 0, loads_skipped = 0;
  Counter loaded_tokens = 0, loaded_bytes = 0;
  Counter taken_runs = 0;
  std::array<Counter, kLoadErrors> run_errors{};
  Counter overlapped_steps = 0, stalled_steps = 0;
  Counter pushed_runs = 0, pushed_bytes = 0;
  std::array<Counter, kPushDrops> push_drops{};

  PrefixStats Snapshot() const;
};

}  // namespace kvplane::engine
