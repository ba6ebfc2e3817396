#include "kvplane/transport/tcp_transport.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "kvplane/transport/endpoint.h"
#include "kvplane/transport/file_descriptor.h"
#include "kvplane/transport/socket_address.h"

namespace kvplane::transport {
namespace {

// Pieces gathered into one system call; well under the kernel's IOV_MAX of 1024.
constexpr size_t kMaxGather = 64;

// Pause of a listener that has no free file descriptor, before it tries again.
constexpr base::Duration kAcceptBackoff = std::chrono::milliseconds(20);

base::Status SetOption(int fd, int level, int name, int value, std::string_view what) {
  if (::setsockopt(fd, level, name, &value, sizeof(value)) == 0) return base::Status::Ok();
  return base::Internal("{}: {}", what, ErrnoText(errno));
}

base::Status ApplyOptions(int fd, const TcpOptions& options) {
  if (options.send_buffer_bytes > 0) {
    KVPLANE_RETURN_IF_ERROR(SetOption(fd, SOL_SOCKET, SO_SNDBUF, options.send_buffer_bytes, "SO_SNDBUF"));
  }
  if (options.receive_buffer_bytes > 0) {
    KVPLANE_RETURN_IF_ERROR(SetOption(fd, SOL_SOCKET, SO_RCVBUF, options.receive_buffer_bytes, "SO_RCVBUF"));
  }
  return SetOption(fd, IPPROTO_TCP, TCP_NODELAY, options.no_delay ? 1 : 0, "TCP_NODELAY");
}

class TcpStream final : public Stream {
 public:
  TcpStream(FileDescriptor socket, Wakeup wakeup, std::string peer)
      : socket_(std::move(socket)), wakeup_(std::move(wakeup)), peer_(std::move(peer)) {}

  base::Status Write(std::span<const std::span<const std::byte>> pieces, base::TimePoint deadline) override {
    iovec gather[kMaxGather];
    size_t next = 0;     // first piece not yet in `gather`
    size_t pending = 0;  // entries of `gather` still to send
    iovec* front = gather;
    while (true) {
      if (pending == 0) {
        front = gather;
        for (; next < pieces.size() && pending < kMaxGather; ++next) {
          if (pieces[next].empty()) continue;
          gather[pending++] = {const_cast<std::byte*>(pieces[next].data()), pieces[next].size()};
        }
        if (pending == 0) return base::Status::Ok();
      }
      size_t sent = 0;
      KVPLANE_RETURN_IF_ERROR(SendSome(front, pending, deadline, sent));
      while (sent > 0 && sent >= front->iov_len) {
        sent -= front->iov_len;
        ++front;
        --pending;
      }
      if (sent > 0) {
        front->iov_base = static_cast<std::byte*>(front->iov_base) + sent;
        front->iov_len -= sent;
      }
    }
  }

  base::Status Read(std::span<std::byte> into, base::TimePoint deadline) override {
    while (!into.empty()) {
      KVPLANE_ASSIGN_OR_RETURN(const size_t got, ReadSome(into, deadline));
      into = into.subspan(got);
    }
    return base::Status::Ok();
  }

  base::Result<size_t> ReadSome(std::span<std::byte> into, base::TimePoint deadline) override {
    while (true) {
      if (wakeup_.raised()) return base::Cancelled("stream to {} shut down", peer_);
      const ssize_t got = ::recv(socket_.get(), into.data(), into.size(), MSG_DONTWAIT);
      if (got > 0) return static_cast<size_t>(got);
      if (got == 0) {
        return wakeup_.raised() ? base::Cancelled("stream to {} shut down", peer_)
                                : base::Unavailable("{} closed the connection", peer_);
      }
      if (errno == EAGAIN) {
        KVPLANE_RETURN_IF_ERROR(wakeup_.Wait(socket_.get(), POLLIN, deadline).Annotate(peer_));
      } else if (errno != EINTR) {
        return Failure("read from", errno);
      }
    }
  }

  void Shutdown() override {
    wakeup_.Raise();
    ::shutdown(socket_.get(), SHUT_RDWR);
  }

  std::string peer() const override { return peer_; }

