// Endpoint texts: "tcp://HOST:PORT" ("tcp://[::1]:7001" for IPv6 literals) and "inproc://NAME".
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

// NAME of "inproc://NAME"; it may be empty when listening (the transport then chooses one).
base::Result<std::string> ParseInprocEndpoint(std::string_view endpoint);

// "127.0.0.1:7001", "[::1]:7001".
std::string FormatHostPort(std::string_view host, uint16_t port);

}  // namespace kvplane::transport
