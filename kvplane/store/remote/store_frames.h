// The frames of the store protocol, to bytes and back. docs/formats/store_wire.md is normative; header and
// framing are those of kvplane/transport/frame.h under another magic.
//
// Parsing never allocates by a number it has not bounded, accepts bytes behind the fields it knows (a later
// minor version may append), and ends in kCorrupt naming the field otherwise. Thread safety: values and pure
// functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/endian.h"
#include "kvplane/base/status.h"
#include "kvplane/store/entry.h"
#include "kvplane/store/store.h"
#include "kvplane/transport/frame.h"

namespace kvplane::store {

constexpr uint8_t kStoreWireMajor = 1;
constexpr uint16_t kStoreWireMinor = 0;
constexpr transport::FrameProtocol kStoreProtocol{0x5350'564b, kStoreWireMajor};  // "KVPS"

// What both ends cut objects into: small enough that something arrives every other second at 1 Mbit/s, so
// that a slow peer is told from a dead one.
constexpr size_t kPieceBytes = 256 << 10;

// Longest time a request may ask for. A PUT of the largest object takes this long at 15 Mbit/s.
constexpr base::Duration kMaxRequestTime = std::chrono::minutes(10);

constexpr size_t kMaxStoreNameBytes = 1024;
constexpr size_t kMaxCountedTiers = 16;
// Counters of one tier a reader takes: more than any version will have.
constexpr size_t kMaxTierCounters = 64;

constexpr size_t kWireKeyBytes = 40;
constexpr size_t kWireEntryBytes = 24;
static_assert(kMaxKeysPerCall * kWireKeyBytes <= transport::kMaxBodyBytes);

enum class StoreFrameType : uint8_t {
  kHello = 1,
  kStatus = 2,
  kLookup = 3,
  kFound = 4,
  kRead = 5,
  kData = 6,
  kPut = 7,
  kGo = 8,
  kPutData = 9,
  kTouch = 10,
  kPin = 11,
  kErase = 12,
  kEraseTenant = 13,
  kQuarantine = 14,
  kFlush = 15,
  kStats = 16,
  kCounters = 17,
  kCancel = 18,
  kPing = 19,
  kPong = 20,
  kAbort = 21,
};

constexpr uint8_t kStoreRoleServer = 1;
constexpr uint8_t kStoreRoleClient = 2;

struct StoreHello {
  static constexpr StoreFrameType kType = StoreFrameType::kHello;
  uint16_t minor = kStoreWireMinor;
  uint8_t role = 0;
  uint32_t max_body_bytes = transport::kMaxBodyBytes;  // the largest body this end accepts
  uint32_t max_requests = 0;      // server: requests of this connection it keeps at a time; client: 0
  uint64_t max_object_bytes = 0;  // server: the largest PUT it takes; client: 0
  std::string name;               // server: of its store, for logs; client: empty
  std::string software;           // for logs only
};

// Ends a request: its error, or its success where no other frame says so.
struct StatusFrame {
  static constexpr StoreFrameType kType = StoreFrameType::kStatus;
  base::Status status;
  uint64_t value = 0;  // of ERASE_TENANT: entries erased
};

// The keys are the body.
struct LookupFrame {
  static constexpr StoreFrameType kType = StoreFrameType::kLookup;
  uint32_t remaining_ms = 0;
  uint16_t min_quality = 0;
  uint32_t count = 0;
  uint32_t body_crc = 0;
};
struct TouchFrame {
  static constexpr StoreFrameType kType = StoreFrameType::kTouch;
  uint32_t remaining_ms = 0;
  uint32_t count = 0;
  uint32_t body_crc = 0;
};

// The entries are the body.
struct FoundFrame {
  static constexpr StoreFrameType kType = StoreFrameType::kFound;
  uint32_t count = 0;
  uint32_t body_crc = 0;
};

struct ReadFrame {
  static constexpr StoreFrameType kType = StoreFrameType::kRead;
  uint32_t remaining_ms = 0;
  ReadRequest range;
};

struct DataFrame {
  static constexpr StoreFrameType kType = StoreFrameType::kData;
  uint64_t total = 0;  // bytes of the whole range
  uint64_t at = 0;     // where in the range the body belongs
  uint32_t body_crc = 0;
};

struct PutFrame {
  static constexpr StoreFrameType kType = StoreFrameType::kPut;
  uint32_t remaining_ms = 0;
  StoreKey key{};
  uint64_t bytes = 0;
  EntryMeta meta;
  PutOptions options;
};

struct GoFrame {
  static constexpr StoreFrameType kType = StoreFrameType::kGo;
  uint64_t limit = 0;  // bytes of the object that may have been sent; never shrinks
};

struct PutDataFrame {
  static constexpr StoreFrameType kType = StoreFrameType::kPutData;
  uint64_t at = 0;
  uint32_t body_crc = 0;
};

struct PinFrame {
  static constexpr StoreFrameType kType = StoreFrameType::kPin;
  uint32_t remaining_ms = 0;
  StoreKey key{};
  base::Duration max_age{};
};

struct EraseFrame {
  static constexpr StoreFrameType kType = StoreFrameType::kErase;
  uint32_t remaining_ms = 0;
  StoreKey key{};
};

struct EraseTenantFrame {
  static constexpr StoreFrameType kType = StoreFrameType::kEraseTenant;
  uint32_t remaining_ms = 0;
  uint64_t tenant = 0;
};

struct QuarantineFrame {
  static constexpr StoreFrameType kType = StoreFrameType::kQuarantine;
  uint32_t remaining_ms = 0;
  StoreKey key{};
};

struct FlushFrame {
  static constexpr StoreFrameType kType = StoreFrameType::kFlush;
  uint32_t remaining_ms = 0;
};

struct StatsFrame {
  static constexpr StoreFrameType kType = StoreFrameType::kStats;
  uint32_t remaining_ms = 0;
};

struct TierCounters {
  TierKind kind = TierKind::kDram;
  std::string name;
  StoreStats stats;
};

struct CountersFrame {
  static constexpr StoreFrameType kType = StoreFrameType::kCounters;
  std::vector<TierCounters> tiers;  // 1 to kMaxCountedTiers; the first is the store as a whole
};

struct CancelFrame {
  static constexpr StoreFrameType kType = StoreFrameType::kCancel;
};

struct StorePing {
  static constexpr StoreFrameType kType = StoreFrameType::kPing;
  uint64_t cookie = 0;
};
struct StorePong {
  static constexpr StoreFrameType kType = StoreFrameType::kPong;
  uint64_t cookie = 0;
};

// Ends the connection.
struct StoreAbort {
  static constexpr StoreFrameType kType = StoreFrameType::kAbort;
  base::Status status;  // never OK
};

void Append(const StoreHello& frame, base::ByteWriter& out);
void Append(const StatusFrame& frame, base::ByteWriter& out);
void Append(const LookupFrame& frame, base::ByteWriter& out);
void Append(const TouchFrame& frame, base::ByteWriter& out);
void Append(const FoundFrame& frame, base::ByteWriter& out);
void Append(const ReadFrame& frame, base::ByteWriter& out);
void Append(const DataFrame& frame, base::ByteWriter& out);
void Append(const PutFrame& frame, base::ByteWriter& out);
void Append(const GoFrame& frame, base::ByteWriter& out);
void Append(const PutDataFrame& frame, base::ByteWriter& out);
void Append(const PinFrame& frame, base::ByteWriter& out);
void Append(const EraseFrame& frame, base::ByteWriter& out);
void Append(const EraseTenantFrame& frame, base::ByteWriter& out);
void Append(const QuarantineFrame& frame, base::ByteWriter& out);
void Append(const FlushFrame& frame, base::ByteWriter& out);
void Append(const StatsFrame& frame, base::ByteWriter& out);
void Append(const CountersFrame& frame, base::ByteWriter& out);
void Append(const CancelFrame& frame, base::ByteWriter& out);
void Append(const StorePing& frame, base::ByteWriter& out);
void Append(const StorePong& frame, base::ByteWriter& out);
void Append(const StoreAbort& frame, base::ByteWriter& out);

base::Result<StoreHello> ParseStoreHello(std::span<const std::byte> head);
base::Result<StatusFrame> ParseStatus(std::span<const std::byte> head);
base::Result<LookupFrame> ParseLookup(std::span<const std::byte> head);
base::Result<TouchFrame> ParseTouch(std::span<const std::byte> head);
base::Result<FoundFrame> ParseFound(std::span<const std::byte> head);
base::Result<ReadFrame> ParseRead(std::span<const std::byte> head);
base::Result<DataFrame> ParseData(std::span<const std::byte> head);
base::Result<PutFrame> ParsePut(std::span<const std::byte> head);
base::Result<GoFrame> ParseGo(std::span<const std::byte> head);
base::Result<PutDataFrame> ParsePutData(std::span<const std::byte> head);
base::Result<PinFrame> ParsePin(std::span<const std::byte> head);
base::Result<EraseFrame> ParseErase(std::span<const std::byte> head);
base::Result<EraseTenantFrame> ParseEraseTenant(std::span<const std::byte> head);
base::Result<QuarantineFrame> ParseQuarantine(std::span<const std::byte> head);
base::Result<FlushFrame> ParseFlush(std::span<const std::byte> head);
base::Result<StatsFrame> ParseStats(std::span<const std::byte> head);
base::Result<CountersFrame> ParseCounters(std::span<const std::byte> head);
base::Result<StorePing> ParseStorePing(std::span<const std::byte> head);
base::Result<StorePong> ParseStorePong(std::span<const std::byte> head);
base::Result<StoreAbort> ParseStoreAbort(std::span<const std::byte> head);

// Bodies of LOOKUP and TOUCH, and of FOUND. Requires: at most kMaxKeysPerCall.
std::vector<std::byte> EncodeKeys(std::span<const StoreKey> keys);
std::vector<std::byte> EncodeEntries(std::span<const EntryInfo> entries);
// kCorrupt: the body's length is not that of `count`, or `count` is beyond kMaxKeysPerCall.
base::Result<std::vector<StoreKey>> DecodeKeys(uint32_t count, std::span<const std::byte> body);
base::Result<std::vector<EntryInfo>> DecodeEntries(uint32_t count, std::span<const std::byte> body);

// Whole milliseconds until `deadline`, at least 1 and at most kMaxRequestTime; and the way back.
uint32_t RemainingMs(base::TimePoint now, base::TimePoint deadline);
base::TimePoint DeadlineOf(base::TimePoint now, uint32_t remaining_ms);

// Header and head, ready to be written; a body of `body_bytes` follows it.
template <typename Frame>
std::vector<std::byte> EncodeStoreFrame(uint32_t stream, const Frame& message, size_t body_bytes = 0) {
  std::vector<std::byte> frame(transport::kFrameHeaderBytes);
  base::ByteWriter out(frame);
  Append(message, out);
  transport::SealFrame(kStoreProtocol, static_cast<uint8_t>(Frame::kType), stream,
                       static_cast<uint32_t>(body_bytes), frame);
  return frame;
}

}  // namespace kvplane::store
