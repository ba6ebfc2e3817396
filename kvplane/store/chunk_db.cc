#include "kvplane/store/chunk_db.h"

#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>
#include <utility>

#include "kvplane/base/endian.h"
#include "kvplane/kernel/checksum/checksum.h"
#include "kvplane/store/chunk_db_rocks.h"

namespace kvplane::store {
namespace {

// Files below this share of a write buffer are small; so many of them in a row are joined. Objects of 50 kB
// that are flushed one by one are written about three times before their file is no longer small.
constexpr uint64_t kSmallFileShare = 2;
constexpr size_t kSmallFiles = 64;

rocksdb::WriteOptions WithoutLog() {
  rocksdb::WriteOptions options;
  options.disableWAL = true;
  return options;
}

template <size_t kBytes>
rocksdb::Slice View(const std::array<char, kBytes>& key) {
  return {key.data(), key.size()};
}

rocksdb::Slice View(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

uint64_t FreeBytes(const std::string& path) {
  struct statvfs info{};
  if (::statvfs(path.c_str(), &info) != 0) return std::numeric_limits<uint64_t>::max();
  return uint64_t{info.f_bavail} * info.f_frsize;
}

template <typename T>
void PutBigEndian(char* to, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) to[i] = static_cast<char>(value >> (8 * (sizeof(T) - 1 - i)));
}

template <typename T>
T GetBigEndian(const char* from) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value = static_cast<T>(value << 8) | static_cast<uint8_t>(from[i]);
  return value;
}

}  // namespace

std::array<char, kChunkKeyBytes> EncodeChunkKey(ChunkName name) {
  std::array<char, kChunkKeyBytes> out;
  PutBigEndian(&out[0], name.sequence);
  PutBigEndian(&out[8], name.chunk);
  return out;
}

std::optional<ChunkName> DecodeChunkKey(std::string_view key) {
  if (key.size() != kChunkKeyBytes) return std::nullopt;
  return ChunkName{.sequence = GetBigEndian<uint64_t>(key.data()),
                   .chunk = GetBigEndian<uint32_t>(key.data() + 8)};
}

std::array<char, kEntryKeyBytes> EncodeEntryKey(const StoreKey& key) {
  std::array<char, kEntryKeyBytes> out;
  PutBigEndian(&out[0], key.tenant);
  std::memcpy(&out[8], key.chain.data(), key.chain.size());
  return out;
}

std::optional<StoreKey> DecodeEntryKey(std::string_view key) {
  if (key.size() != kEntryKeyBytes) return std::nullopt;
  StoreKey out{.tenant = GetBigEndian<uint64_t>(key.data())};
  std::memcpy(out.chain.data(), key.data() + 8, out.chain.size());
  return out;
}

std::array<std::byte, kEntryValueBytes> EncodeEntryValue(const ChunkedObject& object) {
  std::array<std::byte, kEntryValueBytes> out;
  std::ranges::copy(EncodeRecordHeader(object.header), out.begin());
  base::StoreLe<uint64_t>(&out[kRecordHeaderBytes], object.sequence);
  base::StoreLe<uint32_t>(&out[kRecordHeaderBytes + 8], object.chunk_bytes);
  base::StoreLe<uint32_t>(&out[kRecordHeaderBytes + 12],
                          kernel::Crc32c(std::span(out).subspan(kRecordHeaderBytes, 12)));
  return out;
}

base::Result<ChunkedObject> DecodeEntryValue(std::span<const std::byte> value, const StoreKey& key) {
  if (value.size() != kEntryValueBytes) {
    return base::Corrupt("an entry of {} bytes, not {}", value.size(), kEntryValueBytes);
  }
  ChunkedObject out;
  KVPLANE_ASSIGN_OR_RETURN(out.header, DecodeRecordHeader(value.first(kRecordHeaderBytes), key));
  const auto place = value.subspan(kRecordHeaderBytes);
  if (kernel::Crc32c(place.first(12)) != base::LoadLe<uint32_t>(&place[12])) {
    return base::Corrupt("entry: checksum mismatch");
  }
  out.sequence = base::LoadLe<uint64_t>(&place[0]);
  out.chunk_bytes = base::LoadLe<uint32_t>(&place[8]);
  if (out.chunk_bytes == 0) return base::Corrupt("entry: chunks of no bytes");
  return out;
}

