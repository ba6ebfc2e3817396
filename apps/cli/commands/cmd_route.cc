#include "apps/cli/commands/cmd_route.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/cli/exit_code.h"
#include "apps/cli/https_flags.h"
#include "apps/cli/seconds_flag.h"
#include "apps/cli/shutdown_signal.h"
#include "kvplane/base/log.h"
#include "kvplane/server/router.h"

namespace kvplane::cli {
namespace {

base::Status Route(const RouteArgs& args) {
  base::LogConfig log;
  KVPLANE_ASSIGN_OR_RETURN(log.level, base::ParseLogLevel(args.log_level));
  log.json = args.log_json;
  log.component = "router";
  base::ConfigureLog(log);
  KVPLANE_ASSIGN_OR_RETURN(const base::Duration drain,
                           SecondsFlag("--drain-s", args.drain_s, /*zero_allowed=*/true));

  ShutdownSignal signals;
  server::RouterOptions options;
  options.http.host = args.host;
  options.http.port = static_cast<uint16_t>(args.port);
  options.prefill = args.prefill;
  options.decode = args.decode;
  options.auth_token_file = args.auth_token_file;
  options.node_token_file = args.node_token_file;
  options.insecure = args.insecure;
  options.allowed_hosts = args.allowed_hosts;
  KVPLANE_ASSIGN_OR_RETURN(options.http.tls, HttpsServerContext(args.tls_certificate, args.tls_key));
  KVPLANE_ASSIGN_OR_RETURN(options.node_tls, HttpsClientContext(args.node_ca));
  KVPLANE_ASSIGN_OR_RETURN(options.request_timeout,
                           SecondsFlag("--request-timeout-s", args.request_timeout_s));
  KVPLANE_ASSIGN_OR_RETURN(const std::unique_ptr<server::Router> router, server::Router::Create(options));
  signals.Watch([&router, drain] {
    base::Log(base::LogLevel::kInfo, "draining for at most {:.0f} s", base::ToSeconds(drain));
    router->RequestDrain(base::Clock::System().Now() + drain);
  });
  nlohmann::ordered_json line = {
      {"event", "ready"}, {"role", "router"}, {"http", fmt::format("{}:{}", args.host, router->port())}};
  if (!args.tls_certificate.empty()) line["tls"] = true;
  fmt::print("{}\n", line.dump());
  std::fflush(stdout);
  router->Run();
  return base::Status::Ok();
}

}  // namespace

int CmdRoute(const RouteArgs& args) {
  const base::Status status = Route(args);
  if (!status.ok()) fmt::print(stderr, "kvplane route: {}\n", status.ToString());
  return ExitCodeFor(status.code());
}

}  // namespace kvplane::cli
