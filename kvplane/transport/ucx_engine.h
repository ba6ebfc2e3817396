// The thread that drives UCX for one transport, and the only one that calls it. Others hand it commands.
//
// Messages: a header of 16 bytes (magic, kind, value) and for kData the bytes. kGrant: bytes the receiver may
// send (the first one makes the connection). kEnd: nothing follows; kEndSeen answers it, and only then does
// the ender close its endpoint, because UCX may report a closed connection before bytes that were sent ahead
// of it.
//
// Thread safety: all members may be called from any thread. Ownership: outlives all streams and listeners.
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "kvplane/transport/socket_address.h"
#include "kvplane/transport/ucx_channel.h"
#include "kvplane/transport/ucx_transport.h"

namespace kvplane::transport {

// How long an end waits for its peer to have taken everything, before it closes nevertheless.
constexpr base::Duration kUcxLinger = std::chrono::seconds(2);
// Streams of one listener that nobody accepted yet; more are refused.
constexpr size_t kUcxMaxBacklog = 128;

// One listener: what it accepted and nobody took yet.
struct UcxListening {
  SocketAddress address;   // to bind; with its real port once `settled`
  void* handle = nullptr;  // UCX's listener; belongs to the driving thread
  size_t connecting = 0;   // streams that have not said a word yet; belongs to the driving thread

  base::Mutex mutex;
  base::CondVar changed;
  bool settled KVPLANE_GUARDED_BY(mutex) = false;  // `status` tells whether it listens
  base::Status status KVPLANE_GUARDED_BY(mutex);
  bool closed KVPLANE_GUARDED_BY(mutex) = false;   // Accept() is over
  bool removed KVPLANE_GUARDED_BY(mutex) = false;  // its port is free
  std::deque<std::shared_ptr<UcxChannel>> waiting KVPLANE_GUARDED_BY(mutex);
};

class UcxEngine {
 public:
  static base::Result<std::unique_ptr<UcxEngine>> Create(const UcxOptions& options);
  // Gives streams that are ending kUcxLinger to do so.
  virtual ~UcxEngine() = default;

  // None of these waits for the peer; Listen() and StopListening() wait for the driving thread.
  virtual void Connect(std::shared_ptr<UcxChannel> channel, const SocketAddress& address) = 0;
  virtual base::Status Listen(const std::shared_ptr<UcxListening>& listening) = 0;
  virtual void StopListening(const std::shared_ptr<UcxListening>& listening) = 0;
  virtual void Send(std::shared_ptr<UcxChannel> channel, uint64_t offset, std::vector<std::byte> bytes) = 0;
  virtual void Grant(std::shared_ptr<UcxChannel> channel, uint64_t limit) = 0;
  virtual void End(std::shared_ptr<UcxChannel> channel) = 0;    // after what was sent
  virtual void Abort(std::shared_ptr<UcxChannel> channel) = 0;  // at once
};

}  // namespace kvplane::transport
