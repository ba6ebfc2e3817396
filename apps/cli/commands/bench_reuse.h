// kvplane bench reuse: time to first token of a prompt whose prefix some other engine has computed before,
// against the link to the store, the tier and the coding of its KV.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvplane::cli {

struct BenchReuseArgs {
  std::string model = "models/demo";
  std::string prompts = "prompts";    // folder of *.txt
  std::vector<std::string> profiles;  // files, loaded by every node; the first is coded with
  std::vector<std::string> link_rates = {"100Mbit/s", "500Mbit/s", "1Gbit/s", "4Gbit/s"};
  std::vector<std::string> strategies = {"off", "lossless", "int8", "int4"};
  std::string redis;     // redis://HOST:PORT[,HOST:PORT] that run already; empty: one of its own; or "none"
  uint32_t count = 20;   // prompts
  uint32_t rounds = 1;   // every prompt so often in every mode
  uint32_t clients = 0;  // then also with so many requests in flight; 0: only one at a time
  uint32_t min_tokens = 600;
  uint32_t max_tokens = 2000;
  uint32_t run_tokens = 256;
  uint64_t seed = 1;
  uint32_t threads = 1;
  std::string compute = "auto";
  std::string command;  // how this run was started, for the report
  std::string json;
};

// Exit code 0 only when every request was answered and lossless modes gave the cold node's tokens.
int CmdBenchReuse(const BenchReuseArgs& args);

}  // namespace kvplane::cli
