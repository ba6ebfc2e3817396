// PrefixOptions: how an engine uses a store of KV objects for the prefixes of its prompts. PrefixStats: what
// came of it. Plain values.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "kvplane/base/clock.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/store/key_chain.h"
#include "kvplane/store/store.h"

namespace kvplane::engine {

// Whether what was found is loaded.
enum class LoadPolicy : uint8_t {
  kAdaptive,  // where and as far as it is faster than computing
  kAlways,    // all of it; the engine computes only what fails
};

struct PrefixOptions {
  store::Store* store = nullptr;  // null: no prefix is looked up or pushed. Outlives the engine
  std::string tenant{};
  std::string salt{};
  uint32_t run_tokens = store::kDefaultRunTokens;
  codec::Strategy strategy{};  // what pushed runs are coded with
  uint16_t quality = 0;        // of lossy strategies, in thousandths, as the operator measured it
  uint16_t min_quality = 0;    // of what is loaded, where the request allows lossy KV at all
  LoadPolicy load = LoadPolicy::kAdaptive;
  // A lookup, and every ranged read of a load, may take this long; then the run counts as missing.
  base::Duration timeout = std::chrono::milliseconds(250);
  // A load may wait this long for those before it; then its runs are computed. No limit on the store: while
  // it waits nothing has been asked of it.
  base::Duration queue_timeout = std::chrono::seconds(2);
  uint32_t loader_threads = 2;      // two: one reads while the other decodes
  uint32_t push_runs = 256;         // runs that wait to be coded; more are dropped
  uint64_t push_bytes = 64u << 20;  // coded bytes that wait for the store; more are dropped
};

// Why a run that was found could not be used.
enum class LoadError : uint8_t {
  kMissing,      // gone since the lookup
  kTimeout,      // the store's, or ours
  kUnavailable,  // the medium or the peer
  kCorrupt,      // does not verify: quarantined
  kMismatch,     // another model, prompt or place than its key says: quarantined
  kUnreadable,   // needs a profile or a format version that this node has not
  kQueue,        // too many loads before it
  kOther,
};
constexpr size_t kLoadErrors = 8;
std::string_view Name(LoadError error);  // "missing", "timeout", ...

// Why a run was not pushed.
enum class PushDrop : uint8_t {
  kQueue,      // too many runs wait to be coded
  kBacklog,    // too many coded bytes wait for the store
  kMemory,     // its pages were needed
  kStore,      // the store refused it or failed
  kSuspended,  // the store has failed too often lately
  kCodec,
};
constexpr size_t kPushDrops = 6;
std::string_view Name(PushDrop reason);  // "queue", "backlog", ...

struct PrefixStats {
  uint64_t lookups = 0, lookup_errors = 0;
  uint64_t lookup_tokens = 0, hit_tokens = 0;  // in whole runs of prompts; found
  uint64_t loads = 0, loads_skipped = 0;       // hits that were loaded; hits that were faster computed
  uint64_t loaded_tokens = 0, loaded_bytes = 0;
  uint64_t taken_runs = 0;  // found, but computed before the loader had them
  std::array<uint64_t, kLoadErrors> run_errors{};
  uint64_t overlapped_steps = 0, stalled_steps = 0;  // computed while loading; given up and done again
  uint64_t pushed_runs = 0, pushed_bytes = 0;
  std::array<uint64_t, kPushDrops> push_drops{};
};

}  // namespace kvplane::engine
