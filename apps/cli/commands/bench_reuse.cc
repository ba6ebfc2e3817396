#include "apps/cli/commands/bench_reuse.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "apps/cli/bench_report.h"
#include "apps/cli/completion_client.h"
#include "apps/cli/exit_code.h"
#include "apps/cli/log_folder.h"
#include "apps/cli/prompt_source.h"
#include "apps/cli/reuse_bench/own_redis.h"
#include "apps/cli/reuse_bench/reuse_nodes.h"
#include "apps/cli/strategy_list.h"
#include "kvplane/base/rng.h"
#include "kvplane/base/units.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/model/tokenizer.h"
#include "kvplane/stats/quantile.h"

namespace kvplane::cli {
namespace {

constexpr base::Duration kRequestTimeout = std::chrono::seconds(60);
constexpr base::Duration kStopTimeout = std::chrono::seconds(20);

// Tokens generated: enough to see that the loaded KV is right, few enough not to matter.
constexpr uint32_t kGenerate = 8;

constexpr std::string_view kNoRedis = "none";

base::TimePoint After(base::Duration wait) { return base::Clock::System().Now() + wait; }
double Median(const std::vector<double>& values) { return stats::Quantile(values, 0.5); }

struct Reader {
  ReuseMode mode;
  NodeProcess node;
  std::unique_ptr<CompletionClient> client;
  std::vector<double> ttft_s;
  std::vector<double> cached_share;  // of the prompt's tokens
  uint32_t identical = 0;            // outputs equal to the cold node's
  bool exact = true;                 // they must be
};

base::Result<Reader> StartReader(const ReuseSetting& setting, const ReuseMode& mode) {
  KVPLANE_ASSIGN_OR_RETURN(NodeProcess node, StartReuseNode(setting, mode, "reader-" + mode.name));
  auto client = std::make_unique<CompletionClient>(node.http());
  Reader reader{mode, std::move(node), std::move(client), {}, {}, 0, true};
  if (!mode.strategy.empty()) {
    KVPLANE_ASSIGN_OR_RETURN(const codec::Strategy strategy, codec::Strategy::Parse(mode.strategy));
    reader.exact = !strategy.lossy();
  }
  return reader;
}

base::Result<CompletionResult> Ask(Reader& reader, const Prompt& prompt) {
  CompletionCall call;
  call.prompt = prompt.text;
  call.max_tokens = kGenerate;
  auto result = reader.client->Complete(call, After(kRequestTimeout));
  if (!result.ok()) return result.status().Annotate(reader.mode.name);
  return result;
}

// Every prompt once in every mode, the modes in rotating order; the first reader is the cold one.
base::Status RunReaders(std::vector<Reader>& readers, const std::vector<Prompt>& prompts,
                        const std::vector<Prompt>& warmup) {
  for (const Prompt& prompt : warmup) {
    for (Reader& reader : readers) KVPLANE_RETURN_IF_ERROR(Ask(reader, prompt).status());
  }
  for (Reader& reader : readers) {
    for (const Prompt& prompt : prompts) {
      if (reader.mode.keeps_local) KVPLANE_RETURN_IF_ERROR(Ask(reader, prompt).status());
    }
  }
  for (size_t i = 0; i < prompts.size(); ++i) {
    std::vector<std::vector<int32_t>> outputs(readers.size());
    for (size_t turn = 0; turn < readers.size(); ++turn) {
      const size_t at = (i + turn) % readers.size();
      KVPLANE_ASSIGN_OR_RETURN(CompletionResult result, Ask(readers[at], prompts[i]));
      readers[at].ttft_s.push_back(result.ttft_s);
      readers[at].cached_share.push_back(static_cast<double>(result.cached_tokens) /
                                         static_cast<double>(std::max<uint32_t>(result.prompt_tokens, 1)));
      outputs[at] = std::move(result.token_ids);
    }
    for (size_t at = 0; at < readers.size(); ++at) {
      if (outputs[at] == outputs[0]) ++readers[at].identical;
    }
  }
  return base::Status::Ok();
}

void PrintReaders(const std::vector<Reader>& readers) {
  fmt::print(stderr, "{:<24} {:>4} {:>10} {:>10} {:>10} {:>8} {:>10}\n", "mode", "n", "TTFT p50", "TTFT p95",
             "of cold", "cached", "identical");
  const double cold = Median(readers.front().ttft_s);
  for (const Reader& reader : readers) {
    fmt::print(stderr, "{:<24} {:>4} {:>7.1f} ms {:>7.1f} ms {:>9.2f}x {:>7.0f}% {:>6}/{:<3}\n",
               reader.mode.name, reader.ttft_s.size(), Median(reader.ttft_s) * 1e3,
               stats::Quantile(reader.ttft_s, 0.95) * 1e3, Median(reader.ttft_s) / cold,
               Median(reader.cached_share) * 100, reader.identical, reader.ttft_s.size());
  }
}

bool AddRows(const std::vector<Reader>& readers, double link_bits_per_s, BenchReport& report) {
  bool right = true;
  for (const Reader& reader : readers) {
    BenchCase where = {{"mode", reader.mode.name}};
    if (link_bits_per_s > 0) where.emplace("link_bits_per_s", link_bits_per_s);
    report.AddSample(where, "ttft_s", "s", reader.ttft_s);
    report.AddSample(where, "cached_share", "1", reader.cached_share);
    if (reader.exact && reader.identical != reader.ttft_s.size()) {
      fmt::print(stderr, "{}: {} of {} outputs differ from the cold node's\n", reader.mode.name,
                 reader.ttft_s.size() - reader.identical, reader.ttft_s.size());
      right = false;
    }
  }
  return right;
}

base::Result<bool> RunModes(const ReuseSetting& setting, const std::vector<ReuseMode>& modes,
                            const std::vector<Prompt>& prompts, const std::vector<Prompt>& warmup,
                            double link_bits_per_s, BenchReport& report) {
  std::vector<Reader> readers;
  for (const ReuseMode& mode : modes) {
    KVPLANE_ASSIGN_OR_RETURN(Reader reader, StartReader(setting, mode));
    readers.push_back(std::move(reader));
  }
  KVPLANE_RETURN_IF_ERROR(RunReaders(readers, prompts, warmup));
  for (Reader& reader : readers) KVPLANE_RETURN_IF_ERROR(reader.node.Stop(After(kStopTimeout)));
  PrintReaders(readers);
  return AddRows(readers, link_bits_per_s, report);
}

const ReuseMode kCold{.name = "cold", .store = "", .strategy = ""};

// A shared store behind a paced link: raw, then each strategy, loaded whole and as the plan says.
base::Result<bool> RunRemote(const BenchReuseArgs& args, const ReuseSetting& setting, double link_bits_per_s,
                             const std::vector<Prompt>& prompts, const std::vector<Prompt>& warmup,
                             BenchReport& report) {
  KVPLANE_ASSIGN_OR_RETURN(NodeProcess store, StartPacedStore(setting, link_bits_per_s));
  std::vector<ReuseMode> modes = {kCold};
  for (const std::string& strategy : args.strategies) {
    ReuseMode mode{
        .name = "load " + strategy, .store = store.field("store"), .strategy = strategy, .load = "always"};
    // With the warm-up prompts, from which readers learn how fast store and link are.
    std::vector<Prompt> stored = warmup;
    stored.insert(stored.end(), prompts.begin(), prompts.end());
    KVPLANE_RETURN_IF_ERROR(FillStore(setting, mode, stored, kRequestTimeout));
    modes.push_back(mode);
    mode.name = "meet " + strategy;
    mode.load = "adaptive";
    modes.push_back(mode);
  }
  fmt::print(stderr, "\nstore behind a link of {} (shaped in the store's process)\n",
             base::FormatBitsPerSecond(link_bits_per_s));
  KVPLANE_ASSIGN_OR_RETURN(const bool right,
                           RunModes(setting, modes, prompts, warmup, link_bits_per_s, report));
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
base::Result<bool> RunLocal(const BenchReuseArgs& args, const ReuseSetting& setting,
                            const std::vector<Prompt>& prompts, const std::vector<Prompt>& warmup,
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
  return RunModes(setting, modes, prompts, warmup, 0, report);
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
  if (args.count == 0 || args.strategies.empty()) {
    return base::InvalidArgument("--count and --strategies must not be zero or empty");
  }
  std::vector<double> rates;
  for (const std::string& rate : args.link_rates) {
    KVPLANE_ASSIGN_OR_RETURN(const double parsed, base::ParseBitsPerSecond(rate));
    rates.push_back(parsed);
  }
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<Prompt> prompts, MakePrompts(args, args.count, args.seed));
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<Prompt> warmup, MakePrompts(args, 3, args.seed + 1000));
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
             Describe(ThisMachine()), prompts.size(), args.min_tokens, args.max_tokens, args.run_tokens,
             setting.compute);
  KVPLANE_ASSIGN_OR_RETURN(std::optional<OwnRedis> redis, ProvideRedis(folder, args.redis));
  KVPLANE_ASSIGN_OR_RETURN(bool right, RunLocal(args, setting, prompts, warmup, report));
  if (redis) redis->Stop();  // what is measured next has the machine for itself
  for (const double rate : rates) {
    KVPLANE_ASSIGN_OR_RETURN(const bool one, RunRemote(args, setting, rate, prompts, warmup, report));
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
