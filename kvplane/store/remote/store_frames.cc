#include "kvplane/store/remote/store_frames.h"

#include <algorithm>
#include <string_view>

#include "kvplane/base/check.h"

namespace kvplane::store {
namespace {

using transport::GetBoundedString;
using transport::kMaxReasonBytes;

constexpr uint8_t kFlagDurable = 1;

// Longest time to live and longest pin a peer can make us believe in: a century, so that sums with the time
// of day never overflow.
constexpr uint64_t kMaxWireMs = uint64_t{100} * 366 * 24 * 3600 * 1000;

// The order of StoreStats on the wire; a later version appends.
constexpr uint64_t StoreStats::* kCounterFields[] = {
    &StoreStats::entries,   &StoreStats::bytes,       &StoreStats::capacity_bytes,
    &StoreStats::lookups,   &StoreStats::lookup_keys, &StoreStats::hits,
    &StoreStats::reads,     &StoreStats::read_bytes,  &StoreStats::misses,
    &StoreStats::puts,      &StoreStats::put_bytes,   &StoreStats::puts_refused,
    &StoreStats::evictions, &StoreStats::expirations, &StoreStats::corrupt,
    &StoreStats::errors,
};

// Rounded up, so that what is not zero does not become it.
uint64_t ToMs(base::Duration duration) {
  if (duration <= base::Duration::zero()) return 0;
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(duration).count();
  return std::min(static_cast<uint64_t>(ms), kMaxWireMs);
}

// Rounded down, so that no copy outlives its original, but not to zero, which has no end.
uint64_t LifeMs(base::Duration left) {
  if (left <= base::Duration::zero()) return 0;
  const auto ms = std::chrono::floor<std::chrono::milliseconds>(left).count();
  return std::clamp(static_cast<uint64_t>(ms), uint64_t{1}, kMaxWireMs);
}

base::Duration GetMs(base::ByteReader& in, std::string_view field) {
  return std::chrono::milliseconds(std::min(in.Get<uint64_t>(field), kMaxWireMs));
}

void PutText(std::string_view text, size_t limit, base::ByteWriter& out) {
  out.PutString(text.substr(0, limit));
}

void PutKey(const StoreKey& key, base::ByteWriter& out) {
  out.Put(key.tenant);
  out.PutBytes(key.chain);
}

StoreKey GetKey(base::ByteReader& in) {
  StoreKey key;
  key.tenant = in.Get<uint64_t>("tenant");
  const auto chain = in.GetBytes(key.chain.size(), "key");
  std::copy(chain.begin(), chain.end(), key.chain.begin());
  return key;
}

// A tier of a later version is, seen from here, somewhere else.
TierKind TierFromWire(uint8_t id) {
  return id > static_cast<uint8_t>(TierKind::kRedis) ? TierKind::kRemote : static_cast<TierKind>(id);
}

base::Status CheckCount(uint32_t count, size_t each, std::span<const std::byte> body) {
  if (count > kMaxKeysPerCall || body.size() != count * each) {
    return base::Corrupt("{} items of {} bytes in a body of {} bytes", count, each, body.size());
  }
  return base::Status::Ok();
}

// What every parser of fixed fields ends with.
template <typename Frame>
base::Result<Frame> Finish(const base::ByteReader& in, Frame frame) {
  KVPLANE_RETURN_IF_ERROR(in.status());
  return frame;
}

}  // namespace

void Append(const StoreHello& frame, base::ByteWriter& out) {
  out.Put(frame.minor);
  out.Put(frame.role);
  out.Put(frame.max_body_bytes);
  out.Put(frame.max_requests);
  out.Put(frame.max_object_bytes);
  PutText(frame.name, kMaxStoreNameBytes, out);
  PutText(frame.software, kMaxReasonBytes, out);
}

base::Result<StoreHello> ParseStoreHello(std::span<const std::byte> head) {
  base::ByteReader in(head);
  StoreHello frame;
  frame.minor = in.Get<uint16_t>("HELLO minor version");
  frame.role = in.Get<uint8_t>("HELLO role");
  frame.max_body_bytes = in.Get<uint32_t>("HELLO largest body");
  frame.max_requests = in.Get<uint32_t>("HELLO requests");
  frame.max_object_bytes = in.Get<uint64_t>("HELLO largest object");
  KVPLANE_ASSIGN_OR_RETURN(frame.name, GetBoundedString(in, kMaxStoreNameBytes, "HELLO name"));
  KVPLANE_ASSIGN_OR_RETURN(frame.software, GetBoundedString(in, kMaxReasonBytes, "HELLO software"));
  return Finish(in, std::move(frame));
}

void Append(const StatusFrame& frame, base::ByteWriter& out) {
  out.Put(frame.status.ok() ? uint16_t{0} : transport::StatusIdOf(frame.status.code()));
  PutText(frame.status.message(), kMaxReasonBytes, out);
  out.Put(frame.value);
}

base::Result<StatusFrame> ParseStatus(std::span<const std::byte> head) {
  base::ByteReader in(head);
  StatusFrame frame;
  const auto code = in.Get<uint16_t>("STATUS code");
  KVPLANE_ASSIGN_OR_RETURN(std::string message, GetBoundedString(in, kMaxReasonBytes, "STATUS message"));
  if (code != 0) frame.status = base::Status(transport::StatusCodeOf(code), std::move(message));
  frame.value = in.Get<uint64_t>("STATUS value");
  return Finish(in, std::move(frame));
}

void Append(const LookupFrame& frame, base::ByteWriter& out) {
  out.Put(frame.remaining_ms);
  out.Put(frame.min_quality);
  out.Put(frame.count);
  out.Put(frame.body_crc);
}

base::Result<LookupFrame> ParseLookup(std::span<const std::byte> head) {
  base::ByteReader in(head);
  LookupFrame frame;
  frame.remaining_ms = in.Get<uint32_t>("LOOKUP time");
  frame.min_quality = in.Get<uint16_t>("LOOKUP quality");
  frame.count = in.Get<uint32_t>("LOOKUP count");
  frame.body_crc = in.Get<uint32_t>("LOOKUP body CRC");
  return Finish(in, frame);
}

void Append(const TouchFrame& frame, base::ByteWriter& out) {
  out.Put(frame.remaining_ms);
  out.Put(frame.count);
  out.Put(frame.body_crc);
}

base::Result<TouchFrame> ParseTouch(std::span<const std::byte> head) {
  base::ByteReader in(head);
  TouchFrame frame;
  frame.remaining_ms = in.Get<uint32_t>("TOUCH time");
  frame.count = in.Get<uint32_t>("TOUCH count");
  frame.body_crc = in.Get<uint32_t>("TOUCH body CRC");
  return Finish(in, frame);
}

void Append(const FoundFrame& frame, base::ByteWriter& out) {
  out.Put(frame.count);
  out.Put(frame.body_crc);
}

base::Result<FoundFrame> ParseFound(std::span<const std::byte> head) {
  base::ByteReader in(head);
  FoundFrame frame;
  frame.count = in.Get<uint32_t>("FOUND count");
  frame.body_crc = in.Get<uint32_t>("FOUND body CRC");
  return Finish(in, frame);
}

void Append(const ReadFrame& frame, base::ByteWriter& out) {
  out.Put(frame.remaining_ms);
  PutKey(frame.range.key, out);
  out.Put(frame.range.offset);
  out.Put(frame.range.bytes);
}

base::Result<ReadFrame> ParseRead(std::span<const std::byte> head) {
  base::ByteReader in(head);
  ReadFrame frame;
  frame.remaining_ms = in.Get<uint32_t>("READ time");
  frame.range.key = GetKey(in);
  frame.range.offset = in.Get<uint64_t>("READ offset");
  frame.range.bytes = in.Get<uint64_t>("READ bytes");
  return Finish(in, frame);
}

void Append(const DataFrame& frame, base::ByteWriter& out) {
  out.Put(frame.total);
  out.Put(frame.at);
  out.Put(frame.body_crc);
}

base::Result<DataFrame> ParseData(std::span<const std::byte> head) {
  base::ByteReader in(head);
  DataFrame frame;
  frame.total = in.Get<uint64_t>("DATA total");
  frame.at = in.Get<uint64_t>("DATA place");
  frame.body_crc = in.Get<uint32_t>("DATA body CRC");
  return Finish(in, frame);
}

void Append(const PutFrame& frame, base::ByteWriter& out) {
  out.Put(frame.remaining_ms);
  PutKey(frame.key, out);
  out.Put(frame.bytes);
  out.Put(frame.meta.prefix_bytes);
  out.Put(frame.meta.quality);
  out.Put(frame.options.durable ? kFlagDurable : uint8_t{0});
  out.Put(uint8_t{0});
  out.Put(ToMs(frame.meta.ttl));
}

base::Result<PutFrame> ParsePut(std::span<const std::byte> head) {
  base::ByteReader in(head);
  PutFrame frame;
  frame.remaining_ms = in.Get<uint32_t>("PUT time");
  frame.key = GetKey(in);
  frame.bytes = in.Get<uint64_t>("PUT bytes");
  frame.meta.prefix_bytes = in.Get<uint32_t>("PUT prefix");
  frame.meta.quality = in.Get<uint16_t>("PUT quality");
  frame.options.durable = (in.Get<uint8_t>("PUT flags") & kFlagDurable) != 0;
  in.Get<uint8_t>("PUT reserved");
  frame.meta.ttl = GetMs(in, "PUT time to live");
  return Finish(in, frame);
}

void Append(const GoFrame& frame, base::ByteWriter& out) { out.Put(frame.limit); }

base::Result<GoFrame> ParseGo(std::span<const std::byte> head) {
  base::ByteReader in(head);
  return Finish(in, GoFrame{in.Get<uint64_t>("GO limit")});
}

void Append(const PutDataFrame& frame, base::ByteWriter& out) {
  out.Put(frame.at);
  out.Put(frame.body_crc);
}

base::Result<PutDataFrame> ParsePutData(std::span<const std::byte> head) {
  base::ByteReader in(head);
  PutDataFrame frame;
  frame.at = in.Get<uint64_t>("PUT_DATA place");
  frame.body_crc = in.Get<uint32_t>("PUT_DATA body CRC");
  return Finish(in, frame);
}

void Append(const PinFrame& frame, base::ByteWriter& out) {
  out.Put(frame.remaining_ms);
  PutKey(frame.key, out);
  out.Put(ToMs(frame.max_age));
}

base::Result<PinFrame> ParsePin(std::span<const std::byte> head) {
  base::ByteReader in(head);
  PinFrame frame;
  frame.remaining_ms = in.Get<uint32_t>("PIN time");
  frame.key = GetKey(in);
  frame.max_age = GetMs(in, "PIN age");
  return Finish(in, frame);
}

void Append(const EraseFrame& frame, base::ByteWriter& out) {
  out.Put(frame.remaining_ms);
  PutKey(frame.key, out);
}

base::Result<EraseFrame> ParseErase(std::span<const std::byte> head) {
  base::ByteReader in(head);
  EraseFrame frame;
  frame.remaining_ms = in.Get<uint32_t>("ERASE time");
  frame.key = GetKey(in);
  return Finish(in, frame);
}

void Append(const EraseTenantFrame& frame, base::ByteWriter& out) {
  out.Put(frame.remaining_ms);
  out.Put(frame.tenant);
}

base::Result<EraseTenantFrame> ParseEraseTenant(std::span<const std::byte> head) {
  base::ByteReader in(head);
  EraseTenantFrame frame;
  frame.remaining_ms = in.Get<uint32_t>("ERASE_TENANT time");
  frame.tenant = in.Get<uint64_t>("ERASE_TENANT tenant");
  return Finish(in, frame);
}

void Append(const QuarantineFrame& frame, base::ByteWriter& out) {
  out.Put(frame.remaining_ms);
  PutKey(frame.key, out);
}

base::Result<QuarantineFrame> ParseQuarantine(std::span<const std::byte> head) {
  base::ByteReader in(head);
  QuarantineFrame frame;
  frame.remaining_ms = in.Get<uint32_t>("QUARANTINE time");
  frame.key = GetKey(in);
  return Finish(in, frame);
}

void Append(const FlushFrame& frame, base::ByteWriter& out) { out.Put(frame.remaining_ms); }

base::Result<FlushFrame> ParseFlush(std::span<const std::byte> head) {
  base::ByteReader in(head);
  return Finish(in, FlushFrame{in.Get<uint32_t>("FLUSH time")});
}

void Append(const StatsFrame& frame, base::ByteWriter& out) { out.Put(frame.remaining_ms); }

base::Result<StatsFrame> ParseStats(std::span<const std::byte> head) {
  base::ByteReader in(head);
  return Finish(in, StatsFrame{in.Get<uint32_t>("STATS time")});
}

void Append(const CountersFrame& frame, base::ByteWriter& out) {
  KVPLANE_CHECK(!frame.tiers.empty() && frame.tiers.size() <= kMaxCountedTiers);
  out.Put(static_cast<uint8_t>(frame.tiers.size()));
  for (const TierCounters& tier : frame.tiers) {
    out.Put(static_cast<uint8_t>(tier.kind));
    PutText(tier.name, kMaxStoreNameBytes, out);
    out.Put(static_cast<uint8_t>(std::size(kCounterFields)));
    for (const auto field : kCounterFields) out.Put(tier.stats.*field);
  }
}

base::Result<CountersFrame> ParseCounters(std::span<const std::byte> head) {
  base::ByteReader in(head);
  CountersFrame frame;
  const auto tiers = in.Get<uint8_t>("COUNTERS tiers");
  if (in.ok() && (tiers == 0 || tiers > kMaxCountedTiers))
    return base::Corrupt("COUNTERS of {} tiers", tiers);
  for (uint8_t i = 0; i < tiers; ++i) {
    TierCounters tier;
    tier.kind = TierFromWire(in.Get<uint8_t>("COUNTERS tier"));
    KVPLANE_ASSIGN_OR_RETURN(tier.name, GetBoundedString(in, kMaxStoreNameBytes, "COUNTERS name"));
    const auto counters = in.Get<uint8_t>("COUNTERS count");
    if (counters > kMaxTierCounters) return base::Corrupt("COUNTERS has {} of one tier", counters);
    for (size_t field = 0; field < counters; ++field) {
      const auto value = in.Get<uint64_t>("COUNTERS value");
      if (field < std::size(kCounterFields)) tier.stats.*kCounterFields[field] = value;
    }
    KVPLANE_RETURN_IF_ERROR(in.status());
    frame.tiers.push_back(std::move(tier));
  }
  return Finish(in, std::move(frame));
}

void Append(const CancelFrame&, base::ByteWriter&) {}

void Append(const StorePing& frame, base::ByteWriter& out) { out.Put(frame.cookie); }
void Append(const StorePong& frame, base::ByteWriter& out) { out.Put(frame.cookie); }

base::Result<StorePing> ParseStorePing(std::span<const std::byte> head) {
  base::ByteReader in(head);
  return Finish(in, StorePing{in.Get<uint64_t>("PING cookie")});
}

base::Result<StorePong> ParseStorePong(std::span<const std::byte> head) {
  base::ByteReader in(head);
  return Finish(in, StorePong{in.Get<uint64_t>("PONG cookie")});
}

void Append(const StoreAbort& frame, base::ByteWriter& out) {
  out.Put(transport::StatusIdOf(frame.status.code()));
  PutText(frame.status.message(), kMaxReasonBytes, out);
}

base::Result<StoreAbort> ParseStoreAbort(std::span<const std::byte> head) {
  base::ByteReader in(head);
  const auto code = in.Get<uint16_t>("ABORT code");
  KVPLANE_ASSIGN_OR_RETURN(std::string reason, GetBoundedString(in, kMaxReasonBytes, "ABORT reason"));
  return Finish(in, StoreAbort{base::Status(transport::StatusCodeOf(code), std::move(reason))});
}

std::vector<std::byte> EncodeKeys(std::span<const StoreKey> keys) {
  KVPLANE_CHECK(keys.size() <= kMaxKeysPerCall);
  std::vector<std::byte> body(keys.size() * kWireKeyBytes);
  std::byte* at = body.data();
  for (const StoreKey& key : keys) {
    base::StoreLe(at, key.tenant);
    std::copy(key.chain.begin(), key.chain.end(), at + sizeof(key.tenant));
    at += kWireKeyBytes;
  }
  return body;
}

base::Result<std::vector<StoreKey>> DecodeKeys(uint32_t count, std::span<const std::byte> body) {
  KVPLANE_RETURN_IF_ERROR(CheckCount(count, kWireKeyBytes, body));
  base::ByteReader in(body);
  std::vector<StoreKey> keys;
  keys.reserve(count);
  for (uint32_t i = 0; i < count; ++i) keys.push_back(GetKey(in));
  return keys;
}

std::vector<std::byte> EncodeEntries(std::span<const EntryInfo> entries) {
  KVPLANE_CHECK(entries.size() <= kMaxKeysPerCall);
  std::vector<std::byte> body;
  body.reserve(entries.size() * kWireEntryBytes);
  base::ByteWriter out(body);
  for (const EntryInfo& entry : entries) {
    out.Put(entry.bytes);
    out.Put(entry.prefix_bytes);
    out.Put(entry.quality);
    out.Put(static_cast<uint8_t>(entry.tier));
    out.Put(uint8_t{0});
    out.Put(LifeMs(entry.ttl_left));
  }
  return body;
}

base::Result<std::vector<EntryInfo>> DecodeEntries(uint32_t count, std::span<const std::byte> body) {
  KVPLANE_RETURN_IF_ERROR(CheckCount(count, kWireEntryBytes, body));
  base::ByteReader in(body);
  std::vector<EntryInfo> entries;
  entries.reserve(count);
  for (uint32_t i = 0; i < count; ++i) {
    EntryInfo entry;
    entry.bytes = in.Get<uint64_t>("FOUND bytes");
    entry.prefix_bytes = in.Get<uint32_t>("FOUND prefix");
    entry.quality = in.Get<uint16_t>("FOUND quality");
    entry.tier = TierFromWire(in.Get<uint8_t>("FOUND tier"));
    in.Get<uint8_t>("FOUND reserved");
    entry.ttl_left = GetMs(in, "FOUND life");
    if (entry.bytes > kMaxStoredBytes || entry.prefix_bytes > entry.bytes || entry.quality > kLossless) {
      return base::Corrupt("FOUND names an impossible object: {} bytes, prefix {}, quality {}", entry.bytes,
                           entry.prefix_bytes, entry.quality);
    }
    entries.push_back(entry);
  }
  return entries;
}

uint32_t RemainingMs(base::TimePoint now, base::TimePoint deadline) {
  if (deadline <= now) return 1;
  const base::Duration left = std::min(deadline, now + kMaxRequestTime) - now;
  return static_cast<uint32_t>(std::chrono::ceil<std::chrono::milliseconds>(left).count());
}

base::TimePoint DeadlineOf(base::TimePoint now, uint32_t remaining_ms) {
  return now + std::min<base::Duration>(std::chrono::milliseconds(remaining_ms), kMaxRequestTime);
}

}  // namespace kvplane::store
