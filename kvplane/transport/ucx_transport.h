// Streams over UCX (openucx.org), for networks where it has something faster than TCP: RDMA, shared memory.
//
// Optional: -DKVPLANE_UCX=ON builds ucx_transport.cc (needs libucx-dev 1.12 or later); otherwise
// ucx_transport_absent.cc takes its place and every call says so. Without RDMA, TcpTransport is the better
// choice.
//
// Endpoints are "ucx://HOST:PORT": peers meet through a UCX listener on a socket address; UCX chooses how
// bytes travel. Endpoints ask for peer failure handling, because a peer that dies must end its streams.
// UCX 1.13 offers its fast shared memory only without that, so two processes of one machine mostly talk over
// TCP.
//
// Every message is an eager active message, at most kUcxChunkBytes, copied once on each side. A reader grants
// bytes to the writer (ucx_channel.h), so that a slow one holds at most kUcxWindowBytes. One thread per
// transport drives UCX and sleeps on its event descriptor; it never spins. UCX reads UCX_* variables of the
// environment, and from its loading on catches SIGHUP (UCX_DEBUG_SIGNO) and fatal signals
// (UCX_HANDLE_ERRORS).
//
// Neither encrypted nor authenticated by itself, and UCX trusts lengths that a peer claims before this code
// sees them: only for networks where every host is trusted. TLS and tokens (transport_security.h) protect
// what the streams carry, not UCX itself.
//
// Shutdown() of a stream ends both directions; what was written before is still delivered if the peer's
// process answers within kUcxLinger. Name resolution waits as long as the system's resolver does.
#pragma once

#include <memory>
#include <string>

#include "kvplane/transport/stream.h"

namespace kvplane::transport {

struct UcxOptions {
  // UCX_TLS of this transport, such as "tcp" or "tcp,posix,cma,self"; empty leaves the choice to UCX.
  std::string tls;
};

bool UcxIsBuilt();

// kUnimplemented when it is not built, kUnavailable when UCX finds nothing to use.
base::Result<std::unique_ptr<Transport>> CreateUcxTransport(const UcxOptions& options = {});

}  // namespace kvplane::transport
