// kvplane demo: prefill, decode and router on loopback with a shaped link, real prompts, one table.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvplane/transport/transport_security.h"

namespace kvplane::cli {

struct DemoArgs {
  std::string model = "models/demo";
  std::string prompts = "prompts";      // folder of *.txt
  std::string link_rate = "200Mbit/s";  // of the prefill node's link
  std::vector<std::string> modes = {"off", "int8", "int4"};
  std::vector<std::string> profiles;  // files, loaded by both nodes; the first is coded with
  uint32_t count = 24;                // prompts
  uint32_t min_tokens = 200;
  uint32_t max_tokens = 2000;  // longest prompt
  uint32_t generate = 32;      // tokens generated per request
  uint64_t seed = 1;
  uint32_t threads = 1;          // compute threads of each node
  std::string compute = "auto";  // GEMM type of all nodes; auto: the prefill node measures
  // Between prefill and decode node, as `serve` takes it. TLS without token file and certificates: keys from
  // a random token of this run.
  transport::SecurityFiles kv_security;
  std::string command;  // how this run was started, for the report
  std::string json;     // also write the rows of docs/benchmarks.md to this file
};

// Exit code 0 only when every request was answered and `off` gave the unified process's tokens exactly.
int CmdDemo(const DemoArgs& args);

// kvplane bench pd: the same comparison over several link rates.
struct BenchPdArgs {
  DemoArgs base;
  std::vector<std::string> link_rates = {"50Mbit/s",  "100Mbit/s", "200Mbit/s",
                                         "500Mbit/s", "1Gbit/s",   "4Gbit/s"};
  // Nodes that run already ("HOST:PORT"), behind a link shaped elsewhere (bench/pd_netlab); with them the one
  // rate given is a label. Empty: nodes of its own, the link shaped in the prefill process.
  std::string router;
  std::string unified;
};
int CmdBenchPd(const BenchPdArgs& args);

}  // namespace kvplane::cli
