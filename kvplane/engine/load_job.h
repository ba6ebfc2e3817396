// LoadJob: the runs of one prompt that a store has, on their way into the request's pages. Shared by the
// engine's thread, which takes runs away to compute them, and the loader's threads, which land them.
//
// Every run is in one state, changed under one lock:
//
//   kPending -- all layers decoded --> kLanded   the engine uses it
//   kPending -- a read or a check failed --> kFailed -- Take() --> kTaken
//   kPending -- Take() --> kTaken                the engine computes it
//
// "Never both" is the writers' count: a loader enters a run (BeginWrite) only while it is pending, and a run
// with a writer inside cannot be taken. So a page is written by one side, whatever the other is waiting for:
// a loader that hangs inside the store holds nothing. A run that the loader has begun may be taken between
// two of its layers; what was loaded of it is then wasted.
//
// Thread safety: all members. Callbacks run without the lock on the thread that made the change, a loader's
// or the engine's; they must not block.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/mutex.h"
#include "kvplane/base/status.h"
#include "kvplane/codec/object.h"
#include "kvplane/engine/pinned_pages.h"
#include "kvplane/engine/prefix_options.h"
#include "kvplane/store/entry.h"

namespace kvplane::engine {

struct StoredRun {
  store::StoreKey key;
  store::EntryInfo entry;
};

// Which parts come first.
enum class LoadOrder : uint8_t {
  kLayers,  // layer 0 of all runs, then layer 1...: the rest of the prompt can start on layer 0
  kRuns,    // whole runs from the back: the engine computes from the front until they meet
};

struct LoadJobOptions {
  std::vector<StoredRun> runs;  // of the prompt, from run 0 on; at least one
  uint32_t layers = 0;
  LoadOrder order = LoadOrder::kLayers;
  bool accept_lossy = true;
  double predicted_s = 0;         // by control; what progress is measured against
  uint64_t unit_bytes = 1 << 20;  // one round of reads takes about this much
  std::shared_ptr<const PinnedPages> pages;
  std::function<void()> on_progress;  // a run landed or failed, or a layer is there of all runs
  std::function<void()> on_done;      // once, last: the loader will not touch the pages again
};

class LoadJob {
 public:
  enum class RunState : uint8_t { kPending, kLanded, kFailed, kTaken };
  // Layers [begin, end) of one run.
  struct Piece {
    uint32_t run = 0;
    uint32_t layer_begin = 0;
    uint32_t layer_end = 0;
  };
  // What a loader thread does next: open all runs, or load pieces in one round of reads.
  struct Work {
    bool open = false;
    std::vector<Piece> pieces;
  };
  struct Progress {
    uint32_t pending = 0;
    uint32_t layers_ready = 0;    // layers that are there of every pending run
    uint64_t bytes_done = 0;      // coded, of runs not taken
    uint64_t bytes_total = 0;     // of runs not taken
    base::TimePoint started;      // the job's creation
    base::TimePoint last_change;  // the last piece that landed
  };
  enum class Wait : uint8_t { kReady, kTimeout, kFailed };

  explicit LoadJob(LoadJobOptions options);

  uint32_t runs() const { return static_cast<uint32_t>(options_.runs.size()); }
  const StoredRun& run(uint32_t index) const { return options_.runs[index]; }
  const LoadJobOptions& options() const { return options_; }
  const PinnedPages& pages() const { return *options_.pages; }

  // ---- The engine's side.

  RunState state(uint32_t run) const KVPLANE_EXCLUDES(mutex_);
  // A pending or failed run becomes the engine's; false while a loader writes into it, or when it has landed.
  bool Take(uint32_t run) KVPLANE_EXCLUDES(mutex_);
  // Everything that is pending becomes the engine's. True: no loader is inside, none will come, on_done will
  // not be called (or has been). False: on_done will be called soon.
  bool TakeAll() KVPLANE_EXCLUDES(mutex_);
  // Pending runs fail: the store has not moved for too long. Returns how many.
  uint32_t FailPending(LoadError error, std::string_view why) KVPLANE_EXCLUDES(mutex_);
  Progress progress() const KVPLANE_EXCLUDES(mutex_);
  // Until `layer` is there of every run that is neither landed nor taken; kFailed when one of them failed.
  Wait WaitForLayer(uint32_t layer, base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_);
  // The first thing that went wrong; OK when nothing did.
  base::Status first_error() const KVPLANE_EXCLUDES(mutex_);

