// RequestPrefix: what the engine knows about the part of a request's prompt that a store has, and about its
// runs on the way into the store. Touched by the engine's thread only.
//
//   kNone --(StartLookup)--> kPending --(answer, or its deadline)--> kDone
//   kDone and found: `load` brings the runs; prompt_done moves over each run as it lands or is computed.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/engine/engine.h"
#include "kvplane/engine/load_job.h"
#include "kvplane/engine/prefix_loader.h"
#include "kvplane/engine/prefix_pusher.h"
#include "kvplane/store/entry.h"

namespace kvplane::engine {

// No prompt is longer: it may be computed to its end.
constexpr uint32_t kToTheEnd = std::numeric_limits<uint32_t>::max();

struct RequestPrefix {
  enum class Lookup : uint8_t { kNone, kPending, kDone };

  Lookup lookup = Lookup::kNone;
  base::TimePoint lookup_started;
  std::vector<StoredRun> found;   // until the load begins
  std::shared_ptr<LoadJob> load;  // from its start to the request's end
  base::TimePoint load_started;
  uint64_t load_number = 0;                      // loads are served in this order
  std::optional<base::TimePoint> first_in_line;  // since when no other load is before it
  std::shared_ptr<LookupClaim> claim;            // of the lookup that is pending
  uint32_t compute_until = kToTheEnd;            // in the step being built
  bool load_open = false;                        // the loader may still touch the pages
  bool load_over = false;                        // every run is in the cache or is the engine's to compute
  bool may_overlap = true;                       // no step over this load has had to be given up
  bool overlaps = false;     // in the step being built: the rest of the prompt waits layer by layer
  uint32_t runs_stored = 0;  // leading runs that the lookup found
  uint32_t runs_pushed = 0;  // leading runs that were given to the pusher, or the store has
  uint16_t kv_quality = store::kLossless;        // the least of all KV in the pages
  bool pushes_nothing = false;                   // its KV came lossily coded over a transfer
  std::vector<std::shared_ptr<PushJob>> pushes;  // begun
  uint32_t pushes_open = 0;                      // of these, not done with the pages
  PrefixOutcome outcome;
};

}  // namespace kvplane::engine
