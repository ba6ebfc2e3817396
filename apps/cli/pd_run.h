// One run of the prefill/decode comparison: the same prompts in every mode, interleaved, against a unified
// process.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/cli/bench_report.h"
#include "apps/cli/completion_client.h"
#include "apps/cli/pd_cluster.h"
#include "apps/cli/prompt_source.h"
#include "kvplane/base/status.h"

namespace kvplane::cli {

struct PdRunOptions {
  std::vector<std::string> modes = {"off", "int8", "int4"};  // presets or strategies
  uint32_t max_tokens = 32;                                  // generated per request
  uint32_t warmup = 3;  // requests per mode before counting: primitives, connections, page faults
  base::Duration request_timeout = std::chrono::seconds(60);
};

// All requests of one mode, in prompt order.
struct PdModeResult {
  std::string mode;  // "unified" is the process that does both halves
  std::vector<CompletionResult> results;
};

struct PdRunResult {
  PdModeResult unified;
  std::vector<PdModeResult> modes;
};

// Sends every prompt to the unified process and, mode by mode in rotating order, to the router, one request
// at a time. The first failed request fails the run: a number without its errors would be a lie.
base::Result<PdRunResult> RunPd(const PdCluster& cluster, const std::vector<Prompt>& prompts,
                                const PdRunOptions& options);

// What is reported of one mode.
struct PdSummary {
  std::string mode;
  std::vector<double> ttft_s;
  std::vector<double> jct_s;
  double bytes_raw = 0;  // sums over the prompts
  double bytes_wire = 0;
  double equal_tokens = 0;  // share of generated tokens equal, position by position, to the reference run
  uint32_t identical = 0;   // requests whose whole output is the reference's
  uint32_t recomputed = 0;  // requests whose KV did not arrive and was recomputed
};
PdSummary Summarise(const PdModeResult& mode, const PdModeResult& reference);

void PrintPdTable(const std::vector<PdSummary>& summaries);  // to stderr
void AddPdRows(const PdSummary& summary, double link_bits_per_s, BenchReport& report);

}  // namespace kvplane::cli
