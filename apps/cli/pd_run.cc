#include "apps/cli/pd_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "kvplane/base/clock.h"
#include "kvplane/base/units.h"
#include "kvplane/stats/quantile.h"

namespace kvplane::cli {
namespace {

base::Result<CompletionResult> Ask(CompletionClient& client, const Prompt& prompt,
                                   const std::string& strategy, const PdRunOptions& options) {
  CompletionCall call;
  call.prompt = prompt.text;
  call.max_tokens = options.max_tokens;
  call.strategy = strategy;
  return client.Complete(call, base::Clock::System().Now() + options.request_timeout);
}

}  // namespace

base::Result<PdRunResult> RunPd(const PdCluster& cluster, const std::vector<Prompt>& prompts,
                                const PdRunOptions& options) {
  CompletionClient router(cluster.router());
  CompletionClient unified(cluster.unified());
  const size_t warmup = std::min<size_t>(options.warmup, prompts.size());
  for (size_t i = 0; i < warmup; ++i) {
    KVPLANE_RETURN_IF_ERROR(Ask(unified, prompts[i], "", options).status().Annotate("warm-up, unified"));
    for (const std::string& mode : options.modes) {
      KVPLANE_RETURN_IF_ERROR(Ask(router, prompts[i], mode, options).status().Annotate("warm-up, " + mode));
    }
  }
  PdRunResult run;
  run.unified.mode = "unified";
  for (const std::string& mode : options.modes) run.modes.push_back({mode, {}});
  for (size_t i = 0; i < prompts.size(); ++i) {
    KVPLANE_ASSIGN_OR_RETURN(CompletionResult reference, Ask(unified, prompts[i], "", options));
    run.unified.results.push_back(std::move(reference));
    for (size_t turn = 0; turn < run.modes.size(); ++turn) {
      PdModeResult& mode = run.modes[(i + turn) % run.modes.size()];
      base::Result<CompletionResult> result = Ask(router, prompts[i], mode.mode, options);
      if (!result.ok()) return result.status().Annotate(fmt::format("mode {}, prompt {}", mode.mode, i));
      mode.results.push_back(*std::move(result));
    }
  }
  return run;
}

PdSummary Summarise(const PdModeResult& mode, const PdModeResult& reference) {
  PdSummary summary;
  summary.mode = mode.mode;
  uint64_t tokens = 0, equal = 0;
  for (size_t i = 0; i < mode.results.size(); ++i) {
    const CompletionResult& result = mode.results[i];
    const std::vector<int32_t>& expected = reference.results[i].token_ids;
    summary.ttft_s.push_back(result.ttft_s);
    summary.jct_s.push_back(result.jct_s);
    summary.bytes_raw += static_cast<double>(result.bytes_raw);
    summary.bytes_wire += static_cast<double>(result.bytes_wire);
    if (result.source == "recompute") ++summary.recomputed;
    if (result.token_ids == expected) ++summary.identical;
    tokens += expected.size();
    for (size_t t = 0; t < std::min(expected.size(), result.token_ids.size()); ++t) {
      if (expected[t] == result.token_ids[t]) ++equal;
    }
  }
  summary.equal_tokens = tokens == 0 ? 0 : static_cast<double>(equal) / static_cast<double>(tokens);
  return summary;
}

void PrintPdTable(const std::vector<PdSummary>& summaries) {
  fmt::print(stderr, "{:<9} {:>4} {:>9} {:>9} {:>9} {:>9} {:>11} {:>6} {:>13} {:>10} {:>10}\n", "mode", "n",
             "TTFT p50", "TTFT p95", "JCT p50", "JCT p95", "wire bytes", "ratio", "equal tokens", "identical",
             "recomputed");
  for (const PdSummary& row : summaries) {
    const auto ms = [](const std::vector<double>& v, double q) {
      return fmt::format("{:.1f} ms", stats::Quantile(v, q) * 1e3);
    };
    const bool moved = row.bytes_wire > 0;
    fmt::print(stderr, "{:<9} {:>4} {:>9} {:>9} {:>9} {:>9} {:>11} {:>6} {:>12.1f}% {:>7}/{:<3} {:>9}\n",
               row.mode, row.ttft_s.size(), ms(row.ttft_s, 0.5), ms(row.ttft_s, 0.95), ms(row.jct_s, 0.5),
               ms(row.jct_s, 0.95), moved ? base::FormatBytes(row.bytes_wire) : "-",
               moved ? fmt::format("{:.2f}", row.bytes_raw / row.bytes_wire) : "-", row.equal_tokens * 100,
               row.identical, row.ttft_s.size(), row.recomputed);
  }
}

void AddPdRows(const PdSummary& summary, double link_bits_per_s, BenchReport& report) {
  const BenchCase where = {{"mode", summary.mode}, {"link_bits_per_s", link_bits_per_s}};
  report.AddSample(where, "ttft_s", "s", summary.ttft_s);
  report.AddSample(where, "jct_s", "s", summary.jct_s);
  report.AddSample(where, "equal_tokens", "1", {summary.equal_tokens});
  report.AddSample(where, "recomputed", "requests", {static_cast<double>(summary.recomputed)});
  if (summary.bytes_wire > 0) {
    report.AddSample(where, "bytes_raw", "B", {summary.bytes_raw});
    report.AddSample(where, "bytes_wire", "B", {summary.bytes_wire});
    report.AddSample(where, "ratio", "1", {summary.bytes_raw / summary.bytes_wire});
  }
}

}  // namespace kvplane::cli
