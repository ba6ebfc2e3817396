// RESP2, the protocol of Redis: commands out, replies in, over a transport::Stream.
//
// Long values are never copied on the way out (they are pieces of one gathered write) and are received into
// the memory that the caller keeps; only what arrived together with a reply's first line, at most 16 KiB, is
// moved once. Every length a server states is checked against the caller's limits before anything is
// allocated; a reply that breaks the protocol is kCorrupt and leaves the connection unusable.
//
// Specification: redis.io, "Redis serialization protocol specification" (RESP2; RESP3 is never asked for).
//
// Thread safety: none; one thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/store/entry.h"  // Slice
#include "kvplane/transport/stream.h"

namespace kvplane::store {

// Longest line: status, error or length. Redis cuts what it quotes in errors to 128 bytes.
constexpr size_t kMaxRespLineBytes = 4096;
// Arrays in arrays. CLUSTER SLOTS, the deepest reply asked for, has four.
constexpr uint32_t kMaxRespDepth = 8;

// A server that moves fewer has stalled.
constexpr uint64_t kMinRespBytesPerSecond = 1'000'000;
constexpr base::Duration kNoStall = std::chrono::hours(24);

constexpr base::Duration RespTransferTime(uint64_t bytes) {
  return base::FromSeconds(static_cast<double>(bytes) / static_cast<double>(kMinRespBytesPerSecond));
}

// What a caller is ready to take as one reply.
struct RespLimits {
  uint64_t max_bulk_bytes = 4096;
  uint32_t max_elements = 0;  // of all arrays of the reply together
};

enum class RespKind : uint8_t { kSimple, kError, kInteger, kBulk, kNil, kArray };

struct RespValue {
  RespKind kind = RespKind::kNil;
  int64_t integer = 0;
  std::string text;  // of kSimple and kError
  Slice bulk;
  std::vector<RespValue> array;

  // The bytes of a bulk string as text; `text` for the other kinds.
  std::string_view view() const;
};

// One command, encoded as it is built: RespCommand(4).Arg("SET").Arg(key).Payload(head, body).Arg("NX").
class RespCommand {
 public:
  explicit RespCommand(size_t args);

  RespCommand& Arg(std::string_view text);
  RespCommand& Arg(uint64_t number);
  // One argument that is the two pieces joined. Not copied: they must outlive the command. At most once.
  RespCommand& Payload(std::span<const std::byte> first, std::span<const std::byte> second);

  std::string_view before() const { return before_; }  // up to the payload
  std::string_view after() const { return after_; }
  const std::array<std::span<const std::byte>, 2>& payload() const { return payload_; }
  size_t bytes() const;

 private:
  std::string& text() { return has_payload_ ? after_ : before_; }

  std::string before_;
  std::string after_;
  std::array<std::span<const std::byte>, 2> payload_{};
  bool has_payload_ = false;
};

// Sends all commands as one gathered write.
base::Status WriteRespCommands(transport::Stream& stream, std::span<const RespCommand* const> commands,
                               base::TimePoint deadline);

class RespReader {
 public:
  // `stall`: how long a line may take to come; a string may take that and what kMinRespBytesPerSecond needs.
  explicit RespReader(transport::Stream& stream, base::Duration stall = kNoStall)
      : stream_(stream), stall_(stall), buffer_(kBufferBytes) {}

  // The next reply. kCorrupt, and the codes of Stream::Read(); the reader is then at no known place.
  // `grace`: more time for its first line, while what was sent is still on its way.
  base::Result<RespValue> Next(const RespLimits& limits, base::TimePoint deadline,
                               base::Duration grace = base::Duration::zero());

  // Bytes received that no reply has used yet: must be 0 between calls on a connection without requests under
  // way.
  size_t buffered() const { return end_ - begin_; }

 private:
  static constexpr size_t kBufferBytes = 16 << 10;

  base::Result<RespValue> ReadValue(const RespLimits& limits, uint32_t depth, uint32_t& elements_left,
                                    base::TimePoint deadline, base::Duration grace);
  base::Status ReadBulk(uint64_t size, RespValue& value, base::TimePoint deadline);
  base::Status ReadArray(const RespLimits& limits, uint64_t size, uint32_t depth, uint32_t& elements_left,
                         RespValue& value, base::TimePoint deadline);
  // Without its CR LF; valid until the next read.
  base::Result<std::string_view> ReadLine(base::TimePoint deadline, base::Duration grace);
  base::Status Fill(base::TimePoint deadline);

  transport::Stream& stream_;
  const base::Duration stall_;
  std::vector<std::byte> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
};

// Canonical decimal, as Redis writes it: no plus sign, no leading zero, no "-0".
base::Result<int64_t> ParseRespInteger(std::string_view text);

}  // namespace kvplane::store
