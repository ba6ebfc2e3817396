// TCP over non-blocking sockets, poll() and an eventfd per stream for Shutdown().
//
// IPv4, IPv6 and host names. Every wait honours its deadline, that for the addresses of a name included
// (socket_address.h); Listen(), which is given none, waits kListenResolveTimeout at most. Literal addresses
// never wait. Connect() tries all addresses of a name, each with a fair share of the time left.
//
// A listener that runs out of file descriptors leaves the connection in the kernel's queue, waits and tries
// again: it never spins and never dies of it.
//
// Shutdown() of a stream ends both directions; bytes already handed to the kernel are still delivered before
// the peer sees the end of the stream, unless the peer had sent bytes that were never read.
#pragma once

#include <memory>

#include "kvplane/transport/stream.h"

namespace kvplane::transport {

struct TcpOptions {
  int send_buffer_bytes = 0;     // SO_SNDBUF; 0 leaves the kernel's automatic tuning on
  int receive_buffer_bytes = 0;  // SO_RCVBUF; the same
  bool no_delay = true;          // TCP_NODELAY: frames are written whole, there is nothing to coalesce
  int accept_backlog = 128;
};

std::unique_ptr<Transport> CreateTcpTransport(const TcpOptions& options = {});

}  // namespace kvplane::transport
