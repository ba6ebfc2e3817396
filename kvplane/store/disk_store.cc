#include "kvplane/store/disk_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>

#include "kvplane/base/log.h"
#include "kvplane/store/call_checks.h"
#include "kvplane/store/disk_state.h"

namespace kvplane::store {
namespace {

constexpr uint64_t kWriteBuffersPerCapacity = 64;  // what goes at once when files are dropped: 1.6 %
constexpr uint64_t kMinWriteBufferBytes = 1 << 20;
constexpr uint64_t kMaxWriteBufferBytes = 64 << 20;
constexpr uint64_t kWriteBuffersKeptFree = 3;
constexpr uint64_t kMinFileBudgetBuffers = 4;
constexpr size_t kMaxReadThreads = 64;
// Entries used in this last part of their life are written again.
constexpr uint64_t kLatePart = 4;
// Of writing again; more uses than that in a moment are left to the next one.
constexpr size_t kMaxRefreshes = 64;

// How a store's closing goes, for the destructor that may not wait for its end.
class Closing {
 public:
  void Ended() {
    base::MutexLock lock(mutex_);
    ended_ = true;
    if (counted_) --count_;
    changed_.NotifyAll();
  }
  // False: `limit` has come first; left_behind() then counts it until it ends.
  bool AwaitEnd(base::TimePoint limit) {
    base::MutexLock lock(mutex_);
    while (!ended_ && changed_.WaitUntil(mutex_, limit)) {
    }
    if (!ended_) {
      counted_ = true;
      ++count_;
    }
    return ended_;
  }
  static size_t left_behind() { return count_; }

