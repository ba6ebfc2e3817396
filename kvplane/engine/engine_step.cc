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

// Its KV comes over a transfer, or perhaps from the store.
bool AwaitsKv(const RequestState& request) {
  return request.request.remote_prefill.has_value() ||
         request.prefix.lookup == RequestPrefix::Lookup::kPending || !request.prefix.found.empty();
}

}  // namespace

sched::Batch EngineLoop::Decide() {
  bool loads = false;
  for (RequestState* request : running_) {
    if (request->phase != Phase::kPrefill) continue;
    request->prefix.compute_until = ComputeUntil(*request);  // may move prompt_done
    loads = loads || request->prefix.load_open;
  }
  if (loads) MeetLoads();
  std::vector<sched::RunningView> running;
  bool overlaps = false;
  for (const RequestState* request : running_) {
    const RequestPrefix& prefix = request->prefix;
    sched::RunningView view{
        .id = request->id, .phase = ToView(request->phase), .prompt_tokens = request->prompt_tokens()};
    if (request->phase == Phase::kPrefill) {
      overlaps = overlaps || prefix.overlaps;
      view.compute_until = prefix.compute_until;
      view.prompt_done =
          prefix.overlaps ? prefix.load->runs() * options_.prefix.run_tokens : request->prompt_done;
    }
    running.push_back(view);
  }
  std::vector<sched::WaitingView> waiting;
  for (const RequestState* request : waiting_) {
    if (waiting.size() == options_.max_running) break;  // no more can be admitted at once
    if (overlaps && !AwaitsKv(*request)) break;         // its tokens would share a step that may be given up
    waiting.push_back({.id = request->id,
                       .prompt_tokens = request->prompt_tokens(),
                       .reserve_blocks = request->reserve_blocks,
                       .awaits_kv = AwaitsKv(*request)});
  }
  return sched::Admit(waiting, running,
                      {.step_tokens = options_.step_tokens,
                       .max_running = options_.max_running,
                       .unreserved_blocks = pool_.total() - reserved_blocks_});
}

bool EngineLoop::Step() {
  load_review_ = base::kNoDeadline;  // of loads that go on: Decide() sets it anew
  if (requests_.empty()) return false;
  const sched::Batch batch = Decide();
  if (!waiting_.empty() && waiting_.front()->reserve_blocks > pool_.total() - reserved_blocks_) YieldPages();
  for (const base::RequestId id : batch.admitted) Start(*Find(id));
  StepBatch step = BuildStep(batch);
  if (!step.empty()) RunBatch(step);
  return !step.empty() || !batch.admitted.empty();
}

StepBatch EngineLoop::BuildStep(const sched::Batch& batch) {
  StepBatch step;
  for (const sched::Slice& slice : batch.slices) {
    RequestState* request = Find(slice.id);
    if (request == nullptr || request->finished()) continue;
    step.Add(*request, slice);
    if (slice.decode || !request->prefix.overlaps) continue;
    step.Await(*request->prefix.load, 2 * StallPatience(), [this, request] { SkipLanded(*request); });
  }
  // A step that may be given up has no other prompt's tokens.
  KVPLANE_CHECK(!step.awaits_loads() ||
                std::count_if(step.rows().begin(), step.rows().end(),
                              [](const auto& row) { return !row.slice.decode; }) == 1);
  return step;
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
    return;
  }
  if (request.request.remote_decode) {
    base::Status status = transfers_.Offer(request, deadline, options_.offer_lease);
    if (!status.ok()) {
      const bool withdrawn = status.code() == base::StatusCode::kCancelled;
      Finish(request, withdrawn ? FinishReason::kCancelled : FinishReason::kFailed,
             status.Annotate("offering the KV"));
      return;
    }
  }
  BeginLoad(request);
}

void EngineLoop::RunBatch(StepBatch& step) {
  const bool shared = std::any_of(running_.begin(), running_.end(),
                                  [](const RequestState* request) { return request->prefix.load_open; });
  const base::TimePoint start = Now();
  const base::Status status = step.Run(model_, logits_);
  if (step.stalled()) {
    ++prefix_->context.counters.stalled_steps;
    for (const StepBatch::Row& row : step.rows()) {
      if (row.request->prefix.overlaps) row.request->prefix.may_overlap = false;
    }
    return;
  }
  TierEstimates::PrefillStep prefill{.shared = shared};
  for (const StepBatch::Row& row : step.rows()) {
    if (!row.slice.decode) prefill.Add(row.slice.first_token, row.slice.tokens);
    if (status.ok()) {
      Advance(row);
    } else {
      Finish(*row.request, FinishReason::kFailed, status.Annotate("model step"));
    }
  }
  const double seconds = base::ToSeconds(Now() - start);
  ++stats_.steps;
  stats_.step_seconds += seconds;
  if (prefix_ == nullptr) return;
  if (step.awaits_loads()) ++prefix_->context.counters.overlapped_steps;
  if (prefill.tokens >= tensor::kTileTokens) {  // fewer tell little about a prompt's pace
    prefill.seconds = seconds - base::ToSeconds(step.waited());
    prefix_->context.estimates.AddPrefill(prefill);
  }
}

void EngineLoop::Advance(const StepBatch::Row& row) {
  RequestState& request = *row.request;
  if (!row.slice.decode) {
    if (request.prefix.overlaps) {
      SkipLanded(request);  // the step has waited for all of it
      request.prefix.overlaps = false;
      EndLoad(request);
    }
    KVPLANE_CHECK(request.prompt_done == row.slice.first_token);
    request.prompt_done += row.slice.tokens;
    if (!row.slice.ends_prompt) return;
    request.phase = Phase::kDecode;
    PushRuns(request, /*look_first=*/false);
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
