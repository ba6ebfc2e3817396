#include "kvplane/store/redis/redis_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "kvplane/base/log.h"
#include "kvplane/base/mutex.h"
#include "kvplane/store/call_checks.h"
#include "kvplane/store/record.h"
#include "kvplane/store/redis/redis_client.h"

namespace kvplane::store {
namespace {

// Keys asked for in one round of a lookup: their headers are 64 KiB of reply.
constexpr size_t kLookupKeys = 1024;
// Damaged entries that could not be removed from Redis and are therefore remembered here.
constexpr size_t kMaxRememberedDamage = 4096;
constexpr base::Duration kQuarantineTimeout = std::chrono::seconds(1);
// Puts of one key that cross each other, before one gives up.
constexpr int kPutRounds = 3;
// Keys per SCAN step; Redis may return a few more.
constexpr uint64_t kScanKeys = 1000;
// Lines of 1000 nodes, and all slots one by one.
constexpr RespLimits kClusterNodesLimits = {.max_bulk_bytes = 1 << 20, .max_elements = 1};
constexpr RespLimits kScanLimits = {.max_bulk_bytes = 1024, .max_elements = 1 << 16};

base::TimePoint Now() { return base::Clock::System().Now(); }

uint64_t UnixMs() { return static_cast<uint64_t>(base::Clock::System().UnixSeconds() * 1e3); }

// Zero: no end.
base::Duration TimeToLive(const RecordHeader& header) {
  if (header.expires_unix_ms == 0) return {};
  const uint64_t now = UnixMs();
  // Not zero, should it end at this very moment.
  return std::chrono::milliseconds(header.expires_unix_ms > now ? header.expires_unix_ms - now : 1);
}

std::string TenantPrefix(std::string_view prefix, uint64_t tenant) {
  return fmt::format("{}:{:016x}:", prefix, tenant);
}

// Trouble between us and Redis says nothing about an entry: kCorrupt is kept for records.
base::Status MediumStatus(const base::Status& status) {
  if (status.code() != base::StatusCode::kCorrupt) return status;
  return base::Unavailable("redis: {}", status.message());
}

// The bytes of a GETRANGE.
base::Result<Slice> RangeOf(const base::Result<RespValue>& reply) {
  if (!reply.ok()) return MediumStatus(reply.status());
  if (reply->kind == RespKind::kError) return RedisErrorStatus(*reply);
  if (reply->kind != RespKind::kBulk) return base::Unavailable("redis: GETRANGE gives no string");
  return reply->bulk;
}

base::Status IntegerStatus(const base::Result<RespValue>& reply) {
  if (!reply.ok()) return MediumStatus(reply.status());
  if (reply->kind == RespKind::kError) return RedisErrorStatus(*reply);
  if (reply->kind != RespKind::kInteger) return base::Unavailable("redis: a number was expected");
  return base::Status::Ok();
}

class RedisStore final : public Store {
 public:
  RedisStore(const RedisOptions& options, transport::Transport& transport)
      : options_(options), client_(options, transport) {}

  TierKind kind() const override { return TierKind::kRedis; }
  std::string name() const override;

  base::Result<std::vector<EntryInfo>> Lookup(std::span<const StoreKey> keys, uint16_t min_quality,
                                              base::TimePoint deadline) override;
  std::vector<base::Result<Slice>> Read(std::span<const ReadRequest> requests,
                                        base::TimePoint deadline) override;
  base::Status Put(const StoreKey& key, const EntryMeta& meta, Slice object, const PutOptions& options,
                   base::TimePoint deadline) override;
  base::Status Touch(std::span<const StoreKey> keys, base::TimePoint deadline) override;
  base::Status Pin(const StoreKey&, base::Duration, base::TimePoint) override {
    return base::Unimplemented("redis evicts as it is configured to; entries cannot be pinned");
  }
  base::Status Erase(const StoreKey& key, base::TimePoint deadline) override;
  base::Result<uint64_t> EraseTenant(uint64_t tenant, base::TimePoint deadline) override;
  void Quarantine(const StoreKey& key) override;
  base::Status Flush(base::TimePoint) override { return base::Status::Ok(); }  // puts are acknowledged
  StoreStats stats() const override KVPLANE_EXCLUDES(mutex_) {
    base::MutexLock lock(mutex_);
    return stats_;
  }
  void Shutdown() override { client_.Shutdown(); }

