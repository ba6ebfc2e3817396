// HttpEndpoint: host and port of an HTTP server, from "http://HOST:PORT" or "https://HOST:PORT".
//
// Thread safety: values.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "kvplane/base/status.h"

namespace kvplane::server {

struct HttpEndpoint {
  std::string host;  // name or address, IPv6 without brackets
  uint16_t port = 80;
  bool tls = false;

  std::string Authority() const;  // "127.0.0.1:8000", "[::1]:8000"
  auto operator<=>(const HttpEndpoint&) const = default;
};

// "http://HOST[:PORT][/]", "https://HOST[:PORT][/]" or "HOST:PORT". kInvalidArgument says what is wrong;
// paths are refused.
base::Result<HttpEndpoint> ParseHttpEndpoint(std::string_view url);

}  // namespace kvplane::server
