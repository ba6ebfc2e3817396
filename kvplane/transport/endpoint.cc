#include "kvplane/transport/endpoint.h"

#include <charconv>

namespace kvplane::transport {
namespace {

constexpr std::string_view kTcpScheme = "tcp://";
constexpr std::string_view kInprocScheme = "inproc://";

base::Result<std::string_view> AfterScheme(std::string_view endpoint, std::string_view scheme) {
  if (endpoint.size() > kMaxEndpointBytes) {
    return base::InvalidArgument("endpoint of {} bytes; at most {} are accepted", endpoint.size(),
                                 kMaxEndpointBytes);
  }
  if (!endpoint.starts_with(scheme)) {
    return base::InvalidArgument("endpoint \"{}\" does not begin with {}", endpoint, scheme);
  }
  return endpoint.substr(scheme.size());
}

}  // namespace

base::Result<TcpEndpoint> ParseTcpEndpoint(std::string_view endpoint) {
  KVPLANE_ASSIGN_OR_RETURN(const std::string_view rest, AfterScheme(endpoint, kTcpScheme));
  const size_t colon = rest.rfind(':');
  if (colon == std::string_view::npos) {
    return base::InvalidArgument("endpoint \"{}\" has no port; write tcp://HOST:PORT", endpoint);
  }
  std::string_view host = rest.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return base::InvalidArgument("endpoint \"{}\": put the IPv6 address in brackets", endpoint);
  }
  if (host.empty() || host.find_first_of("[]/ ") != std::string_view::npos ||
      host.find('\0') != std::string_view::npos) {
    return base::InvalidArgument("endpoint \"{}\" has no usable host; write tcp://HOST:PORT", endpoint);
  }
  const std::string_view digits = rest.substr(colon + 1);
  TcpEndpoint out;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), out.port);
  if (digits.empty() || error != std::errc() || end != digits.data() + digits.size()) {
    return base::InvalidArgument("endpoint \"{}\": the port \"{}\" is not in 0..65535", endpoint, digits);
  }
  out.host = std::string(host);
  return out;
}

base::Result<std::string> ParseInprocEndpoint(std::string_view endpoint) {
  KVPLANE_ASSIGN_OR_RETURN(const std::string_view name, AfterScheme(endpoint, kInprocScheme));
  return std::string(name);
}

std::string FormatHostPort(std::string_view host, uint16_t port) {
  if (host.find(':') != std::string_view::npos) return fmt::format("[{}]:{}", host, port);
  return fmt::format("{}:{}", host, port);
}

}  // namespace kvplane::transport
