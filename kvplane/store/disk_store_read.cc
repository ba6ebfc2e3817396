// DiskStore: ranged reads. A call is cut into pieces for the readers' threads: neighbouring ranges of an
// object stay together (they share chunks), large ranges are read by several.
#include <algorithm>
#include <utility>

#include "kvplane/store/call_checks.h"
#include "kvplane/store/disk_state.h"

namespace kvplane::store {
namespace {

// What one thread reads at a time: large enough to be worth a wake-up, a few times the threads for an object
// of 100 MB.
constexpr uint64_t kPieceBytes = 4 << 20;
static_assert(kPieceBytes % kChunkBytes == 0);

struct Piece {
  size_t request = 0;
  uint64_t offset = 0;  // in the object
  std::span<std::byte> out;
};

struct Target {
  StoreKey key{};
  DiskEntry entry;
  base::Status status;  // not OK: nothing to read
  std::shared_ptr<std::byte[]> memory;
  uint64_t bytes = 0;
  size_t pieces_left = 0;
};

}  // namespace

struct DiskReadCall {
  std::vector<Target> targets;  // shape fixed before readers start
  std::vector<Piece> pieces;

  base::Mutex mutex;  // status and pieces_left of the targets, while readers are at work

  void AddPieces(size_t request, uint64_t offset);
  // Groups of pieces, [first, last) each.
  std::vector<std::pair<size_t, size_t>> Batches() const;
  void Finish(size_t request, const base::Status& status);
  std::vector<base::Result<Slice>> Results(const base::Status& unfinished);
};

void DiskReadCall::AddPieces(size_t request, uint64_t offset) {
  Target& target = targets[request];
  target.memory = std::make_shared_for_overwrite<std::byte[]>(target.bytes);
  std::span<std::byte> rest(target.memory.get(), target.bytes);
  while (!rest.empty()) {
    // Pieces end on multiples of their size, hence between chunks.
    const size_t take = std::min<size_t>(rest.size(), kPieceBytes - offset % kPieceBytes);
    pieces.push_back({.request = request, .offset = offset, .out = rest.first(take)});
    rest = rest.subspan(take);
    offset += take;
    ++target.pieces_left;
  }
}

std::vector<std::pair<size_t, size_t>> DiskReadCall::Batches() const {
  std::vector<std::pair<size_t, size_t>> batches;
  uint64_t bytes = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (batches.empty() || bytes + pieces[i].out.size() > kPieceBytes) {
      batches.emplace_back(i, i);
      bytes = 0;
    }
    batches.back().second = i + 1;
    bytes += pieces[i].out.size();
  }
  return batches;
}

void DiskReadCall::Finish(size_t request, const base::Status& status) {
  base::MutexLock lock(mutex);
  Target& target = targets[request];
  if (!status.ok() && target.status.ok()) target.status = status;
  --target.pieces_left;
}

std::vector<base::Result<Slice>> DiskReadCall::Results(const base::Status& unfinished) {
  std::vector<base::Result<Slice>> results;
  results.reserve(targets.size());
  base::MutexLock lock(mutex);
  for (const Target& target : targets) {
    if (!target.status.ok()) {
      results.emplace_back(target.status);
    } else if (target.pieces_left != 0) {
      results.emplace_back(unfinished);
    } else {
      results.emplace_back(Slice(target.memory, {target.memory.get(), target.bytes}));
    }
  }
  return results;
}

base::Status DiskStore::State::NoteReadFailure(const StoreKey& key, uint64_t sequence,
                                               const base::Status& status) {
  const bool dropped = status.code() == base::StatusCode::kNotFound;
  const bool corrupt = status.code() == base::StatusCode::kCorrupt;
  {
    base::MutexLock lock(mutex);
    if (!dropped && !corrupt) {
      counters.errors += status.code() != base::StatusCode::kCancelled;
      return status;
    }
    if (!index.Erase(key, sequence)) return status;  // seen by another piece, or replaced meanwhile
    ++(corrupt ? counters.corrupt : counters.evictions);
  }
  writer->Post([this, key] { (void)EraseStale(std::span(&key, 1)); }, false);
  return status;
}

void DiskStore::State::ReadPieces(DiskReadCall& call, size_t first, size_t last,
                                  const std::atomic<bool>& abandoned) {
  ChunkDb::Reader reader(*db);
  for (size_t i = first; i < last; ++i) {
    const Piece& piece = call.pieces[i];
    const Target& target = call.targets[piece.request];
    base::Status status;
    if (abandoned.load() || stopping.load()) return;
    status = reader.Read(target.entry.sequence, target.entry.chunk_bytes, target.entry.bytes, piece.offset,
                         piece.out);
    if (!status.ok()) status = NoteReadFailure(target.key, target.entry.sequence, status);
    call.Finish(piece.request, status);
  }
}

std::vector<base::Result<Slice>> DiskStore::Read(std::span<const ReadRequest> requests,
                                                 base::TimePoint deadline) {
  base::Status refused = state_->CheckRunning();
  if (refused.ok()) refused = CheckDeadline(deadline);
  if (!refused.ok()) return std::vector<base::Result<Slice>>(requests.size(), base::Result<Slice>(refused));
  const auto call = std::make_shared<DiskReadCall>();
  call->targets.resize(requests.size());
  std::vector<uint64_t> offsets(requests.size());
  {
    base::MutexLock lock(state_->mutex);
    for (size_t i = 0; i < requests.size(); ++i) {
      Target& target = call->targets[i];
      target.key = requests[i].key;
      DiskEntry* entry = state_->FindLive(target.key);
      if (entry == nullptr) {
        target.status = base::NotFound("not in the disk tier");
        continue;
      }
      const auto range = ResolveRange(requests[i], entry->bytes);
      target.status = range.status();
      if (!range.ok()) continue;
      state_->Use(target.key, *entry);
      target.entry = *entry;
      target.bytes = range->bytes;
      offsets[i] = range->offset;
    }
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    if (call->targets[i].status.ok()) call->AddPieces(i, offsets[i]);
  }
  std::vector<DeadlinePool::Work> work;
  for (const auto& batch : call->Batches()) {
    work.push_back([state = state_.get(), call, batch](const std::atomic<bool>& abandoned) {
      state->ReadPieces(*call, batch.first, batch.second, abandoned);
    });
  }
  base::Status unfinished;
  if (!work.empty()) unfinished = state_->readers->Run(std::move(work), deadline);
  // Readers that stop at Stop() leave their pieces undone.
  if (unfinished.ok()) unfinished = base::Cancelled("the store was shut down");
  auto results = call->Results(unfinished);
  base::MutexLock lock(state_->mutex);
  for (const auto& result : results) {
    const base::StatusCode code = result.status().code();
    state_->counters.reads += result.ok();
    state_->counters.read_bytes += result.ok() ? result->size() : 0;
    state_->counters.misses += code == base::StatusCode::kNotFound;
    state_->counters.errors += code == base::StatusCode::kDeadlineExceeded;
  }
  return results;
}

}  // namespace kvplane::store
