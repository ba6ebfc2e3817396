#include "apps/cli/store_bench/trace_report.h"

#include <fmt/format.h>

#include <cstdio>
#include <utility>

#include "apps/cli/plot/scatter_plot.h"
#include "kvplane/base/units.h"

namespace kvplane::cli {
namespace {

constexpr char kUnbounded[] = "unbounded";

void PrintTrace(const TraceReplayOptions& options, const store::BlockTrace& trace) {
  fmt::print(stderr, "{} ({}): {} requests in {:.0f} s, {} blocks of {} tokens", options.path,
             Name(trace.format), trace.requests.size(),
             trace.requests.back().time_s - trace.requests.front().time_s, trace.blocks, trace.block_tokens);
  if (trace.sessions > 0) {
    fmt::print(stderr, ", {} sessions that begin {:g} s apart on average ({} repetitions left out)",
               trace.sessions, options.trace.session_gap_s, trace.dropped_sessions);
  }
  fmt::print(stderr, "\n");
  if (!trace.has_prefixes) {
    fmt::print(stderr, "This format tells nothing about shared prefixes: no cache can hit.\n");
  }
}

base::Status ReportCurve(const TraceReplayOptions& options, const store::BlockTrace& trace,
                         const std::string& policy_name, PlotSeries& series, BenchReport& report) {
  KVPLANE_ASSIGN_OR_RETURN(const store::ReplayPolicy policy, ParseReplayPolicy(policy_name));
  fmt::print(stderr, "{:<14}", policy_name);
  for (const std::string& text : options.capacities) {
    KVPLANE_ASSIGN_OR_RETURN(const uint64_t blocks, ParseBlocks(text));
    const auto result = store::Replay(trace, policy, {.memory = blocks});
    fmt::print(stderr, " {:>10.4f}", result.ratio());
    std::fflush(stderr);
    report.AddSample(
        {{"trace", std::string(Name(trace.format))}, {"policy", policy_name}, {"capacity_blocks", text}},
        "hit_ratio", "1", {result.ratio()});
    if (blocks > 0) {
      series.points.push_back({.x = static_cast<double>(blocks),
                               .y = result.ratio(),
                               .name = fmt::format("{} {}", policy_name, text)});
    }
  }
  fmt::print(stderr, "\n");
  return base::Status::Ok();
}

base::Status ReportTiers(const TraceReplayOptions& options, const store::BlockTrace& trace,
                         BenchReport& report) {
  if (options.tiers.empty()) return base::Status::Ok();
  fmt::print(stderr, "\n{:<14} {:>16} {:>10} {:>10} {:>10} {:>14} {:>14}\n", "policy", "memory+disk",
             "memory", "disk", "both", "disk writes", "of them again");
  for (const std::string& policy_name : options.policies) {
    KVPLANE_ASSIGN_OR_RETURN(const store::ReplayPolicy policy, ParseReplayPolicy(policy_name));
    for (const std::string& text : options.tiers) {
      KVPLANE_ASSIGN_OR_RETURN(const store::ReplayCapacity capacity, ParseTiers(text));
      const auto result = store::Replay(trace, policy, capacity);
      fmt::print(stderr, "{:<14} {:>16} {:>10.4f} {:>10.4f} {:>10.4f} {:>14} {:>14}\n", policy_name, text,
                 result.memory_ratio(), result.disk_ratio(), result.ratio(), result.disk_writes,
                 result.disk_writes_again);
      for (const auto& [tier, ratio] :
           {std::pair<std::string, double>{"memory", result.memory_ratio()}, {"disk", result.disk_ratio()}}) {
        report.AddSample({{"trace", std::string(Name(trace.format))},
                          {"policy", policy_name},
                          {"tiers", text},
                          {"tier", tier}},
                         "hit_ratio", "1", {ratio});
      }
    }
  }
  return base::Status::Ok();
}

}  // namespace

base::Result<uint64_t> ParseBlocks(const std::string& text) {
  if (text == kUnbounded) return uint64_t{0};
  KVPLANE_ASSIGN_OR_RETURN(const uint64_t blocks, base::ParseBytes(text));
  if (blocks == 0)
    return base::InvalidArgument("a cache of 0 blocks; \"{}\" means without bound", kUnbounded);
  return blocks;
}

base::Result<store::ReplayCapacity> ParseTiers(const std::string& text) {
  const size_t plus = text.find('+');
  if (plus == std::string::npos) return base::InvalidArgument("tiers \"{}\": MEMORY+DISK in blocks", text);
  KVPLANE_ASSIGN_OR_RETURN(const uint64_t memory, ParseBlocks(text.substr(0, plus)));
  KVPLANE_ASSIGN_OR_RETURN(const uint64_t disk, ParseBlocks(text.substr(plus + 1)));
  return store::ReplayCapacity{.memory = memory, .disk = disk, .has_disk = true};
}

base::Result<store::ReplayPolicy> ParseReplayPolicy(const std::string& text) {
  if (text == "lru") return store::ReplayPolicy{.kind = store::PolicyKind::kLru};
  if (text == "s3fifo") return store::ReplayPolicy{.kind = store::PolicyKind::kS3Fifo};
  if (text == "s3fifo-paper") {
    return store::ReplayPolicy{.kind = store::PolicyKind::kS3Fifo, .shape = store::kPaperS3FifoShape};
  }
  return base::InvalidArgument("policy \"{}\": lru, s3fifo or s3fifo-paper", text);
}

base::Status ReportTrace(const TraceReplayOptions& options, const std::string& svg, BenchReport& report) {
  base::Result<store::TraceFormat> format = options.format.empty() ? store::GuessTraceFormat(options.path)
                                                                   : store::ParseTraceFormat(options.format);
  if (!format.ok()) return format.status();
  KVPLANE_ASSIGN_OR_RETURN(const store::BlockTrace trace,
                           store::ReadTrace(options.path, *format, options.trace));
  PrintTrace(options, trace);
  fmt::print(stderr, "\n{:<14}", "hit ratio");
  for (const std::string& text : options.capacities) fmt::print(stderr, " {:>10}", text);
  fmt::print(stderr, "\n");
  PlotPanel panel{.title = "Prompt blocks found as part of an unbroken prefix",
                  .x_label = fmt::format("capacity, blocks of {} tokens", trace.block_tokens),
                  .y_label = "hit ratio",
                  .x_scale = AxisScale::kLog,
                  .series = {}};
  for (const std::string& policy : options.policies) {
    PlotSeries series{.name = policy, .points = {}};
    KVPLANE_RETURN_IF_ERROR(ReportCurve(options, trace, policy, series, report));
    panel.series.push_back(std::move(series));
  }
  KVPLANE_RETURN_IF_ERROR(ReportTiers(options, trace, report));
  if (svg.empty()) return base::Status::Ok();
  ScatterPlot plot{
      .title = "Prefix cache, replayed",
      .subtitle = fmt::format("{} trace, {} requests", Name(trace.format), trace.requests.size())};
  plot.panels.push_back(std::move(panel));
  return plot.WriteSvg(svg);
}

}  // namespace kvplane::cli
