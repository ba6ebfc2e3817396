#include "apps/cli/commands/cmd_serve.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "apps/cli/exit_code.h"
#include "apps/cli/https_flags.h"
#include "apps/cli/kv_advertise.h"
#include "apps/cli/seconds_flag.h"
#include "apps/cli/shutdown_signal.h"
#include "apps/cli/store_metrics.h"
#include "kvplane/base/log.h"
#include "kvplane/server/server.h"
#include "kvplane/transport/endpoint.h"

namespace kvplane::cli {
namespace {

base::Status ConfigureLogFrom(const ServeArgs& args) {
  base::LogConfig config;
  KVPLANE_ASSIGN_OR_RETURN(config.level, base::ParseLogLevel(args.log_level));
  config.json = args.log_json;
  config.component = args.runtime.role;
  base::ConfigureLog(config);
  return base::Status::Ok();
}

std::string Hex(std::span<const std::byte> bytes) {
  std::string out;
  for (const std::byte b : bytes) out += fmt::format("{:02x}", std::to_integer<unsigned>(b));
  return out;
}

base::Result<server::NodeInfo> DescribeNode(const ServeArgs& args, NodeRuntime& runtime) {
  server::NodeInfo info;
  info.role = args.runtime.role;
  info.model_fingerprint = Hex(runtime.model().fingerprint());
  info.default_strategy = runtime.default_strategy().ToString();
  info.kv_transport = args.runtime.kv_transport;
  for (const auto& profile : runtime.profiles().all()) info.profiles.push_back(profile->id().ToHex());
  const std::string bound = runtime.kv_endpoint();
  if (bound.empty()) return info;
  KVPLANE_ASSIGN_OR_RETURN(KvAddress told, AdvertisedKv(KvListen(args.runtime), args.kv_advertise, bound));
  info.kv_host = std::move(told.host);
  info.kv_port = told.port;
  base::Log(base::LogLevel::kInfo, "KV is served at {}; decode nodes are told {}", bound,
            info.kv_host.empty() ? "the host by which this node is reached (--kv-advertise names one)"
                                 : transport::FormatHostPort(info.kv_host, info.kv_port));
  return info;
}

std::string ModelName(const ServeArgs& args) {
  if (!args.served_model_name.empty()) return args.served_model_name;
  const std::filesystem::path folder = std::filesystem::absolute(args.runtime.model).lexically_normal();
  return folder.has_filename() ? folder.filename().string() : folder.parent_path().filename().string();
}

void PrintReady(const ServeArgs& args, NodeRuntime& runtime, uint16_t port) {
  nlohmann::ordered_json line = {{"event", "ready"},
                                 {"role", args.runtime.role},
                                 {"http", fmt::format("{}:{}", args.host, port)},
                                 {"compute", model::Name(runtime.model().compute())}};
  if (!args.tls_certificate.empty()) line["tls"] = true;
  if (const std::string kv = runtime.kv_endpoint(); !kv.empty()) line["kv"] = kv;
  if (runtime.store() != nullptr) line["store"] = runtime.store()->name();
  fmt::print("{}\n", line.dump());
  std::fflush(stdout);
}

base::Status Serve(const ServeArgs& args) {
  KVPLANE_RETURN_IF_ERROR(ConfigureLogFrom(args));
  KVPLANE_ASSIGN_OR_RETURN(const base::Duration drain,
                           SecondsFlag("--drain-s", args.drain_s, /*zero_allowed=*/true));
  if (!args.kv_advertise.empty()) {
    KVPLANE_RETURN_IF_ERROR(ParseKvAdvertise(args.kv_advertise).status().Annotate("--kv-advertise"));
  }
  server::ServerOptions options;
  KVPLANE_ASSIGN_OR_RETURN(options.http.tls, HttpsServerContext(args.tls_certificate, args.tls_key));
  ShutdownSignal signals;
  RuntimeArgs runtime_args = args.runtime;
  runtime_args.kv_security.auth_token_file = args.auth_token_file;
  runtime_args.insecure = args.insecure;
  if (runtime_args.store.specs.empty()) runtime_args.store.specs = {"mem:"};  // embedded by default
  KVPLANE_ASSIGN_OR_RETURN(const std::unique_ptr<NodeRuntime> runtime, NodeRuntime::Create(runtime_args));
  options.http.host = args.host;
  options.http.port = static_cast<uint16_t>(args.port);
  options.auth_token_file = args.auth_token_file;
  options.insecure = args.insecure;
  options.allowed_hosts = args.allowed_hosts;
  if (const store::StoreStack* stack = runtime->store_stack(); stack != nullptr) {
    options.more_metrics = [stack] { return RenderTierMetrics(*stack); };
  }
  KVPLANE_ASSIGN_OR_RETURN(server::NodeInfo info, DescribeNode(args, *runtime));
  KVPLANE_ASSIGN_OR_RETURN(
      const std::unique_ptr<server::Server> server,
      server::Server::Create(runtime->engine(), runtime->tokenizer(), runtime->chat_template(),
                             ModelName(args), std::move(info), options));
  signals.Watch([&server, drain] {
    base::Log(base::LogLevel::kInfo, "draining for at most {:.0f} s", base::ToSeconds(drain));
    server->RequestDrain(base::Clock::System().Now() + drain);
  });
  PrintReady(args, *runtime, server->port());
  server->Run();
  runtime->engine().Drain(base::Clock::System().Now() + drain);
  return base::Status::Ok();
}

}  // namespace

int CmdServe(const ServeArgs& args) {
  const base::Status status = Serve(args);
  if (!status.ok()) fmt::print(stderr, "kvplane serve: {}\n", status.ToString());
  return ExitCodeFor(status.code());
}

}  // namespace kvplane::cli