 private:
  // Sends at least one byte of `count` gathered pieces, or fails.
  base::Status SendSome(iovec* pieces, size_t count, base::TimePoint deadline, size_t& sent) {
    msghdr message{};
    message.msg_iov = pieces;
    message.msg_iovlen = count;
    while (true) {
      if (wakeup_.raised()) return base::Cancelled("stream to {} shut down", peer_);
      const ssize_t result = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (result >= 0) {
        sent = static_cast<size_t>(result);
        return base::Status::Ok();
      }
      if (errno == EAGAIN) {
        KVPLANE_RETURN_IF_ERROR(wakeup_.Wait(socket_.get(), POLLOUT, deadline).Annotate(peer_));
      } else if (errno != EINTR) {
        return Failure("write to", errno);
      }
    }
  }

  base::Status Failure(std::string_view what, int error) const {
    if (wakeup_.raised()) return base::Cancelled("stream to {} shut down", peer_);
    return base::Unavailable("{} {}: {}", what, peer_, ErrnoText(error));
  }

  const FileDescriptor socket_;
  Wakeup wakeup_;
  const std::string peer_;
};

base::Result<std::unique_ptr<Stream>> WrapSocket(FileDescriptor socket, const SocketAddress& peer) {
  KVPLANE_ASSIGN_OR_RETURN(Wakeup wakeup, Wakeup::Create());
  return std::unique_ptr<Stream>(
      std::make_unique<TcpStream>(std::move(socket), std::move(wakeup), peer.ToString()));
}

class TcpListener final : public Listener {
 public:
  TcpListener(FileDescriptor socket, Wakeup wakeup, std::string endpoint, const TcpOptions& options)
      : socket_(std::move(socket)),
        wakeup_(std::move(wakeup)),
        endpoint_(std::move(endpoint)),
        options_(options) {}

