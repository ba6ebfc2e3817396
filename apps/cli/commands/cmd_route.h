// kvplane route: the router in front of prefill and decode nodes. Same ready line and signals as `serve`
// (role "router", no "kv").
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvplane::cli {

struct RouteArgs {
  std::vector<std::string> prefill;  // "http[s]://HOST:PORT", repeatable
  std::vector<std::string> decode;   // "http[s]://HOST:PORT", repeatable, at least one
  std::string host = "127.0.0.1";
  uint32_t port = 8080;
  std::string auth_token_file;  // bearer token clients must send
  std::string node_token_file;  // bearer token sent to the nodes
  bool insecure = false;
  std::vector<std::string> allowed_hosts;  // without a token: names clients may call the router by
  std::string tls_certificate;             // HTTPS instead of HTTP: PEM files
  std::string tls_key;
  std::string node_ca;             // authorities of https nodes; empty: the system's
  double request_timeout_s = 300;  // one request, both nodes together
  double drain_s = 30;
  std::string log_level = "info";
  bool log_json = false;
};

int CmdRoute(const RouteArgs& args);

}  // namespace kvplane::cli
