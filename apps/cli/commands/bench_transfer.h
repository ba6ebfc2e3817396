// kvplane bench transfer: what streaming tile by tile gains over one stage after the other, and what the link
// carries.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvplane::cli {

struct BenchTransferArgs {
  std::vector<std::string> strategies = {"off",          "int8", "int4", "cachegen",
                                         "lossless-max", "c11",  "c13",  "c15"};
  uint32_t layers = 16;
  uint32_t kv_heads = 8;
  uint32_t head_dim = 128;
  uint32_t tokens = 1024;
  uint32_t repeats = 7;
  size_t codec_threads = 1;
  std::string command;  // how this run was started, for the report
  std::string json;
};

int CmdBenchTransfer(const BenchTransferArgs& args);

}  // namespace kvplane::cli
