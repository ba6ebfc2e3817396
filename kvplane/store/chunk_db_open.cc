// Opening a folder: the options of the database, what is done about damage, and the scan that fills the
// index. Everything here reads names and headers only, never objects.
#include <fcntl.h>
#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/listener.h>
#include <rocksdb/table.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <utility>

#include "kvplane/base/log.h"
#include "kvplane/store/chunk_db_rocks.h"

namespace kvplane::store {
namespace {

constexpr size_t kBlockCacheBytes = 32 << 20;
constexpr size_t kMaxEntriesBufferBytes = 4 << 20;
constexpr int kWriteBuffers = 3;  // one fills while one is flushed; the third keeps writers going
constexpr size_t kEntriesFileBytes = 1 << 20;  // what a damaged block costs at most: some 8,000 entries
constexpr size_t kEntryBlockBytes = 4 << 10;
// A data block holds at least one chunk; smaller chunks (the ends of objects) share one.
constexpr size_t kChunkBlockBytes = 16 << 10;
constexpr uint64_t kBytesPerSync = 1 << 20;  // files are written back as they grow, not all at their end
constexpr size_t kLogBytes = 4 << 20;
constexpr const char* kEntriesName = "entries";

class ChangeListener final : public rocksdb::EventListener {
 public:
  explicit ChangeListener(std::function<void()> on_change) : on_change_(std::move(on_change)) {}
  void OnTableFileDeleted(const rocksdb::TableFileDeletionInfo&) override { on_change_(); }
  // RocksDB takes a full disk during a flush without a log for a passing trouble and keeps who waits for the
  // flush waiting, for ever if need be. It must fail; Resume() is tried soon enough.
  void OnBackgroundError(rocksdb::BackgroundErrorReason reason, rocksdb::Status* error) override {
    const bool compaction = reason == rocksdb::BackgroundErrorReason::kCompaction;
    if (!compaction && error->severity() < rocksdb::Status::kHardError) {
      *error = rocksdb::Status(*error, rocksdb::Status::kHardError);
    }
    on_change_();
  }
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason, rocksdb::Status, bool* auto_recovery) override {
    *auto_recovery = false;
  }

 private:
  const std::function<void()> on_change_;
};

rocksdb::DBOptions DatabaseOptions(const ChunkDbOptions& options, const std::function<void()>& on_change) {
  rocksdb::DBOptions out;
  if (options.env != nullptr) out.env = options.env;
  out.create_if_missing = options.create;
  out.create_missing_column_families = options.create;
  // A lost or damaged file costs its entries; the others must stay readable.
  out.paranoid_checks = false;
  out.atomic_flush = true;
  out.avoid_flush_during_shutdown = true;  // the disk tier flushes when it closes
  out.max_open_files = -1;                 // FIFO with an age demands it
  out.max_background_jobs = 2;
  out.bytes_per_sync = kBytesPerSync;
  out.max_log_file_size = kLogBytes;
  out.keep_log_file_num = 2;
  out.info_log_level = rocksdb::WARN_LEVEL;
  out.stats_dump_period_sec = 0;
  out.stats_persist_period_sec = 0;
  out.max_bgerror_resume_count = 0;  // Resume() is called by the disk tier, which knows who waits
  out.listeners.push_back(std::make_shared<ChangeListener>(on_change));
  return out;
}

rocksdb::BlockBasedTableOptions TableOptions(const std::shared_ptr<rocksdb::Cache>& cache,
                                             size_t block_bytes) {
  rocksdb::BlockBasedTableOptions out;
  out.checksum = rocksdb::kXXH3;
  out.format_version = 5;
  out.block_size = block_bytes;
  out.block_cache = cache;
  out.cache_index_and_filter_blocks = true;  // the bound of their memory
  return out;
}

rocksdb::ColumnFamilyOptions ChunkOptions(const ChunkDbOptions& options,
                                          const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::ColumnFamilyOptions out;
  out.compaction_style = rocksdb::kCompactionStyleFIFO;
  out.compaction_options_fifo.max_table_files_size = options.budget_bytes;
  // Its own joining of small files also rewrites full ones, all of them in the end; see MergeSmallFiles().
  out.compaction_options_fifo.allow_compaction = false;
  out.ttl = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(options.ttl).count());
  out.periodic_compaction_seconds = 0;  // FIFO takes the default as an age of 30 days
  out.compression = rocksdb::kNoCompression;
  out.write_buffer_size = options.write_buffer_bytes;
  out.max_write_buffer_number = kWriteBuffers;
  out.table_factory.reset(rocksdb::NewBlockBasedTableFactory(TableOptions(cache, kChunkBlockBytes)));
  return out;
}