base::Status FromRocks(const rocksdb::Status& status, std::string_view what) {
  if (status.ok()) return base::Status::Ok();
  const std::string text = status.ToString();
  if (status.IsNotFound()) return base::NotFound("{}: not there", what);
  if (status.IsCorruption() || status.IsPathNotFound()) return base::Corrupt("{}: {}", what, text);
  if (status.IsNoSpace()) return base::ResourceExhausted("{}: {}", what, text);
  if (status.IsShutdownInProgress()) return base::Cancelled("{}: {}", what, text);
  return base::Unavailable("{}: {}", what, text);
}

ChunkDb::ChunkDb(std::unique_ptr<Rocks> rocks) : rocks_(std::move(rocks)) {}
ChunkDb::~ChunkDb() = default;

base::Status ChunkDb::WriteChunk(uint64_t sequence, uint32_t chunk, std::span<const std::byte> bytes) {
  const auto key = EncodeChunkKey({.sequence = sequence, .chunk = chunk});
  return FromRocks(rocks_->db->Put(WithoutLog(), rocks_->chunks, View(key), View(bytes)), "writing a chunk");
}

base::Status ChunkDb::WriteEntry(const ChunkedObject& object) {
  const auto key = EncodeEntryKey(object.header.key);
  const auto value = EncodeEntryValue(object);
  return FromRocks(rocks_->db->Put(WithoutLog(), rocks_->entries, View(key), View(value)),
                   "writing an entry");
}

base::Status ChunkDb::EraseEntries(std::span<const StoreKey> keys) {
  rocksdb::WriteBatch batch;
  for (const StoreKey& key : keys) {
    KVPLANE_RETURN_IF_ERROR(
        FromRocks(batch.Delete(rocks_->entries, View(EncodeEntryKey(key))), "erasing an entry"));
  }
  return FromRocks(rocks_->db->Write(WithoutLog(), &batch), "erasing entries");
}

base::Status ChunkDb::EraseTenant(uint64_t tenant) {
  const auto first = EncodeEntryKey({.tenant = tenant});
  std::array<char, kEntryKeyBytes + 1> end;  // above every key of the tenant
  end.fill(static_cast<char>(0xff));
  std::copy_n(first.begin(), sizeof(tenant), end.begin());
  return FromRocks(rocks_->db->DeleteRange(WithoutLog(), rocks_->entries, View(first), View(end)),
                   "erasing a tenant's entries");
}

struct ChunkDb::Reader::State {
  const Rocks& rocks;
  rocksdb::PinnableSlice chunk;
  std::optional<ChunkName> name;  // of `chunk`
};

ChunkDb::Reader::Reader(const ChunkDb& db)
    : state_(new State{.rocks = *db.rocks_, .chunk = {}, .name = {}}) {}
ChunkDb::Reader::~Reader() = default;

base::Status ChunkDb::Reader::Read(uint64_t sequence, uint32_t chunk_bytes, uint64_t object_bytes,
                                   uint64_t offset, std::span<std::byte> out) {
  rocksdb::ReadOptions options;
  options.verify_checksums = true;
  options.fill_cache =
      false;  // objects that are used again lie in the DRAM tier, their files in the page cache
  while (!out.empty()) {
    const ChunkName name{.sequence = sequence, .chunk = static_cast<uint32_t>(offset / chunk_bytes)};
    if (state_->name != name) {
      state_->chunk.Reset();
      state_->name.reset();
      KVPLANE_RETURN_IF_ERROR(FromRocks(
          state_->rocks.db->Get(options, state_->rocks.chunks, View(EncodeChunkKey(name)), &state_->chunk),
          "reading a chunk"));
      state_->name = name;
    }
    const uint64_t begin = uint64_t{name.chunk} * chunk_bytes;
    const uint64_t expected = std::min<uint64_t>(chunk_bytes, object_bytes - begin);
    if (state_->chunk.size() != expected) {
      return base::Corrupt("chunk {} has {} bytes instead of {}", name.chunk, state_->chunk.size(), expected);
    }
    const size_t skip = offset - begin;
    const size_t take = std::min<size_t>(out.size(), expected - skip);
    std::memcpy(out.data(), state_->chunk.data() + skip, take);
    out = out.subspan(take);
    offset += take;
  }
  return base::Status::Ok();
}

