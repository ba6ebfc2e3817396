#include "kvplane/store/remote/remote_store.h"

#include <algorithm>
#include <utility>

#include "kvplane/base/mutex.h"
#include "kvplane/kernel/checksum/checksum.h"
#include "kvplane/store/call_checks.h"

namespace kvplane::store {
namespace {

constexpr size_t kMaxReadConnections = 16;

base::TimePoint Now() { return base::Clock::System().Now(); }

// No call waits longer than a server would work on it.
base::TimePoint Bounded(base::TimePoint deadline) { return std::min(deadline, Now() + kMaxRequestTime); }

bool IsFault(const base::Status& status) {
  switch (status.code()) {
    case base::StatusCode::kOk:
    case base::StatusCode::kNotFound:
    case base::StatusCode::kCancelled:
    case base::StatusCode::kInvalidArgument:
    case base::StatusCode::kResourceExhausted:
      return false;
    default:
      return true;
  }
}

std::shared_ptr<RemoteCall> NewCall(RemoteLink& link, StoreFrameType type) {
  auto call = std::make_shared<RemoteCall>();
  call->type = type;
  call->stream = link.NextStream();
  return call;
}

class RemoteStoreImpl final : public RemoteStore {
 public:
  RemoteStoreImpl(std::shared_ptr<transport::Transport> transport, const RemoteStoreOptions& options)
      : transport_(std::move(transport)),
        options_(options),
        health_(options_.link, std::hash<std::string>{}(options_.link.endpoint)) {
    for (size_t i = 0; i < options_.read_connections; ++i) {
      readers_.push_back(std::make_unique<RemoteLink>(*transport_, options_.link, health_));
    }
    slow_ = std::make_unique<RemoteLink>(*transport_, options_.link, health_);
  }

  TierKind kind() const override { return TierKind::kRemote; }
  std::string name() const override { return options_.link.endpoint; }

  base::Result<std::vector<EntryInfo>> Lookup(std::span<const StoreKey> keys, uint16_t min_quality,
                                              base::TimePoint deadline) override {
    KVPLANE_RETURN_IF_ERROR(CheckKeys(keys));
    auto found = DoLookup(keys, min_quality, deadline);
    base::MutexLock lock(mutex_);
    ++stats_.lookups;
    stats_.lookup_keys += keys.size();
    if (found.ok()) stats_.hits += found->size();
    CountLocked(found.status());
    return found;
  }

  std::vector<base::Result<Slice>> Read(std::span<const ReadRequest> requests,
                                        base::TimePoint deadline) override {
    std::vector<base::Result<Slice>> results = DoRead(requests, deadline);
    base::MutexLock lock(mutex_);
    for (const base::Result<Slice>& result : results) {
      if (result.ok()) {
        ++stats_.reads;
        stats_.read_bytes += result->size();
      } else if (result.status().code() == base::StatusCode::kNotFound) {
        ++stats_.misses;
      }
      CountLocked(result.status());
    }
    return results;
  }

  base::Status Put(const StoreKey& key, const EntryMeta& meta, Slice object, const PutOptions& options,
                   base::TimePoint deadline) override {
    const uint64_t bytes = object.size();
    const base::Status status = DoPut(key, meta, std::move(object), options, deadline);
    base::MutexLock lock(mutex_);
    if (status.ok()) {
      ++stats_.puts;
      stats_.put_bytes += bytes;
    } else if (status.code() == base::StatusCode::kResourceExhausted) {
      ++stats_.puts_refused;
    }
    CountLocked(status);
    return status;
  }

  base::Status Touch(std::span<const StoreKey> keys, base::TimePoint deadline) override {
    KVPLANE_RETURN_IF_ERROR(CheckKeys(keys));
    if (keys.empty()) return base::Status::Ok();
    TouchFrame frame;
    frame.count = static_cast<uint32_t>(keys.size());
    Slice body = Slice::Own(EncodeKeys(keys));
    frame.body_crc = kernel::Crc32c(body.bytes());
    return Counted(Ask(PickReader(), frame, deadline, std::move(body)).status());
  }

