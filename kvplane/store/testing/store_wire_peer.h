// WirePeer: one end of a store connection that sends exactly what a test wants, legal or not.
//
// Thread safety: none.
#pragma once

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kvplane/kernel/checksum/checksum.h"
#include "kvplane/store/remote/store_frames.h"
#include "kvplane/transport/frame.h"
#include "kvplane/transport/stream.h"

namespace kvplane::store {

struct WireFrame {
  transport::FrameHeader header;
  std::vector<std::byte> head;
  std::vector<std::byte> body;
  StoreFrameType type() const { return static_cast<StoreFrameType>(header.type); }
};

class WirePeer {
 public:
  explicit WirePeer(std::unique_ptr<transport::Stream> stream)
      : stream_(std::move(stream)), reader_(kStoreProtocol, *stream_) {}

  // For waits that must end well: only a hang reaches it.
  static base::TimePoint Soon() { return base::Clock::System().Now() + std::chrono::seconds(30); }

  base::Status Write(std::span<const std::byte> bytes) {
    return stream_->Write(std::span(&bytes, 1), Soon());
  }
  template <typename Frame>
  base::Status Send(uint32_t stream, const Frame& frame, std::span<const std::byte> body = {}) {
    std::vector<std::byte> bytes = EncodeStoreFrame(stream, frame, body.size());
    bytes.insert(bytes.end(), body.begin(), body.end());
    return Write(bytes);
  }
  base::Status SendHello(uint8_t role) {
    StoreHello hello;
    hello.role = role;
    hello.max_requests = 1024;
    hello.max_object_bytes = kMaxStoredBytes;
    return Send(0, hello);
  }
  base::Status SendPiece(uint32_t stream, uint64_t at, std::span<const std::byte> piece) {
    return Send(stream, PutDataFrame{at, kernel::Crc32c(piece)}, piece);
  }

  base::Result<WireFrame> Next(base::TimePoint deadline = Soon()) {
    KVPLANE_RETURN_IF_ERROR(reader_.Next(deadline));
    WireFrame frame{reader_.header(), {reader_.head().begin(), reader_.head().end()}, {}};
    frame.body.resize(frame.header.body_bytes);
    KVPLANE_RETURN_IF_ERROR(reader_.ReadBody(frame.body));
    return frame;
  }
  // The next frame that is not HELLO.
  base::Result<WireFrame> NextReply() {
    while (true) {
      KVPLANE_ASSIGN_OR_RETURN(WireFrame frame, Next());
      if (frame.type() != StoreFrameType::kHello) return frame;
    }
  }

  transport::Stream& stream() { return *stream_; }

 private:
  std::unique_ptr<transport::Stream> stream_;
  transport::FrameReader reader_;
};

}  // namespace kvplane::store
