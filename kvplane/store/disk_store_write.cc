// DiskStore: puts and erasures. Everything here but the public calls runs on the writer's thread.
#include <algorithm>
#include <limits>
#include <thread>
#include <utility>

#include "kvplane/base/clock.h"
#include "kvplane/base/log.h"
#include "kvplane/store/call_checks.h"
#include "kvplane/store/disk_state.h"

namespace kvplane::store {
namespace {

// Of an object to the capacity: a larger one would push out most of the rest, or itself.
constexpr uint64_t kLargestPart = 2;
constexpr size_t kEraseAtOnce = 4096;  // entries erased at once; then the lock is let go

// Old files go in the background: a writer can be ahead of that for a moment.
constexpr base::Duration kSpaceWait = std::chrono::seconds(1);
constexpr base::Duration kSpacePoll = std::chrono::milliseconds(5);
constexpr int kLeastPolls = 4;  // files are deleted a little after the work that replaced them

}  // namespace

// Asked before every chunk: a few microseconds beside a fraction of a millisecond.
base::Status DiskStore::State::CheckSpace() {
  {
    base::MutexLock lock(keeper_mutex);
    if (!write_failure.ok()) return write_failure.Annotate("the disk took no writes lately");
  }
  uint64_t free = db->free_bytes();
  const base::TimePoint give_up = base::Clock::System().Now() + kSpaceWait;
  for (int polls = 0; free < min_free_bytes && (polls < kLeastPolls || db->at_work()); ++polls) {
    if (stopping.load() || base::Clock::System().Now() >= give_up) break;
    std::this_thread::sleep_for(kSpacePoll);
    free = db->free_bytes();
  }
  if (free < min_free_bytes) {
    return base::ResourceExhausted("{}: {} bytes free, {} are kept free", options.folder, free,
                                   min_free_bytes);
  }
  return base::Status::Ok();
}

void DiskStore::State::NoteWrite(const base::Status& status) {
  if (status.ok() || status.code() == base::StatusCode::kCancelled) return;
  base::MutexLock lock(keeper_mutex);
  if (!write_failure.ok()) return;
  base::Log(base::LogLevel::kWarn, "disk store {}: no puts until the disk takes writes again: {}",
            options.folder, status.ToString());
  write_failure = status;
  resume_pause = kFirstResumePause;
  resume_at = base::Clock::System().Now() + resume_pause;
  keeper_wake.NotifyOne();
}

base::Status DiskStore::State::WriteChunk(uint64_t sequence, uint32_t chunk,
                                          std::span<const std::byte> bytes) {
  KVPLANE_RETURN_IF_ERROR(CheckSpace());
  const base::Status status = db->WriteChunk(sequence, chunk, bytes);
  NoteWrite(status);
  return status;
}

base::Status DiskStore::State::WriteChunks(uint64_t sequence, std::span<const std::byte> bytes,
                                           const std::atomic<bool>& abandoned) {
  // An empty object has one empty chunk: its age must show in the files like that of the others.
  uint32_t chunk = 0;
  do {
    if (abandoned.load() || stopping.load()) return base::Cancelled("given up in the middle of a put");
    const size_t take = std::min<size_t>(bytes.size(), kChunkBytes);
    KVPLANE_RETURN_IF_ERROR(WriteChunk(sequence, chunk++, bytes.first(take)));
    bytes = bytes.subspan(take);
  } while (!bytes.empty());
  return base::Status::Ok();
}

// Writes the entry, which makes the object visible after a restart, and then shows it to readers; unless it
// was to replace one that a quarantine has taken away meanwhile.
base::Status DiskStore::State::CommitEntry(const StoreKey& key, const DiskEntry& entry,
                                           std::optional<uint64_t> replaces) {
  const base::Status status = db->WriteEntry({.header = {.object_bytes = entry.bytes,
                                                         .prefix_bytes = entry.prefix_bytes,
                                                         .quality = entry.quality,
                                                         .expires_unix_ms = entry.expires_unix_ms,
                                                         .key = key},
                                              .sequence = entry.sequence,
                                              .chunk_bytes = entry.chunk_bytes});
  NoteWrite(status);
  KVPLANE_RETURN_IF_ERROR(status);
  std::vector<StoreKey> gone;
  {
    base::MutexLock lock(mutex);
    const DiskEntry* held = index.Find(key);
    if (replaces && (held == nullptr || held->sequence != *replaces)) {
      gone.push_back(key);
    } else {
      index.Insert(key, entry);
      index.EvictTo(capacity_bytes, gone);
      counters.evictions += gone.size();
    }
  }
  return EraseStale(gone);
}

base::Status DiskStore::State::WriteObject(const StoreKey& key, const EntryMeta& meta, const Slice& object,
                                           const std::atomic<bool>& abandoned) {
  {
    base::MutexLock lock(mutex);
    if (DiskEntry* held = FindLive(key); held != nullptr && held->quality >= meta.quality) {
      Use(key, *held);
      return base::Status::Ok();
    }
  }
  const base::Duration ttl = options.ttl == base::Duration::zero() ? meta.ttl
                             : meta.ttl == base::Duration::zero()  ? options.ttl
                                                                   : std::min(meta.ttl, options.ttl);
  DiskEntry entry{.sequence = next_sequence++,
                  .bytes = object.size(),
                  .prefix_bytes = meta.prefix_bytes,
                  .chunk_bytes = kChunkBytes,
                  .quality = meta.quality};
  if (ttl > base::Duration::zero()) {
    // Rounded up: an entry lives at least as long as it was promised.
    entry.expires_unix_ms =
        NowUnixMs() + static_cast<uint64_t>(std::chrono::ceil<std::chrono::milliseconds>(ttl).count());
  }
  base::Status status = WriteChunks(entry.sequence, object.bytes(), abandoned);
  if (status.ok()) status = CommitEntry(key, entry, std::nullopt);
  base::MutexLock lock(mutex);
  if (status.ok()) {
    ++counters.puts;
    counters.put_bytes += object.size();
  } else if (status.code() == base::StatusCode::kResourceExhausted) {
    ++counters.puts_refused;
  } else if (status.code() != base::StatusCode::kCancelled) {
    ++counters.errors;
  }
  return status;
}

base::Status DiskStore::State::CopyChunks(const DiskEntry& from, uint64_t sequence) {
  ChunkDb::Reader reader(*db);
  std::vector<std::byte> chunk;
  uint32_t number = 0;
  uint64_t at = 0;
  do {
    if (stopping.load()) return base::Cancelled("shut down");
    chunk.resize(std::min<uint64_t>(from.chunk_bytes, from.bytes - at));
    KVPLANE_RETURN_IF_ERROR(reader.Read(from.sequence, from.chunk_bytes, from.bytes, at, chunk));
    KVPLANE_RETURN_IF_ERROR(WriteChunk(sequence, number++, chunk));
    at += chunk.size();
  } while (at < from.bytes);
  return base::Status::Ok();
}

void DiskStore::State::WriteAgain(const StoreKey& key, uint64_t sequence) {
  DiskEntry entry;
  bool wanted = false;
  {
    base::MutexLock lock(mutex);
    const DiskEntry* held = FindLive(key);
    wanted = held != nullptr && held->sequence == sequence;
    if (wanted) entry = *held;
  }
  base::Status status;
  if (wanted) {
    DiskEntry fresh = entry;
    fresh.sequence = next_sequence++;
    fresh.refreshing = false;
    status = CopyChunks(entry, fresh.sequence);
    if (status.code() == base::StatusCode::kCorrupt || status.code() == base::StatusCode::kNotFound) {
      status = NoteReadFailure(key, sequence, status);
    } else if (status.ok()) {
      status = CommitEntry(key, fresh, sequence);
    }
  }
  base::MutexLock lock(mutex);
  --refreshes;
  if (DiskEntry* held = index.Find(key); held != nullptr && held->sequence == sequence)
    held->refreshing = false;
}

base::Status DiskStore::State::EraseStale(std::span<const StoreKey> keys) {
  if (options.read_only) return base::Status::Ok();
  std::vector<StoreKey> gone;
  {
    base::MutexLock lock(mutex);
    for (const StoreKey& key : keys) {
      if (index.Find(key) == nullptr) gone.push_back(key);
    }
  }
  return gone.empty() ? base::Status::Ok() : db->EraseEntries(gone);
}

// The medium may hold entries that the index has no more, because erasing them failed: they go as well.
base::Result<uint64_t> DiskStore::State::EraseTenant(uint64_t tenant) {
  uint64_t erased = 0;
  std::vector<StoreKey> gone;
  do {
    gone.clear();
    base::MutexLock lock(mutex);
    index.EraseTenant(tenant, kEraseAtOnce, gone);
    erased += gone.size();
  } while (gone.size() == kEraseAtOnce);
  KVPLANE_RETURN_IF_ERROR(db->EraseTenant(tenant));
  return erased;
}

base::Status DiskStore::Put(const StoreKey& key, const EntryMeta& meta, Slice object,
                            const PutOptions& options, base::TimePoint deadline) {
  base::Status status = CheckPut(meta, object.size());
  if (status.ok() && object.size() > state_->capacity_bytes / kLargestPart) {
    status = base::ResourceExhausted("an object of {} bytes in a disk tier of {}", object.size(),
                                     state_->capacity_bytes);
  }
  if (!status.ok()) {
    base::MutexLock lock(state_->mutex);
    ++state_->counters.puts_refused;
    return status;
  }
  KVPLANE_RETURN_IF_ERROR(state_->CheckWritable());
  KVPLANE_RETURN_IF_ERROR(CheckDeadline(deadline));
  const auto result = std::make_shared<base::Status>();
  status = state_->writer->Run(
      [state = state_.get(), result, key, meta, object = std::move(object)](
          const std::atomic<bool>& abandoned) { *result = state->WriteObject(key, meta, object, abandoned); },
      deadline);
  if (!status.ok()) {
    base::MutexLock lock(state_->mutex);
    ++state_->counters.errors;
    return status;
  }
  KVPLANE_RETURN_IF_ERROR(*result);
  return options.durable ? state_->WaitDurable(deadline) : base::Status::Ok();
}

base::Status DiskStore::Erase(const StoreKey& key, base::TimePoint deadline) {
  KVPLANE_RETURN_IF_ERROR(state_->CheckWritable());
  KVPLANE_RETURN_IF_ERROR(CheckDeadline(deadline));
  const auto result = std::make_shared<base::Status>();
  KVPLANE_RETURN_IF_ERROR(state_->writer->Run(
      [state = state_.get(), result, key](const std::atomic<bool>&) {
        {
          base::MutexLock lock(state->mutex);
          state->index.Erase(key);
        }
        *result = state->EraseStale(std::span(&key, 1));
      },
      deadline));
  KVPLANE_RETURN_IF_ERROR(*result);
  return state_->WaitDurable(deadline);
}

base::Result<uint64_t> DiskStore::EraseTenant(uint64_t tenant, base::TimePoint deadline) {
  KVPLANE_RETURN_IF_ERROR(state_->CheckWritable());
  KVPLANE_RETURN_IF_ERROR(CheckDeadline(deadline));
  const auto result = std::make_shared<base::Result<uint64_t>>(uint64_t{0});
  KVPLANE_RETURN_IF_ERROR(
      state_->writer->Run([state = state_.get(), result,
                           tenant](const std::atomic<bool>&) { *result = state->EraseTenant(tenant); },
                          deadline));
  KVPLANE_RETURN_IF_ERROR(result->status());
  KVPLANE_RETURN_IF_ERROR(state_->WaitDurable(deadline));
  return **result;
}

void DiskStore::Quarantine(const StoreKey& key) {
  {
    base::MutexLock lock(state_->mutex);
    if (!state_->index.Erase(key)) return;
    ++state_->counters.corrupt;
  }
  // Of our own making and few: the queue's bound must not keep a damaged entry alive over a restart.
  state_->writer->Post([state = state_.get(), key] { (void)state->EraseStale(std::span(&key, 1)); }, false);
}

}  // namespace kvplane::store
