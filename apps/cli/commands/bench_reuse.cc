#include "apps/cli/commands/bench_reuse.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "apps/cli/bench_report.h"
#include "apps/cli/exit_code.h"
#include "apps/cli/log_folder.h"
#include "apps/cli/prompt_source.h"
#include "apps/cli/reuse_bench/own_redis.h"
#include "apps/cli/reuse_bench/paired_ratio.h"
#include "apps/cli/reuse_bench/reuse_readers.h"
#include "apps/cli/strategy_list.h"
#include "kvplane/base/rng.h"
#include "kvplane/base/units.h"
#include "kvplane/model/tokenizer.h"
#include "kvplane/stats/quantile.h"

namespace kvplane::cli {
namespace {

constexpr base::Duration kRequestTimeout = std::chrono::seconds(60);
constexpr base::Duration kStopTimeout = std::chrono::seconds(20);

base::TimePoint After(base::Duration wait) { return base::Clock::System().Now() + wait; }

// Requests in flight: more than any node runs at once.
constexpr uint32_t kMaxClients = 256;

constexpr std::string_view kNoRedis = "none";

double Median(const std::vector<double>& values) { return stats::Quantile(values, 0.5); }

void PrintReaders(const std::vector<ReuseReader>& readers) {
  fmt::print(stderr, "{:<24} {:>4} {:>10} {:>10} {:>10} {:>8} {:>10}\n", "mode", "n", "TTFT p50", "TTFT p95",
             "of cold", "cached", "identical");
  const double cold = Median(readers.front().ttft_s);
  for (const ReuseReader& reader : readers) {
    fmt::print(stderr, "{:<24} {:>4} {:>7.1f} ms {:>7.1f} ms {:>9.2f}x {:>7.0f}% {:>6}/{:<3}\n",
               reader.mode.name, reader.ttft_s.size(), Median(reader.ttft_s) * 1e3,
               stats::Quantile(reader.ttft_s, 0.95) * 1e3, Median(reader.ttft_s) / cold,
               Median(reader.cached_share) * 100, reader.identical, reader.ttft_s.size());
  }
}

void PrintTogether(const std::vector<ReuseReader>& readers) {
  fmt::print(stderr, "{:<24} {:>4} {:>10} {:>10} {:>10} {:>10} {:>8} {:>10}\n", "mode", "n", "TTFT p50",
             "TTFT p95", "TPOT p50", "TPOT p95", "cached", "identical");
  for (const ReuseReader& reader : readers) {
    fmt::print(stderr, "{:<24} {:>4} {:>7.1f} ms {:>7.1f} ms {:>7.2f} ms {:>7.2f} ms {:>7.0f}% {:>6}/{:<3}\n",
               reader.mode.name, reader.ttft_s.size(), Median(reader.ttft_s) * 1e3,
               stats::Quantile(reader.ttft_s, 0.95) * 1e3, Median(reader.tpot_s) * 1e3,
               stats::Quantile(reader.tpot_s, 0.95) * 1e3, Median(reader.cached_share) * 100,
               reader.identical, reader.ttft_s.size());
  }
}

// Each reader that meets in the middle against the better of those that do only one of the two: the same
// store loaded whole (it stands before it), and the cold one.
void AddRatios(const std::vector<ReuseReader>& readers, size_t prompts, const BenchCase& cell,
               BenchReport& report) {
  for (size_t i = 1; i < readers.size(); ++i) {
    const ReuseReader& meet = readers[i];
    if (meet.mode.load != "adaptive") continue;
    const ReuseReader& load = readers[i - 1];
    const ReuseReader& cold = readers.front();
    const ReuseReader& better = Median(load.ttft_s) < Median(cold.ttft_s) ? load : cold;
    const PairedRatio ratio = CompareCases(meet.ttft_s, better.ttft_s, prompts, /*seed=*/1);
    fmt::print(stderr, "{} / {}: {:.3f} [{:.3f}, {:.3f}] (95 %, {} prompts)\n", meet.mode.name,
               better.mode.name, ratio.median, ratio.low, ratio.high, ratio.cases);
    BenchCase where = cell;
    where.emplace("mode", meet.mode.name);
    where.emplace("against", better.mode.name);
    report.AddSample(where, "ttft_ratio", "1", {ratio.median});
    report.AddSample(where, "ttft_ratio_low", "1", {ratio.low});
    report.AddSample(where, "ttft_ratio_high", "1", {ratio.high});
  }
}

bool AddRows(const std::vector<ReuseReader>& readers, const BenchCase& cell, BenchReport& report) {
  bool right = true;
  for (const ReuseReader& reader : readers) {
    BenchCase where = cell;
    where.emplace("mode", reader.mode.name);
    report.AddSample(where, "ttft_s", "s", reader.ttft_s);
    report.AddSample(where, "tpot_s", "s", reader.tpot_s);
    report.AddSample(where, "cached_share", "1", reader.cached_share);
    if (reader.exact && reader.identical != reader.ttft_s.size()) {
      fmt::print(stderr, "{}: {} of {} outputs differ from the cold node's\n", reader.mode.name,
                 reader.ttft_s.size() - reader.identical, reader.ttft_s.size());
      right = false;
    }
  }
  return right;
}

struct Prompts {
  std::vector<Prompt> measured;
  std::vector<Prompt> warmup;
};

base::Result<bool> RunModes(const BenchReuseArgs& args, const ReuseSetting& setting,
                            const std::vector<ReuseMode>& modes, const Prompts& prompts,
                            double link_bits_per_s, BenchReport& report) {
  std::vector<ReuseReader> readers;
  for (const ReuseMode& mode : modes) {
    KVPLANE_ASSIGN_OR_RETURN(ReuseReader reader, StartReuseReader(setting, mode));
    readers.push_back(std::move(reader));
  }
  BenchCase cell;
  if (link_bits_per_s > 0) cell.emplace("link_bits_per_s", link_bits_per_s);
  KVPLANE_RETURN_IF_ERROR(AskInTurn(readers, prompts.measured, prompts.warmup, args.rounds));
  PrintReaders(readers);
  AddRatios(readers, prompts.measured.size(), cell, report);
  bool right = AddRows(readers, cell, report);
  if (args.clients > 0) {
    for (ReuseReader& reader : readers) reader.Forget();
    KVPLANE_RETURN_IF_ERROR(AskTogether(readers, prompts.measured, args.rounds, args.clients));
    fmt::print(stderr, "{} requests in flight\n", args.clients);
    PrintTogether(readers);
    cell.emplace("clients", static_cast<int64_t>(args.clients));
    right = AddRows(readers, cell, report) && right;
  }
  for (ReuseReader& reader : readers) KVPLANE_RETURN_IF_ERROR(reader.node.Stop(After(kStopTimeout)));
  return right;
}

const ReuseMode kCold{.name = "cold", .store = "", .strategy = ""};

// A shared store behind a paced link: raw, then each strategy, loaded whole and as the plan says.
base::Result<bool> RunRemote(const BenchReuseArgs& args, const ReuseSetting& setting, double link_bits_per_s,
                             const Prompts& prompts, BenchReport& report) {
  KVPLANE_ASSIGN_OR_RETURN(NodeProcess store, StartPacedStore(setting, link_bits_per_s));
  std::vector<ReuseMode> modes = {kCold};
  for (const std::string& strategy : args.strategies) {
    ReuseMode mode{
        .name = "load " + strategy, .store = store.field("store"), .strategy = strategy, .load = "always"};
    // With the warm-up prompts, from which readers learn how fast store and link are.
    std::vector<Prompt> stored = prompts.warmup;
    stored.insert(stored.end(), prompts.measured.begin(), prompts.measured.end());
    KVPLANE_RETURN_IF_ERROR(FillStore(setting, mode, stored, kRequestTimeout));
    modes.push_back(mode);
    mode.name = "meet " + strategy;
    mode.load = "adaptive";
    modes.push_back(mode);
  }
  fmt::print(stderr, "\nstore behind a link of {} (shaped in the store's process)\n",
             base::FormatBitsPerSecond(link_bits_per_s));
  KVPLANE_ASSIGN_OR_RETURN(const bool right,
                           RunModes(args, setting, modes, prompts, link_bits_per_s, report));
  KVPLANE_RETURN_IF_ERROR(store.Stop(After(kStopTimeout)));
  return right;
}

// The servers that are named, or one of the bench's own where it can be had.
base::Result<std::optional<OwnRedis>> ProvideRedis(const std::filesystem::path& folder, std::string& spec) {
  const bool none = spec == kNoRedis;
  if (none) spec.clear();
  if (none || !spec.empty()) return std::optional<OwnRedis>();
  base::Result<OwnRedis> own = OwnRedis::Start(folder);
  if (own.status().code() == base::StatusCode::kNotFound) {
    fmt::print(stderr, "no rows of Redis: {}\n", own.status().message());
    return std::optional<OwnRedis>();
  }
  if (!own.ok()) return own.status();
  spec = own->spec();
  return std::optional<OwnRedis>(*std::move(own));
}

// Tiers of the node itself and a Redis on this machine; no link is paced.
base::Result<bool> RunLocal(const BenchReuseArgs& args, const ReuseSetting& setting, const Prompts& prompts,
                            BenchReport& report) {
  std::vector<ReuseMode> modes = {kCold};
  for (const std::string& strategy : {args.strategies.front(), args.strategies.back()}) {
    modes.push_back({.name = "dram " + strategy,
                     .store = "mem:?bytes=1GiB",
                     .strategy = strategy,
                     .load = "always",
                     .keeps_local = true});
    const std::string folder = (setting.folder / ("disk-" + std::to_string(modes.size()))).string();
    modes.push_back({.name = "disk " + strategy,
                     .store = "dir:" + folder,
                     .strategy = strategy,
                     .load = "always",
                     .keeps_local = true});
    if (!args.redis.empty()) {
      modes.push_back({.name = "redis " + strategy,
                       .store = args.redis,
                       .strategy = strategy,
                       .load = "always",
                       .keeps_local = true});
    }
    if (args.strategies.size() == 1) break;
  }
  fmt::print(stderr, "\ntiers of this machine\n");
  return RunModes(args, setting, modes, prompts, 0, report);
}

base::Result<std::vector<Prompt>> MakePrompts(const BenchReuseArgs& args, uint32_t count, uint64_t seed) {
  KVPLANE_ASSIGN_OR_RETURN(const std::unique_ptr<model::Tokenizer> tokenizer,
                           model::Tokenizer::Load(args.model));
  KVPLANE_ASSIGN_OR_RETURN(const PromptSource source, PromptSource::Load(args.prompts));
  base::Rng rng(seed);
  return source.Spread(*tokenizer, count, args.min_tokens, args.max_tokens, rng);
}

base::Result<bool> RunBench(BenchReuseArgs args, const std::filesystem::path& folder, BenchReport& report) {
  args.strategies = SplitStrategyLists(args.strategies);
  if (args.count == 0 || args.rounds == 0 || args.strategies.empty()) {
    return base::InvalidArgument("--count, --rounds and --strategies must not be zero or empty");
  }
  if (args.clients > kMaxClients) return base::InvalidArgument("--clients: at most {}", kMaxClients);
  std::vector<double> rates;
  for (const std::string& rate : args.link_rates) {
    KVPLANE_ASSIGN_OR_RETURN(const double parsed, base::ParseBitsPerSecond(rate));
    rates.push_back(parsed);
  }
  Prompts prompts;
  KVPLANE_ASSIGN_OR_RETURN(prompts.measured, MakePrompts(args, args.count, args.seed));
  KVPLANE_ASSIGN_OR_RETURN(prompts.warmup, MakePrompts(args, 3, args.seed + 1000));
  ReuseSetting setting{.model = args.model,
                       .profiles = args.profiles,
                       .threads = args.threads,
                       .compute = args.compute,
                       .run_tokens = args.run_tokens,
                       .folder = folder};
  if (setting.compute == "auto") {  // one choice for all nodes: outputs are compared
    KVPLANE_ASSIGN_OR_RETURN(NodeProcess probe, StartReuseNode(setting, kCold, "probe"));
    setting.compute = probe.field("compute");
    KVPLANE_RETURN_IF_ERROR(probe.Stop(After(kStopTimeout)));
  }
  fmt::print(stderr, "{}\n{} prompts of real text, {} to {} tokens, block runs of {}; matmul in {}\n",
             Describe(ThisMachine()), prompts.measured.size(), args.min_tokens, args.max_tokens,
             args.run_tokens, setting.compute);
  KVPLANE_ASSIGN_OR_RETURN(std::optional<OwnRedis> redis, ProvideRedis(folder, args.redis));
  KVPLANE_ASSIGN_OR_RETURN(bool right, RunLocal(args, setting, prompts, report));
  if (redis) redis->Stop();  // what is measured next has the machine for itself
  for (const double rate : rates) {
    KVPLANE_ASSIGN_OR_RETURN(const bool one, RunRemote(args, setting, rate, prompts, report));
    right = right && one;
  }
  return right;
}

}  // namespace

int CmdBenchReuse(const BenchReuseArgs& args) {
  BenchReport report("reuse", args.command);
  base::Result<LogFolder> folder = LogFolder::Create("kvplane-reuse");
  const base::Result<bool> right =
      folder.ok() ? RunBench(args, folder->path(), report) : base::Result<bool>(folder.status());
  base::Status status = right.status();
  if (status.ok() && !args.json.empty()) status = report.WriteJson(args.json);
  if (!status.ok()) {
    fmt::print(stderr, "kvplane bench reuse: {}\n", status.ToString());
    if (folder.ok()) fmt::print(stderr, "logs of the nodes: {}\n", folder->path().string());
    return ExitCodeFor(status.code());
  }
  folder->Remove();
  return *right ? kExitOk : kExitFailed;
}

}  // namespace kvplane::cli
