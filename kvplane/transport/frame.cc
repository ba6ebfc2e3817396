#include "kvplane/transport/frame.h"

#include <algorithm>
#include <utility>

#include "kvplane/base/check.h"
#include "kvplane/kernel/checksum/checksum.h"

namespace kvplane::transport {
namespace {

// Offset inside the header.
constexpr size_t kHeaderCrcAt = 28;

constexpr size_t kSkipBytes = 64 << 10;

// Never renumber.
constexpr std::pair<base::StatusCode, uint16_t> kStatusIds[] = {
    {base::StatusCode::kInvalidArgument, 1},
    {base::StatusCode::kNotFound, 2},
    {base::StatusCode::kCorrupt, 3},
    {base::StatusCode::kUnavailable, 4},
    {base::StatusCode::kDeadlineExceeded, 5},
    {base::StatusCode::kCancelled, 6},
    {base::StatusCode::kResourceExhausted, 7},
    {base::StatusCode::kUnimplemented, 8},
    {base::StatusCode::kFailedPrecondition, 9},
    {base::StatusCode::kPermissionDenied, 10},
    {base::StatusCode::kInternal, 11},
};

}  // namespace

base::Result<FrameHeader> ParseFrameHeader(const FrameProtocol& protocol,
                                           std::span<const std::byte, kFrameHeaderBytes> bytes) {
  base::ByteReader in(bytes);
  const auto magic = in.Get<uint32_t>("magic");
  const auto major = in.Get<uint8_t>("major");
  in.Get<uint8_t>("reserved");
  FrameHeader header;
  header.type = in.Get<uint8_t>("type");
  header.flags = in.Get<uint8_t>("flags");
  header.stream = in.Get<uint32_t>("stream");
  header.head_bytes = in.Get<uint32_t>("head length");
  header.body_bytes = in.Get<uint32_t>("body length");
  header.head_crc = in.Get<uint32_t>("head CRC");
  in.Get<uint32_t>("reserved");
  const auto crc = in.Get<uint32_t>("header CRC");
  if (magic != protocol.magic) {
    return base::Corrupt("frame magic {:#010x} is not {:#010x}", magic, protocol.magic);
  }
  if (crc != kernel::Crc32c(bytes.first(kHeaderCrcAt))) return base::Corrupt("frame header CRC mismatch");
  if (major != protocol.major) {
    return base::Unimplemented("the peer speaks wire version {}, this end {}", major, protocol.major);
  }
  if (header.head_bytes > kMaxHeadBytes) {
    return base::Corrupt("frame head of {} bytes; at most {} are legal", header.head_bytes, kMaxHeadBytes);
  }
  if (header.body_bytes > kMaxBodyBytes) {
    return base::Corrupt("frame body of {} bytes; at most {} are legal", header.body_bytes, kMaxBodyBytes);
  }
  return header;
}

void SealFrame(const FrameProtocol& protocol, uint8_t type, uint32_t stream, uint32_t body_bytes,
               std::vector<std::byte>& frame) {
  KVPLANE_CHECK(frame.size() >= kFrameHeaderBytes && frame.size() - kFrameHeaderBytes <= kMaxHeadBytes);
  const std::span<const std::byte> head = std::span(frame).subspan(kFrameHeaderBytes);
  std::byte* at = frame.data();
  base::StoreLe(at, protocol.magic);
  base::StoreLe(at + 4, protocol.major);
  base::StoreLe(at + 5, uint8_t{0});
  base::StoreLe(at + 6, type);
  base::StoreLe(at + 7, uint8_t{0});
  base::StoreLe(at + 8, stream);
  base::StoreLe(at + 12, static_cast<uint32_t>(head.size()));
  base::StoreLe(at + 16, body_bytes);
  base::StoreLe(at + 20, kernel::Crc32c(head));
  base::StoreLe(at + 24, uint32_t{0});
  base::StoreLe(at + kHeaderCrcAt, kernel::Crc32c(std::span(frame).first(kHeaderCrcAt)));
}

uint16_t StatusIdOf(base::StatusCode code) {
  for (const auto& [known, id] : kStatusIds) {
    if (known == code) return id;
  }
  return StatusIdOf(base::StatusCode::kInternal);
}

base::StatusCode StatusCodeOf(uint16_t id) {
  for (const auto& [code, known] : kStatusIds) {
    if (known == id) return code;
  }
  return base::StatusCode::kInternal;
}

base::Result<std::string> GetBoundedString(base::ByteReader& in, size_t limit, std::string_view field) {
  const auto length = in.Get<uint16_t>(field);
  if (length > limit) return base::Corrupt("{} has {} bytes; at most {} are legal", field, length, limit);
  const auto bytes = in.GetBytes(length, field);
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

base::Status FrameReader::Next(base::TimePoint deadline, base::TimePoint frame_deadline) {
  std::byte bytes[kFrameHeaderBytes];
  KVPLANE_RETURN_IF_ERROR(stream_.Read(bytes, deadline));
  KVPLANE_ASSIGN_OR_RETURN(header_, ParseFrameHeader(protocol_, bytes));
  frame_deadline_ = std::min(frame_deadline, base::Clock::System().Now() + frame_timeout_);
  head_.resize(header_.head_bytes);
  KVPLANE_RETURN_IF_ERROR(stream_.Read(head_, frame_deadline_));
  if (kernel::Crc32c(head_) != header_.head_crc) {
    return base::Corrupt("frame head CRC mismatch (type {}, stream {})", header_.type, header_.stream);
  }
  return base::Status::Ok();
}

base::Status FrameReader::ReadBody(std::span<std::byte> into) {
  KVPLANE_CHECK(into.size() == header_.body_bytes);
  return stream_.Read(into, frame_deadline_);
}

base::Status FrameReader::SkipBody() {
  skipped_.resize(std::min<size_t>(header_.body_bytes, kSkipBytes));
  for (size_t left = header_.body_bytes; left > 0;) {
    const std::span<std::byte> piece = std::span(skipped_).first(std::min(left, skipped_.size()));
    KVPLANE_RETURN_IF_ERROR(stream_.Read(piece, frame_deadline_));
    left -= piece.size();
  }
  return base::Status::Ok();
}

}  // namespace kvplane::transport
