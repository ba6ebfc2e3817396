// kvplane profile fit: a profile of a model's KV cache, fitted on text (kvplane/profile/profile_fit.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/cli/node_runtime.h"

namespace kvplane::cli {

struct ProfileFitArgs {
  RuntimeArgs runtime;
  std::vector<std::string> text;  // text files, or folders of *.txt
  std::string out;
  uint32_t prompts = 96;
  uint32_t tokens = 768;    // of each
  uint32_t probes = 48;     // sequences that sensitivities are measured on
  uint32_t task_share = 0;  // percent of the prompts that hold task questions with their answers
  std::string words;        // of those tasks; empty: task_words.txt of the model folder
  uint32_t max_rank = 0;    // of every basis; 0: all components
  uint64_t seed = 1;

  ProfileFitArgs() {
    runtime.step_tokens = 2048;
    // One type on every machine: the fit of a seed is then the same file.
    runtime.compute = "f32";
  }
};

int CmdProfileFit(const ProfileFitArgs& args);

}  // namespace kvplane::cli
