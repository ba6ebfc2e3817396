// Frames: how a protocol cuts a stream into messages. A fixed header of 32 bytes, a head (the message's
// fields) and a body, all lengths bounded before anything is believed or allocated. docs/formats/wire.md,
// section 1, is normative; the KV transfer protocol and the store protocol share the layout and differ in
// their magic, so that a client of one that reaches a server of the other is told so at once.
//
// Header and head have checksums of their own. What a damaged body costs is for the protocol to say: it
// covers the body by a checksum inside the head.
//
// Thread safety: pure functions; a FrameReader belongs to the connection's reader thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/endian.h"
#include "kvplane/base/status.h"
#include "kvplane/transport/stream.h"

namespace kvplane::transport {

constexpr size_t kFrameHeaderBytes = 32;
// The largest head of any frame is one with lists (strategies, keys); every other is far smaller.
constexpr uint32_t kMaxHeadBytes = 64 << 10;
// Above any legal tile (64 tokens x 8 heads x 1024 values x 2 bytes + 1).
constexpr uint32_t kMaxBodyBytes = 4 << 20;

// Header flag: a reader that does not know the type skips the frame instead of ending the connection.
constexpr uint8_t kFlagSkippable = 1;

// Once a header has arrived the rest of its frame must follow within this time. At kMaxBodyBytes that is
// less than 1 Mbit/s: a slower peer is as good as gone.
constexpr base::Duration kFrameTimeout = std::chrono::seconds(60);

// What tells protocols apart.
struct FrameProtocol {
  uint32_t magic = 0;  // four letters in memory order
  uint8_t major = 0;   // another one is refused
};

struct FrameHeader {
  uint8_t type = 0;  // of the protocol, or one this build does not know
  uint8_t flags = 0;
  uint32_t stream = 0;  // 0: the connection itself
  uint32_t head_bytes = 0;
  uint32_t body_bytes = 0;
  uint32_t head_crc = 0;
};

// kCorrupt: magic, CRC or a length beyond its bound. kUnimplemented: another major version.
base::Result<FrameHeader> ParseFrameHeader(const FrameProtocol& protocol,
                                           std::span<const std::byte, kFrameHeaderBytes> bytes);

// Fills in the header of a frame whose head already follows kFrameHeaderBytes placeholder bytes.
// Requires: the head has at most kMaxHeadBytes.
void SealFrame(const FrameProtocol& protocol, uint8_t type, uint32_t stream, uint32_t body_bytes,
               std::vector<std::byte>& frame);

// Longest text of an error, and of any other text for logs.
constexpr size_t kMaxReasonBytes = 1024;

// Wire ids of status codes (docs/formats/wire.md, section 3): the same in all protocols. kOk has none; an id
// this build does not know reads as kInternal.
uint16_t StatusIdOf(base::StatusCode code);
base::StatusCode StatusCodeOf(uint16_t id);

// u16 length and the bytes, refused (kCorrupt) before copying when longer than `limit`.
base::Result<std::string> GetBoundedString(base::ByteReader& in, size_t limit, std::string_view field);

// Takes frames off a stream, one at a time, checking header and head before anybody sees them. The stream
// must outlive it.
class FrameReader {
 public:
  FrameReader(const FrameProtocol& protocol, Stream& stream, base::Duration frame_timeout = kFrameTimeout)
      : protocol_(protocol), stream_(stream), frame_timeout_(frame_timeout) {}

  // Reads the next header and head. The body of the frame before must have been read or skipped. `deadline`
  // is for the header to come, `frame_deadline` for all of the frame where it must come even sooner than the
  // frame timeout allows. kCorrupt and kUnimplemented: the connection cannot go on.
  base::Status Next(base::TimePoint deadline, base::TimePoint frame_deadline = base::kNoDeadline);

  const FrameHeader& header() const { return header_; }
  std::span<const std::byte> head() const { return head_; }
  size_t frame_bytes() const { return kFrameHeaderBytes + header_.head_bytes + header_.body_bytes; }

  // `into` has body_bytes.
  base::Status ReadBody(std::span<std::byte> into);
  base::Status SkipBody();

 private:
  const FrameProtocol protocol_;
  Stream& stream_;
  const base::Duration frame_timeout_;
  FrameHeader header_;
  base::TimePoint frame_deadline_;  // of the frame whose header was read last
  std::vector<std::byte> head_;
  std::vector<std::byte> skipped_;
};

}  // namespace kvplane::transport
