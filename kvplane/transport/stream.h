// Transport SPI: opaque, reliable, ordered bytes between named endpoints. Nothing here knows what the bytes
// mean.
//
// Why blocking calls with deadlines instead of an event loop: a node has few peers, each with one reader and
// one writer thread; tiles are decoded straight from the reader into cache pages, and decorators (shaped,
// faulty) stay a few lines each (docs/adr/0003). HTTP, with thousands of connections, runs on Asio instead.
//
// A stream may begin with a handshake (tls, token). The first Write or Read that moves bytes runs it on its
// own thread, never Connect() or Accept(): a listener is not held up by a slow or silent peer. Such a call
// waits for the other end, so both ends must have a thread that reads or writes. Handshakes end within
// kHandshakeTimeout; a refused peer is kPermissionDenied with the reason, here and (in general terms) there.
//
// Thread safety: one thread may read and another may write at the same time; Shutdown() may be called from
// any thread at any time and makes both return kCancelled (or finish). Ownership: the transport outlives its
// streams and listeners. Deadlines are points of base::Clock::System().
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"

namespace kvplane::transport {

// From the first use of a stream to the end of its handshake: a few round trips and one signature.
constexpr base::Duration kHandshakeTimeout = std::chrono::seconds(10);

class Stream {
 public:
  virtual ~Stream() = default;

  // Writes all pieces in order or fails: kUnavailable (peer gone), kDeadlineExceeded, kCancelled (Shutdown),
  // kPermissionDenied (handshake). After a failure an unknown prefix may have been sent and the stream is
  // unusable.
  virtual base::Status Write(std::span<const std::span<const std::byte>> pieces,
                             base::TimePoint deadline) = 0;

  // Fills `into` completely or fails with the same codes; an orderly end of stream is kUnavailable.
  virtual base::Status Read(std::span<std::byte> into, base::TimePoint deadline) = 0;

  // Reads at least one byte, at most what has arrived, to the front of `into` (not empty) and says how many:
  // for protocols whose messages do not begin with their length. Same codes as Read().
  virtual base::Result<size_t> ReadSome(std::span<std::byte> into, base::TimePoint deadline) {
    KVPLANE_RETURN_IF_ERROR(Read(into.first(1), deadline));
    return size_t{1};
  }

  virtual void Shutdown() = 0;

  // "127.0.0.1:43210": for logs and error messages only.
  virtual std::string peer() const = 0;
};

class Listener {
 public:
  virtual ~Listener() = default;
  // kDeadlineExceeded when nobody came, kCancelled after Shutdown().
  virtual base::Result<std::unique_ptr<Stream>> Accept(base::TimePoint deadline) = 0;
  // The bound endpoint with its real port: "tcp://127.0.0.1:7001".
  virtual std::string endpoint() const = 0;
  virtual void Shutdown() = 0;
};

// What a user of a transport may ask before trusting it with bytes or an address.
struct Capabilities {
  bool cross_host = false;     // reaches other machines
  bool encrypted = false;      // nobody on the way reads or alters bytes unnoticed
  bool authenticated = false;  // whoever connects or is connected to has proved who it is
  // Estimate of one end's CPU time, for logs and for choosing between transports, not a promise: measured by
  // `kvplane bench transport` on one machine (docs/benchmarks.md).
  double cpu_ns_per_byte = 0;
};

// "between hosts, encrypted, authenticated, about 0.6 ns of CPU per byte".
std::string Describe(const Capabilities& capabilities);

class Transport {
 public:
  virtual ~Transport() = default;
  // "tcp", "inproc", "shaped(tls(tcp))".
  virtual std::string_view name() const = 0;
  virtual Capabilities capabilities() const = 0;
  // `endpoint` is "tcp://HOST:PORT" or "inproc://NAME"; port 0 lets the system choose. Both:
  // kInvalidArgument (not an endpoint of this transport), kUnavailable (the address is taken; nobody listens;
  // no such name), kDeadlineExceeded, kResourceExhausted (too many names are being looked up).
  virtual base::Result<std::unique_ptr<Listener>> Listen(std::string_view endpoint) = 0;
  virtual base::Result<std::unique_ptr<Stream>> Connect(std::string_view endpoint,
                                                        base::TimePoint deadline) = 0;
};

}  // namespace kvplane::transport
