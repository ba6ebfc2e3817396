// kvplane bench codec: bytes, error and speed of strategies on KV of a model, of a file or synthetic, beside
// memcpy, crc32c, zstd -1 and lz4, interleaved in one run.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/cli/node_runtime.h"

namespace kvplane::cli {

struct BenchCodecArgs {
  std::vector<std::string> strategies;  // each a list, separated by commas; empty: all presets
  // File of the profile that strategies take; empty: none, but for synthetic values one of the generator.
  std::string profile;

  // The input: one of a model on text, a file, or (when neither is named) synthetic values.
  std::string model;                     // folder
  std::string text = "prompts";          // a text file, or a folder of *.txt
  std::string kv;                        // .npy
  std::optional<std::string> synthetic;  // specification (codec_bench/synthetic_kv.h), "": all defaults
  uint32_t tokens = 0;                   // of a model or synthetic; 0: 16,384
  std::vector<uint32_t> quality;         // quality byte of both sides, or of K and V; empty: none
  uint32_t queries = 48;                 // per sequence of a model, for the attention error; 0: none

  uint32_t repeats = 7;   // rounds; 0: sizes and errors only
  uint32_t threads = 0;   // of "all cores"; 0: one per CPU
  double slice_s = 0.15;  // aim of one timed turn
  bool kernels = false;   // the kernels and their bars instead of strategies

  std::string command;  // how this run was started, for the report
  std::string json;     // file for the rows; empty: none
  std::string svg;      // file for the picture; empty: none
};
int CmdBenchCodec(const BenchCodecArgs& args);

}  // namespace kvplane::cli
