#include "kvplane/transfer/frame_reader.h"

#include <algorithm>

#include "kvplane/kernel/checksum/checksum.h"

namespace kvplane::transfer {
namespace {

constexpr size_t kSkipBytes = 64 << 10;

base::TimePoint FrameDeadline() { return base::Clock::System().Now() + kFrameTimeout; }

}  // namespace

base::Status FrameReader::Next(base::TimePoint deadline) {
  std::byte bytes[kFrameHeaderBytes];
  KVPLANE_RETURN_IF_ERROR(stream_.Read(bytes, deadline));
  KVPLANE_ASSIGN_OR_RETURN(header_, ParseFrameHeader(bytes));
  head_.resize(header_.head_bytes);
  KVPLANE_RETURN_IF_ERROR(stream_.Read(head_, FrameDeadline()));
  if (kernel::Crc32c(head_) != header_.head_crc) {
    return base::Corrupt("frame head CRC mismatch (type {}, stream {})", header_.type, header_.stream);
  }
  return base::Status::Ok();
}

base::Status FrameReader::ReadBody(std::span<std::byte> into) {
  KVPLANE_CHECK(into.size() == header_.body_bytes);
  return stream_.Read(into, FrameDeadline());
}

base::Status FrameReader::SkipBody() {
  skipped_.resize(std::min<size_t>(header_.body_bytes, kSkipBytes));
  for (size_t left = header_.body_bytes; left > 0;) {
    const std::span<std::byte> piece = std::span(skipped_).first(std::min(left, skipped_.size()));
    KVPLANE_RETURN_IF_ERROR(stream_.Read(piece, FrameDeadline()));
    left -= piece.size();
  }
  return base::Status::Ok();
}

}  // namespace kvplane::transfer
