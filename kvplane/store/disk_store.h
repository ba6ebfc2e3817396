// DiskStore: the tier on a local disk; keeps objects over restarts, kill -9 included.
//
// Objects lie in chunks on RocksDB (chunk_db.h, docs/formats/disk_folder.md), what is there in memory
// (disk_index.h): lookups, touches and misses never wait for the disk.
//
// Durability: a put is in memory first; write buffers go to disk when they are full. A durable put returns
// after a flush; one flush serves all who wait (group commit). After a crash every durable entry is there
// unless it aged out, plus a part of the others; nothing half-written is ever served. An erasure is durable
// when it returns, also of what was not there (an evicted entry must not rise with the files it lies in);
// erased bytes leave the disk when their file ages out.
//
// Age: files are dropped whole, oldest first (FIFO), when capacity_bytes or the TTL is exceeded. An entry
// that is used in the last quarter of its life is written again, so that what is in use stays. The folder
// takes at most capacity_bytes, and never less than four write buffers; where the disk cannot hold that much,
// what it can.
//
// Deadlines: RocksDB's calls take none, so reads run on `read_threads` threads, writes on one, flushes on
// another; callers wait on them until their deadline (deadline_pool.h). A put given up in the middle leaves
// no entry.
//
// Faults: damaged bytes (kXXH3 of every block) are kCorrupt, the entry goes and is counted. A full disk or a
// failing one makes puts fail at once (kResourceExhausted, kUnavailable); reads go on, and writing is tried
// again every second and after that less often, up to kMaxResumePause. Puts stop before the disk is full
// (min_free_bytes).
//
// Memory: 3 write buffers (capacity / 64, between 1 and 64 MiB each: at most 192 MiB), 3 x 4 MiB for
// entries, 32 MiB block cache, about 250 bytes per entry, one chunk (256 KiB) per read in progress.
//
// Pin() is kUnimplemented: files go as they are.
//
// The destructor flushes (unless told not to) and waits for work in progress, for close_timeout at most: a
// disk that hangs keeps its callers in the kernel for as long as it likes. What is not closed by then goes on
// closing on a thread of its own, with the folder locked, and left_behind() counts it. A process that ends
// while there are some should end without destroying what RocksDB's threads use (std::_Exit).
//
// Thread safety: as Store.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/store/store.h"

namespace rocksdb {
class Env;
}

namespace kvplane::store {

constexpr base::Duration kMaxResumePause = std::chrono::seconds(30);

struct DiskStoreOptions {
  std::string folder;
  uint64_t capacity_bytes = 200ull * 1000 * 1000 * 1000;
  base::Duration ttl{};  // default and upper bound of entries' TTLs; zero: none
  // False: kNotFound where no store is; a database that cannot be opened is kCorrupt and stays as it is, and
  // the capacity is not cut to what the disk has.
  bool create = true;
  // The database's files stay as they are: what is damaged, stale or expired is left out, not erased. Puts
  // and erasures are kFailedPrecondition. Not together with create or scrubbing.
  bool read_only = false;
  size_t read_threads = 4;  // ranges in flight; disks like several
  // Puts are refused while the file system has less free; zero: three write buffers.
  uint64_t min_free_bytes = 0;
  uint64_t scrub_bytes_per_s = 0;  // reads everything again and again at this rate; zero: off
  bool flush_on_close = true;      // false: end as a crash would (tests)
  base::Clock* clock = nullptr;    // of TTLs; null: the system's
  // The longest that the destructor waits for the disk. Flushing three write buffers takes a second or two.
  base::Duration close_timeout = std::chrono::seconds(30);
  rocksdb::Env* env = nullptr;  // what the database stands on; null: the system's. Outlives left_behind().
};

struct ScrubOptions {
  bool repair = true;        // damaged entries are erased
  uint64_t bytes_per_s = 0;  // zero: as fast as the disk
  size_t max_named = 20;     // damaged entries described in the report
  base::TimePoint deadline = base::kNoDeadline;
};

struct ScrubReport {
  uint64_t entries = 0, bytes = 0;  // read
  uint64_t damaged = 0;             // on the medium, or objects whose checksums do not match
  uint64_t unreadable = 0;          // I/O errors; nothing is known about them, they stay
  std::vector<std::string> named;   // "tenant 0000…, chain 1234…: reason"
};

class DiskStore final : public Store {
 public:
  // What was damaged is dropped, counted in stats().corrupt and logged. kFailedPrecondition: the folder is
  // open in another process; kInvalidArgument; kUnavailable: the folder cannot be used.
  static base::Result<std::unique_ptr<DiskStore>> Open(const DiskStoreOptions& options);
  ~DiskStore() override;

  TierKind kind() const override { return TierKind::kDisk; }
  std::string name() const override;
  base::Result<std::vector<EntryInfo>> Lookup(std::span<const StoreKey> keys, uint16_t min_quality,
                                              base::TimePoint deadline) override;
  std::vector<base::Result<Slice>> Read(std::span<const ReadRequest> requests,
                                        base::TimePoint deadline) override;
  base::Status Put(const StoreKey& key, const EntryMeta& meta, Slice object, const PutOptions& options,
                   base::TimePoint deadline) override;
  base::Status Touch(std::span<const StoreKey> keys, base::TimePoint deadline) override;
  base::Status Pin(const StoreKey& key, base::Duration max_age, base::TimePoint deadline) override;
  base::Status Erase(const StoreKey& key, base::TimePoint deadline) override;
  base::Result<uint64_t> EraseTenant(uint64_t tenant, base::TimePoint deadline) override;
  void Quarantine(const StoreKey& key) override;
  base::Status Flush(base::TimePoint deadline) override;
  StoreStats stats() const override;
  void Shutdown() override;

  // Reads every entry and verifies the checksums of its blocks and of the object in it. Runs in the caller's
  // thread and waits for the disk. kDeadlineExceeded, kCancelled, or the failure of an erasure: the
  // report would be partial.
  base::Result<ScrubReport> Scrub(const ScrubOptions& options);
  // Stores of this process that were destroyed and are still closing: their disks do not answer.
  static size_t left_behind();

  // What opening the folder had to give up, for people; empty: nothing.
  const std::string& opening_damage() const;

 private:
  struct State;
  explicit DiskStore(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace kvplane::store
