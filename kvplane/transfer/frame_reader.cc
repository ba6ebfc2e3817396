#include "kvplane/transfer/frame_reader.h"

#include <algorithm>

#include "kvplane/kernel/checksum/checksum.h"

namespace kvplane::transfer {
namespace {

constexpr size_t kSkipBytes = 64 << 10;

}  // namespace

base::Status FrameReader::Next(base::TimePoint deadline, base::TimePoint frame_deadline) {
  std::byte bytes[kFrameHeaderBytes];
  KVPLANE_RETURN_IF_ERROR(stream_.Read(bytes, deadline));
  KVPLANE_ASSIGN_OR_RETURN(header_, ParseFrameHeader(bytes));
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

}  // namespace kvplane::transfer
