// The push half of EngineLoop: KV on its way into the store.

#include <algorithm>
#include <utility>

#include "kvplane/engine/engine_loop.h"
#include "kvplane/engine/load_job.h"

namespace kvplane::engine {

void EngineLoop::PushRuns(RequestState& request, bool look_first) {
  RequestPrefix& prefix = request.prefix;
  if (prefix_ == nullptr || prefix.pushes_nothing) return;
  const uint32_t run_tokens = options_.prefix.run_tokens;
  const auto fed_back = static_cast<uint32_t>(std::max<size_t>(request.generated.size(), 1) - 1);
  const uint32_t end = (request.prompt_tokens() + fed_back) / run_tokens;
  const uint32_t first = prefix.runs_pushed;
  if (first >= end) return;
  prefix.runs_pushed = end;
  auto job = std::make_shared<PushJob>();
  job->tokens = request.request.prompt;
  job->tokens.insert(job->tokens.end(), request.generated.begin(), request.generated.end());
  job->tokens.resize(size_t{end} * run_tokens);
  job->first_run = first;
  job->end_run = end;
  job->quality = prefix.kv_quality;
  if (prefix.load != nullptr) {
    for (uint32_t run = first; run < std::min(end, prefix.load->runs()); ++run) {
      if (prefix.load->state(run) == LoadJob::RunState::kLanded) job->loaded.insert(run);
    }
  }
  // A run that was found and did not come in time is most likely still there.
  job->look_first = look_first || first < prefix.runs_stored;
  job->pages = std::make_shared<const PinnedPages>(request.pages->layers(), arena_);
  job->on_done = [inbox = inbox_, id = request.id] { inbox->Post(PushDoneMessage{id}); };
  if (!prefix_->pusher.Push(job)) return;
  prefix.pushes.push_back(std::move(job));
  ++prefix.pushes_open;
}

void EngineLoop::Handle(PushDoneMessage& message) {
  RequestState* request = Find(message.id);
  if (request == nullptr) return;
  --request->prefix.pushes_open;
  if (request->finished()) RetireUnlessFenced(*request);
}

void EngineLoop::EndPrefix(RequestState& request, bool keeps) {
  if (prefix_ == nullptr) return;
  RequestPrefix& prefix = request.prefix;
  prefix.lookup =
      prefix.lookup == RequestPrefix::Lookup::kPending ? RequestPrefix::Lookup::kDone : prefix.lookup;
  if (prefix.load_open && prefix.load->TakeAll()) prefix.load_open = false;
  if (!keeps) {
    for (const auto& push : prefix.pushes) push->cancelled = true;
  } else if (request.phase == Phase::kDecode) {
    PushRuns(request, /*look_first=*/request.source == KvSource::kTransfer);
  }
}

// Somebody waits for memory: what finished requests have not pushed yet is dropped.
void EngineLoop::YieldPages() {
  for (const auto& [id, request] : requests_) {
    if (!request->finished()) continue;
    for (const auto& push : request->prefix.pushes) push->cancelled = true;
  }
}

}  // namespace kvplane::engine
