// ServerConnection: the worker's side, which answers requests in their order.
#include <algorithm>
#include <utility>

#include "kvplane/base/check.h"
#include "kvplane/kernel/checksum/checksum.h"
#include "kvplane/store/call_checks.h"
#include "kvplane/store/remote/server_connection.h"

namespace kvplane::store {
namespace {

// What is taken from the store at a time: enough for a disk to be at its best, little enough that the first
// layer does not wait for the last, and what a connection's answers hold in memory at most.
constexpr uint64_t kReadUnitBytes = 4 << 20;

// READs answered from one call of the store.
constexpr size_t kMaxReadBatch = 256;

// Longest sleep of a worker without anything to do.
constexpr base::Duration kIdleWake = std::chrono::minutes(1);

base::TimePoint Now() { return base::Clock::System().Now(); }

template <typename... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <typename... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

}  // namespace

void ServerConnection::Work() {
  while (WorkOne(/*wait=*/true)) {
  }
}

bool ServerConnection::WorkOne(bool wait) {
  for (const std::shared_ptr<IncomingPut>& put : TakeLatePuts(Now())) Answer(put->stream, WhyLate());
  std::vector<Request> requests = TakeRequests(wait);
  if (requests.size() > 1) {
    ServeReads(std::move(requests));
  } else if (requests.size() == 1) {
    Execute(std::move(requests[0]));
  }
  base::MutexLock lock(mutex_);
  return !closed_;
}

// The next request, with those behind it where they are READs that fit into one unit.
std::vector<ServerConnection::Request> ServerConnection::TakeRequests(bool wait) {
  std::vector<Request> taken;
  base::MutexLock lock(mutex_);
  if (queue_.empty() && !closed_ && wait) {
    wake_worker_.WaitUntil(mutex_, std::min(NextExpiryLocked(), Now() + kIdleWake));
  }
  uint64_t bytes = 0;
  while (!closed_ && !queue_.empty() && taken.size() < kMaxReadBatch) {
    const auto* read = std::get_if<ReadFrame>(&queue_.front().work);
    const bool batches =
        read != nullptr && read->range.bytes > 0 && read->range.bytes <= kReadUnitBytes - bytes;
    if (!taken.empty() && !batches) break;
    if (batches) bytes += read->range.bytes;
    queued_bytes_ -= queue_.front().queued_bytes;
    taken.push_back(std::move(queue_.front()));
    queue_.pop_front();
    if (!batches) break;
  }
  wake_reader_.NotifyOne();
  return taken;
}

base::TimePoint ServerConnection::NextExpiryLocked() const {
  base::TimePoint next = base::kNoDeadline;
  for (const auto& [stream, put] : puts_) {
    next = std::min({next, put->deadline, put->go_sent ? put->next_piece : base::kNoDeadline});
  }
  return next;
}

base::Status ServerConnection::WhyLate() const {
  return base::DeadlineExceeded("the object was not complete in time (or none of it came for {:.0f} s)",
                                base::ToSeconds(shared_.options.put_timeout));
}

std::vector<std::shared_ptr<ServerConnection::IncomingPut>> ServerConnection::TakeLatePuts(
    base::TimePoint now) {
  std::vector<std::shared_ptr<IncomingPut>> late;
  {
    base::MutexLock lock(mutex_);
    for (const auto& [stream, put] : puts_) {
      if (put->deadline <= now || (put->go_sent && put->next_piece <= now)) late.push_back(put);
    }
  }
  std::erase_if(late, [this](const std::shared_ptr<IncomingPut>& put) { return !DropPut(put); });
  return late;
}

void ServerConnection::Execute(Request request) {
  if (auto* work = std::get_if<GoWork>(&request.work); work != nullptr) {
    const std::shared_ptr<IncomingPut> put = FindPut(request.stream);
    if (put != nullptr && put->ticket == work->ticket) BeginPut(put);
    return;
  }
  if (auto* work = std::get_if<PutWork>(&request.work); work != nullptr) {
    ServePut(request, *work->put);
    return;
  }
  if (const auto* work = std::get_if<RefusalWork>(&request.work); work != nullptr) {
    Answer(request.stream, work->why);
    return;
  }
  if (!StillWanted(request)) return;
  Store& store = shared_.store;
  std::visit(
      Overloaded{
          [&](const LookupWork& work) { ServeLookup(request, work); },
          [&](const TouchWork& work) { Answer(request.stream, store.Touch(work.keys, request.deadline)); },
          [&](const ReadFrame& frame) { ServeRead(request, frame.range); },
          [&](const PinFrame& frame) {
            Answer(request.stream, store.Pin(frame.key, frame.max_age, request.deadline));
          },
          [&](const EraseFrame& frame) { Answer(request.stream, store.Erase(frame.key, request.deadline)); },
          [&](const EraseTenantFrame& frame) {
            const auto erased = store.EraseTenant(frame.tenant, request.deadline);
            Answer(request.stream, erased.status(), erased.ok() ? *erased : 0);
          },
          [&](const QuarantineFrame& frame) {
            store.Quarantine(frame.key);
            Answer(request.stream, base::Status::Ok());
          },
          [&](const FlushFrame&) { Answer(request.stream, store.Flush(request.deadline)); },
          [&](const StatsFrame&) { ServeStats(request); },
          [](const PutWork&) { KVPLANE_CHECK(false); },
          [](const GoWork&) { KVPLANE_CHECK(false); },
          [](const RefusalWork&) { KVPLANE_CHECK(false); },
      },
      request.work);
}

void ServerConnection::ServeLookup(const Request& request, const LookupWork& work) {
  const auto found = shared_.store.Lookup(work.keys, work.min_quality, request.deadline);
  if (!found.ok()) return Answer(request.stream, found.status());
  KVPLANE_CHECK(found->size() <= work.keys.size());
  const std::vector<std::byte> body = EncodeEntries(*found);
  const FoundFrame frame{static_cast<uint32_t>(found->size()), kernel::Crc32c(body)};
  (void)Send(EncodeStoreFrame(request.stream, frame, body.size()), body);
  Finish(request.stream, /*failed=*/false);
}

base::Result<Slice> ServerConnection::ReadRange(const StoreKey& key, uint64_t offset, uint64_t bytes,
                                                base::TimePoint deadline) {
  const ReadRequest request{.key = key, .offset = offset, .bytes = bytes};
  std::vector<base::Result<Slice>> results = shared_.store.Read(std::span(&request, 1), deadline);
  KVPLANE_CHECK(results.size() == 1);
  return std::move(results[0]);
}

// Whether the request still has somebody who waits for it; otherwise it is ended here.
bool ServerConnection::StillWanted(const Request& request) {
  if (Cancelled(request.stream)) {
    Finish(request.stream, /*failed=*/false);
    return false;
  }
  const base::Status late = CheckDeadline(request.deadline);
  if (!late.ok()) Answer(request.stream, late);
  return late.ok();
}

void ServerConnection::ServeReads(std::vector<Request> requests) {
  std::erase_if(requests, [this](const Request& request) { return !StillWanted(request); });
  std::vector<ReadRequest> ranges;
  base::TimePoint deadline{};
  for (const Request& request : requests) {
    ranges.push_back(std::get<ReadFrame>(request.work).range);
    deadline = std::max(deadline, request.deadline);
  }
  const std::vector<base::Result<Slice>> results = shared_.store.Read(ranges, deadline);
  KVPLANE_CHECK(results.size() == requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    const uint32_t stream = requests[i].stream;
    if (!results[i].ok()) {
      Answer(stream, results[i].status());
    } else {
      EndData(stream, SendData(requests[i], results[i]->size(), 0, *results[i]));
    }
  }
}

void ServerConnection::ServeRead(const Request& request, const ReadRequest& range) {
  std::vector<EntryInfo> before;
  if (range.bytes == 0 || range.bytes > kReadUnitBytes) {
    auto found = shared_.store.Lookup(std::span(&range.key, 1), 0, request.deadline);
    if (found.ok()) before = *std::move(found);
  }
  if (!before.empty() && before[0].tier != TierKind::kDram) {
    const auto resolved = ResolveRange(range, before[0].bytes);
    if (!resolved.ok()) return Answer(request.stream, resolved.status());
    if (resolved->bytes > kReadUnitBytes) {
      return ServeUnits(request, range.key, resolved->offset, resolved->bytes, before[0]);
    }
  }
  // Memory gives slices, not copies: of any length at once. What is not there says so here.
  const base::Result<Slice> slice = ReadRange(range.key, range.offset, range.bytes, request.deadline);
  if (!slice.ok()) return Answer(request.stream, slice.status());
  EndData(request.stream, SendData(request, slice->size(), 0, *slice));
}

void ServerConnection::ServeUnits(const Request& request, const StoreKey& key, uint64_t offset,
                                  uint64_t bytes, const EntryInfo& before) {
  for (uint64_t at = 0; at < bytes;) {
    const uint64_t unit = std::min(kReadUnitBytes, bytes - at);
    const base::Result<Slice> slice = ReadRange(key, offset + at, unit, request.deadline);
    if (!slice.ok()) return Answer(request.stream, slice.status());
    if (at + unit == bytes) {
      // A better object may have taken the place of the one that the first units came from.
      const auto after = shared_.store.Lookup(std::span(&key, 1), 0, request.deadline);
      if (!after.ok() || after->empty() || (*after)[0].bytes != before.bytes ||
          (*after)[0].quality != before.quality) {
        return Answer(request.stream, base::Unavailable("the object was replaced while it was read"));
      }
    }
    const base::Status sent = SendData(request, bytes, at, *slice);
    if (!sent.ok()) return EndData(request.stream, sent);
    at += unit;
  }
  Finish(request.stream, /*failed=*/false);
}

base::Status ServerConnection::SendData(const Request& request, uint64_t total, uint64_t at,
                                        const Slice& slice) {
  size_t done = 0;
  do {
    if (Cancelled(request.stream)) return base::Cancelled("nobody waits for it");
    // What memory has put out stays in memory as long as it is sent from here: with a client that takes it
    // slowly not for longer than the client said that it would wait.
    KVPLANE_RETURN_IF_ERROR(CheckDeadline(request.deadline));
    const auto piece = slice.bytes().subspan(done, std::min(kPieceBytes, slice.size() - done));
    const DataFrame frame{total, at + done, kernel::Crc32c(piece)};
    KVPLANE_RETURN_IF_ERROR(Send(EncodeStoreFrame(request.stream, frame, piece.size()), piece));
    done += piece.size();
  } while (done < slice.size());
  return base::Status::Ok();
}

void ServerConnection::EndData(uint32_t stream, const base::Status& sent) {
  if (sent.code() == base::StatusCode::kDeadlineExceeded) return Answer(stream, sent);
  Finish(stream, /*failed=*/false);
}

void ServerConnection::ServePut(const Request& request, IncomingPut& put) {
  base::Status status = CheckDeadline(request.deadline);
  if (status.ok()) {
    const std::span<const std::byte> bytes(put.bytes.get(), put.frame.bytes);
    status = shared_.store.Put(put.frame.key, put.frame.meta, Slice(std::move(put.bytes), bytes),
                               put.frame.options, request.deadline);
  }
  if (put.ticket != nullptr) shared_.budget.Release(put.ticket);
  Answer(request.stream, status);
}

void ServerConnection::ServeStats(const Request& request) {
  CountersFrame frame;
  frame.tiers.push_back({shared_.store.kind(), shared_.store.name(), shared_.store.stats()});
  if (shared_.options.tiers) {
    for (TierCounters& tier : shared_.options.tiers()) {
      if (frame.tiers.size() < kMaxCountedTiers) frame.tiers.push_back(std::move(tier));
    }
  }
  (void)Send(EncodeStoreFrame(request.stream, frame));
  Finish(request.stream, /*failed=*/false);
}

}  // namespace kvplane::store
