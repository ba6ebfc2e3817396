// FrameReader: takes frames off a stream, one at a time, checking header and head before anybody sees them.
//
// Thread safety: none; it belongs to the connection's reader thread. The stream must outlive it.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/transfer/wire_frames.h"
#include "kvplane/transport/stream.h"

namespace kvplane::transfer {

// Once a header has arrived the rest of its frame must follow within this time. At kMaxBodyBytes that is
// less than 1 Mbit/s: a slower peer is as good as gone.
constexpr base::Duration kFrameTimeout = std::chrono::seconds(60);

class FrameReader {
 public:
  explicit FrameReader(transport::Stream& stream, base::Duration frame_timeout = kFrameTimeout)
      : stream_(stream), frame_timeout_(frame_timeout) {}

  // Reads the next header and head. The body of the frame before must have been read or skipped. `deadline`
  // is for the header to come, `frame_deadline` for all of the frame where it must come even sooner than the
  // frame timeout allows. kCorrupt and kUnimplemented: the connection cannot go on.
  base::Status Next(base::TimePoint deadline, base::TimePoint frame_deadline = base::kNoDeadline);

  const FrameHeader& header() const { return header_; }
  FrameType type() const { return static_cast<FrameType>(header_.type); }
  std::span<const std::byte> head() const { return head_; }
  size_t frame_bytes() const { return kFrameHeaderBytes + header_.head_bytes + header_.body_bytes; }

  // `into` has body_bytes.
  base::Status ReadBody(std::span<std::byte> into);
  base::Status SkipBody();

 private:
  transport::Stream& stream_;
  const base::Duration frame_timeout_;
  FrameHeader header_;
  base::TimePoint frame_deadline_;  // of the frame whose header was read last
  std::vector<std::byte> head_;
  std::vector<std::byte> skipped_;
};

}  // namespace kvplane::transfer
