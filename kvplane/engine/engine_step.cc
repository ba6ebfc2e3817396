// The step half of EngineLoop: admission, the model, sampling.

#include <algorithm>
#include <limits>
#include <utility>

#include "kvplane/base/check.h"
#include "kvplane/engine/engine_loop.h"

namespace kvplane::engine {

namespace {

base::TimePoint Now() { return base::Clock::System().Now(); }

sched::RunningView::Phase ToView(Phase phase) {
  switch (phase) {
    case Phase::kAwaitingKv:
      return sched::RunningView::Phase::kAwaitingKv;
    case Phase::kDecode:
      return sched::RunningView::Phase::kDecode;
    default:
      KVPLANE_CHECK(phase == Phase::kPrefill);
      return sched::RunningView::Phase::kPrefill;
  }
}

}  // namespace

sched::Batch EngineLoop::Decide() {
  std::vector<sched::WaitingView> waiting;
  for (const RequestState* request : waiting_) {
    if (waiting.size() == options_.max_running) break;  // no more can be admitted at once
    waiting.push_back({.id = request->id,
                       .prompt_tokens = request->prompt_tokens(),
                       .reserve_blocks = request->reserve_blocks,
                       .awaits_kv = request->request.remote_prefill.has_value()});
  }
  std::vector<sched::RunningView> running;
  for (const RequestState* request : running_) {
    running.push_back({.id = request->id,
                       .phase = ToView(request->phase),
                       .prompt_tokens = request->prompt_tokens(),
                       .prompt_done = request->prompt_done});
  }
  return sched::Admit(waiting, running,
                      {.step_tokens = options_.step_tokens,
                       .max_running = options_.max_running,
                       .unreserved_blocks = pool_.total() - reserved_blocks_});
}

bool EngineLoop::Step() {
  if (requests_.empty()) return false;
  const sched::Batch batch = Decide();
  for (const base::RequestId id : batch.admitted) Start(*Find(id));
  StepBatch step;
  for (const sched::Slice& slice : batch.slices) {
    if (RequestState* request = Find(slice.id); request != nullptr && !request->finished()) {
      step.Add(*request, slice);
    }
  }
  if (!step.empty()) RunBatch(step);
  return !step.empty() || !batch.admitted.empty();
}

void EngineLoop::Start(RequestState& request) {
  KVPLANE_CHECK(!waiting_.empty() && waiting_.front() == &request);
  waiting_.pop_front();
  shared_.LeaveQueue();
  running_.push_back(&request);
  reserved_blocks_ += request.reserve_blocks;
  request.scheduled = Now();
  request.pages.emplace(pool_, *arena_, model_.kv_geometry().layers);
  request.pages->Grow(request.prompt_tokens());
  const base::TimePoint deadline =
      std::min(request.request.deadline, *request.scheduled + options_.transfer_timeout);
  request.phase = Phase::kPrefill;
  if (request.request.remote_prefill) {
    request.phase = Phase::kAwaitingKv;
    if (base::Status status = transfers_.Pull(request, deadline); !status.ok()) {
      ++stats_.transfers_failed;
      request.recompute_reason = status.ToString();
      Recompute(request);
    }
  } else if (request.request.remote_decode) {
    if (base::Status status = transfers_.Offer(request, deadline); !status.ok()) {
      Finish(request, FinishReason::kFailed, status.Annotate("offering the KV"));
    }
  }
}

void EngineLoop::RunBatch(StepBatch& step) {
  const base::TimePoint start = Now();
  const base::Status status = step.Run(model_, logits_);
  for (const StepBatch::Row& row : step.rows()) {
    if (status.ok()) {
      Advance(row);
    } else {
      Finish(*row.request, FinishReason::kFailed, status.Annotate("model step"));
    }
  }
  ++stats_.steps;
  stats_.step_seconds += base::ToSeconds(Now() - start);
}

void EngineLoop::Advance(const StepBatch::Row& row) {
  RequestState& request = *row.request;
  if (!row.slice.decode) {
    request.prompt_done += row.slice.tokens;
    if (!row.slice.ends_prompt) return;
    request.phase = Phase::kDecode;
  }
  if (row.samples) Sample(row);
}

void EngineLoop::Sample(const StepBatch::Row& row) {
  RequestState& request = *row.request;
  const size_t vocab = model_.config().vocab;
  const auto logits = std::span<float>(logits_).subspan(row.logits_row * vocab, vocab);
  if (request.generated.size() < request.request.min_tokens) {
    for (const int32_t id : request.end_ids) {
      logits[static_cast<size_t>(id)] = -std::numeric_limits<float>::infinity();
    }
  }
  const auto sampled = request.sampler->Sample(logits, request.request.prompt, request.generated);
  if (!sampled.ok()) {
    Finish(request, FinishReason::kFailed, sampled.status().Annotate("sampling"));
    return;
  }
  TokenEvent event;
  event.id = sampled->id;
  event.logprob = sampled->logprob.value_or(0.0f);
  for (const model::TokenLogprob& top : sampled->top_logprobs) {
    event.top_logprobs.emplace_back(top.id, top.logprob);
  }
  if (request.send && request.transfer_open) {
    request.send->PostFirstToken(
        {.id = event.id, .logprob = event.logprob, .top_logprobs = event.top_logprobs});
  }
  Emit(request, std::move(event));
}

void EngineLoop::Emit(RequestState& request, TokenEvent event) {
  event.index = static_cast<uint32_t>(request.generated.size());
  event.stop = event.index >= request.request.min_tokens && request.Ends(event.id);
  if (event.index == 0) {
    request.first_token = Now();
    stats_.prompt_tokens += request.prompt_tokens();
  }
  request.generated.push_back(event.id);
  ++stats_.generated_tokens;
  request.sink->OnToken(event);
  if (event.stop) {
    Finish(request, FinishReason::kStop, base::Status::Ok());
  } else if (request.generated.size() >= request.max_tokens) {
    Finish(request, FinishReason::kLength, base::Status::Ok());
  }
}

}  // namespace kvplane::engine
