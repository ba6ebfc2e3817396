#include "kvplane/transport/endpoint.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <strings.h>

#include <algorithm>
#include <charconv>
#include <iterator>

namespace kvplane::transport {
namespace {

constexpr std::string_view kTcpScheme = "tcp://";
constexpr std::string_view kUcxScheme = "ucx://";
constexpr std::string_view kInprocScheme = "inproc://";
constexpr std::string_view kHostSchemes[] = {kTcpScheme, "tls://", kUcxScheme, "http://", "https://"};

constexpr size_t kMappedV4 = 12;     // where an IPv4 address lies in the IPv6 address that it is mapped to
constexpr size_t kNetworkBytes = 8;  // of an IPv6 address: what a host does not choose itself

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

base::Result<TcpEndpoint> ParseHostPort(std::string_view endpoint, std::string_view scheme) {
  KVPLANE_ASSIGN_OR_RETURN(const std::string_view rest, AfterScheme(endpoint, scheme));
  const size_t colon = rest.rfind(':');
  if (colon == std::string_view::npos) {
    return base::InvalidArgument("endpoint \"{}\" has no port; write {}HOST:PORT", endpoint, scheme);
  }
  std::string_view host = rest.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return base::InvalidArgument("endpoint \"{}\": put the IPv6 address in brackets", endpoint);
  }
  if (host.empty() || host.find_first_of("[]/ ") != std::string_view::npos ||
      host.find('\0') != std::string_view::npos) {
    return base::InvalidArgument("endpoint \"{}\" has no usable host; write {}HOST:PORT", endpoint, scheme);
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

}  // namespace

base::Result<TcpEndpoint> ParseTcpEndpoint(std::string_view endpoint) {
  return ParseHostPort(endpoint, kTcpScheme);
}

base::Result<TcpEndpoint> ParseUcxEndpoint(std::string_view endpoint) {
  return ParseHostPort(endpoint, kUcxScheme);
}

base::Result<TcpEndpoint> ParseHostEndpoint(std::string_view endpoint) {
  for (const std::string_view scheme : kHostSchemes) {
    if (endpoint.starts_with(scheme)) return ParseHostPort(endpoint, scheme);
  }
  return base::InvalidArgument("endpoint \"{}\" is not SCHEME://HOST:PORT with tcp, tls, ucx, http or https",
                               endpoint.substr(0, kMaxEndpointBytes));
}

bool IsLoopbackHost(std::string_view host) {
  const std::string text(host);
  constexpr uint8_t kLoopbackNetwork = 127;
  in_addr v4{};
  if (inet_pton(AF_INET, text.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == kLoopbackNetwork;
  in6_addr v6{};
  if (inet_pton(AF_INET6, text.c_str(), &v6) == 1) {
    return IN6_IS_ADDR_LOOPBACK(&v6) ||
           (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[kMappedV4] == kLoopbackNetwork);
  }
  return strcasecmp(text.c_str(), "localhost") == 0;
}

bool IsWildcardHost(std::string_view host) {
  const std::string text(host);
  in_addr v4{};
  if (inet_pton(AF_INET, text.c_str(), &v4) == 1) return v4.s_addr == INADDR_ANY;
  in6_addr v6{};
  return inet_pton(AF_INET6, text.c_str(), &v6) == 1 && IN6_IS_ADDR_UNSPECIFIED(&v6);
}

std::string HostOfPeer(std::string_view peer) {
  std::string host(peer.substr(0, peer.rfind(':')));
  if (!host.starts_with('[') || !host.ends_with(']')) return host;
  const std::string literal =
      host.substr(1, std::min(host.find('%'), host.size() - 1) - 1);  // without a zone
  in6_addr v6{};
  if (inet_pton(AF_INET6, literal.c_str(), &v6) != 1) return host;
  char text[INET6_ADDRSTRLEN] = {};
  if (IN6_IS_ADDR_V4MAPPED(&v6)) {
    return inet_ntop(AF_INET, &v6.s6_addr[kMappedV4], text, sizeof(text));
  }
  std::fill(&v6.s6_addr[kNetworkBytes], std::end(v6.s6_addr), uint8_t{0});
  return fmt::format("{}/64", inet_ntop(AF_INET6, &v6, text, sizeof(text)));
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
