#include "apps/cli/commands/bench_store.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <utility>

#include "apps/cli/bench_report.h"
#include "apps/cli/exit_code.h"
#include "apps/cli/store_bench/store_race.h"
#include "apps/cli/store_bench/trace_report.h"
#include "kvplane/base/units.h"
#include "kvplane/stats/quantile.h"
#include "kvplane/store/create_store.h"
#include "kvplane/store/remote/store_server.h"
#include "kvplane/transport/create_transport.h"

namespace kvplane::cli {
namespace {

// One store in the race with whatever must live as long as it, in order of construction.
struct Contestant {
  std::string name;
  store::StoreStack served;  // behind `server`
  std::shared_ptr<transport::Transport> transport;
  std::unique_ptr<store::StoreServer> server;
  store::StoreStack stack;
  StoreTimes times;
};

base::Result<store::StoreStack> MakeStore(const std::string& spec) {
  return store::CreateStore(std::span(&spec, 1), {});
}

// A store server of this process on loopback, and its client.
base::Result<std::unique_ptr<Contestant>> MakeServed(const std::string& spec) {
  KVPLANE_ASSIGN_OR_RETURN(store::StoreStack served, MakeStore(spec));
  KVPLANE_ASSIGN_OR_RETURN(auto transport, transport::CreateTransport("tcp"));
  KVPLANE_ASSIGN_OR_RETURN(auto server, store::StoreServer::Create(*transport, *served.store, {}));
  KVPLANE_ASSIGN_OR_RETURN(store::StoreStack stack, MakeStore(server->endpoint()));
  auto out = std::unique_ptr<Contestant>(new Contestant{.name = "tcp loopback",
                                                        .served = std::move(served),
                                                        .transport = std::move(transport),
                                                        .server = std::move(server),
                                                        .stack = std::move(stack),
                                                        .times = {}});
  return out;
}

base::Result<std::unique_ptr<Contestant>> MakeDirect(const std::string& spec) {
  KVPLANE_ASSIGN_OR_RETURN(store::StoreStack stack, MakeStore(spec));
  const std::string name(store::Name(stack.store->kind()));
  return std::unique_ptr<Contestant>(new Contestant{
      .name = name, .served = {}, .transport = {}, .server = {}, .stack = std::move(stack), .times = {}});
}

base::Result<std::vector<std::unique_ptr<Contestant>>> MakeContestants(const BenchStoreArgs& args,
                                                                       const StoreRaceOptions& options) {
  // Ample, so that nothing is evicted: a round keeps `objects` of them.
  const std::string memory =
      fmt::format("mem:?bytes={}", 4 * options.objects * (options.object_bytes + (1 << 20)));
  std::vector<std::unique_ptr<Contestant>> out;
  KVPLANE_ASSIGN_OR_RETURN(auto direct, MakeDirect(memory));
  out.push_back(std::move(direct));
  for (const std::string& spec : args.stores) {
    KVPLANE_ASSIGN_OR_RETURN(auto further, MakeDirect(spec));
    out.push_back(std::move(further));
  }
  KVPLANE_ASSIGN_OR_RETURN(auto served, MakeServed(memory));
  out.push_back(std::move(served));
  return out;
}

double Median(const std::vector<double>& values) { return stats::Quantile(values, 0.5); }

void Report(const std::string& name, const StoreRaceOptions& options, const StoreTimes& times,
            const std::vector<double>& copy, BenchReport& report) {
  const auto bytes = static_cast<double>(options.object_bytes);
  fmt::print(stderr, "{:<12} {:>5} {:>11.1f} {:>11.1f} {:>11.1f} {:>14.1f} {:>11.1f} {:>10.2f} {:>10.2f}\n",
             name, times.read.size(), Median(times.put) * 1e6, Median(times.lookup) * 1e6,
             Median(times.read) * 1e6, Median(times.first_layer) * 1e6, Median(times.layers) * 1e6,
             bytes / Median(times.read) / 1e9, Median(times.read) / Median(copy));
  const BenchCase where = {{"store", name}, {"object_bytes", static_cast<int64_t>(options.object_bytes)}};
  report.AddSample(where, "put_s", "s", times.put);
  report.AddSample(where, "lookup_s", "s", times.lookup);
  report.AddSample(where, "read_s", "s", times.read);
  report.AddSample(where, "first_layer_s", "s", times.first_layer);
  report.AddSample(where, "layers_s", "s", times.layers);
}

base::Status Race(const BenchStoreArgs& args, BenchReport& report) {
  StoreRaceOptions options;
  KVPLANE_ASSIGN_OR_RETURN(options.object_bytes, base::ParseBytes(args.object_bytes));
  options.objects = args.objects;
  options.layers = args.layers;
  options.durable = args.durable;
  if (options.objects == 0 || options.layers == 0 || args.repeats == 0 ||
      options.object_bytes < options.layers || options.object_bytes > store::kMaxStoredBytes) {
    return base::InvalidArgument(
        "--objects, --layers, --repeats and --object-bytes must not be 0, objects "
        "not smaller than their layers or above {} bytes",
        store::kMaxStoredBytes);
  }
  KVPLANE_ASSIGN_OR_RETURN(auto contestants, MakeContestants(args, options));
  std::vector<double> copy;
  for (uint32_t round = 0; round <= args.repeats; ++round) {
    if (round == 1) {  // the first one warmed up
      copy.clear();
      for (const auto& contestant : contestants) contestant->times = {};
    }
    CopyOnce(options, round, copy);
    for (const auto& contestant : contestants) {
      const base::Status raced = RaceOnce(*contestant->stack.store, options, round, contestant->times);
      if (!raced.ok()) return raced.Annotate(contestant->stack.store->name());
    }
  }
  fmt::print(stderr, "{} objects of {} a round, {} layers, {} rounds; medians in microseconds\n",
             options.objects, base::FormatBytes(static_cast<double>(options.object_bytes)), options.layers,
             args.repeats);
  fmt::print(stderr, "{:<12} {:>5} {:>11} {:>11} {:>11} {:>14} {:>11} {:>10} {:>10}\n", "store", "n", "put",
             "lookup", "read", "first layer", "by layers", "read GB/s", "over copy");
  fmt::print(stderr, "{:<12} {:>5} {:>11} {:>11} {:>11.1f} {:>14} {:>11} {:>10.2f} {:>10.2f}\n", "memcpy",
             copy.size(), "", "", Median(copy) * 1e6, "", "",
             static_cast<double>(options.object_bytes) / Median(copy) / 1e9, 1.0);
  report.AddSample(
      {{"store", std::string("memcpy")}, {"object_bytes", static_cast<int64_t>(options.object_bytes)}},
      "read_s", "s", copy);
  for (const auto& contestant : contestants) {
    Report(contestant->name, options, contestant->times, copy, report);
  }
  return base::Status::Ok();
}

base::Status RunBench(const BenchStoreArgs& args) {
  BenchReport report("store", args.command);
  fmt::print(stderr, "{}\n", Describe(ThisMachine()));
  if (args.trace.empty()) {
    KVPLANE_RETURN_IF_ERROR(Race(args, report));
  } else {
    if (!(args.session_gap_s >= 0)) return base::InvalidArgument("--session-gap must not be negative");
    const TraceReplayOptions options{.path = args.trace,
                                     .format = args.format,
                                     .policies = args.policies,
                                     .capacities = args.capacities,
                                     .tiers = args.tiers,
                                     .trace = {.session_gap_s = args.session_gap_s, .seed = args.seed}};
    KVPLANE_RETURN_IF_ERROR(ReportTrace(options, args.svg, report));
  }
  return args.json.empty() ? base::Status::Ok() : report.WriteJson(args.json);
}

}  // namespace

int CmdBenchStore(const BenchStoreArgs& args) {
  const base::Status status = RunBench(args);
  if (!status.ok()) fmt::print(stderr, "kvplane bench store: {}\n", status.ToString());
  return ExitCodeFor(status.code());
}

}  // namespace kvplane::cli
