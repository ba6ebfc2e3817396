// The frames of the KV transfer protocol, to bytes and back. docs/formats/wire.md is normative.
//
// A frame is a fixed header, a head (the message's fields, covered by a CRC of its own) and, for TILE only, a
// body (the coded tile, covered by the tile's CRC inside the head). So a flipped bit in a body costs one tile
// and a flipped bit anywhere else costs the connection.
//
// Parsing never allocates by a number it has not bounded, accepts bytes behind the fields it knows (a later
// minor version may append), and ends in kCorrupt naming the field otherwise. Thread safety: values and pure
// functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvplane/base/endian.h"
#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/tensor/kv_view.h"
#include "kvplane/transfer/transfer.h"
#include "kvplane/transport/frame.h"

namespace kvplane::transfer {

constexpr uint32_t kWireMagic = 0x5750'564b;  // "KVPW" in memory order
constexpr uint8_t kWireMajor = 1;
constexpr uint16_t kWireMinor = 3;

constexpr transport::FrameProtocol kWireProtocol{kWireMagic, kWireMajor};

using transport::FrameHeader;
using transport::kFlagSkippable;
using transport::kFrameHeaderBytes;
using transport::kMaxBodyBytes;  // a peer may announce less in HELLO
using transport::kMaxHeadBytes;
using transport::kMaxReasonBytes;

constexpr uint16_t kMinorOfHeadShards = 2;
constexpr uint16_t kMinorOfLeastQuality = 3;
constexpr size_t kMaxTopLogprobs = 20;
constexpr size_t kMaxStrategiesPerOpen = 16;
// Profiles a receiver may announce: their count is one byte.
constexpr size_t kMaxHelloProfiles = 255;

enum class FrameType : uint8_t {
  kHello = 1,
  kPull = 2,
  kOpen = 3,
  kTile = 4,
  kFirstToken = 5,
  kCredit = 6,
  kDone = 7,
  kAck = 8,
  kNack = 9,
  kAbort = 10,
  kPing = 11,
  kPong = 12,
};

// kCorrupt: magic, CRC or a length beyond its bound. kUnimplemented: another major version.
inline base::Result<FrameHeader> ParseFrameHeader(std::span<const std::byte, kFrameHeaderBytes> bytes) {
  return transport::ParseFrameHeader(kWireProtocol, bytes);
}

struct HelloFrame {
  static constexpr FrameType kType = FrameType::kHello;
  uint16_t minor = kWireMinor;
  uint8_t role = 0;                // kRoleSender or kRoleReceiver
  uint32_t max_body_bytes = 0;     // the largest body this end accepts
  uint64_t credit_bytes = 0;       // receiver: the window of body bytes it grants; sender: 0
  std::vector<uint8_t> dtypes;     // tensor::DType wire ids this end can move
  std::vector<uint8_t> stage_ids;  // codec stage wire ids this end can run
  std::string software;            // for logs only
  // Since minor version 1: the profiles a receiver can decode with, at most kMaxHelloProfiles.
  std::vector<codec::ProfileId> profiles;
};
constexpr uint8_t kRoleSender = 1;
constexpr uint8_t kRoleReceiver = 2;

struct PullFrame {
  static constexpr FrameType kType = FrameType::kPull;
  std::string transfer_id;
  bool accept_lossy = true;
  uint32_t patience_ms = 0;  // how long the receiver will wait for an offer of this id
  KvDescriptor descriptor;   // its head shard since minor version 2
  // Since minor version 3: below this quality the receiver does not take the KV. Read as
  // tensor::kExactQuality where lossy KV is not welcome.
  uint16_t least_quality = 0;
};

struct OpenFrame {
  static constexpr FrameType kType = FrameType::kOpen;
  uint32_t tokens = 0;
  uint16_t tile_tokens = tensor::kTileTokens;
  uint16_t group_heads = 0;  // KV heads per tile; the last group has the rest
  // Canonical texts of (key, value); TILE frames name one by its index.
  std::vector<std::pair<std::string, std::string>> strategies;
  codec::ProfileId profile;  // since minor version 1: of the strategies that need one; none() without
};

struct TileFrame {
  static constexpr FrameType kType = FrameType::kTile;
  uint32_t layer = 0;
  uint32_t first_token = 0;
  uint16_t tokens = 0;
  uint16_t group = 0;
  tensor::Side side = tensor::Side::kKey;
  uint8_t strategy = 0;  // index into OPEN's strategies
  uint8_t attempt = 0;   // 0, then 1, 2, ... for resends
  uint32_t body_crc = 0;
};

struct FirstTokenFrame {
  static constexpr FrameType kType = FrameType::kFirstToken;
  FirstToken token;
};

struct CreditFrame {
  static constexpr FrameType kType = FrameType::kCredit;
  uint64_t limit_bytes = 0;  // body bytes the sender may have sent on this connection in all; never shrinks
};

struct DoneFrame {
  static constexpr FrameType kType = FrameType::kDone;
  uint32_t tiles_sent = 0;  // TILE frames so far, resends included
  uint32_t tiles_retried = 0;
  base::Duration encode{};
  base::Duration send{};
  base::Duration since_prefill{};  // from the last PostLayer() to this frame
  // Since minor version 2: KvQuality of the KV before it was coded for this transfer.
  uint16_t kv_quality = tensor::kExactQuality;
};

struct AckFrame {
  static constexpr FrameType kType = FrameType::kAck;
  uint64_t bytes_wire = 0;  // all frames of the stream, both directions, this one included
  base::Duration decode{};
  base::Duration wall{};
  base::Duration exposed{};
};

struct NackFrame {
  static constexpr FrameType kType = FrameType::kNack;
  uint32_t layer = 0;
  uint32_t first_token = 0;
  uint16_t group = 0;
  tensor::Side side = tensor::Side::kKey;
  uint8_t reason = 0;  // kNackChecksum or kNackDecode
};
constexpr uint8_t kNackChecksum = 1;
constexpr uint8_t kNackDecode = 2;

// Ends a transfer, or with stream 0 the connection.
struct AbortFrame {
  static constexpr FrameType kType = FrameType::kAbort;
  base::Status status;  // never OK; its message is cut to kMaxReasonBytes
};

struct PingFrame {
  static constexpr FrameType kType = FrameType::kPing;
  uint64_t cookie = 0;
};
struct PongFrame {
  static constexpr FrameType kType = FrameType::kPong;
  uint64_t cookie = 0;
};

void Append(const HelloFrame& frame, base::ByteWriter& out);
void Append(const PullFrame& frame, base::ByteWriter& out);
void Append(const OpenFrame& frame, base::ByteWriter& out);
void Append(const TileFrame& frame, base::ByteWriter& out);
void Append(const FirstTokenFrame& frame, base::ByteWriter& out);
void Append(const CreditFrame& frame, base::ByteWriter& out);
void Append(const DoneFrame& frame, base::ByteWriter& out);
void Append(const AckFrame& frame, base::ByteWriter& out);
void Append(const NackFrame& frame, base::ByteWriter& out);
void Append(const AbortFrame& frame, base::ByteWriter& out);
void Append(const PingFrame& frame, base::ByteWriter& out);
void Append(const PongFrame& frame, base::ByteWriter& out);

base::Result<HelloFrame> ParseHello(std::span<const std::byte> head);
base::Result<PullFrame> ParsePull(std::span<const std::byte> head);
base::Result<OpenFrame> ParseOpen(std::span<const std::byte> head);
base::Result<TileFrame> ParseTile(std::span<const std::byte> head);
base::Result<FirstTokenFrame> ParseFirstToken(std::span<const std::byte> head);
base::Result<CreditFrame> ParseCredit(std::span<const std::byte> head);
base::Result<DoneFrame> ParseDone(std::span<const std::byte> head);
base::Result<AckFrame> ParseAck(std::span<const std::byte> head);
base::Result<NackFrame> ParseNack(std::span<const std::byte> head);
base::Result<AbortFrame> ParseAbort(std::span<const std::byte> head);
base::Result<PingFrame> ParsePing(std::span<const std::byte> head);
base::Result<PongFrame> ParsePong(std::span<const std::byte> head);

// Fills in the header of a frame whose head already follows kFrameHeaderBytes placeholder bytes.
inline void SealFrame(FrameType type, uint32_t stream, uint32_t body_bytes, std::vector<std::byte>& frame) {
  transport::SealFrame(kWireProtocol, static_cast<uint8_t>(type), stream, body_bytes, frame);
}

// Header and head, ready to be written; a body of `body_bytes` follows it.
template <typename Frame>
std::vector<std::byte> EncodeFrame(uint32_t stream, const Frame& message, uint32_t body_bytes = 0) {
  std::vector<std::byte> frame(kFrameHeaderBytes);
  base::ByteWriter out(frame);
  Append(message, out);
  SealFrame(Frame::kType, stream, body_bytes, frame);
  return frame;
}

}  // namespace kvplane::transfer
