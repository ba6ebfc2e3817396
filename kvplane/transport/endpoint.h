// Endpoint texts: "SCHEME://HOST:PORT" ("tcp://[::1]:7001" for IPv6 literals) and "inproc://NAME".
//
// Thread safety: pure functions over values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "kvplane/base/status.h"

namespace kvplane::transport {

// Longest endpoint text accepted: a host name has at most 253 bytes; this leaves room for scheme and port.
constexpr size_t kMaxEndpointBytes = 512;

struct TcpEndpoint {
  std::string host;  // without brackets; never empty
  uint16_t port = 0;
};

// kInvalidArgument says what is wrong with `endpoint`.
base::Result<TcpEndpoint> ParseTcpEndpoint(std::string_view endpoint);

// The same with "ucx://".
base::Result<TcpEndpoint> ParseUcxEndpoint(std::string_view endpoint);

// Of any scheme by which hosts are reached: tcp, tls, ucx, http, https.
base::Result<TcpEndpoint> ParseHostEndpoint(std::string_view endpoint);

// Whether `host`, a name or a literal without brackets, can be reached from this host only: 127.0.0.0/8 (also
// mapped into IPv6), ::1 and localhost. Other names count as reachable whatever they resolve to today.
bool IsLoopbackHost(std::string_view host);

// Whether `host` stands for every address of the host that listens on it (0.0.0.0, ::): nobody can connect to
// it.
bool IsWildcardHost(std::string_view host);

// What the connections of one host have in common, for bounds that no host may evade: the peer of a stream
// ("10.0.0.7:43210", "[2001:db8::7]:43210") without its port, of an IPv6 address its first 64 bits
// ("2001:db8::/64"), since a host chooses the rest. So hosts of one IPv6 subnet count as one. An IPv4 address
// mapped into IPv6 is itself. Other texts lose what follows their last colon.
std::string HostOfPeer(std::string_view peer);

// NAME of "inproc://NAME"; it may be empty when listening (the transport then chooses one).
base::Result<std::string> ParseInprocEndpoint(std::string_view endpoint);

// "127.0.0.1:7001", "[::1]:7001".
std::string FormatHostPort(std::string_view host, uint16_t port);

}  // namespace kvplane::transport