  base::Status Pin(const StoreKey& key, base::Duration max_age, base::TimePoint deadline) override {
    PinFrame frame;
    frame.key = key;
    frame.max_age = max_age;
    return Counted(Ask(PickReader(), frame, deadline).status());
  }

  base::Status Erase(const StoreKey& key, base::TimePoint deadline) override {
    EraseFrame frame;
    frame.key = key;
    return Counted(Ask(PickReader(), frame, deadline).status());
  }

  base::Result<uint64_t> EraseTenant(uint64_t tenant, base::TimePoint deadline) override {
    EraseTenantFrame frame;
    frame.tenant = tenant;
    auto erased = Ask(*slow_, frame, deadline);
    (void)Counted(erased.status());
    return erased;
  }

  void Quarantine(const StoreKey& key) override {
    {
      base::MutexLock lock(mutex_);
      ++stats_.corrupt;
    }
    QuarantineFrame frame;
    frame.key = key;
    (void)Counted(Ask(PickReader(), frame, Now() + options_.quarantine_timeout).status());
  }

  base::Status Flush(base::TimePoint deadline) override {
    return Counted(Ask(*slow_, FlushFrame{}, deadline).status());
  }

  StoreStats stats() const override {
    base::MutexLock lock(mutex_);
    return stats_;
  }

  void Shutdown() override {
    for (const auto& link : readers_) link->Shutdown();
    slow_->Shutdown();
  }

  base::Result<std::vector<TierCounters>> Counters(base::TimePoint deadline) override {
    deadline = Bounded(deadline);
    RemoteLink& link = PickReader();
    KVPLANE_RETURN_IF_ERROR(link.AwaitReady(deadline));
    const auto call = NewCall(link, StoreFrameType::kStats);
    link.Start(call, EncodeStoreFrame(call->stream, StatsFrame{RemainingMs(Now(), deadline)}), {}, deadline);
    KVPLANE_RETURN_IF_ERROR(link.Await(call, deadline));
    return std::move(call->tiers);
  }

 private:
  RemoteLink& PickReader() {
    RemoteLink* best = readers_[0].get();
    for (const auto& link : readers_) {
      if (link->unfinished() < best->unfinished()) best = link.get();
    }
    return *best;
  }

  // A request that STATUS answers; its value.
  template <typename Frame>
  base::Result<uint64_t> Ask(RemoteLink& link, Frame frame, base::TimePoint deadline, Slice body = {}) {
    KVPLANE_RETURN_IF_ERROR(CheckDeadline(deadline));
    deadline = Bounded(deadline);
    KVPLANE_RETURN_IF_ERROR(link.AwaitReady(deadline));
    const auto call = NewCall(link, Frame::kType);
    frame.remaining_ms = RemainingMs(Now(), deadline);
    const size_t body_bytes = body.size();
    link.Start(call, EncodeStoreFrame(call->stream, frame, body_bytes), std::move(body), deadline);
    KVPLANE_RETURN_IF_ERROR(link.Await(call, deadline));
    return call->value;
  }

  base::Result<std::vector<EntryInfo>> DoLookup(std::span<const StoreKey> keys, uint16_t min_quality,
                                                base::TimePoint deadline) {
    if (keys.empty()) return std::vector<EntryInfo>();
    KVPLANE_RETURN_IF_ERROR(CheckDeadline(deadline));
    deadline = Bounded(deadline);
    RemoteLink& link = PickReader();
    KVPLANE_RETURN_IF_ERROR(link.AwaitReady(deadline));
    const auto call = NewCall(link, StoreFrameType::kLookup);
    call->expected_keys = keys.size();
    Slice body = Slice::Own(EncodeKeys(keys));
    LookupFrame frame;
    frame.remaining_ms = RemainingMs(Now(), deadline);
    frame.min_quality = min_quality;
    frame.count = static_cast<uint32_t>(keys.size());
    frame.body_crc = kernel::Crc32c(body.bytes());
    const size_t body_bytes = body.size();
    link.Start(call, EncodeStoreFrame(call->stream, frame, body_bytes), std::move(body), deadline);
    KVPLANE_RETURN_IF_ERROR(link.Await(call, deadline));
    for (EntryInfo& entry : call->found) entry.tier = TierKind::kRemote;
    return std::move(call->found);
  }

