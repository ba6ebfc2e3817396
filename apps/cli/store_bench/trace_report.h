// Hit ratios of a block trace over policies, capacities and stacks of tiers: computed, printed, reported.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/cli/bench_report.h"
#include "kvplane/base/status.h"
#include "kvplane/store/replay/block_trace.h"
#include "kvplane/store/replay/cache_replay.h"

namespace kvplane::cli {

struct TraceReplayOptions {
  std::string path;
  std::string format{};  // empty: by the file's name
  std::vector<std::string> policies{};
  std::vector<std::string> capacities{};  // blocks: "10k", "unbounded"
  std::vector<std::string> tiers{};       // blocks in memory + on disk: "10k+100k"
  store::TraceOptions trace{};
};

// "10k" -> 10,000; "unbounded" -> 0.
base::Result<uint64_t> ParseBlocks(const std::string& text);
// "1k+10k".
base::Result<store::ReplayCapacity> ParseTiers(const std::string& text);
// "lru", "s3fifo" (the memory tier's), "s3fifo-paper".
base::Result<store::ReplayPolicy> ParseReplayPolicy(const std::string& text);

// Prints a table to standard error as it goes. `svg`: hit ratio over capacity; empty: none.
base::Status ReportTrace(const TraceReplayOptions& options, const std::string& svg, BenchReport& report);

}  // namespace kvplane::cli