  base::Result<std::unique_ptr<Stream>> Accept(base::TimePoint deadline) override {
    while (true) {
      if (wakeup_.raised()) return base::Cancelled("listener {} shut down", endpoint_);
      SocketAddress peer;
      FileDescriptor socket(::accept4(socket_.get(), peer.get(), &peer.size, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (socket.valid()) {
        // A connection that died between accept and here is dropped, not the listener.
        if (ApplyOptions(socket.get(), options_).ok()) {
          if (auto stream = WrapSocket(std::move(socket), peer); stream.ok()) return stream;
        }
        continue;
      }
      const int error = errno;
      if (error == EAGAIN) {
        KVPLANE_RETURN_IF_ERROR(wakeup_.Wait(socket_.get(), POLLIN, deadline).Annotate(endpoint_));
      } else if (error == EBADF || error == EINVAL || error == ENOTSOCK) {
        return base::Internal("accept on {}: {}", endpoint_, ErrnoText(error));
      } else if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM) {
        // Out of descriptors or memory: not a reason to stop listening. Anything else is one peer's own
        // error.
        KVPLANE_RETURN_IF_ERROR(PauseBeforeRetry(deadline));
      }
    }
  }

  std::string endpoint() const override { return endpoint_; }
  void Shutdown() override { wakeup_.Raise(); }

 private:
  base::Status PauseBeforeRetry(base::TimePoint deadline) {
    const base::TimePoint now = base::Clock::System().Now();
    if (now >= deadline) return base::DeadlineExceeded("{}: out of file descriptors or memory", endpoint_);
    const base::Status status = wakeup_.Wait(-1, 0, std::min(deadline, now + kAcceptBackoff));
    return status.code() == base::StatusCode::kDeadlineExceeded ? base::Status::Ok() : status;
  }

  const FileDescriptor socket_;
  Wakeup wakeup_;
  const std::string endpoint_;
  const TcpOptions options_;
};

// A connect() to a free local port of the ephemeral range can meet itself (simultaneous open).
bool IsSelfConnected(int fd) {
  SocketAddress local;
  SocketAddress remote;
  if (::getsockname(fd, local.get(), &local.size) != 0) return false;
  if (::getpeername(fd, remote.get(), &remote.size) != 0) return false;
  return local.size == remote.size && std::memcmp(&local.storage, &remote.storage, local.size) == 0;
}

base::Result<std::unique_ptr<Stream>> ConnectTo(const SocketAddress& address, const TcpOptions& options,
                                                base::TimePoint deadline) {
  FileDescriptor socket(
      ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
  if (!socket.valid()) return base::Unavailable("socket: {}", ErrnoText(errno));
  KVPLANE_RETURN_IF_ERROR(ApplyOptions(socket.get(), options));
  if (::connect(socket.get(), address.get(), address.size) != 0) {
    if (errno != EINPROGRESS && errno != EINTR) {
      return base::Unavailable("connect to {}: {}", address.ToString(), ErrnoText(errno));
    }
    KVPLANE_ASSIGN_OR_RETURN(const Wakeup never, Wakeup::Create());
    KVPLANE_RETURN_IF_ERROR(never.Wait(socket.get(), POLLOUT, deadline).Annotate(address.ToString()));
    int error = 0;
    socklen_t size = sizeof(error);
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
    if (error != 0) return base::Unavailable("connect to {}: {}", address.ToString(), ErrnoText(error));
  }
  if (IsSelfConnected(socket.get())) {
    return base::Unavailable("connect to {}: nobody listens there", address.ToString());
  }
  return WrapSocket(std::move(socket), address);
}

class TcpTransport final : public Transport {
 public:
  explicit TcpTransport(const TcpOptions& options) : options_(options) {}

  std::string_view name() const override { return "tcp"; }
  Capabilities capabilities() const override { return {.cross_host = true, .cpu_ns_per_byte = 0.12}; }

  base::Result<std::unique_ptr<Listener>> Listen(std::string_view endpoint) override {
    KVPLANE_ASSIGN_OR_RETURN(const TcpEndpoint where, ParseTcpEndpoint(endpoint));
    KVPLANE_ASSIGN_OR_RETURN(
        const std::vector<SocketAddress> addresses,
        Resolve(where, ResolveFor::kListen, base::Clock::System().Now() + kListenResolveTimeout));
    base::Status status;
    for (const SocketAddress& address : addresses) {
      auto listener = ListenOn(address);
      if (listener.ok()) return listener;
      status = listener.status();
    }
    return status.Annotate(fmt::format("listen on {}", endpoint));
  }

  base::Result<std::unique_ptr<Stream>> Connect(std::string_view endpoint,
                                                base::TimePoint deadline) override {
    KVPLANE_ASSIGN_OR_RETURN(const TcpEndpoint where, ParseTcpEndpoint(endpoint));
    KVPLANE_ASSIGN_OR_RETURN(const std::vector<SocketAddress> addresses,
                             Resolve(where, ResolveFor::kConnect, deadline));
    base::Status status;
    for (size_t i = 0; i < addresses.size(); ++i) {
      const base::TimePoint now = base::Clock::System().Now();
      const auto share = base::TimeLeft(base::Clock::System(), deadline) /
                         static_cast<base::Duration::rep>(addresses.size() - i);
      auto stream = ConnectTo(addresses[i], options_, now + share);
      if (stream.ok()) return stream;
      status = stream.status();
    }
    return status;
  }

 private:
  base::Result<std::unique_ptr<Listener>> ListenOn(const SocketAddress& address) {
    FileDescriptor socket(
        ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
    if (!socket.valid()) return base::Unavailable("socket: {}", ErrnoText(errno));
    KVPLANE_RETURN_IF_ERROR(SetOption(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR"));
    KVPLANE_RETURN_IF_ERROR(ApplyOptions(socket.get(), options_));  // the window scale is set at accept time
    if (::bind(socket.get(), address.get(), address.size) != 0 ||
        ::listen(socket.get(), options_.accept_backlog) != 0) {
      return base::Unavailable("{}: {}", address.ToString(), ErrnoText(errno));
    }
    SocketAddress bound;
    if (::getsockname(socket.get(), bound.get(), &bound.size) != 0) {
      return base::Internal("getsockname: {}", ErrnoText(errno));
    }
    KVPLANE_ASSIGN_OR_RETURN(Wakeup wakeup, Wakeup::Create());
    return std::unique_ptr<Listener>(std::make_unique<TcpListener>(
        std::move(socket), std::move(wakeup), fmt::format("tcp://{}", bound.ToString()), options_));
  }

  const TcpOptions options_;
};

}  // namespace

std::unique_ptr<Transport> CreateTcpTransport(const TcpOptions& options) {
  return std::make_unique<TcpTransport>(options);
}

}  // namespace kvplane::transport