rocksdb::ColumnFamilyOptions EntryOptions(const ChunkDbOptions& options,
                                          const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::ColumnFamilyOptions out;
  // By levels, a flush of one entry overlaps nothing and is moved down as it is: a file per durable put.
  out.compaction_style = rocksdb::kCompactionStyleUniversal;
  out.compression = rocksdb::kNoCompression;
  out.bottommost_compression = rocksdb::kNoCompression;
  out.ttl = 0;
  out.periodic_compaction_seconds = 0;
  out.write_buffer_size = std::min(options.write_buffer_bytes, kMaxEntriesBufferBytes);
  out.max_write_buffer_number = kWriteBuffers;
  out.target_file_size_base = kEntriesFileBytes;
  out.table_factory.reset(rocksdb::NewBlockBasedTableFactory(TableOptions(cache, kEntryBlockBytes)));
  return out;
}

// The column family of the entries; a number tells what they were rewritten to.
std::string EntriesName(uint64_t generation) {
  return generation == 0 ? kEntriesName : fmt::format("{}.{}", kEntriesName, generation);
}

// Of every column family of entries, in order. Usually one; nothing for another name.
std::vector<uint64_t> EntryGenerations(const std::vector<std::string>& names) {
  std::vector<uint64_t> found;
  for (const std::string& name : names) {
    uint64_t generation = 0;
    const size_t dot = name.find('.');
    if (dot != name.npos) std::from_chars(name.data() + dot + 1, name.data() + name.size(), generation);
    if (name == EntriesName(generation)) found.push_back(generation);
  }
  std::ranges::sort(found);
  return found;
}

bool HasTables(const std::filesystem::path& folder) {
  std::error_code ignored;
  for (const auto& file : std::filesystem::directory_iterator(folder, ignored)) {
    if (file.path().extension() == ".sst") return true;
  }
  return false;
}

std::span<const std::byte> Bytes(const rocksdb::Slice& slice) {
  return {reinterpret_cast<const std::byte*>(slice.data()), slice.size()};
}

}  // namespace

base::Result<FolderLock> FolderLock::Take(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (descriptor < 0) return base::Unavailable("{}: {}", path, std::strerror(errno));
  FolderLock lock(descriptor);
  char owner[32] = {};
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    const ssize_t got = ::pread(descriptor, owner, sizeof(owner) - 1, 0);
    return base::FailedPrecondition("{}: another store has this folder open (process {})", path,
                                    got > 0 ? owner : "unknown");
  }
  const std::string self = std::to_string(::getpid());
  if (::ftruncate(descriptor, 0) != 0 || ::pwrite(descriptor, self.data(), self.size(), 0) < 0) {
    base::Log(base::LogLevel::kDebug, "{}: cannot note the process: {}", path, std::strerror(errno));
  }
  return lock;
}

FolderLock::~FolderLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

ChunkDb::Rocks::Rocks(ChunkDbOptions chunk_options, FolderLock folder_lock)
    : options(std::move(chunk_options)), lock(std::move(folder_lock)) {}

ChunkDb::Rocks::~Rocks() { Close(); }

void ChunkDb::Rocks::Close() {
  if (db == nullptr) return;
  if (chunks != nullptr) db->DestroyColumnFamilyHandle(chunks);
  if (entries != nullptr) db->DestroyColumnFamilyHandle(entries);
  chunks = entries = nullptr;
  delete db;
  db = nullptr;
}

base::Status ChunkDb::Rocks::OpenDatabase() {
  const auto cache = rocksdb::NewLRUCache(kBlockCacheBytes);
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  families.emplace_back(rocksdb::kDefaultColumnFamilyName, ChunkOptions(options, cache));
  const rocksdb::DBOptions with = DatabaseOptions(options, on_change);
  std::vector<std::string> names;
  // A new or damaged database has none to list; opening it says which.
  const rocksdb::Status listed = rocksdb::DB::ListColumnFamilies(with, database(), &names);
  std::vector<uint64_t> generations = EntryGenerations(listed.ok() ? names : std::vector<std::string>());
  if (generations.empty()) generations.push_back(0);
  for (const uint64_t generation : generations) {
    families.emplace_back(EntriesName(generation), EntryOptions(options, cache));
  }
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  const rocksdb::Status status = options.read_only
                                     ? rocksdb::DB::OpenForReadOnly(with, database(), families, &handles, &db)
                                     : rocksdb::DB::Open(with, database(), families, &handles, &db);
  if (!status.ok()) {
    db = nullptr;
    return FromRocks(status, "opening " + database());
  }
  chunks = handles[0];
  entries = handles[1];
  entries_generation = generations[0];
  // A crash in the middle of rewriting leaves a later generation that may be incomplete beside the one that
  // it was made from.
  base::Status dropped;
  for (size_t i = 2; i < handles.size(); ++i) {
    if (!options.read_only && dropped.ok()) {
      dropped = DropFamily(handles[i]);
    } else {
      db->DestroyColumnFamilyHandle(handles[i]);
    }
  }
  return dropped;
}

