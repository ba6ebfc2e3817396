// What a UCX stream and the thread that drives UCX share: arrived bytes, credit, and how the stream ended. It
// knows no UCX.
//
// Credit: both directions count bytes from the start of the stream. A reader tells the writer up to which
// count it may send; it begins with kUcxWindowBytes and tells again when a quarter of the window was read.
// The first grant also says that the peer is there.
//
// Thread safety: all members may be called from any thread, `endpoint` excepted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/base/status.h"

namespace kvplane::transport {

// Bytes sent and not yet read, per direction: a few times what a 10 Gbit/s link holds in 1 ms.
constexpr size_t kUcxWindowBytes = size_t{4} << 20;
// Largest message: amortises a message's cost and leaves several in flight in a window.
constexpr size_t kUcxChunkBytes = size_t{128} << 10;

class UcxChannel {
 public:
  explicit UcxChannel(std::string peer) : peer_(std::move(peer)) {}

  // For the stream. Codes are those of Stream.
  base::Status WaitUntilConnected(base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_);
  // Takes credit for at least one byte, at most `wanted`.
  struct Room {
    uint64_t offset = 0;
    size_t bytes = 0;
  };
  base::Result<Room> TakeCredit(size_t wanted, base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_);
  struct Taken {
    size_t bytes = 0;
    std::optional<uint64_t> grant;  // a new grant to tell the peer
  };
  base::Result<Taken> TakeArrived(std::span<std::byte> into, base::TimePoint deadline)
      KVPLANE_EXCLUDES(mutex_);
  // False when it had been shut down before.
  bool ShutDown() KVPLANE_EXCLUDES(mutex_);

  // For the driving thread. An error is the peer's fault: a violation of the protocol.
  base::Status Arrived(uint64_t offset, std::span<const std::byte> bytes) KVPLANE_EXCLUDES(mutex_);
  base::Status Granted(uint64_t limit) KVPLANE_EXCLUDES(mutex_);
  base::Status PeerEnded(uint64_t offset) KVPLANE_EXCLUDES(mutex_);
  void Fail(const base::Status& status) KVPLANE_EXCLUDES(mutex_);  // the first one counts

  const std::string& peer() const { return peer_; }

  // UCX's endpoint, null when there is none (any more). Belongs to the driving thread.
  void* endpoint = nullptr;

 private:
  // Why nothing can be written, and nothing read once the arrived bytes are used up.
  base::Status Ended() KVPLANE_REQUIRES(mutex_);

  const std::string peer_;
  base::Mutex mutex_;
  base::CondVar changed_;
  bool connected_ KVPLANE_GUARDED_BY(mutex_) = false;
  bool shut_down_ KVPLANE_GUARDED_BY(mutex_) = false;
  base::Status failure_ KVPLANE_GUARDED_BY(mutex_);  // or the peer's orderly end
  std::deque<std::vector<std::byte>> arrived_ KVPLANE_GUARDED_BY(mutex_);
  size_t front_at_ KVPLANE_GUARDED_BY(mutex_) = 0;  // bytes of arrived_.front() already read
  uint64_t received_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint64_t read_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint64_t granted_ KVPLANE_GUARDED_BY(mutex_) = kUcxWindowBytes;  // to the peer
  uint64_t sent_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint64_t limit_ KVPLANE_GUARDED_BY(mutex_) = 0;  // by the peer
};

}  // namespace kvplane::transport