 private:
  static inline std::atomic<size_t> count_{0};
  base::Mutex mutex_;
  base::CondVar changed_;
  bool ended_ KVPLANE_GUARDED_BY(mutex_) = false;
  bool counted_ KVPLANE_GUARDED_BY(mutex_) = false;
};

base::Status CheckOptions(const DiskStoreOptions& options) {
  if (options.folder.empty()) return base::InvalidArgument("the disk tier needs a folder");
  if (options.capacity_bytes == 0) return base::InvalidArgument("the disk tier needs a capacity above 0");
  if (options.read_threads == 0 || options.read_threads > kMaxReadThreads) {
    return base::InvalidArgument("{} read threads, not 1 to {}", options.read_threads, kMaxReadThreads);
  }
  if (options.ttl < base::Duration::zero()) return base::InvalidArgument("a negative time to live");
  if (options.read_only && (options.create || options.scrub_bytes_per_s != 0)) {
    return base::InvalidArgument("a disk tier that only reads can neither create nor scrub");
  }
  return base::Status::Ok();
}

}  // namespace

DiskStore::State::State(const DiskStoreOptions& store_options)
    : options(store_options),
      clock(store_options.clock != nullptr ? *store_options.clock : base::Clock::System()),
      capacity_bytes(store_options.capacity_bytes) {}

DiskStore::State::~State() {
  Stop();
  if (scrubber.joinable()) scrubber.join();
  if (keeper.joinable()) keeper.join();
  readers.reset();
  writer.reset();
  if (db == nullptr || !options.flush_on_close || options.read_only) return;
  if (const base::Status status = db->Flush(); !status.ok()) {
    base::Log(base::LogLevel::kWarn, "disk store {}: what was put last is lost: {}", options.folder,
              status.ToString());
  }
}

// A budget that the disk cannot hold would never drop a file, and end in a full disk instead.
void DiskStore::State::FitToDisk() {
  const auto buffer = [](uint64_t capacity) {
    return std::clamp(capacity / kWriteBuffersPerCapacity, kMinWriteBufferBytes, kMaxWriteBufferBytes);
  };
  const FolderSpace space = MeasureFolder(options.folder);
  const uint64_t kept_free = kWriteBuffersKeptFree * buffer(capacity_bytes);
  const uint64_t room = space.used_bytes + (space.free_bytes > kept_free ? space.free_bytes - kept_free : 0);
  // A cut budget drops files. Only who serves the folder may; who looks into it must not.
  if (options.create && room < capacity_bytes) {
    capacity_bytes = std::max(room, kMinFileBudgetBuffers * kMinWriteBufferBytes);
    base::Log(base::LogLevel::kWarn, "disk store {}: {} bytes are more than the disk has, using {}",
              options.folder, options.capacity_bytes, capacity_bytes);
  }
  write_buffer_bytes = buffer(capacity_bytes);
  min_free_bytes =
      options.min_free_bytes != 0 ? options.min_free_bytes : kWriteBuffersKeptFree * write_buffer_bytes;
}

base::Status DiskStore::State::Open() {
  FitToDisk();
  const uint64_t buffers = kWriteBuffersKeptFree * write_buffer_bytes;
  ChunkDbOptions chunk_options{.folder = options.folder,
                               .create = options.create,
                               .read_only = options.read_only,
                               .budget_bytes = std::max(capacity_bytes - std::min(capacity_bytes, buffers),
                                                        kMinFileBudgetBuffers * write_buffer_bytes),
                               .write_buffer_bytes = write_buffer_bytes,
                               .ttl = options.ttl,
                               .env = options.env};
  ChunkDbContents contents;
  KVPLANE_ASSIGN_OR_RETURN(db, ChunkDb::Open(chunk_options, contents, [this] {
                             base::MutexLock lock(keeper_mutex);
                             files_changed = true;
                             keeper_wake.NotifyOne();
                           }));
  next_sequence = contents.next_sequence;
  opening_damage = contents.damage;
  if (!opening_damage.empty()) {
    base::Log(base::LogLevel::kWarn, "disk store {}: {}", options.folder, opening_damage);
  }
  const uint64_t oldest = db->OldestSequence();
  const uint64_t now = NowUnixMs();
  std::vector<StoreKey> stale = std::move(contents.stale);
  base::MutexLock lock(mutex);
  counters.corrupt += contents.damaged_entries;
  counters.capacity_bytes = capacity_bytes;
  for (const ChunkedObject& object : contents.objects) {
    const DiskEntry entry{.sequence = object.sequence,
                          .bytes = object.header.object_bytes,
                          .expires_unix_ms = object.header.expires_unix_ms,
                          .prefix_bytes = object.header.prefix_bytes,
                          .chunk_bytes = object.chunk_bytes,
                          .quality = object.header.quality};
    if (object.sequence < oldest || entry.Expired(now)) {
      stale.push_back(object.header.key);
    } else {
      index.Insert(object.header.key, entry);
    }
  }
  index.EvictTo(capacity_bytes, stale);
  return options.read_only ? base::Status::Ok() : db->EraseEntries(stale);
}

void DiskStore::State::Start() {
  readers = std::make_unique<DeadlinePool>(options.read_threads);
  writer = std::make_unique<DeadlinePool>(1);
  keeper = std::thread([this] { Keep(); });
  if (options.scrub_bytes_per_s != 0) scrubber = std::thread([this] { KeepScrubbing(); });
}

void DiskStore::State::Stop() {
  stopping = true;
  if (readers != nullptr) readers->Stop();
  if (writer != nullptr) writer->Stop();
  base::MutexLock lock(keeper_mutex);
  keeper_stopped = true;
  keeper_wake.NotifyAll();
  flushed.NotifyAll();
}

uint64_t DiskStore::State::NowUnixMs() const { return static_cast<uint64_t>(clock.UnixSeconds() * 1e3); }

base::Status DiskStore::State::CheckRunning() const {
  return stopping.load() ? base::Cancelled("the store was shut down") : base::Status::Ok();
}

base::Status DiskStore::State::CheckWritable() const {
  KVPLANE_RETURN_IF_ERROR(CheckRunning());
  if (options.read_only) return base::FailedPrecondition("{} was opened to be read only", options.folder);
  return base::Status::Ok();
}

DiskEntry* DiskStore::State::FindLive(const StoreKey& key, std::optional<uint64_t> now_unix_ms) {
  DiskEntry* entry = index.Find(key);
  if (entry == nullptr || !entry->Expired(now_unix_ms ? *now_unix_ms : NowUnixMs())) return entry;
  index.Erase(key);
  ++counters.expirations;
  writer->Post([this, key] { (void)EraseStale(std::span(&key, 1)); });
  return nullptr;
}

void DiskStore::State::Use(const StoreKey& key, DiskEntry& entry) {
  if (options.read_only || entry.refreshing || refreshes >= kMaxRefreshes) return;
  if (index.AgeBytes(entry) < capacity_bytes - capacity_bytes / kLatePart) return;
  if (!writer->Post([this, key, sequence = entry.sequence] { WriteAgain(key, sequence); })) return;
  entry.refreshing = true;
  ++refreshes;
}

base::Result<std::unique_ptr<DiskStore>> DiskStore::Open(const DiskStoreOptions& options) {
  KVPLANE_RETURN_IF_ERROR(CheckOptions(options));
  auto state = std::make_unique<State>(options);
  KVPLANE_RETURN_IF_ERROR(state->Open());
  state->Start();
  return std::unique_ptr<DiskStore>(new DiskStore(std::move(state)));
}

DiskStore::DiskStore(std::unique_ptr<State> state) : state_(std::move(state)) {}

DiskStore::~DiskStore() {
  state_->Stop();
  const std::string folder = state_->options.folder;
  const base::TimePoint limit = base::Clock::System().Now() + state_->options.close_timeout;
  const auto closing = std::make_shared<Closing>();
  std::thread closer;
  try {
    closer = std::thread([state = std::shared_ptr<State>(std::move(state_)), closing]() mutable {
      state.reset();
      closing->Ended();
    });
  } catch (const std::system_error&) {
    return;  // no thread to be had: closed already, by this one, however long it took
  }
  if (closing->AwaitEnd(limit)) {
    closer.join();
    return;
  }
  closer.detach();
  base::Log(base::LogLevel::kError, "disk store {}: the disk does not answer, it is left behind unclosed",
            folder);
}

size_t DiskStore::left_behind() { return Closing::left_behind(); }

std::string DiskStore::name() const { return "disk " + state_->options.folder; }
const std::string& DiskStore::opening_damage() const { return state_->opening_damage; }

base::Result<std::vector<EntryInfo>> DiskStore::Lookup(std::span<const StoreKey> keys, uint16_t min_quality,
                                                       base::TimePoint deadline) {
  KVPLANE_RETURN_IF_ERROR(CheckKeys(keys));
  KVPLANE_RETURN_IF_ERROR(state_->CheckRunning());
  KVPLANE_RETURN_IF_ERROR(CheckDeadline(deadline));
  std::vector<EntryInfo> found;
  base::MutexLock lock(state_->mutex);
  ++state_->counters.lookups;
  state_->counters.lookup_keys += keys.size();
  // One time for all: of a key that is asked for twice, no second look may take away what the first found.
  const uint64_t now = state_->NowUnixMs();
  for (const StoreKey& key : keys) {
    const DiskEntry* entry = state_->FindLive(key, now);
    if (entry == nullptr || entry->quality < min_quality) break;
    found.push_back({.bytes = entry->bytes,
                     .prefix_bytes = entry->prefix_bytes,
                     .quality = entry->quality,
                     .tier = TierKind::kDisk,
                     .ttl_left = entry->TtlLeft(now)});
  }
  state_->counters.hits += found.size();
  for (size_t i = found.size(); i-- > 0;) state_->Use(keys[i], *state_->index.Find(keys[i]));
  return found;
}

base::Status DiskStore::Touch(std::span<const StoreKey> keys, base::TimePoint deadline) {
  KVPLANE_RETURN_IF_ERROR(CheckKeys(keys));
  KVPLANE_RETURN_IF_ERROR(state_->CheckRunning());
  KVPLANE_RETURN_IF_ERROR(CheckDeadline(deadline));
  base::MutexLock lock(state_->mutex);
  const uint64_t now = state_->NowUnixMs();
  for (const StoreKey& key : keys) {
    if (DiskEntry* entry = state_->FindLive(key, now); entry != nullptr) state_->Use(key, *entry);
  }
  return base::Status::Ok();
}

base::Status DiskStore::Pin(const StoreKey&, base::Duration, base::TimePoint) {
  return base::Unimplemented("the disk tier drops whole files; it cannot keep single entries");
}

base::Status DiskStore::Flush(base::TimePoint deadline) {
  KVPLANE_RETURN_IF_ERROR(state_->CheckRunning());
  return state_->options.read_only ? base::Status::Ok() : state_->WaitDurable(deadline);
}

StoreStats DiskStore::stats() const {
  base::MutexLock lock(state_->mutex);
  StoreStats out = state_->counters;
  out.entries = state_->index.entries();
  out.bytes = state_->index.bytes();
  return out;
}

void DiskStore::Shutdown() { state_->Stop(); }

}  // namespace kvplane::store
