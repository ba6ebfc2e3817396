#include "kvplane/engine/request_state.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace kvplane::engine {

bool RequestState::Ends(int32_t token) const {
  return std::find(end_ids.begin(), end_ids.end(), token) != end_ids.end();
}

base::Status RequestState::SkipDraw(int32_t token, size_t vocab) {
  if (token < 0 || static_cast<size_t>(token) >= vocab) {
    return base::Corrupt("token id {} is outside the vocabulary", token);
  }
  if (request.sampling.greedy()) return base::Status::Ok();
  std::vector<float> logits(vocab, -std::numeric_limits<float>::infinity());
  logits[static_cast<size_t>(token)] = 0.0f;
  // The only token allowed is drawn, unless its bias and penalties take its logit beyond all floats.
  return sampler->Sample(logits, request.prompt, generated).status();
}

void RequestState::CancelTransfer(std::string_view reason) {
  if (!transfer_open || transfer_cancelled) return;
  transfer_cancelled = true;
  if (send) send->Cancel(reason);
  if (receive) receive->Cancel(reason);
}

FinishEvent RequestState::MakeFinishEvent(FinishReason reason, base::Status status,
                                          base::TimePoint now) const {
  FinishEvent event;
  event.reason = reason;
  event.status = std::move(status);
  event.prompt_tokens = prompt_tokens();
  event.generated_tokens = static_cast<uint32_t>(generated.size());
  event.cached_tokens = prefix.outcome.loaded_tokens;
  if (prefix.lookup != RequestPrefix::Lookup::kNone) event.prefix = prefix.outcome;
  event.source = source;
  event.recompute_reason = recompute_reason;
  event.queue = scheduled.value_or(now) - submitted;
  if (first_token) {
    event.ttft = *first_token - submitted;
    if (source == KvSource::kLocal) event.prefill = *first_token - *scheduled;
  }
  event.total = now - submitted;
  event.transfer = outcome;
  return event;
}

}  // namespace kvplane::engine
