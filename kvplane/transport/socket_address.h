// SocketAddress: what a kernel or UCX connects to and binds, and how names become addresses within a
// deadline.
//
// Thread safety: values and free functions, from any thread.
#pragma once

#include <sys/socket.h>

#include <functional>
#include <string>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/transport/endpoint.h"

namespace kvplane::transport {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = sizeof(sockaddr_storage);

  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  std::string ToString() const;  // "127.0.0.1:7001", "[::1]:7001"
};

enum class ResolveFor { kListen, kConnect };

// Looks names up, blocking; the default is the system's resolver.
using NameLookup =
    std::function<base::Result<std::vector<SocketAddress>>(const TcpEndpoint& endpoint, ResolveFor purpose)>;

// The addresses of `endpoint`, at least one, best first. Literals are converted here and now. The system's
// resolver knows no deadline (it may wait half a minute for servers that do not answer), so names are looked
// up on a thread of their own, which is left alone when the deadline passes. kUnavailable (no such name),
// kDeadlineExceeded, kResourceExhausted (kMaxNameLookups are under way, or no thread).
base::Result<std::vector<SocketAddress>> Resolve(const TcpEndpoint& endpoint, ResolveFor purpose,
                                                 base::TimePoint deadline, const NameLookup& lookup = {});

// The same for callers that must not block: `done` is called once, on the lookup's thread, whenever that is,
// if this returns OK. It must hold nothing that may not be destroyed there.
using OnResolved = std::function<void(base::Result<std::vector<SocketAddress>>)>;
base::Status StartLookup(const TcpEndpoint& endpoint, ResolveFor purpose, const NameLookup& lookup,
                         OnResolved done);

// Lookups at a time, those included whose callers have given up: each is a thread.
constexpr int kMaxNameLookups = 64;
int NameLookupsUnderWay();

// How long a listener waits for the addresses of its own name.
constexpr base::Duration kListenResolveTimeout = std::chrono::seconds(10);

}  // namespace kvplane::transport
