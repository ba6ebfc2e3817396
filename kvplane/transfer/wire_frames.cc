#include "kvplane/transfer/wire_frames.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "kvplane/codec/strategy.h"

namespace kvplane::transfer {
namespace {

using transport::GetBoundedString;

// Longest duration a peer can make us believe in: a year, so that sums of many never overflow.
constexpr uint64_t kMaxWireNanoseconds = uint64_t{365} * 24 * 3600 * 1'000'000'000;

void PutDuration(base::Duration duration, base::ByteWriter& out) {
  out.Put(static_cast<uint64_t>(std::max<base::Duration::rep>(duration.count(), 0)));
}

base::Duration GetDuration(base::ByteReader& in, std::string_view field) {
  return base::Duration(
      static_cast<base::Duration::rep>(std::min(in.Get<uint64_t>(field), kMaxWireNanoseconds)));
}

void PutIds(const std::vector<uint8_t>& ids, base::ByteWriter& out) {
  out.Put(static_cast<uint8_t>(ids.size()));
  for (const uint8_t id : ids) out.Put(id);
}

std::vector<uint8_t> GetIds(base::ByteReader& in, std::string_view field) {
  const auto bytes = in.GetBytes(in.Get<uint8_t>(field), field);
  std::vector<uint8_t> ids;
  for (const std::byte id : bytes) ids.push_back(static_cast<uint8_t>(id));
  return ids;
}

void PutProfile(const codec::ProfileId& id, base::ByteWriter& out) { out.PutBytes(id.bytes); }

codec::ProfileId GetProfile(base::ByteReader& in, std::string_view field) {
  codec::ProfileId id;
  const auto bytes = in.GetBytes(id.bytes.size(), field);
  std::copy(bytes.begin(), bytes.end(), id.bytes.begin());
  return id;
}

base::Result<tensor::Side> SideFromWire(uint8_t id) {
  if (id > static_cast<uint8_t>(tensor::Side::kValue)) return base::Corrupt("side {} is neither 0 nor 1", id);
  return static_cast<tensor::Side>(id);
}

void PutDigest(const Digest& digest, base::ByteWriter& out) { out.PutBytes(digest); }

Digest GetDigest(base::ByteReader& in, std::string_view field) {
  Digest digest{};
  const auto bytes = in.GetBytes(digest.size(), field);
  std::copy(bytes.begin(), bytes.end(), digest.begin());
  return digest;
}

}  // namespace

void Append(const HelloFrame& frame, base::ByteWriter& out) {
  out.Put(frame.minor);
  out.Put(frame.role);
  out.Put(frame.max_body_bytes);
  out.Put(frame.credit_bytes);
  PutIds(frame.dtypes, out);
  PutIds(frame.stage_ids, out);
  out.PutString(frame.software);
  KVPLANE_CHECK(frame.profiles.size() <= kMaxHelloProfiles);
  out.Put(static_cast<uint8_t>(frame.profiles.size()));
  for (const codec::ProfileId& id : frame.profiles) PutProfile(id, out);
}

base::Result<HelloFrame> ParseHello(std::span<const std::byte> head) {
  base::ByteReader in(head);
  HelloFrame frame;
  frame.minor = in.Get<uint16_t>("HELLO minor version");
  frame.role = in.Get<uint8_t>("HELLO role");
  frame.max_body_bytes = in.Get<uint32_t>("HELLO largest body");
  frame.credit_bytes = in.Get<uint64_t>("HELLO credit");
  frame.dtypes = GetIds(in, "HELLO dtypes");
  frame.stage_ids = GetIds(in, "HELLO stage ids");
  KVPLANE_ASSIGN_OR_RETURN(frame.software, GetBoundedString(in, kMaxReasonBytes, "HELLO software"));
  // A peer of minor version 0 ends here: it has no profiles.
  const uint8_t profiles = in.remaining() == 0 ? uint8_t{0} : in.Get<uint8_t>("HELLO profiles");
  for (uint8_t i = 0; i < profiles && in.ok(); ++i) {
    frame.profiles.push_back(GetProfile(in, "HELLO profile id"));
  }
  KVPLANE_RETURN_IF_ERROR(in.status());
  return frame;
}

void Append(const PullFrame& frame, base::ByteWriter& out) {
  const KvDescriptor& descriptor = frame.descriptor;
  out.PutString(frame.transfer_id);
  out.Put(static_cast<uint8_t>(frame.accept_lossy ? 1 : 0));
  out.Put(frame.patience_ms);
  out.Put(descriptor.geometry.layers);
  out.Put(descriptor.geometry.kv_heads);
  out.Put(descriptor.geometry.head_dim);
  out.Put(static_cast<uint8_t>(descriptor.geometry.dtype));
  out.Put(descriptor.tokens);
  PutDigest(descriptor.model_fingerprint, out);
  PutDigest(descriptor.token_hash, out);
  out.Put(descriptor.first_head);
  out.Put(descriptor.model_kv_heads);
  out.Put(frame.least_quality);
}

base::Result<PullFrame> ParsePull(std::span<const std::byte> head) {
  base::ByteReader in(head);
  PullFrame frame;
  KVPLANE_ASSIGN_OR_RETURN(frame.transfer_id, GetBoundedString(in, kMaxTransferIdBytes, "PULL transfer id"));
  frame.accept_lossy = (in.Get<uint8_t>("PULL flags") & 1) != 0;
  frame.patience_ms = in.Get<uint32_t>("PULL patience");
  tensor::KvGeometry& geometry = frame.descriptor.geometry;
  geometry.layers = in.Get<uint32_t>("PULL layers");
  geometry.kv_heads = in.Get<uint32_t>("PULL kv_heads");
  geometry.head_dim = in.Get<uint32_t>("PULL head_dim");
  const auto dtype = in.Get<uint8_t>("PULL dtype");
  frame.descriptor.tokens = in.Get<uint32_t>("PULL tokens");
  frame.descriptor.model_fingerprint = GetDigest(in, "PULL model fingerprint");
  frame.descriptor.token_hash = GetDigest(in, "PULL token hash");
  // A peer of minor version 1 ends here: it pulls whole models.
  if (in.remaining() > 0) {
    frame.descriptor.first_head = in.Get<uint32_t>("PULL first head");
    frame.descriptor.model_kv_heads = in.Get<uint32_t>("PULL kv_heads of the model");
  }
  // A peer of minor version 2 ends here: where it welcomes lossy KV it takes any.
  if (in.remaining() > 0)
    frame.least_quality = std::min(in.Get<uint16_t>("PULL least quality"), tensor::kExactQuality);
  if (!frame.accept_lossy) frame.least_quality = tensor::kExactQuality;
  KVPLANE_RETURN_IF_ERROR(in.status());
  KVPLANE_ASSIGN_OR_RETURN(geometry.dtype, tensor::DTypeFromWire(dtype));
  return frame;
}

void Append(const OpenFrame& frame, base::ByteWriter& out) {
  out.Put(frame.tokens);
  out.Put(frame.tile_tokens);
  out.Put(frame.group_heads);
  out.Put(static_cast<uint8_t>(frame.strategies.size()));
  for (const auto& [key, value] : frame.strategies) {
    out.PutString(key);
    out.PutString(value);
  }
  PutProfile(frame.profile, out);
}

base::Result<OpenFrame> ParseOpen(std::span<const std::byte> head) {
  base::ByteReader in(head);
  OpenFrame frame;
  frame.tokens = in.Get<uint32_t>("OPEN tokens");
  frame.tile_tokens = in.Get<uint16_t>("OPEN tile tokens");
  frame.group_heads = in.Get<uint16_t>("OPEN group heads");
  const auto count = in.Get<uint8_t>("OPEN strategies");
  if (in.ok() && (count == 0 || count > kMaxStrategiesPerOpen)) {
    return base::Corrupt("OPEN has {} strategies; 1 to {} are legal", count, kMaxStrategiesPerOpen);
  }
  for (uint8_t i = 0; i < count && in.ok(); ++i) {
    KVPLANE_ASSIGN_OR_RETURN(std::string key,
                             GetBoundedString(in, codec::kMaxStrategyTextBytes, "OPEN key strategy"));
    KVPLANE_ASSIGN_OR_RETURN(std::string value,
                             GetBoundedString(in, codec::kMaxStrategyTextBytes, "OPEN value strategy"));
    frame.strategies.emplace_back(std::move(key), std::move(value));
  }
  // A peer of minor version 0 ends here: none of its strategies needs a profile.
  if (in.remaining() > 0) frame.profile = GetProfile(in, "OPEN profile id");
  KVPLANE_RETURN_IF_ERROR(in.status());
  return frame;
}

void Append(const TileFrame& frame, base::ByteWriter& out) {
  out.Put(frame.layer);
  out.Put(frame.first_token);
  out.Put(frame.tokens);
  out.Put(frame.group);
  out.Put(static_cast<uint8_t>(frame.side));
  out.Put(frame.strategy);
  out.Put(frame.attempt);
  out.Put(uint8_t{0});
  out.Put(frame.body_crc);
}

base::Result<TileFrame> ParseTile(std::span<const std::byte> head) {
  base::ByteReader in(head);
  TileFrame frame;
  frame.layer = in.Get<uint32_t>("TILE layer");
  frame.first_token = in.Get<uint32_t>("TILE first token");
  frame.tokens = in.Get<uint16_t>("TILE tokens");
  frame.group = in.Get<uint16_t>("TILE group");
  const auto side = in.Get<uint8_t>("TILE side");
  frame.strategy = in.Get<uint8_t>("TILE strategy");
  frame.attempt = in.Get<uint8_t>("TILE attempt");
  in.Get<uint8_t>("TILE reserved");
  frame.body_crc = in.Get<uint32_t>("TILE body CRC");
  KVPLANE_RETURN_IF_ERROR(in.status());
  KVPLANE_ASSIGN_OR_RETURN(frame.side, SideFromWire(side));
  return frame;
}

void Append(const FirstTokenFrame& frame, base::ByteWriter& out) {
  const size_t count = std::min(frame.token.top_logprobs.size(), kMaxTopLogprobs);
  out.Put(frame.token.id);
  out.Put(frame.token.logprob);
  out.Put(static_cast<uint8_t>(count));
  for (size_t i = 0; i < count; ++i) {
    out.Put(frame.token.top_logprobs[i].first);
    out.Put(frame.token.top_logprobs[i].second);
  }
}

base::Result<FirstTokenFrame> ParseFirstToken(std::span<const std::byte> head) {
  base::ByteReader in(head);
  FirstTokenFrame frame;
  frame.token.id = in.Get<int32_t>("FIRST_TOKEN id");
  frame.token.logprob = in.Get<float>("FIRST_TOKEN logprob");
  const auto count = in.Get<uint8_t>("FIRST_TOKEN alternatives");
  if (count > kMaxTopLogprobs) return base::Corrupt("FIRST_TOKEN has {} alternatives", count);
  for (uint8_t i = 0; i < count; ++i) {
    const auto id = in.Get<int32_t>("FIRST_TOKEN alternative");
    frame.token.top_logprobs.emplace_back(id, in.Get<float>("FIRST_TOKEN alternative"));
  }
  KVPLANE_RETURN_IF_ERROR(in.status());
  return frame;
}

void Append(const CreditFrame& frame, base::ByteWriter& out) { out.Put(frame.limit_bytes); }

base::Result<CreditFrame> ParseCredit(std::span<const std::byte> head) {
  base::ByteReader in(head);
  CreditFrame frame;
  frame.limit_bytes = in.Get<uint64_t>("CREDIT limit");
  KVPLANE_RETURN_IF_ERROR(in.status());
  return frame;
}

void Append(const DoneFrame& frame, base::ByteWriter& out) {
  out.Put(frame.tiles_sent);
  out.Put(frame.tiles_retried);
  PutDuration(frame.encode, out);
  PutDuration(frame.send, out);
  PutDuration(frame.since_prefill, out);
  out.Put(frame.kv_quality);
}

base::Result<DoneFrame> ParseDone(std::span<const std::byte> head) {
  base::ByteReader in(head);
  DoneFrame frame;
  frame.tiles_sent = in.Get<uint32_t>("DONE tiles sent");
  frame.tiles_retried = in.Get<uint32_t>("DONE tiles retried");
  frame.encode = GetDuration(in, "DONE encode time");
  frame.send = GetDuration(in, "DONE send time");
  frame.since_prefill = GetDuration(in, "DONE time since prefill");
  // A peer of minor version 1 ends here: it has computed all it sends.
  if (in.remaining() > 0)
    frame.kv_quality = std::min(in.Get<uint16_t>("DONE quality"), tensor::kExactQuality);
  KVPLANE_RETURN_IF_ERROR(in.status());
  return frame;
}

void Append(const AckFrame& frame, base::ByteWriter& out) {
  out.Put(frame.bytes_wire);
  PutDuration(frame.decode, out);
  PutDuration(frame.wall, out);
  PutDuration(frame.exposed, out);
}

base::Result<AckFrame> ParseAck(std::span<const std::byte> head) {
  base::ByteReader in(head);
  AckFrame frame;
  frame.bytes_wire = in.Get<uint64_t>("ACK bytes");
  frame.decode = GetDuration(in, "ACK decode time");
  frame.wall = GetDuration(in, "ACK wall time");
  frame.exposed = GetDuration(in, "ACK exposed time");
  KVPLANE_RETURN_IF_ERROR(in.status());
  return frame;
}

void Append(const NackFrame& frame, base::ByteWriter& out) {
  out.Put(frame.layer);
  out.Put(frame.first_token);
  out.Put(frame.group);
  out.Put(static_cast<uint8_t>(frame.side));
  out.Put(frame.reason);
}

base::Result<NackFrame> ParseNack(std::span<const std::byte> head) {
  base::ByteReader in(head);
  NackFrame frame;
  frame.layer = in.Get<uint32_t>("NACK layer");
  frame.first_token = in.Get<uint32_t>("NACK first token");
  frame.group = in.Get<uint16_t>("NACK group");
  const auto side = in.Get<uint8_t>("NACK side");
  frame.reason = in.Get<uint8_t>("NACK reason");
  KVPLANE_RETURN_IF_ERROR(in.status());
  KVPLANE_ASSIGN_OR_RETURN(frame.side, SideFromWire(side));
  return frame;
}

void Append(const AbortFrame& frame, base::ByteWriter& out) {
  out.Put(transport::StatusIdOf(frame.status.code()));
  out.PutString(std::string_view(frame.status.message()).substr(0, kMaxReasonBytes));
}

base::Result<AbortFrame> ParseAbort(std::span<const std::byte> head) {
  base::ByteReader in(head);
  const auto code = in.Get<uint16_t>("ABORT code");
  KVPLANE_ASSIGN_OR_RETURN(std::string reason, GetBoundedString(in, kMaxReasonBytes, "ABORT reason"));
  KVPLANE_RETURN_IF_ERROR(in.status());
  return AbortFrame{base::Status(transport::StatusCodeOf(code), std::move(reason))};
}

void Append(const PingFrame& frame, base::ByteWriter& out) { out.Put(frame.cookie); }
void Append(const PongFrame& frame, base::ByteWriter& out) { out.Put(frame.cookie); }

base::Result<PingFrame> ParsePing(std::span<const std::byte> head) {
  base::ByteReader in(head);
  const auto cookie = in.Get<uint64_t>("PING cookie");
  KVPLANE_RETURN_IF_ERROR(in.status());
  return PingFrame{cookie};
}

base::Result<PongFrame> ParsePong(std::span<const std::byte> head) {
  base::ByteReader in(head);
  const auto cookie = in.Get<uint64_t>("PONG cookie");
  KVPLANE_RETURN_IF_ERROR(in.status());
  return PongFrame{cookie};
}

}  // namespace kvplane::transfer
