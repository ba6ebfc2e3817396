// kvplane bench engine: prefill and decode speed of the model, and what part of it is matrix products.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/cli/node_runtime.h"

namespace kvplane::cli {

struct BenchEngineArgs {
  RuntimeArgs runtime;
  uint32_t prompt_tokens = 1536;
  uint32_t chunk_tokens = 512;
  uint32_t context_tokens = 512;  // KV a decode step attends to
  uint32_t decode_steps = 64;
  std::vector<uint32_t> batches = {1, 4, 16};
  uint32_t repeats = 7;
  std::string command;  // how this run was started, for the report
  std::string json;
};

int CmdBenchEngine(const BenchEngineArgs& args);

}  // namespace kvplane::cli
