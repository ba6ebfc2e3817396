// kvplane bench codec: bytes, error and speed of strategies on given or synthetic KV, beside memcpy, zstd -1
// and lz4, interleaved in one run on one core.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvplane::cli {

struct BenchCodecArgs {
  std::vector<std::string> strategies = {"off", "int8", "int4", "int2", "kivi-4", "kivi-2"};
  std::string kv;          // .npy; empty: synthetic
  uint32_t tokens = 8192;  // of the synthetic KV: 8 layers, 8 heads of 128, 268 MB, far beyond the caches
  uint32_t repeats = 7;
  uint64_t seed = 1;
  std::string command;  // how this run was started, for the report
  std::string json;     // file for the rows; empty: none
};
int CmdBenchCodec(const BenchCodecArgs& args);

}  // namespace kvplane::cli
