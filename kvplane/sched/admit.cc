#include "kvplane/sched/admit.h"

#include <algorithm>

#include "kvplane/base/check.h"

namespace kvplane::sched {

namespace {

using tensor::kTileTokens;

// The chunk of [done, end) that fits into `left` tokens; 0 when not even a tile does.
uint32_t ChunkTokens(uint32_t end, uint32_t done, uint32_t left) {
  const uint32_t remaining = end - done;
  return remaining <= left ? remaining : left - left % kTileTokens;
}

// Appends the chunk; false when the budget cut it, after which no other prompt may run.
bool AddChunk(base::RequestId id, uint32_t prompt_tokens, uint32_t prompt_done, uint32_t compute_until,
              uint32_t& left, Batch& batch) {
  const uint32_t end = std::min(prompt_tokens, compute_until);
  if (prompt_done >= end) return true;
  const uint32_t tokens = ChunkTokens(end, prompt_done, left);
  const bool ends_prompt = prompt_done + tokens == prompt_tokens;
  if (tokens > 0) {
    batch.slices.push_back({.id = id,
                            .first_token = prompt_done,
                            .tokens = tokens,
                            .decode = false,
                            .ends_prompt = ends_prompt});
    left -= tokens;
  }
  return prompt_done + tokens == end;
}

}  // namespace

uint32_t Batch::tokens() const {
  uint32_t total = 0;
  for (const Slice& slice : slices) total += slice.tokens;
  return total;
}

Batch Admit(std::span<const WaitingView> waiting, std::span<const RunningView> running,
            const Budget& budget) {
  KVPLANE_CHECK(budget.max_running >= 1 && running.size() <= budget.max_running);
  KVPLANE_CHECK(budget.step_tokens >= budget.max_running + kTileTokens);
  Batch batch;
  uint32_t left = budget.step_tokens;
  for (const RunningView& request : running) {
    if (request.phase != RunningView::Phase::kDecode) continue;
    batch.slices.push_back({.id = request.id, .first_token = 0, .tokens = 1, .decode = true});
    --left;
  }

  bool prompts_may_run = true;
  for (const RunningView& request : running) {
    if (!prompts_may_run) break;
    if (request.phase != RunningView::Phase::kPrefill) continue;
    KVPLANE_CHECK(request.prompt_done < request.prompt_tokens);
    prompts_may_run =
        AddChunk(request.id, request.prompt_tokens, request.prompt_done, request.compute_until, left, batch);
  }

  size_t slots = budget.max_running - running.size();
  uint32_t blocks = budget.unreserved_blocks;
  for (const WaitingView& request : waiting) {
    if (slots == 0 || request.reserve_blocks > blocks) break;
    if (!request.awaits_kv) {
      // Admitted only to run at once: what waits in the queue holds no memory and no offer's deadline runs.
      if (!prompts_may_run || ChunkTokens(request.prompt_tokens, 0, left) == 0) break;
      prompts_may_run = AddChunk(request.id, request.prompt_tokens, 0, request.prompt_tokens, left, batch);
    }
    batch.admitted.push_back(request.id);
    blocks -= request.reserve_blocks;
    --slots;
  }
  return batch;
}

}  // namespace kvplane::sched
