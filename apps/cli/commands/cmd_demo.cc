#include "apps/cli/commands/cmd_demo.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <system_error>
#include <utility>

#include "apps/cli/bench_report.h"
#include "apps/cli/exit_code.h"
#include "apps/cli/log_folder.h"
#include "apps/cli/own_token.h"
#include "apps/cli/pd_cluster.h"
#include "apps/cli/pd_run.h"
#include "apps/cli/prompt_source.h"
#include "apps/cli/strategy_list.h"
#include "kvplane/base/rng.h"
#include "kvplane/base/units.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/model/tokenizer.h"
#include "kvplane/stats/quantile.h"

namespace kvplane::cli {
namespace {

struct Outcome {
  std::vector<PdSummary> summaries;  // unified first
  bool off_identical = true;         // vacuously, without an `off` mode
};

base::Status ValidateArgs(const DemoArgs& args) {
  if (args.count == 0 || args.modes.empty())
    return base::InvalidArgument("--count and --modes must not be empty");
  KVPLANE_RETURN_IF_ERROR(transport::ReadSecurityFiles(args.kv_security).status());
  if (args.min_tokens < 8 || args.min_tokens > args.max_tokens) {
    return base::InvalidArgument("--min-tokens {} must be at least 8 and at most --max-tokens {}",
                                 args.min_tokens, args.max_tokens);
  }
  for (const std::string& mode : args.modes) {
    const auto strategy = codec::Strategy::Parse(mode);
    if (!strategy.ok()) return strategy.status().Annotate("--modes");
    if (strategy->needs_profile() && args.profiles.empty()) {
      return base::InvalidArgument("--modes: L4: '{}' needs a profile of the model: --profile FILE", mode);
    }
  }
  return base::Status::Ok();
}

base::Result<std::vector<Prompt>> MakePrompts(const DemoArgs& args) {
  KVPLANE_ASSIGN_OR_RETURN(const std::unique_ptr<model::Tokenizer> tokenizer,
                           model::Tokenizer::Load(args.model));
  KVPLANE_ASSIGN_OR_RETURN(const PromptSource source, PromptSource::Load(args.prompts));
  base::Rng rng(args.seed);
  return source.Spread(*tokenizer, args.count, args.min_tokens, args.max_tokens, rng);
}

bool NeedsOwnToken(const transport::SecurityFiles& files) {
  return files.tls && files.auth_token_file.empty() && files.certificate.empty() && files.ca.empty();
}

base::Result<PdCluster> StartNodes(const DemoArgs& args, double bits_per_s,
                                   const std::filesystem::path& logs) {
  ClusterOptions cluster_options;
  cluster_options.model = args.model;
  cluster_options.link_bits_per_s = bits_per_s;
  cluster_options.threads = args.threads;
  cluster_options.compute = args.compute;
  cluster_options.profiles = args.profiles;
  cluster_options.kv_security = args.kv_security;
  cluster_options.log_folder = logs;
  transport::SecurityFiles& security = cluster_options.kv_security;
  if (!NeedsOwnToken(security)) return PdCluster::Start(cluster_options);
  KVPLANE_ASSIGN_OR_RETURN(security.auth_token_file, WriteOwnToken(logs));
  base::Result<PdCluster> cluster = PdCluster::Start(cluster_options);
  std::error_code ignored;
  std::filesystem::remove(security.auth_token_file, ignored);  // all that need it have read it
  return cluster;
}

base::Result<Outcome> RunOn(PdCluster cluster, const DemoArgs& args, const std::vector<Prompt>& prompts) {
  PdRunOptions run_options;
  run_options.modes = args.modes;
  run_options.max_tokens = args.generate;
  KVPLANE_ASSIGN_OR_RETURN(const PdRunResult run, RunPd(cluster, prompts, run_options));
  KVPLANE_RETURN_IF_ERROR(cluster.Stop());

  Outcome outcome;
  outcome.summaries.push_back(Summarise(run.unified, run.unified));
  for (const PdModeResult& mode : run.modes) {
    outcome.summaries.push_back(Summarise(mode, run.unified));
    if (mode.mode == "off") outcome.off_identical = outcome.summaries.back().identical == prompts.size();
  }
  return outcome;
}

void PrintVerdict(const Outcome& outcome) {
  const PdSummary* off = nullptr;
  for (const PdSummary& summary : outcome.summaries) {
    if (summary.mode == "off") off = &summary;
  }
  if (off == nullptr) return;
  fmt::print(stderr, "\nuncompressed transfer gives the unified process's tokens: {}\n",
             outcome.off_identical ? "yes, all of them" : "NO");
  for (const PdSummary& summary : outcome.summaries) {
    if (summary.mode == "off" || summary.mode == "unified") continue;
    fmt::print(stderr, "{}: job completion time {:.2f}x of uncompressed (p50)\n", summary.mode,
               stats::Quantile(summary.jct_s, 0.5) / stats::Quantile(off->jct_s, 0.5));
  }
}

base::Result<bool> RunRates(const DemoArgs& args, const std::vector<std::string>& rates,
                            const std::string& router, const std::string& unified, BenchReport& report,
                            const std::filesystem::path& logs) {
  KVPLANE_RETURN_IF_ERROR(ValidateArgs(args));
  std::vector<double> bits_per_s;
  for (const std::string& rate : rates) {
    const base::Result<double> parsed = base::ParseBitsPerSecond(rate);
    if (!parsed.ok()) return parsed.status().Annotate("link rate");
    if (*parsed < 1e5) return base::InvalidArgument("link rate '{}' is below 100 kbit/s", rate);
    bits_per_s.push_back(*parsed);
  }
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<Prompt> prompts, MakePrompts(args));
  uint64_t tokens = 0;
  for (const Prompt& prompt : prompts) tokens += prompt.tokens;
  fmt::print(stderr, "{} prompts of real text, {} to {} tokens ({} in all), {} tokens generated for each\n",
             prompts.size(), args.min_tokens, args.max_tokens, tokens, args.generate);
  bool identical = true;
  for (const double rate : bits_per_s) {
    fmt::print(stderr, "\nprefill -> decode over a {} link (shaped {}{}), one request at a time\n",
               base::FormatBitsPerSecond(rate), router.empty() ? "in the prefill process" : "outside",
               args.kv_security.tls ? ", TLS 1.3" : "");
    KVPLANE_ASSIGN_OR_RETURN(PdCluster cluster, router.empty() ? StartNodes(args, rate, logs)
                                                               : PdCluster::Attach(router, unified));
    KVPLANE_ASSIGN_OR_RETURN(const Outcome outcome, RunOn(std::move(cluster), args, prompts));
    PrintPdTable(outcome.summaries);
    PrintVerdict(outcome);
    for (const PdSummary& summary : outcome.summaries) AddPdRows(summary, rate, report);
    identical = identical && outcome.off_identical;
  }
  return identical;
}

// `router` and `unified`: nodes that run already; empty: nodes of its own for each rate.
int RunAndReport(const DemoArgs& as_given, const std::vector<std::string>& rates, std::string_view bench,
                 const std::string& router, const std::string& unified) {
  DemoArgs args = as_given;
  args.modes = SplitStrategyLists(args.modes);
  base::Result<LogFolder> logs = LogFolder::Create("kvplane-demo");
  if (!logs.ok()) {
    fmt::print(stderr, "kvplane {}: {}\n", bench, logs.status().ToString());
    return ExitCodeFor(logs.status().code());
  }
  BenchReport report(bench, args.command);
  const base::Result<bool> identical = RunRates(args, rates, router, unified, report, logs->path());
  if (!identical.ok()) {
    fmt::print(stderr, "kvplane {}: {}\n", bench, identical.status().ToString());
    if (logs->Empty()) {
      logs->Remove();
    } else {
      fmt::print(stderr, "logs of the nodes: {}\n", logs->path().string());
    }
    return ExitCodeFor(identical.status().code());
  }
  logs->Remove();
  if (!args.json.empty()) {
    if (const base::Status status = report.WriteJson(args.json); !status.ok()) {
      fmt::print(stderr, "kvplane {}: {}\n", bench, status.ToString());
      return ExitCodeFor(status.code());
    }
  }
  return *identical ? kExitOk : kExitFailed;
}

}  // namespace

int CmdDemo(const DemoArgs& args) { return RunAndReport(args, {args.link_rate}, "demo", "", ""); }

int CmdBenchPd(const BenchPdArgs& args) {
  if (args.router.empty() != args.unified.empty() || (!args.router.empty() && args.link_rates.size() != 1)) {
    fmt::print(stderr, "kvplane bench pd: --router and --unified go together, with one --link-rates\n");
    return kExitUsage;
  }
  const transport::SecurityFiles& security = args.base.kv_security;
  if (!args.router.empty() && (security.tls || !security.auth_token_file.empty())) {
    fmt::print(stderr,
               "kvplane bench pd: nodes that run already protect their KV themselves: "
               "no --kv-tls and --auth-token-file with --router\n");
    return kExitUsage;
  }
  return RunAndReport(args.base, args.link_rates, "pd", args.router, args.unified);
}

}  // namespace kvplane::cli
