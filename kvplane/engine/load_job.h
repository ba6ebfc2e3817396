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

struct LoadJobOptions {
  std::vector<StoredRun> runs;  // of the prompt, from run 0 on; at least one
  uint32_t layers = 0;
  // Runs that the engine plans to compute, the first ones. The others are read layer by layer: layer 0 of all
  // of them, then layer 1..., so that the rest of the prompt can start on layer 0. Only then come these,
  // whole and from the back, should the engine not have come so far. They are Part::kHead of the work.
  uint32_t head_runs = 0;
  bool accept_lossy = true;
  double predicted_s = 0;         // of all runs, from the first read on; what progress is measured against
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
    uint32_t layers_ready = 0;  // layers that are there of every pending run
    uint64_t bytes_done = 0;    // coded, of runs not taken
    uint64_t bytes_total = 0;   // of runs not taken
    uint64_t head_bytes = 0;    // of the head that is to be computed, still to come
    base::TimePoint created;
    std::optional<base::TimePoint> started;  // when the first read was issued
    // A read is in progress. Otherwise the load waits: those that came before it have the threads.
    bool reading = false;
    // Since when nothing has happened: no piece landed (reading), or the job was not looked at.
    base::TimePoint since;
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
  // The engine does not compute the head after all, or not soon: it is loaded in its turn.
  void LoadHead() KVPLANE_EXCLUDES(mutex_);
  // Everything that is pending becomes the engine's. True: no loader is inside, none will come, on_done will
  // not be called (or has been). False: on_done will be called soon.
  bool TakeAll() KVPLANE_EXCLUDES(mutex_);
  // Pending runs fail: the store has not moved for too long. Returns how many.
  uint32_t FailPending(LoadError error, std::string_view why) KVPLANE_EXCLUDES(mutex_);
  Progress progress() const KVPLANE_EXCLUDES(mutex_);
  // Every run has landed or is the engine's: nothing can fail any more.
  bool complete() const KVPLANE_EXCLUDES(mutex_);
  // Coded bytes of each run that are still to come; 0 for runs that have landed or will not.
  std::vector<uint64_t> missing_bytes() const KVPLANE_EXCLUDES(mutex_);
  // Until `layer` is there of every run that is neither landed nor taken; kFailed when one of them failed.
  Wait WaitForLayer(uint32_t layer, base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_);
  // The first thing that went wrong; OK when nothing did.
  base::Status first_error() const KVPLANE_EXCLUDES(mutex_);

  // ---- The loader's side.

  // The next piece of work, or none for now (another thread is opening) or for good (exhausted()). Every
  // piece is followed by one EndWork(). Opening belongs to the tail; the head comes after it.
  enum class Part : uint8_t { kTail, kHead };
  std::optional<Work> NextWork(Part part) KVPLANE_EXCLUDES(mutex_);
  void EndWork() KVPLANE_EXCLUDES(mutex_);
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

  // What was read after opening, and how long reads for it were in progress; for the estimates.
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

  void BeginRead() KVPLANE_REQUIRES(mutex_);
  void CutUnits() KVPLANE_REQUIRES(mutex_);
  void CutTail() KVPLANE_REQUIRES(mutex_);
  void CutHead() KVPLANE_REQUIRES(mutex_);
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
  const base::TimePoint created_;
  mutable base::Mutex mutex_;
  base::CondVar changed_;
  Phase phase_ KVPLANE_GUARDED_BY(mutex_) = Phase::kNew;
  std::vector<RunProgress> progress_ KVPLANE_GUARDED_BY(mutex_);
  std::vector<Work> units_ KVPLANE_GUARDED_BY(mutex_);
  size_t tail_units_ KVPLANE_GUARDED_BY(mutex_) = 0;  // the first ones
  size_t next_unit_ KVPLANE_GUARDED_BY(mutex_) = 0;
  bool loads_head_ KVPLANE_GUARDED_BY(mutex_) = false;  // with the tail
  uint32_t pending_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint32_t writers_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint32_t failed_ KVPLANE_GUARDED_BY(mutex_) = 0;  // and not taken yet
  bool done_ KVPLANE_GUARDED_BY(mutex_) = false;    // on_done was called, or never will be
  uint32_t reads_ KVPLANE_GUARDED_BY(mutex_) = 0;   // given out and not ended
  std::optional<base::TimePoint> started_ KVPLANE_GUARDED_BY(mutex_);
  base::TimePoint reading_since_ KVPLANE_GUARDED_BY(mutex_);  // while reads_ > 0; opening does not count
  base::Duration read_time_ KVPLANE_GUARDED_BY(mutex_){};     // before that
  base::TimePoint since_ KVPLANE_GUARDED_BY(mutex_);          // Progress::since
  uint64_t bytes_landed_ KVPLANE_GUARDED_BY(mutex_) = 0;
  base::Status first_error_ KVPLANE_GUARDED_BY(mutex_);
};

}  // namespace kvplane::engine
