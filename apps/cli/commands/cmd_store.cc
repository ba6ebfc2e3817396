#include "apps/cli/commands/cmd_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "apps/cli/exit_code.h"
#include "apps/cli/metrics_endpoint.h"
#include "apps/cli/seconds_flag.h"
#include "apps/cli/shutdown_signal.h"
#include "apps/cli/store_metrics.h"
#include "kvplane/base/log.h"
#include "kvplane/base/mutex.h"
#include "kvplane/base/units.h"
#include "kvplane/store/create_store.h"
#include "kvplane/store/dram_store.h"
#include "kvplane/store/remote/store_server.h"
#include "kvplane/transport/create_transport.h"

namespace kvplane::cli {
namespace {

// The main thread waits here for the signal's thread.
class StopFlag {
 public:
  void Raise() {
    base::MutexLock lock(mutex_);
    raised_ = true;
    changed_.NotifyAll();
  }
  void Await() {
    base::MutexLock lock(mutex_);
    while (!raised_) changed_.Wait(mutex_);
  }

 private:
  base::Mutex mutex_;
  base::CondVar changed_;
  bool raised_ KVPLANE_GUARDED_BY(mutex_) = false;
};

base::Result<uint64_t> BytesFlag(const char* flag, const std::string& text) {
  base::Result<uint64_t> bytes = base::ParseBytes(text);
  if (!bytes.ok()) return bytes.status().Annotate(flag);
  return bytes;
}

// The tiers as create_store.h writes them.
base::Result<std::vector<std::string>> SpecsOf(const StoreServerArgs& args) {
  constexpr double kMaxTtlSeconds = 10 * 365.0 * 86'400;
  if (!(args.ttl_s >= 0 && args.ttl_s <= kMaxTtlSeconds)) {
    return base::InvalidArgument("--ttl-s {} is not in [0, {}]", args.ttl_s, kMaxTtlSeconds);
  }
  KVPLANE_ASSIGN_OR_RETURN(const uint64_t dram, BytesFlag("--dram", args.dram));
  std::vector<std::string> specs;
  specs.push_back(fmt::format("mem:?bytes={}&policy={}&ttl_s={:.3f}", dram, args.policy, args.ttl_s));
  if (!args.quota.empty()) {
    KVPLANE_ASSIGN_OR_RETURN(const uint64_t quota, BytesFlag("--quota", args.quota));
    specs.back() += fmt::format("&quota={}", quota);
  }
  if (!args.disk.empty()) {
    if (args.disk.find('?') != std::string::npos) return base::InvalidArgument("--disk: a path with a '?'");
    KVPLANE_ASSIGN_OR_RETURN(const uint64_t bytes, BytesFlag("--disk-bytes", args.disk_bytes));
    specs.push_back(fmt::format("dir:{}?bytes={}&ttl_s={:.3f}", args.disk, bytes, args.ttl_s));
  }
  specs.insert(specs.end(), args.tiers.begin(), args.tiers.end());
  return specs;
}

// One token bucket for all connections, with a burst small against an object.
base::Result<std::string> TransportSpec(const std::string& link_rate) {
  if (link_rate.empty()) return std::string("tcp");
  KVPLANE_RETURN_IF_ERROR(base::ParseBitsPerSecond(link_rate).status().Annotate("--link-rate"));
  return fmt::format("shaped(tcp,rate={},burst=16kB)", link_rate);
}

// What memory would refuse need not be sent. Requires: SpecsOf(args) has succeeded.
uint64_t LargestObject(const StoreServerArgs& args) {
  uint64_t bytes = *base::ParseBytes(args.dram);
  if (!args.quota.empty()) bytes = std::min(bytes, *base::ParseBytes(args.quota));
  return bytes - std::min(bytes, store::kEntryOverheadBytes);
}

store::StoreServerOptions ServerOptionsOf(const StoreServerArgs& args, const store::StoreStack& stack) {
  store::StoreServerOptions options;
  options.admit = [largest = LargestObject(args)](const store::StoreKey&, uint64_t bytes) {
    if (bytes <= largest) return base::Status::Ok();
    return base::ResourceExhausted("an object of {} bytes where memory or quota take {}", bytes, largest);
  };
  options.endpoint = args.listen;
  options.max_connections = args.max_connections;
  options.tiers = [&stack] {
    std::vector<store::TierCounters> counters;
    for (store::TierStats& tier : TiersOf(stack)) {
      counters.push_back({tier.kind, std::move(tier.name), tier.store});
    }
    return counters;
  };
  return options;
}

void PrintReady(const store::StoreServer& server, const MetricsEndpoint* metrics) {
  nlohmann::ordered_json line = {{"event", "ready"}, {"role", "store"}, {"store", server.endpoint()}};
  if (metrics != nullptr) line["metrics"] = metrics->address();
  fmt::print("{}\n", line.dump());
  std::fflush(stdout);
}

base::Status Serve(const StoreServerArgs& args) {
  base::LogConfig log;
  KVPLANE_ASSIGN_OR_RETURN(log.level, base::ParseLogLevel(args.log_level));
  log.json = args.log_json;
  log.component = "store";
  base::ConfigureLog(log);
  KVPLANE_ASSIGN_OR_RETURN(const base::Duration drain,
                           SecondsFlag("--drain-s", args.drain_s, /*zero_allowed=*/true));
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<std::string> specs, SpecsOf(args));
  ShutdownSignal signals;
  store::StoreAccess access;
  KVPLANE_ASSIGN_OR_RETURN(access.security, transport::ReadSecurityFiles(args.security));
  KVPLANE_ASSIGN_OR_RETURN(const std::string transport_spec, TransportSpec(args.link_rate));
  KVPLANE_ASSIGN_OR_RETURN(const std::unique_ptr<transport::Transport> transport,
                           transport::CreateTransport(transport_spec, access.security));
  KVPLANE_RETURN_IF_ERROR(
      transport::CheckListenPolicy("--listen", args.listen, transport->capabilities(), args.insecure));
  base::Log(base::LogLevel::kInfo, "store connections: {}: {}", transport->name(),
            Describe(transport->capabilities()));
  if (!args.disk.empty()) base::Log(base::LogLevel::kInfo, "opening {}", args.disk);  // which may hang
  KVPLANE_ASSIGN_OR_RETURN(const store::StoreStack stack, store::CreateStore(specs, access));
  KVPLANE_ASSIGN_OR_RETURN(
      std::unique_ptr<store::StoreServer> server,
      store::StoreServer::Create(*transport, *stack.store, ServerOptionsOf(args, stack)));
  std::unique_ptr<MetricsEndpoint> metrics;
  if (!args.metrics.empty()) {
    base::Result<std::unique_ptr<MetricsEndpoint>> created = MetricsEndpoint::Create(
        args.metrics, server::ApiAuth::FromTokens(access.security.tokens), args.insecure,
        [&server, &stack] { return RenderStoreMetrics(server->counters(), stack); });
    if (!created.ok()) return created.status().Annotate("--metrics");
    metrics = *std::move(created);
  }
  StopFlag stop;
  signals.Watch([&stop] { stop.Raise(); });
  PrintReady(*server, metrics.get());
  stop.Await();
  base::Log(base::LogLevel::kInfo, "draining for at most {:.0f} s", base::ToSeconds(drain));
  const base::TimePoint deadline = base::Clock::System().Now() + drain;
  server->Drain(deadline);
  const base::Status flushed = stack.store->Flush(deadline);
  metrics.reset();
  stack.store->Shutdown();
  return flushed.Annotate("flush at the end");
}

}  // namespace

int CmdStore(const StoreServerArgs& args) {
  const base::Status status = Serve(args);
  if (!status.ok()) fmt::print(stderr, "kvplane store: {}\n", status.ToString());
  return ExitCodeFor(status.code());
}

}  // namespace kvplane::cli
