// The insides of DiskStore, shared by its sources.
//
// Threads: callers (index and counters only), readers, one writer (all changes of entries and chunks, so
// that the index and the medium agree on their order), one keeper (flushes, resuming, what files that were
// dropped mean for the index), optionally one scrubber.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/store/chunk_db.h"
#include "kvplane/store/deadline_pool.h"
#include "kvplane/store/disk_index.h"
#include "kvplane/store/disk_store.h"

namespace kvplane::store {

constexpr base::Duration kFirstResumePause = std::chrono::seconds(1);

// One Read() call: its requests in pieces that the readers share. Outlives a caller who gave up.
struct DiskReadCall;

struct DiskStore::State {
  explicit State(const DiskStoreOptions& store_options);
  ~State();

  void FitToDisk();
  base::Status Open();
  void Start();
  void Stop();  // all waits end; nothing new begins

  uint64_t NowUnixMs() const;
  base::Status CheckRunning() const;
  base::Status CheckWritable() const;
  // The entry, unless it is not there or has expired (then it goes). Calls that look twice give the time.
  DiskEntry* FindLive(const StoreKey& key, std::optional<uint64_t> now_unix_ms = {}) KVPLANE_REQUIRES(mutex);
  // A use: an entry near its end is written again.
  void Use(const StoreKey& key, DiskEntry& entry) KVPLANE_REQUIRES(mutex);

  // The writer's thread.
  base::Status WriteObject(const StoreKey& key, const EntryMeta& meta, const Slice& object,
                           const std::atomic<bool>& abandoned);
  base::Status WriteChunk(uint64_t sequence, uint32_t chunk, std::span<const std::byte> bytes);
  base::Status WriteChunks(uint64_t sequence, std::span<const std::byte> bytes,
                           const std::atomic<bool>& abandoned);
  base::Status CheckSpace();
  base::Status CommitEntry(const StoreKey& key, const DiskEntry& entry, std::optional<uint64_t> replaces);
  void WriteAgain(const StoreKey& key, uint64_t sequence);
  base::Status CopyChunks(const DiskEntry& from, uint64_t sequence);
  // Erases entries on the medium that the index has no more.
  base::Status EraseStale(std::span<const StoreKey> keys);
  base::Result<uint64_t> EraseTenant(uint64_t tenant);
  // After a failed write nothing is tried until the keeper has resumed the database.
  void NoteWrite(const base::Status& status);

  // The readers' threads.
  void ReadPieces(DiskReadCall& call, size_t first, size_t last, const std::atomic<bool>& abandoned);
  // What a failed read means for its entry; the status for the caller.
  base::Status NoteReadFailure(const StoreKey& key, uint64_t sequence, const base::Status& status);

  // Waits until everything written before the call is durable.
  base::Status WaitDurable(base::TimePoint deadline);

  // The keeper's thread.
  void Keep();
  void FlushForWaiters();
  void FollowDroppedFiles();
  void TryResume();

  // The scrubber's thread, or a caller's.
  base::Result<ScrubReport> Scrub(const ScrubOptions& scrub);
  void KeepScrubbing();

  // Any thread. VerifyEntry(): kCorrupt when it is damaged, kNotFound when it went meanwhile; `entry` is what
  // was looked at.
  base::Status VerifyEntry(const StoreKey& key, DiskEntry& entry, std::vector<std::byte>& buffer);
  // Counts a damaged entry and erases it, on the medium as well when it returns OK; not one that replaced it.
  base::Status EraseDamaged(const StoreKey& key, uint64_t sequence, base::TimePoint deadline);
  // False: the store was shut down.
  bool PauseUntil(base::TimePoint when);

  const DiskStoreOptions options;
  base::Clock& clock;
  uint64_t capacity_bytes = 0;  // options.capacity_bytes, or what the disk can hold
  size_t write_buffer_bytes = 0;
  uint64_t min_free_bytes = 0;
  std::string opening_damage;
  std::atomic<bool> stopping{false};

  mutable base::Mutex mutex;
  DiskIndex index KVPLANE_GUARDED_BY(mutex);
  StoreStats counters KVPLANE_GUARDED_BY(mutex);
  size_t refreshes KVPLANE_GUARDED_BY(mutex) = 0;  // waiting or in progress

  uint64_t next_sequence = 1;  // the writer's

  base::Mutex keeper_mutex;
  base::CondVar keeper_wake;
  base::CondVar flushed;
  // Flushes are asked for by number; one flush answers all numbers so far.
  uint64_t flush_wanted KVPLANE_GUARDED_BY(keeper_mutex) = 0;
  uint64_t flush_answered KVPLANE_GUARDED_BY(keeper_mutex) = 0;
  uint64_t flush_succeeded KVPLANE_GUARDED_BY(keeper_mutex) = 0;
  base::Status flush_status KVPLANE_GUARDED_BY(keeper_mutex);
  bool files_changed KVPLANE_GUARDED_BY(keeper_mutex) = false;
  base::Status write_failure KVPLANE_GUARDED_BY(keeper_mutex);  // OK: the medium takes writes
  base::TimePoint resume_at KVPLANE_GUARDED_BY(keeper_mutex){};
  base::Duration resume_pause KVPLANE_GUARDED_BY(keeper_mutex){};
  bool keeper_stopped KVPLANE_GUARDED_BY(keeper_mutex) = false;

  // Destroyed first to last from the bottom: threads end before what they use.
  std::unique_ptr<ChunkDb> db;
  std::unique_ptr<DeadlinePool> readers;
  std::unique_ptr<DeadlinePool> writer;
  std::thread keeper;
  std::thread scrubber;
};

}  // namespace kvplane::store
