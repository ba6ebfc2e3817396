// kvplane bench quality: what a strategy does to the model's output, on the bytes that run.
//
// Method: every strategy codes the KV of the same prefixes into objects and decodes them back; the model then
// goes on behind the decoded KV (kvplane/profile/paired_run.h). Text: divergence from the uncompressed run,
// agreement of the first choice and perplexity of the tokens after the prefix. Tasks: whole answers right, of
// questions whose answer stands in the prompt. Everything is paired with the uncompressed run, with standard
// errors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/cli/node_runtime.h"

namespace kvplane::cli {

struct BenchQualityArgs {
  RuntimeArgs runtime;
  std::vector<std::string> strategies;  // each a list, separated by commas; empty: all presets
  std::string profile;                  // file of the profile that strategies take; empty: none
  std::string text = "prompts";         // a text file, or a folder of *.txt
  uint32_t windows = 32;                // of text; 0: no text part
  uint32_t prefix_tokens = 512;
  uint32_t scored_tokens = 256;
  std::string words;         // of the tasks; empty: task_words.txt of the model folder
  uint32_t questions = 200;  // of each task; 0: no tasks
  uint64_t seed = 1;
  std::string command;  // how this run was started, for the report
  std::string json;     // file for the rows; empty: none
  std::string svg;      // file for the picture; empty: none

  BenchQualityArgs() { runtime.step_tokens = 2048; }
};

int CmdBenchQuality(const BenchQualityArgs& args);

}  // namespace kvplane::cli
