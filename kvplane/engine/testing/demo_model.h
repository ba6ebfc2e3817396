// The demo model for engine tests: loaded once per process and copy, with its golden prompts. For tests only.
#pragma once

#include <cstdint>
#include <vector>

#include "kvplane/engine/engine.h"
#include "kvplane/model/model.h"

namespace kvplane::engine {

struct GoldenPrompt {
  std::vector<int32_t> token_ids;
  std::vector<int32_t> greedy_32;
};

// Copies 0 and 1 are independent: two engines of one process need two. f32 compute, as the golden tokens were
// made: their smallest margin (0.0025) is below what bf16 products resolve.
model::Model& DemoModel(int copy = 0);

const std::vector<GoldenPrompt>& GoldenPrompts();

// `count` ids in [3, vocab): deterministic noise without BOS and EOS.
std::vector<int32_t> NoisePrompt(uint64_t seed, size_t count);

// Greedy, ignoring end-of-sequence: exactly max_tokens tokens.
Request GreedyRequest(std::vector<int32_t> prompt, uint32_t max_tokens);

}  // namespace kvplane::engine
