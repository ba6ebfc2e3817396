// PrefixLoader: asks the store which runs of a prompt it has, and brings them into pages.
//
// Threads: one for lookups, so that none waits behind a load; `loader_threads` for loads. Loads are served in
// the order in which they came; all threads work on the first, each with a round of reads of its own, so that
// one decodes while another waits for the medium. Runs that their engine plans to compute come after those of
// every load that it does not. What is done is written into LoadJobs and told through
// callbacks; nothing here touches a request. The store is called with deadlines only.
//
// Before a value is written its object's identity (model, token chain, rope, geometry, token range) is
// compared and the CRC of its tile verified; what does not verify is quarantined.
//
// Thread safety: all public members.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/mutex.h"
#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/engine/load_job.h"
#include "kvplane/engine/prefix_counters.h"
#include "kvplane/engine/prefix_options.h"
#include "kvplane/engine/run_object.h"
#include "kvplane/engine/tier_estimates.h"
#include "kvplane/store/circuit_breaker.h"
#include "kvplane/store/key_chain.h"
#include "kvplane/store/store.h"

namespace kvplane::engine {

// Who speaks of a lookup: the thread that asks the store, or the engine, which waits for it only so long. One
// of them does, once: a lookup that is late is not a failure twice, and one that was never asked is none of
// the store's. Thread safety: all members.
class LookupClaim {
 public:
  enum class State : uint8_t { kQueued, kAsked, kJudged };

  // The asking thread, before the call: false when nobody waits for it any more.
  bool Begin() { return Move(State::kQueued, State::kAsked); }
  // The asking thread, after the call: whether it speaks.
  bool End() { return Move(State::kAsked, State::kJudged); }
  // The engine. Returns where it was: at kJudged, the answer is on its way; otherwise the engine speaks.
  State GiveUp() { return state_.exchange(State::kJudged); }

 private:
  bool Move(State from, State to) { return state_.compare_exchange_strong(from, to); }

  std::atomic<State> state_ = State::kQueued;
};

struct PrefixLookup {
  std::vector<int32_t> tokens;  // whole runs of these are looked up
  uint16_t min_quality = 0;
  base::TimePoint deadline;  // a lookup that has not begun by then is not begun
  std::shared_ptr<LookupClaim> claim = std::make_shared<LookupClaim>();
  // Once, on the lookup thread; not for a lookup that was given up before it was asked.
  std::function<void(base::Result<std::vector<StoredRun>>)> on_done;
};

// What loader and pusher share; outlives both. Thread safety: as its members.
struct PrefixContext {
  store::Store& store;
  store::KeySpace keys;
  RunShape shape;
  codec::ProfileSet profiles;
  PrefixOptions options;
  // Open after failures in a row: the store is left alone, so that no request waits for one that is gone.
  store::CircuitBreaker breaker{store::BreakerOptions{}};
  TierEstimates estimates{};
  PrefixCounters counters{};

  // How a call ended, for the breaker. Only what says that the medium or peer is not there counts as a
  // failure: a miss or a damaged object does not.
  void Report(const base::Status& status);
};

class PrefixLoader {
 public:
  explicit PrefixLoader(PrefixContext& context);
  // Ends what is queued (lookups with kCancelled, loads by failing their runs) and waits for calls in
  // progress, whose deadlines bound them.
  ~PrefixLoader();
  PrefixLoader(const PrefixLoader&) = delete;
  PrefixLoader& operator=(const PrefixLoader&) = delete;

  void Lookup(PrefixLookup lookup) KVPLANE_EXCLUDES(mutex_);
  void Load(std::shared_ptr<LoadJob> job) KVPLANE_EXCLUDES(mutex_);

 private:
  void LookupThread();
  void LoadThread();
  void Run(const PrefixLookup& lookup);
  base::Result<std::vector<StoredRun>> Ask(const PrefixLookup& lookup);
  // The first load with work, and that work; false when stopping.
  bool NextWork(std::shared_ptr<LoadJob>& job, LoadJob::Work& work) KVPLANE_EXCLUDES(mutex_);
  void Open(LoadJob& job);
  // `readers`: of all runs; those of the runs asked for are filled in.
  void ReadPrefixes(LoadJob& job, std::span<const store::ReadRequest> requests,
                    std::span<const uint32_t> asked, store::TierKind slowest,
                    std::span<std::shared_ptr<const codec::ObjectReader>> readers);
  std::shared_ptr<const codec::ObjectReader> OpenRun(LoadJob& job, uint32_t run, const store::Slice& prefix);
  void Read(LoadJob& job, const LoadJob::Work& work, codec::Workspace& workspace);
  void Decode(LoadJob& job, const LoadJob::Piece& piece, const codec::ObjectReader& reader,
              const store::Slice& bytes, codec::Workspace& workspace);
  void FailRun(LoadJob& job, uint32_t run, LoadError error, const base::Status& status);
  bool Replaced(const StoredRun& run);
  void Count(const LoadJob& job, uint32_t run, LoadError error);

  PrefixContext& context_;
  const uint64_t most_object_bytes_;
  const uint64_t most_prefix_bytes_;
  base::Mutex mutex_;
  base::CondVar wake_;
  std::deque<PrefixLookup> lookups_ KVPLANE_GUARDED_BY(mutex_);
  std::deque<std::shared_ptr<LoadJob>> jobs_ KVPLANE_GUARDED_BY(mutex_);
  bool stopping_ KVPLANE_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace kvplane::engine