 private:
  RedisRequest Range(const StoreKey& key, uint64_t first, uint64_t bytes) const;
  RedisRequest KeyCommand(std::string_view command, std::string_view key) const;

  // What lies under the key: nothing when it is a miss. Damage is quarantined, within the caller's deadline.
  base::Result<std::optional<RecordHeader>> HeaderIn(const base::Result<Slice>& range, const StoreKey& key,
                                                     base::TimePoint deadline);
  // kWorse: also what is damaged, expired or not to be read.
  enum class Present { kNothing, kWorse, kGoodEnough };
  base::Result<Present> Look(const StoreKey& key, uint16_t quality, base::TimePoint deadline);
  base::Result<Slice> WholeRange(const ReadRequest& request, const base::Result<RespValue>& reply,
                                 base::TimePoint deadline);
  // The range came back shorter than asked for: why.
  base::Status WhyShort(const ReadRequest& request, const base::Result<std::optional<RecordHeader>>& header,
                        base::TimePoint deadline);
  // Erases a damaged entry, or remembers it where that does not go in time.
  void Reject(const StoreKey& key, base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_);
  // False: not set, for something lies there by now.
  base::Result<bool> Set(const StoreKey& key, const RecordHeader& header, const Slice& object,
                         base::Duration ttl, bool only_if_absent, base::TimePoint deadline);
  // What each of them says that it serves.
  base::Result<std::vector<std::string>> SlotsOf(std::span<const RedisAddress> masters,
                                                 base::TimePoint deadline);
  base::Result<uint64_t> EraseOnNode(const RedisAddress& node, uint64_t tenant, base::TimePoint deadline);

  bool IsDamaged(const StoreKey& key) const KVPLANE_EXCLUDES(mutex_);
  void Count(uint64_t StoreStats::* counter, uint64_t count = 1) KVPLANE_EXCLUDES(mutex_);
  // Counts what is an error of the medium; returns it.
  base::Status Failed(base::Status status) KVPLANE_EXCLUDES(mutex_);

