// kvplane generate: one completion in this process, text to standard output as it comes.
#pragma once

#include <cstdint>
#include <string>

#include "apps/cli/node_runtime.h"

namespace kvplane::cli {

struct GenerateArgs {
  RuntimeArgs runtime;
  std::string prompt;  // "-": standard input
  bool chat = false;   // wrap the prompt as a user message in the model's chat template
  uint32_t max_tokens = 64;
  double temperature = 0;
  double top_p = 1;
  uint64_t seed = 0;
  bool json = false;  // one JSON object with text, token ids and timings instead of text
};

int CmdGenerate(const GenerateArgs& args);

}  // namespace kvplane::cli