base::Status ChunkDb::Flush() {
  rocksdb::FlushOptions options;
  options.wait = true;
  options.allow_write_stall = true;  // otherwise the flush may wait for a stall to end instead of ending it
  return FromRocks(rocks_->db->Flush(options, {rocks_->chunks, rocks_->entries}), "flushing");
}

base::Status ChunkDb::Resume() { return FromRocks(rocks_->db->Resume(), "resuming writes"); }

base::Status ChunkDb::MergeSmallFiles() {
  rocksdb::ColumnFamilyMetaData data;
  rocks_->db->GetColumnFamilyMetaData(rocks_->chunks, &data);
  if (data.levels.empty()) return base::Status::Ok();
  const uint64_t small = rocks_->options.write_buffer_bytes / kSmallFileShare;
  // Newest first. Small files lie in runs; the first run that is long enough and idle.
  std::vector<std::string> run;
  uint64_t bytes = 0;
  for (const rocksdb::SstFileMetaData& file : data.levels[0].files) {
    const bool fits = file.size < small && bytes + file.size <= rocks_->options.write_buffer_bytes;
    if (fits && !file.being_compacted) {
      run.push_back(file.name);
      bytes += file.size;
      continue;
    }
    if (run.size() >= kSmallFiles) break;
    run.clear();
    bytes = 0;
  }
  if (run.size() < kSmallFiles) return base::Status::Ok();
  rocksdb::CompactionOptions options;
  options.compression = rocksdb::kNoCompression;
  return FromRocks(rocks_->db->CompactFiles(options, rocks_->chunks, run, 0), "joining small files");
}

uint64_t ChunkDb::OldestSequence() {
  rocksdb::ColumnFamilyMetaData data;
  rocks_->db->GetColumnFamilyMetaData(rocks_->chunks, &data);
  std::optional<ChunkName> oldest;
  for (const auto& level : data.levels) {
    for (const rocksdb::SstFileMetaData& file : level.files) {
      const auto first = DecodeChunkKey(file.smallestkey);
      if (first && (!oldest || *first < *oldest)) oldest = first;
    }
  }
  if (!oldest) return rocks_->first_sequence;
  // The object at the edge has lost its beginning.
  return oldest->chunk == 0 ? oldest->sequence : oldest->sequence + 1;
}

uint64_t ChunkDb::file_bytes() const {
  uint64_t total = 0;
  uint64_t bytes = 0;
  for (rocksdb::ColumnFamilyHandle* family : {rocks_->chunks, rocks_->entries}) {
    if (rocks_->db->GetIntProperty(family, rocksdb::DB::Properties::kTotalSstFilesSize, &bytes))
      total += bytes;
  }
  return total;
}

uint64_t ChunkDb::free_bytes() const { return FreeBytes(rocks_->options.folder); }

bool ChunkDb::at_work() const {
  using Properties = rocksdb::DB::Properties;
  for (rocksdb::ColumnFamilyHandle* family : {rocks_->chunks, rocks_->entries}) {
    for (const std::string& property : {Properties::kNumRunningFlushes, Properties::kNumRunningCompactions,
                                        Properties::kMemTableFlushPending, Properties::kCompactionPending}) {
      uint64_t count = 0;
      if (rocks_->db->GetIntProperty(family, property, &count) && count > 0) return true;
    }
  }
  return false;
}

FolderSpace MeasureFolder(const std::string& folder) {
  namespace fs = std::filesystem;
  FolderSpace space;
  std::error_code error;
  for (const auto& file : fs::directory_iterator(folder + "/rocksdb", error)) {
    if (file.path().extension() != ".sst") continue;
    std::error_code gone;  // it may just be deleted
    if (const uint64_t size = file.file_size(gone); !gone) space.used_bytes += size;
  }
  fs::path at = fs::absolute(folder, error);
  while (!fs::exists(at, error) && at.has_parent_path() && at != at.parent_path()) at = at.parent_path();
  space.free_bytes = FreeBytes(at.string());
  return space;
}

}  // namespace kvplane::store