  const RedisOptions options_;
  RedisClient client_;
  mutable base::Mutex mutex_;
  StoreStats stats_ KVPLANE_GUARDED_BY(mutex_);
  std::set<StoreKey> damaged_ KVPLANE_GUARDED_BY(mutex_);
};

std::string RedisStore::name() const {
  std::string out = options_.tls ? "rediss://" : "redis://";
  for (const RedisAddress& seed : options_.seeds) {
    if (!out.ends_with('/')) out += ',';
    out += seed.ToString();
  }
  return out;
}

void RedisStore::Count(uint64_t StoreStats::* counter, uint64_t count) {
  base::MutexLock lock(mutex_);
  stats_.*counter += count;
}

base::Status RedisStore::Failed(base::Status status) {
  switch (status.code()) {
    case base::StatusCode::kUnavailable:
    case base::StatusCode::kDeadlineExceeded:
    case base::StatusCode::kPermissionDenied:
    case base::StatusCode::kInternal:
    case base::StatusCode::kResourceExhausted:
      Count(&StoreStats::errors);
      break;
    default:
      break;
  }
  return status;
}

bool RedisStore::IsDamaged(const StoreKey& key) const {
  base::MutexLock lock(mutex_);
  return damaged_.contains(key);
}

// `bytes` 0: to the end.
RedisRequest RedisStore::Range(const StoreKey& key, uint64_t first, uint64_t bytes) const {
  const std::string name = RedisKey(options_.prefix, key);
  RespCommand command(4);
  command.Arg("GETRANGE").Arg(name).Arg(first);
  if (bytes == 0) {
    command.Arg("-1");
  } else {
    command.Arg(first + bytes - 1);
  }
  return {RedisSlot(name), std::move(command), {.max_bulk_bytes = bytes == 0 ? kMaxRedisValueBytes : bytes}};
}

RedisRequest RedisStore::KeyCommand(std::string_view command, std::string_view key) const {
  return {RedisSlot(key), std::move(RespCommand(2).Arg(command).Arg(key)), {}};
}

base::Result<std::optional<RecordHeader>> RedisStore::HeaderIn(const base::Result<Slice>& range,
                                                               const StoreKey& key,
                                                               base::TimePoint deadline) {
  base::Status status = range.status();
  if (status.ok()) {
    if (range->size() == 0) return std::optional<RecordHeader>();
    base::Result<RecordHeader> header = DecodeRecordHeader(range->bytes(), key);
    if (header.ok()) {
      if (header->expires_unix_ms != 0 && header->expires_unix_ms <= UnixMs()) {
        return std::optional<RecordHeader>();
      }
      return std::optional<RecordHeader>(*header);
    }
    status = header.status();
  }
  if (status.code() == base::StatusCode::kCorrupt) Reject(key, deadline);
  if (status.code() == base::StatusCode::kUnimplemented) return std::optional<RecordHeader>();  // a miss here
  return status;
}

base::Result<std::vector<EntryInfo>> RedisStore::Lookup(std::span<const StoreKey> keys, uint16_t min_quality,
                                                        base::TimePoint deadline) {
  KVPLANE_RETURN_IF_ERROR(CheckKeys(keys));
  Count(&StoreStats::lookups);
  Count(&StoreStats::lookup_keys, keys.size());
  std::vector<EntryInfo> found;
  base::Status failure;
  bool answered = false;
  while (failure.ok() && found.size() < keys.size()) {
    const std::span<const StoreKey> asked =
        keys.subspan(found.size(), std::min(kLookupKeys, keys.size() - found.size()));
    // The tail first: what Redis evicts by least recent use is then the tail.
    std::vector<RedisRequest> requests;
    for (size_t i = asked.size(); i-- > 0;) requests.push_back(Range(asked[i], 0, kRecordHeaderBytes));
    client_.Execute(requests, deadline);
    answered = answered || std::ranges::any_of(requests, [](const RedisRequest& request) {
                 return RangeOf(request.reply).ok();
               });
    bool unbroken = true;
    for (size_t i = 0; i < asked.size() && unbroken; ++i) {
      const auto header = HeaderIn(RangeOf(requests[asked.size() - 1 - i].reply), asked[i], deadline);
      failure = Failed(header.status());
      unbroken =
          header.ok() && header->has_value() && (*header)->quality >= min_quality && !IsDamaged(asked[i]);
      if (!unbroken) break;
      found.push_back({.bytes = (*header)->object_bytes,
                       .prefix_bytes = (*header)->prefix_bytes,
                       .quality = (*header)->quality,
                       .tier = TierKind::kRedis,
                       .ttl_left = TimeToLive(**header)});
    }
    if (!unbroken) break;
  }
  Count(&StoreStats::hits, found.size());
  const bool damage = failure.code() == base::StatusCode::kCorrupt;  // a miss, no trouble with Redis
  // Nor is one node that is known to be away while others answer.
  const bool lame = failure.code() == base::StatusCode::kUnavailable && answered;
  if (found.empty() && !failure.ok() && !damage && !lame) return failure;
  return found;
}

std::vector<base::Result<Slice>> RedisStore::Read(std::span<const ReadRequest> requests,
                                                  base::TimePoint deadline) {
  std::vector<base::Result<Slice>> out(requests.size(), base::NotFound("redis: no such entry"));
  std::vector<RedisRequest> ranges;
  std::vector<size_t> asked;
  for (size_t i = 0; i < requests.size(); ++i) {
    const ReadRequest& request = requests[i];
    if (request.offset > kMaxStoredBytes || request.bytes > kMaxStoredBytes - request.offset) {
      out[i] = base::InvalidArgument("bytes {}+{} of an object", request.offset, request.bytes);
    } else if (!IsDamaged(request.key)) {
      // The first range brings the header along, which proves what lies there.
      const uint64_t skipped = request.offset == 0 ? 0 : kRecordHeaderBytes + request.offset;
      const uint64_t header = request.offset == 0 && request.bytes != 0 ? kRecordHeaderBytes : 0;
      ranges.push_back(Range(request.key, skipped, request.bytes + header));
      asked.push_back(i);
    }
  }
  client_.Execute(ranges, deadline);
  std::vector<RedisRequest> headers;
  std::vector<size_t> unclear;
  for (size_t at = 0; at < asked.size(); ++at) {
    const ReadRequest& request = requests[asked[at]];
    out[asked[at]] = WholeRange(request, ranges[at].reply, deadline);
    if (out[asked[at]].status().code() != base::StatusCode::kFailedPrecondition) continue;
    headers.push_back(Range(request.key, 0, kRecordHeaderBytes));
    unclear.push_back(asked[at]);
  }
  if (!headers.empty()) client_.Execute(headers, deadline);
  for (size_t at = 0; at < unclear.size(); ++at) {
    const ReadRequest& request = requests[unclear[at]];
    const base::Status why =
        WhyShort(request, HeaderIn(RangeOf(headers[at].reply), request.key, deadline), deadline);
    out[unclear[at]] = why.ok() ? base::Result<Slice>(Slice()) : base::Result<Slice>(why);
  }
  for (const base::Result<Slice>& slice : out) {
    if (slice.ok()) {
      Count(&StoreStats::reads);
      Count(&StoreStats::read_bytes, slice->size());
    } else if (slice.status().code() == base::StatusCode::kNotFound) {
      Count(&StoreStats::misses);
    } else {
      (void)Failed(slice.status());
    }
  }
  return out;
}

// kFailedPrecondition: shorter than asked for, and only the header can tell why.
base::Result<Slice> RedisStore::WholeRange(const ReadRequest& request, const base::Result<RespValue>& reply,
                                           base::TimePoint deadline) {
  const base::Result<Slice> got = RangeOf(reply);
  if (!got.ok()) {
    if (got.status().code() == base::StatusCode::kCorrupt) Reject(request.key, deadline);
    return got.status();
  }
  const Slice& range = *got;
  if (request.offset == 0) {
    KVPLANE_ASSIGN_OR_RETURN(const std::optional<RecordHeader> header,
                             HeaderIn(range, request.key, deadline));
    KVPLANE_RETURN_IF_ERROR(WhyShort(request, header, deadline));
    const uint64_t wanted = request.bytes == 0 ? header->object_bytes : request.bytes;
    if (range.size() - kRecordHeaderBytes != wanted) {
      Reject(request.key, deadline);
      return base::Corrupt("redis: the record of {} bytes has {}", header->object_bytes,
                           range.size() - kRecordHeaderBytes);
    }
    return range.Sub(kRecordHeaderBytes, wanted);
  }
  const bool whole = request.bytes == 0 ? range.size() > 0 : range.size() == request.bytes;
  if (!whole) return base::FailedPrecondition("short");
  return range;
}

// OK: nothing is missing, for a range that fits the object.
base::Status RedisStore::WhyShort(const ReadRequest& request,
                                  const base::Result<std::optional<RecordHeader>>& header,
                                  base::TimePoint deadline) {
  KVPLANE_RETURN_IF_ERROR(header.status());
  if (!header->has_value()) return base::NotFound("redis: no such entry");
  const uint64_t size = (*header)->object_bytes;
  if (request.offset > size || request.bytes > size - request.offset) {
    return base::InvalidArgument("bytes {}+{} of an object of {}", request.offset, request.bytes, size);
  }
  const bool nothing_wanted = request.bytes == 0 && request.offset == size;
  if (request.offset == 0 || nothing_wanted) return base::Status::Ok();
  Reject(request.key, deadline);
  return base::Corrupt("redis: a record that claims {} bytes is shorter", size);
}

base::Result<RedisStore::Present> RedisStore::Look(const StoreKey& key, uint16_t quality,
                                                   base::TimePoint deadline) {
  if (IsDamaged(key)) return Present::kWorse;
  RedisRequest request = Range(key, 0, kRecordHeaderBytes);
  client_.Execute({&request, 1}, deadline);
  const base::Result<Slice> range = RangeOf(request.reply);
  if (range.ok() && range->size() == 0) return Present::kNothing;
  const auto header = HeaderIn(range, key, deadline);
  if (header.status().code() == base::StatusCode::kCorrupt) return Present::kWorse;
  KVPLANE_RETURN_IF_ERROR(header.status());
  return header->has_value() && (*header)->quality >= quality ? Present::kGoodEnough : Present::kWorse;
}

base::Status RedisStore::Put(const StoreKey& key, const EntryMeta& meta, Slice object, const PutOptions&,
                             base::TimePoint deadline) {
  KVPLANE_RETURN_IF_ERROR(CheckPut(meta, object.size()));
  if (object.size() > kMaxRedisValueBytes - kRecordHeaderBytes) {
    Count(&StoreStats::puts_refused);
    return base::ResourceExhausted("redis: an object of {} bytes, a value has at most {}", object.size(),
                                   kMaxRedisValueBytes);
  }
  const base::Duration ttl = meta.ttl > base::Duration::zero() ? meta.ttl : options_.default_ttl;
  const auto ttl_ms = static_cast<uint64_t>(std::chrono::ceil<std::chrono::milliseconds>(ttl).count());
  const RecordHeader header{.object_bytes = object.size(),
                            .prefix_bytes = meta.prefix_bytes,
                            .quality = meta.quality,
                            .expires_unix_ms = ttl_ms == 0 ? 0 : UnixMs() + ttl_ms,
                            .key = key};
  for (int round = 0; round < kPutRounds; ++round) {
    const base::Result<Present> present = Look(key, meta.quality, deadline);
    if (!present.ok()) return Failed(present.status());
    if (*present == Present::kGoodEnough) return base::Status::Ok();  // to look was a use of it
    const base::Result<bool> set = Set(key, header, object, ttl, *present == Present::kNothing, deadline);
    if (!set.ok()) {
      if (set.status().code() == base::StatusCode::kResourceExhausted) Count(&StoreStats::puts_refused);
      return Failed(set.status());
    }
    if (*set) {
      base::MutexLock lock(mutex_);
      damaged_.erase(key);
      ++stats_.puts;
      stats_.put_bytes += object.size();
      return base::Status::Ok();
    }
  }
  return base::Status::Ok();  // others put the same object again and again: one of them is there
}

base::Result<bool> RedisStore::Set(const StoreKey& key, const RecordHeader& header, const Slice& object,
                                   base::Duration ttl, bool only_if_absent, base::TimePoint deadline) {
  const std::string name = RedisKey(options_.prefix, key);
  const auto bytes = EncodeRecordHeader(header);
  const bool expires = ttl > base::Duration::zero();
  RespCommand command(size_t{3} + (expires ? 2 : 0) + (only_if_absent ? 1 : 0));
  command.Arg("SET").Arg(name).Payload(bytes, object.bytes());
  if (expires) {
    command.Arg("PX").Arg(static_cast<uint64_t>(std::chrono::ceil<std::chrono::milliseconds>(ttl).count()));
  }
  if (only_if_absent) command.Arg("NX");
  RedisRequest request(RedisSlot(name), std::move(command), {});
  client_.Execute({&request, 1}, deadline);
  if (!request.reply.ok()) return MediumStatus(request.reply.status());
  if (request.reply->kind == RespKind::kError) return RedisErrorStatus(*request.reply);
  return request.reply->kind == RespKind::kSimple;  // nil: something lies there by now
}

base::Status RedisStore::Touch(std::span<const StoreKey> keys, base::TimePoint deadline) {
  KVPLANE_RETURN_IF_ERROR(CheckKeys(keys));
  std::vector<RedisRequest> requests;
  for (size_t i = keys.size(); i-- > 0;) {  // the tail first, as in Lookup
    requests.push_back(KeyCommand("TOUCH", RedisKey(options_.prefix, keys[i])));
  }
  client_.Execute(requests, deadline);
  for (const RedisRequest& request : requests) {
    KVPLANE_RETURN_IF_ERROR(Failed(IntegerStatus(request.reply)));
  }
  return base::Status::Ok();
}

base::Status RedisStore::Erase(const StoreKey& key, base::TimePoint deadline) {
  RedisRequest request = KeyCommand("UNLINK", RedisKey(options_.prefix, key));
  client_.Execute({&request, 1}, deadline);
  const base::Status status = Failed(IntegerStatus(request.reply));
  if (!status.ok()) return status;
  base::MutexLock lock(mutex_);
  damaged_.erase(key);
  return status;
}

base::Result<uint64_t> RedisStore::EraseTenant(uint64_t tenant, base::TimePoint deadline) {
  const auto masters = client_.Masters(deadline);
  if (!masters.ok()) return Failed(MediumStatus(masters.status()));
  const auto before = SlotsOf(*masters, deadline);
  if (!before.ok()) return Failed(MediumStatus(before.status()));
  uint64_t erased = 0;
  for (const RedisAddress& node : *masters) {
    const auto count = EraseOnNode(node, tenant, deadline);
    if (!count.ok()) return Failed(MediumStatus(count.status()));
    erased += *count;
  }
  const auto after = SlotsOf(*masters, deadline);
  if (!after.ok()) return Failed(MediumStatus(after.status()));
  // A key may have gone from a node that was not walked yet to one that was.
  if (*after != *before || std::ranges::any_of(*after, SlotsAreMoving)) {
    return Failed(
        base::Unavailable("redis: slots are moving: {} entries are erased, repeat it for all", erased));
  }
  return erased;
}

base::Result<std::vector<std::string>> RedisStore::SlotsOf(std::span<const RedisAddress> masters,
                                                           base::TimePoint deadline) {
  std::vector<std::string> out;
  if (masters.size() == 1) return out;  // one server, or all slots on one node: there is nowhere to go
  for (const RedisAddress& node : masters) {
    RespCommand nodes(2);
    nodes.Arg("CLUSTER").Arg("NODES");
    KVPLANE_ASSIGN_OR_RETURN(const RespValue reply,
                             client_.ExecuteOn(node, std::move(nodes), kClusterNodesLimits, deadline));
    const auto own = OwnSlots(reply.view());
    if (!own.has_value()) return base::Unavailable("redis: {}: does not say its slots", node.ToString());
    out.emplace_back(*own);
  }
  return out;
}

base::Result<uint64_t> RedisStore::EraseOnNode(const RedisAddress& node, uint64_t tenant,
                                               base::TimePoint deadline) {
  const std::string begin = TenantPrefix(options_.prefix, tenant);
  const base::Status unexpected = base::Unavailable("redis: {}: SCAN gives no list of keys", node.ToString());
  std::string cursor = "0";
  uint64_t erased = 0;
  do {
    RespCommand scan(6);
    scan.Arg("SCAN").Arg(cursor).Arg("MATCH").Arg(begin + "*").Arg("COUNT").Arg(kScanKeys);
    KVPLANE_ASSIGN_OR_RETURN(const RespValue reply,
                             client_.ExecuteOn(node, std::move(scan), kScanLimits, deadline));
    if (reply.kind != RespKind::kArray || reply.array.size() != 2) return unexpected;
    if (reply.array[1].kind != RespKind::kArray) return unexpected;
    cursor = reply.array[0].view();
    std::vector<RedisRequest> requests;
    for (const RespValue& key : reply.array[1].array) {
      if (key.view().starts_with(begin)) requests.push_back(KeyCommand("UNLINK", key.view()));
    }
    client_.Execute(requests, deadline);
    for (const RedisRequest& request : requests) {
      KVPLANE_RETURN_IF_ERROR(IntegerStatus(request.reply));
      erased += static_cast<uint64_t>(std::max<int64_t>(0, request.reply->integer));
    }
    if (Now() >= deadline) return base::DeadlineExceeded("redis: {} entries erased so far", erased);
  } while (cursor != "0");
  return erased;
}

void RedisStore::Quarantine(const StoreKey& key) { Reject(key, base::kNoDeadline); }

void RedisStore::Reject(const StoreKey& key, base::TimePoint deadline) {
  base::Log(base::LogLevel::kWarn, "{}: a damaged entry is removed: {}", name(),
            RedisKey(options_.prefix, key));
  Count(&StoreStats::corrupt);
  if (Erase(key, std::min(deadline, Now() + kQuarantineTimeout)).ok()) return;
  base::MutexLock lock(mutex_);
  if (damaged_.size() < kMaxRememberedDamage) damaged_.insert(key);
}

}  // namespace

std::string RedisKey(std::string_view prefix, const StoreKey& key) {
  std::string out = TenantPrefix(prefix, key.tenant);
  for (const std::byte byte : key.chain) {
    fmt::format_to(std::back_inserter(out), "{:02x}", static_cast<unsigned>(byte));
  }
  return out;
}

base::Result<std::unique_ptr<Store>> CreateRedisStore(const RedisOptions& options,
                                                      transport::Transport& transport) {
  KVPLANE_RETURN_IF_ERROR(ValidateRedisOptions(options));
  return std::unique_ptr<Store>(std::make_unique<RedisStore>(options, transport));
}

}  // namespace kvplane::store
