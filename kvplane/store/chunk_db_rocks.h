// The insides of ChunkDb, shared by its sources: RocksDB's handles, names and codes.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/store/chunk_db.h"
#include "kvplane/store/entry.h"

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
class Status;
}  // namespace rocksdb

namespace kvplane::store {

constexpr size_t kChunkKeyBytes = 12;  // sequence and chunk, big-endian
constexpr size_t kEntryKeyBytes = 40;  // tenant big-endian, chain
constexpr size_t kEntryValueBytes = kRecordHeaderBytes + 16;

struct ChunkName {
  uint64_t sequence = 0;
  uint32_t chunk = 0;
  auto operator<=>(const ChunkName&) const = default;
};

std::array<char, kChunkKeyBytes> EncodeChunkKey(ChunkName name);
std::optional<ChunkName> DecodeChunkKey(std::string_view key);
std::array<char, kEntryKeyBytes> EncodeEntryKey(const StoreKey& key);
std::optional<StoreKey> DecodeEntryKey(std::string_view key);
std::array<std::byte, kEntryValueBytes> EncodeEntryValue(const ChunkedObject& object);
base::Result<ChunkedObject> DecodeEntryValue(std::span<const std::byte> value, const StoreKey& key);

// `what`: "reading chunk 3", for the message.
base::Status FromRocks(const rocksdb::Status& status, std::string_view what);

// A lock on a folder that lasts as long as the object, also against the same process.
class FolderLock {
 public:
  // kFailedPrecondition: taken, with the process that has it where it can be told.
  static base::Result<FolderLock> Take(const std::string& path);
  FolderLock(FolderLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  FolderLock& operator=(FolderLock&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~FolderLock();

 private:
  explicit FolderLock(int descriptor) : descriptor_(descriptor) {}
  int descriptor_ = -1;
};

struct ChunkDb::Rocks {
  Rocks(ChunkDbOptions options, FolderLock lock);
  ~Rocks();

  std::string database() const { return options.folder + "/rocksdb"; }
  base::Status Open(ChunkDbContents& contents);
  base::Status OpenDatabase();
  base::Status DropFamily(rocksdb::ColumnFamilyHandle*& family);
  // Keeps what may tell why, not the chunks: a second copy of a budget of bytes would fill the disk.
  base::Status MoveAside(const std::string& why, ChunkDbContents& contents);
  // Sequences whose file is gone or was cut: [first, last] pairs.
  std::vector<std::pair<uint64_t, uint64_t>> LostSequences() const;
  base::Status ScanEntries(ChunkDbContents& contents, bool& damaged);
  void FindNextSequence(ChunkDbContents& contents);
  void DropLost(ChunkDbContents& contents);
  base::Status RewriteEntries(const ChunkDbContents& contents);
  void Close();

  const ChunkDbOptions options;
  const FolderLock lock;
  std::function<void()> on_change;
  rocksdb::DB* db = nullptr;
  rocksdb::ColumnFamilyHandle* chunks = nullptr;
  rocksdb::ColumnFamilyHandle* entries = nullptr;
  uint64_t first_sequence = 0;      // that may be written since the opening: everything before lies in files
  uint64_t entries_generation = 0;  // how often the entries have been rewritten
};

}  // namespace kvplane::store
