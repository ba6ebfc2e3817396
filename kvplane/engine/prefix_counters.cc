#include "kvplane/engine/prefix_counters.h"

#include "kvplane/base/check.h"

namespace kvplane::engine {

std::string_view Name(LoadError error) {
  switch (error) {
    case LoadError::kMissing:
      return "missing";
    case LoadError::kTimeout:
      return "timeout";
    case LoadError::kUnavailable:
      return "unavailable";
    case LoadError::kCorrupt:
      return "corrupt";
    case LoadError::kMismatch:
      return "mismatch";
    case LoadError::kUnreadable:
      return "unreadable";
    case LoadError::kQueue:
      return "queue";
    case LoadError::kOther:
      return "other";
  }
  KVPLANE_CHECK(false);
}

std::string_view Name(PushDrop reason) {
  switch (reason) {
    case PushDrop::kQueue:
      return "queue";
    case PushDrop::kBacklog:
      return "backlog";
    case PushDrop::kMemory:
      return "memory";
    case PushDrop::kStore:
      return "store";
    case PushDrop::kSuspended:
      return "suspended";
    case PushDrop::kCodec:
      return "codec";
  }
  KVPLANE_CHECK(false);
}

PrefixStats PrefixCounters::Snapshot() const {
  PrefixStats out;
  out.lookups = lookups;
  out.lookup_errors = lookup_errors;
  out.lookup_tokens = lookup_tokens;
  out.hit_tokens = hit_tokens;
  out.loads = loads;
  out.loads_skipped = loads_skipped;
  out.loaded_tokens = loaded_tokens;
  out.loaded_bytes = loaded_bytes;
  out.taken_runs = taken_runs;
  for (size_t i = 0; i < kLoadErrors; ++i) out.run_errors[i] = run_errors[i];
  out.overlapped_steps = overlapped_steps;
  out.stalled_steps = stalled_steps;
  out.pushed_runs = pushed_runs;
  out.pushed_bytes = pushed_bytes;
  for (size_t i = 0; i < kPushDrops; ++i) out.push_drops[i] = push_drops[i];
  return out;
}

}  // namespace kvplane::engine
