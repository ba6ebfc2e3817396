// ChunkDb: objects in chunks on RocksDB, as docs/formats/disk_folder.md says.
//
// Two column families, both without a write-ahead log:
//  - chunks: (sequence of the put, number of the chunk) -> up to kChunkBytes of an object. FIFO compaction:
//    a file is written once and dropped whole, oldest first, when the byte budget or the age is exceeded.
//    Sequences only grow, so the files' key ranges never overlap and a read opens exactly one of them; no
//    filter is needed.
//  - entries: key -> record header, sequence. Small, compacted, read only when a folder is opened.
// They are flushed atomically together and an entry is written after its chunks, so whatever a crash leaves,
// an entry that is there has chunks that were written before it.
//
// Why chunks: a value of RocksDB is read whole, and loading wants one layer (some 100 kB) of an object of
// many MB. docs/store.md has the figures behind kChunkBytes.
//
// Errors: kCorrupt (damaged or gone file, checksum), kNotFound (dropped), kResourceExhausted (disk full),
// kUnavailable (I/O error). After a failed flush every write fails until Resume() succeeds; reads go on and
// nothing in memory is lost.
//
// Memory: 3 write buffers of options.write_buffer_bytes (chunks) and 3 of at most 4 MiB (entries), 32 MiB of
// block cache (index blocks only), some kB per open file.
//
// Thread safety: reads from any thread; one writer at a time; Flush(), Resume() and MergeSmallFiles() from
// one thread, concurrently with both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/store/record.h"

namespace rocksdb {
class Env;
}

namespace kvplane::store {

constexpr uint32_t kChunkBytes = 256 << 10;

struct ChunkDbOptions {
  std::string folder;
  // False: kNotFound where there is none, kCorrupt where there is one that cannot be opened.
  bool create = true;
  bool read_only = false;         // no file of the database changes; requires: create is false
  uint64_t budget_bytes = 0;      // of the chunk files; checked after every flush
  size_t write_buffer_bytes = 0;  // also the size of a file
  base::Duration ttl{};           // older files go; zero: never. Whole seconds.
  rocksdb::Env* env = nullptr;    // null: the system's
};

struct FolderSpace {
  uint64_t used_bytes = 0;  // of the database's files
  uint64_t free_bytes = 0;  // of the file system; the largest number when it cannot be told
};
// Of a folder that may not be there yet: then its nearest parent counts.
FolderSpace MeasureFolder(const std::string& folder);

// What lies under a key.
struct ChunkedObject {
  RecordHeader header;
  uint64_t sequence = 0;
  uint32_t chunk_bytes = kChunkBytes;
};

// What opening a folder found.
struct ChunkDbContents {
  std::vector<ChunkedObject> objects;  // by sequence
  std::vector<StoreKey> stale;         // entries whose chunks are gone
  uint64_t next_sequence = 1;
  uint64_t damaged_entries = 0;  // known to be lost; what was lost with whole files may be more
  std::string damage;            // one line for the log; empty: none
};

class ChunkDb {
 public:
  // `on_change` is called from RocksDB's threads when files were dropped or writing has failed: it must only
  // take a note. kFailedPrecondition: another process (or store) has the folder open. Damaged files lose
  // their entries; a folder that cannot be read at all is moved aside (without its chunks) and begun anew,
  // unless options.create is false.
  static base::Result<std::unique_ptr<ChunkDb>> Open(const ChunkDbOptions& options, ChunkDbContents& contents,
                                                     std::function<void()> on_change);
  ~ChunkDb();
  ChunkDb(const ChunkDb&) = delete;
  ChunkDb& operator=(const ChunkDb&) = delete;

  base::Status WriteChunk(uint64_t sequence, uint32_t chunk, std::span<const std::byte> bytes);
  base::Status WriteEntry(const ChunkedObject& object);
  base::Status EraseEntries(std::span<const StoreKey> keys);
  // All entries of a tenant, known or not.
  base::Status EraseTenant(uint64_t tenant);

  // Keeps the chunk that was read last: neighbouring ranges mostly share it.
  class Reader {
   public:
    explicit Reader(const ChunkDb& db);
    ~Reader();
    // Fills `out` with the object's bytes from `offset` on. Requires: the range lies in the object.
    base::Status Read(uint64_t sequence, uint32_t chunk_bytes, uint64_t object_bytes, uint64_t offset,
                      std::span<std::byte> out);

   private:
    struct State;
    std::unique_ptr<State> state_;
  };

  // Makes everything written before durable (fdatasync of the files and of the manifest).
  base::Status Flush();
  // After a failed write or flush: tries again.
  base::Status Resume();
  // Durable puts end in small files; these are joined before their number hurts. Cheap when there are few.
  base::Status MergeSmallFiles();

  // Everything below has been dropped; what is above may be too.
  uint64_t OldestSequence();
  uint64_t file_bytes() const;  // of all files
  // Bytes free on the file system; the largest number when it cannot be told.
  uint64_t free_bytes() const;
  // Whether files are being written or joined, or wait for it: what those replace is not deleted yet.
  bool at_work() const;

 private:
  struct Rocks;
  explicit ChunkDb(std::unique_ptr<Rocks> rocks);

  std::unique_ptr<Rocks> rocks_;
};

}  // namespace kvplane::store
