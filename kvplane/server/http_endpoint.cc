#include "kvplane/server/http_endpoint.h"

#include <charconv>

namespace kvplane::server {
namespace {

constexpr std::string_view kScheme = "http://";
constexpr std::string_view kTlsScheme = "https://";
constexpr size_t kMaxHostBytes = 253;  // of a DNS name

}  // namespace

std::string HttpEndpoint::Authority() const {
  if (host.find(':') != std::string::npos) return fmt::format("[{}]:{}", host, port);
  return fmt::format("{}:{}", host, port);
}

base::Result<HttpEndpoint> ParseHttpEndpoint(std::string_view url) {
  const auto bad = [&](std::string_view why) {
    return base::InvalidArgument(
        "'{}' is not a node address: {}; expected http://HOST:PORT or https://HOST:PORT", url, why);
  };
  std::string_view rest = url;
  HttpEndpoint endpoint;
  if (rest.starts_with(kScheme)) {
    rest.remove_prefix(kScheme.size());
  } else if (rest.starts_with(kTlsScheme)) {
    rest.remove_prefix(kTlsScheme.size());
    endpoint.tls = true;
    endpoint.port = 443;
  } else if (rest.find("://") != std::string_view::npos) {
    return bad("only http:// and https:// are supported");
  }
  if (rest.ends_with('/')) rest.remove_suffix(1);
  std::string_view port;
  if (rest.starts_with('[')) {
    const size_t close = rest.find(']');
    if (close == std::string_view::npos) return bad("'[' without ']'");
    endpoint.host = rest.substr(1, close - 1);
    rest.remove_prefix(close + 1);
    if (!rest.empty() && rest.front() != ':') return bad("bytes after ']'");
    port = rest.empty() ? rest : rest.substr(1);
  } else {
    const size_t colon = rest.find(':');
    endpoint.host = rest.substr(0, colon);
    if (colon != std::string_view::npos) {
      port = rest.substr(colon + 1);
      if (port.empty()) return bad("the port is missing");
    }
  }
  const bool plain = endpoint.host.find_first_of(" \t\r\n/@?#%[]") == std::string::npos;
  if (endpoint.host.empty() || endpoint.host.size() > kMaxHostBytes || !plain) return bad("bad host");
  if (port.empty()) return endpoint;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), endpoint.port);
  if (error != std::errc() || end != port.data() + port.size() || endpoint.port == 0) return bad("bad port");
  return endpoint;
}

}  // namespace kvplane::server
