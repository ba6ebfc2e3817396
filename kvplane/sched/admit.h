// Admit: which requests join the running set and which tokens run in the next step. A pure function of plain
// views: no clock, no threads, no state; a decision is replayed by calling it again with the same views.
//
// Policy "fcfs" with memory admission "reserve":
// - Decode first: every decoding request gets its one token, so that running streams never stall behind a
//   prompt (chunked prefill, Agrawal et al., "SARATHI", arXiv 2308.16369).
// - Then prefill chunks of running prompts in order of admission, then of waiting ones in order of arrival,
//   until step_tokens are used up.
// - A chunk ends at a multiple of the tile (64 tokens) unless it ends the prompt, so that transfers get full
//   tiles. A prompt whose chunk was cut for lack of budget ends the step's prefill: nobody behind it
//   overtakes it. One that waits for KV from a store (compute_until) is overtaken.
// - A waiting request is admitted when its blocks for prompt AND all its output (`reserve_blocks`) are
//   unreserved. Running requests therefore always find their blocks and never wait for each other: no
//   deadlock, no preemption, at the price of memory reserved for tokens that may never be generated.
// - The first waiting request that does not fit ends admission: small requests never starve a large one.
//
// Progress: with at least one tile of budget left after the decoding requests (Budget::step_tokens >=
// max_running + kTileTokens, checked) the first prompt always advances.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "kvplane/base/ids.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::sched {

// A request that has not been admitted, in order of arrival.
struct WaitingView {
  base::RequestId id;
  uint32_t prompt_tokens = 0;   // >= 1
  uint32_t reserve_blocks = 0;  // all layers, prompt and output
  bool awaits_kv = false;  // its KV comes from elsewhere: it needs memory and a slot, but no step tokens yet
};

// A request of the running set, in order of admission.
struct RunningView {
  enum class Phase : uint8_t { kAwaitingKv, kPrefill, kDecode };
  base::RequestId id;
  Phase phase = Phase::kPrefill;
  uint32_t prompt_tokens = 0;
  uint32_t prompt_done = 0;  // prompt tokens whose KV is in the cache; a multiple of the tile in kPrefill
  // Prompt tokens from here on are on their way from a store: chunks end here, and a prompt that has come
  // this far waits without holding up those behind it. A multiple of the tile, or beyond the prompt.
  uint32_t compute_until = std::numeric_limits<uint32_t>::max();
};

struct Budget {
  uint32_t step_tokens = 0;        // >= max_running + tensor::kTileTokens
  uint32_t max_running = 0;        // >= 1
  uint32_t unreserved_blocks = 0;  // blocks no admitted request (or open transfer) has a claim on
};

// One request's share of the step.
struct Slice {
  base::RequestId id;
  uint32_t first_token = 0;  // prefill: position of the chunk; decode: 0, the engine knows the position
  uint32_t tokens = 0;       // decode: 1
  bool decode = false;
  bool ends_prompt = false;  // the chunk holds the prompt's last token: a token is sampled after it
};

struct Batch {
  std::vector<base::RequestId> admitted;  // a prefix of the waiting requests
  std::vector<Slice> slices;              // decode first, then prefill

  uint32_t tokens() const;
};

Batch Admit(std::span<const WaitingView> waiting, std::span<const RunningView> running, const Budget& budget);

}  // namespace kvplane::sched
