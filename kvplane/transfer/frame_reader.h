// FrameReader: takes frames of the KV transfer protocol off a stream (kvplane/transport/frame.h).
//
// Thread safety: none; it belongs to the connection's reader thread. The stream must outlive it.
#pragma once

#include "kvplane/transfer/wire_frames.h"
#include "kvplane/transport/frame.h"

namespace kvplane::transfer {

class FrameReader : public transport::FrameReader {
 public:
  explicit FrameReader(transport::Stream& stream, base::Duration frame_timeout = transport::kFrameTimeout)
      : transport::FrameReader(kWireProtocol, stream, frame_timeout) {}

  FrameType type() const { return static_cast<FrameType>(header().type); }
};

}  // namespace kvplane::transfer