base::Status ChunkDb::Rocks::DropFamily(rocksdb::ColumnFamilyHandle*& family) {
  const rocksdb::Status status = db->DropColumnFamily(family);
  db->DestroyColumnFamilyHandle(std::exchange(family, nullptr));
  return FromRocks(status, "dropping damaged entries");
}

base::Status ChunkDb::Rocks::MoveAside(const std::string& why, ChunkDbContents& contents) {
  namespace fs = std::filesystem;
  const fs::path aside = options.folder + "/damaged";
  std::error_code error;
  fs::remove_all(aside, error);  // the one before
  fs::rename(database(), aside, error);
  if (error) return base::Unavailable("{}: cannot be moved aside: {}", database(), error.message());
  for (const auto& file : fs::directory_iterator(aside, error)) {
    std::error_code ignored;
    if (file.path().extension() == ".sst") fs::remove(file.path(), ignored);
  }
  contents.damage = fmt::format("the database could not be opened, all entries are lost: {}", why);
  return base::Status::Ok();
}

std::vector<std::pair<uint64_t, uint64_t>> ChunkDb::Rocks::LostSequences() const {
  std::vector<std::pair<uint64_t, uint64_t>> lost;
  rocksdb::ColumnFamilyMetaData data;
  db->GetColumnFamilyMetaData(chunks, &data);
  for (const auto& level : data.levels) {
    for (const rocksdb::SstFileMetaData& file : level.files) {
      std::error_code error;
      const auto bytes = std::filesystem::file_size(file.db_path + file.name, error);
      if (!error && bytes == file.size) continue;
      const auto first = DecodeChunkKey(file.smallestkey);
      const auto last = DecodeChunkKey(file.largestkey);
      if (first && last) lost.emplace_back(first->sequence, last->sequence);
    }
  }
  return lost;
}

// Fills contents.objects. A damaged block ends the iterator: the scan goes on behind the file that holds it.
base::Status ChunkDb::Rocks::ScanEntries(ChunkDbContents& contents, bool& damaged) {
  rocksdb::ReadOptions read;
  read.fill_cache = false;
  std::string resume_at;
  for (;;) {
    const std::unique_ptr<rocksdb::Iterator> at(db->NewIterator(read, entries));
    std::string last = resume_at;
    for (at->Seek(resume_at); at->Valid(); at->Next()) {
      last = at->key().ToString();
      const auto key = DecodeEntryKey({at->key().data(), at->key().size()});
      auto object = key ? DecodeEntryValue(Bytes(at->value()), *key)
                        : base::Result<ChunkedObject>(base::Corrupt("not an entry's key"));
      if (object.ok()) {
        contents.objects.push_back(*std::move(object));
      } else {
        ++contents.damaged_entries;
        damaged = true;
      }
    }
    if (at->status().ok()) return base::Status::Ok();
    damaged = true;
    ++contents.damaged_entries;
    base::Log(base::LogLevel::kWarn, "{}: {}", database(), at->status().ToString());
    // The nearest end of a file behind what was read.
    rocksdb::ColumnFamilyMetaData data;
    db->GetColumnFamilyMetaData(entries, &data);
    std::string next;
    for (const auto& level : data.levels) {
      for (const auto& file : level.files) {
        if (file.largestkey >= last && (next.empty() || file.largestkey < next)) next = file.largestkey;
      }
    }
    if (next.empty()) return base::Status::Ok();
    next.push_back('\0');
    if (next <= resume_at) return base::Status::Ok();
    resume_at = std::move(next);
  }
}

void ChunkDb::Rocks::FindNextSequence(ChunkDbContents& contents) {
  uint64_t last = contents.objects.empty() ? 0 : contents.objects.back().sequence;
  rocksdb::ColumnFamilyMetaData data;
  db->GetColumnFamilyMetaData(chunks, &data);
  for (const auto& level : data.levels) {
    for (const auto& file : level.files) {
      // Also of chunks whose entry was never written.
      if (const auto name = DecodeChunkKey(file.largestkey)) last = std::max(last, name->sequence);
    }
  }
  contents.next_sequence = last + 1;
  first_sequence = contents.next_sequence;
}

