#include "apps/cli/kv_advertise.h"

#include <utility>

#include "kvplane/transport/endpoint.h"

namespace kvplane::cli {

base::Result<KvAddress> ParseKvAdvertise(std::string_view text) {
  const bool has_port = !text.ends_with(']') && text.find(':') != std::string_view::npos;
  const std::string endpoint = "tcp://" + std::string(text) + (has_port ? "" : ":0");
  base::Result<transport::TcpEndpoint> parsed = transport::ParseTcpEndpoint(endpoint);
  if (!parsed.ok()) {
    return base::InvalidArgument("'{}' is not HOST or HOST:PORT: {}", text, parsed.status().message());
  }
  if (parsed->host.find_first_of("@?#\t\r\n") != std::string::npos) {
    return base::InvalidArgument("'{}' is not HOST or HOST:PORT", text);
  }
  if (transport::IsWildcardHost(parsed->host)) {
    return base::InvalidArgument("'{}' stands for every address: name the one to connect to", text);
  }
  return KvAddress{std::move(parsed->host), parsed->port};
}

base::Result<KvAddress> AdvertisedKv(std::string_view listen, std::string_view advertise,
                                     std::string_view bound) {
  KVPLANE_ASSIGN_OR_RETURN(const transport::TcpEndpoint listener, transport::ParseHostEndpoint(bound));
  KvAddress told;
  if (!advertise.empty()) {
    KVPLANE_ASSIGN_OR_RETURN(told, ParseKvAdvertise(advertise));
  } else {
    KVPLANE_ASSIGN_OR_RETURN(transport::TcpEndpoint given, transport::ParseHostEndpoint(listen));
    if (!transport::IsWildcardHost(given.host)) told.host = std::move(given.host);
  }
  if (told.port == 0) told.port = listener.port;
  return told;
}

}  // namespace kvplane::cli
