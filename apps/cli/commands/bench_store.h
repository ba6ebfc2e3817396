// kvplane bench store: hit ratios of traces, or times of tiers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvplane::cli {

struct BenchStoreArgs {
  // Replay of a trace:
  std::string trace;
  std::string format;  // empty: by the file's name
  std::vector<std::string> policies = {"lru", "s3fifo"};
  std::vector<std::string> capacities = {"1k", "5k", "10k", "30k", "50k", "100k", "unbounded"};
  std::vector<std::string> tiers;  // "MEMORY+DISK" in blocks
  double session_gap_s = 60;
  uint64_t seed = 1;
  // Times of stores:
  std::vector<std::string> stores;  // beside memory and a server on loopback; texts of create_store.h
  std::string object_bytes = "8MiB";
  uint32_t objects = 8;
  uint32_t layers = 32;
  uint32_t repeats = 9;
  bool durable = false;

  std::string command;  // how this run was started, for the report
  std::string json;
  std::string svg;
};

int CmdBenchStore(const BenchStoreArgs& args);

}  // namespace kvplane::cli