// Entries whose chunks lie in a lost file, wholly or in part.
void ChunkDb::Rocks::DropLost(ChunkDbContents& contents) {
  const auto lost = LostSequences();
  if (lost.empty()) return;
  uint64_t dropped = 0;
  std::erase_if(contents.objects, [&](const ChunkedObject& object) {
    const bool gone = std::ranges::any_of(lost, [&](const auto& range) {
      return range.first <= object.sequence && object.sequence <= range.second;
    });
    if (gone) contents.stale.push_back(object.header.key);
    dropped += gone;
    return gone;
  });
  contents.damaged_entries += dropped;
  contents.damage =
      fmt::format("{} chunk files are gone or cut short: {} entries are lost", lost.size(), dropped);
}

// What was read is written to a new column family in place of the damaged one: otherwise its files would be
// met again with every opening and compaction. The damaged one is there until the new one is durable.
base::Status ChunkDb::Rocks::RewriteEntries(const ChunkDbContents& contents) {
  const auto cache = rocksdb::NewLRUCache(kBlockCacheBytes / 4);
  rocksdb::ColumnFamilyHandle* damaged = nullptr;
  KVPLANE_RETURN_IF_ERROR(FromRocks(
      db->CreateColumnFamily(EntryOptions(options, cache), EntriesName(entries_generation + 1), &damaged),
      "rewriting entries"));
  std::swap(entries, damaged);
  rocksdb::WriteOptions write;
  write.disableWAL = true;
  base::Status status;
  for (const ChunkedObject& object : contents.objects) {
    if (!status.ok()) break;
    const auto key = EncodeEntryKey(object.header.key);
    const auto value = EncodeEntryValue(object);
    status = FromRocks(db->Put(write, entries, rocksdb::Slice(key.data(), key.size()),
                               rocksdb::Slice(reinterpret_cast<const char*>(value.data()), value.size())),
                       "rewriting entries");
  }
  if (status.ok()) status = FromRocks(db->Flush({}, {chunks, entries}), "rewriting entries");
  if (!status.ok()) {
    db->DestroyColumnFamilyHandle(damaged);
    return status;
  }
  ++entries_generation;
  return DropFamily(damaged);
}

base::Status ChunkDb::Rocks::Open(ChunkDbContents& contents) {
  std::error_code error;
  const bool current = std::filesystem::exists(database() + "/CURRENT", error);
  if (!current && HasTables(database())) {
    if (!options.create) return base::Corrupt("{}: it has files, but no CURRENT", database());
    KVPLANE_RETURN_IF_ERROR(MoveAside("it has files, but no CURRENT", contents));
  } else if (!current && !options.create) {
    return base::NotFound("{}: no store is here", options.folder);
  }
  base::Status opened = OpenDatabase();
  if (opened.code() == base::StatusCode::kCorrupt && options.create) {
    KVPLANE_RETURN_IF_ERROR(MoveAside(opened.message(), contents));
    opened = OpenDatabase();
  }
  KVPLANE_RETURN_IF_ERROR(opened);
  bool damaged = false;
  KVPLANE_RETURN_IF_ERROR(ScanEntries(contents, damaged));
  std::ranges::sort(contents.objects, {}, &ChunkedObject::sequence);
  if (damaged) {
    contents.damage = "damaged entries are lost";
    if (!options.read_only) {
      contents.damage += "; the others have been written anew";
      KVPLANE_RETURN_IF_ERROR(RewriteEntries(contents));
    }
  }
  FindNextSequence(contents);
  DropLost(contents);
  return base::Status::Ok();
}

base::Result<std::unique_ptr<ChunkDb>> ChunkDb::Open(const ChunkDbOptions& options, ChunkDbContents& contents,
                                                     std::function<void()> on_change) {
  std::error_code error;
  if (options.create) {
    const bool made = std::filesystem::create_directories(options.folder, error);
    // What users wrote is in there. A folder that was there before has the mode its owner chose.
    if (made) std::filesystem::permissions(options.folder, std::filesystem::perms::owner_all, error);
    if (error) return base::Unavailable("{}: cannot be created: {}", options.folder, error.message());
  } else if (!std::filesystem::is_directory(options.folder + "/rocksdb", error)) {
    return base::NotFound("{}: no store is here", options.folder);
  }
  KVPLANE_ASSIGN_OR_RETURN(FolderLock lock, FolderLock::Take(options.folder + "/kvplane.lock"));
  auto rocks = std::make_unique<Rocks>(options, std::move(lock));
  rocks->on_change = std::move(on_change);
  KVPLANE_RETURN_IF_ERROR(rocks->Open(contents));
  return std::unique_ptr<ChunkDb>(new ChunkDb(std::move(rocks)));
}

}  // namespace kvplane::store