  std::vector<base::Result<Slice>> DoRead(std::span<const ReadRequest> requests, base::TimePoint deadline) {
    std::vector<base::Result<Slice>> results;
    if (requests.empty()) return results;
    base::Status status = CheckDeadline(deadline);
    deadline = Bounded(deadline);
    RemoteLink& link = PickReader();
    if (status.ok()) status = link.AwaitReady(deadline);
    if (!status.ok()) return {requests.size(), base::Result<Slice>(status)};
    std::vector<std::shared_ptr<RemoteCall>> calls;
    calls.reserve(requests.size());
    for (const ReadRequest& request : requests) {
      const auto& call = calls.emplace_back(NewCall(link, StoreFrameType::kRead));
      call->expected_bytes = request.bytes;
      const ReadFrame frame{RemainingMs(Now(), deadline), request};
      link.Start(call, EncodeStoreFrame(call->stream, frame), {}, deadline);
    }
    results.reserve(requests.size());
    for (const auto& call : calls) {
      const base::Status read = link.Await(call, deadline);
      if (!read.ok()) {
        results.emplace_back(read);
      } else {
        results.emplace_back(Slice(call->bytes, {call->bytes.get(), call->total}));
      }
    }
    return results;
  }

  base::Status DoPut(const StoreKey& key, const EntryMeta& meta, Slice object, const PutOptions& options,
                     base::TimePoint deadline) {
    KVPLANE_RETURN_IF_ERROR(CheckPut(meta, object.size()));
    KVPLANE_RETURN_IF_ERROR(CheckDeadline(deadline));
    deadline = Bounded(deadline);
    KVPLANE_RETURN_IF_ERROR(slow_->AwaitReady(deadline));
    const auto call = NewCall(*slow_, StoreFrameType::kPut);
    PutFrame frame;
    frame.remaining_ms = RemainingMs(Now(), deadline);
    frame.key = key;
    frame.bytes = object.size();
    frame.meta = meta;
    frame.options = options;
    slow_->Start(call, EncodeStoreFrame(call->stream, frame), {}, deadline);
    for (uint64_t at = 0; at < object.size();) {
      KVPLANE_ASSIGN_OR_RETURN(const uint64_t limit, slow_->AwaitGo(call, at, deadline));
      if (limit == at) break;
      const Slice piece = object.Sub(at, std::min({uint64_t{kPieceBytes}, limit - at, object.size() - at}));
      const PutDataFrame data{at, kernel::Crc32c(piece.bytes())};
      if (!slow_->Continue(*call, EncodeStoreFrame(call->stream, data, piece.size()), piece)) break;
      at += piece.size();
    }
    return slow_->Await(call, deadline);
  }

  base::Status Counted(base::Status status) {
    base::MutexLock lock(mutex_);
    CountLocked(status);
    return status;
  }
  void CountLocked(const base::Status& status) KVPLANE_REQUIRES(mutex_) {
    if (IsFault(status)) ++stats_.errors;
  }

  const std::shared_ptr<transport::Transport> transport_;
  const RemoteStoreOptions options_;
  PeerHealth health_;
  std::vector<std::unique_ptr<RemoteLink>> readers_;
  std::unique_ptr<RemoteLink> slow_;
  mutable base::Mutex mutex_;
  StoreStats stats_ KVPLANE_GUARDED_BY(mutex_);
};

}  // namespace

base::Result<std::unique_ptr<RemoteStore>> RemoteStore::Create(
    std::shared_ptr<transport::Transport> transport, const RemoteStoreOptions& options) {
  if (options.read_connections == 0 || options.read_connections > kMaxReadConnections) {
    return base::InvalidArgument("{} connections for reads: 1 to {} are legal", options.read_connections,
                                 kMaxReadConnections);
  }
  if (options.link.endpoint.empty()) return base::InvalidArgument("no endpoint of a store server");
  return std::unique_ptr<RemoteStore>(std::make_unique<RemoteStoreImpl>(std::move(transport), options));
}

}  // namespace kvplane::store