  // ---- The loader's side.

  // The next piece of work, or none for now (another thread is opening) or for good (exhausted()).
  std::optional<Work> NextWork() KVPLANE_EXCLUDES(mutex_);
  bool exhausted() const KVPLANE_EXCLUDES(mutex_);
  // The opened runs; null for those that failed. Units are cut from them.
  void SetReaders(std::vector<std::shared_ptr<const codec::ObjectReader>> readers) KVPLANE_EXCLUDES(mutex_);
  // Null when the run is no longer pending.
  std::shared_ptr<const codec::ObjectReader> ReaderOf(uint32_t run) const KVPLANE_EXCLUDES(mutex_);
  // Enters a run to write one layer; false: it is not pending any more.
  bool BeginWrite(uint32_t run) KVPLANE_EXCLUDES(mutex_);
  void EndWrite(uint32_t run, uint32_t layer, uint64_t bytes) KVPLANE_EXCLUDES(mutex_);
  // Ends a BeginWrite whose layer did not verify.
  void AbortWrite(uint32_t run, LoadError error, const base::Status& status) KVPLANE_EXCLUDES(mutex_);
  // The run cannot be loaded; true when it was pending.
  bool FailRun(uint32_t run, LoadError error, const base::Status& status) KVPLANE_EXCLUDES(mutex_);

  // When the first and the last piece landed, and how many bytes came between; for the estimates.
  struct Pace {
    double seconds = 0;
    uint64_t bytes = 0;
  };
  Pace pace() const KVPLANE_EXCLUDES(mutex_);

 private:
  enum class Phase : uint8_t { kNew, kOpening, kReading };
  struct RunProgress {
    RunState state = RunState::kPending;
    uint32_t writers = 0;
    uint32_t layers_landed = 0;
    uint64_t bytes_landed = 0;
    std::vector<bool> landed;  // [layers]
    std::shared_ptr<const codec::ObjectReader> reader;
  };

  void CutUnits() KVPLANE_REQUIRES(mutex_);
  void CutByLayers() KVPLANE_REQUIRES(mutex_);
  void CutByRuns() KVPLANE_REQUIRES(mutex_);
  bool LayerReady(uint32_t layer) const KVPLANE_REQUIRES(mutex_);
  bool Idle() const KVPLANE_REQUIRES(mutex_);  // nothing pending, no writer
  bool Fail(uint32_t run, LoadError error, const base::Status& status) KVPLANE_REQUIRES(mutex_);
  // Who has to be told after a change.
  struct News {
    bool progress = false;
    bool done = false;
  };
  bool CheckDone() KVPLANE_REQUIRES(mutex_);
  void Tell(News news) const;

  const LoadJobOptions options_;
  const base::TimePoint started_;
  mutable base::Mutex mutex_;
  base::CondVar changed_;
  Phase phase_ KVPLANE_GUARDED_BY(mutex_) = Phase::kNew;
  std::vector<RunProgress> progress_ KVPLANE_GUARDED_BY(mutex_);
  std::vector<Work> units_ KVPLANE_GUARDED_BY(mutex_);
  size_t next_unit_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint32_t pending_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint32_t writers_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint32_t failed_ KVPLANE_GUARDED_BY(mutex_) = 0;  // and not taken yet
  bool done_ KVPLANE_GUARDED_BY(mutex_) = false;    // on_done was called, or never will be
  base::TimePoint opened_ KVPLANE_GUARDED_BY(mutex_);
  base::TimePoint last_change_ KVPLANE_GUARDED_BY(mutex_);
  uint64_t bytes_landed_ KVPLANE_GUARDED_BY(mutex_) = 0;
  base::Status first_error_ KVPLANE_GUARDED_BY(mutex_);
};

}  // namespace kvplane::engine
