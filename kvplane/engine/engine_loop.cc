#include "kvplane/engine/engine_loop.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "kvplane/base/check.h"
#include "kvplane/base/log.h"

namespace kvplane::engine {

namespace {

base::TimePoint Now() { return base::Clock::System().Now(); }

}  // namespace

EngineLoop::EngineLoop(model::Model& model, const EngineOptions& options, std::shared_ptr<KvArena> arena,
                       std::shared_ptr<Inbox> inbox, SharedState& shared, Transfers transfers,
                       PrefixServices* prefix)
    : model_(model),
      options_(options),
      arena_(std::move(arena)),
      inbox_(std::move(inbox)),
      shared_(shared),
      transfers_(std::move(transfers)),
      prefix_(prefix),
      pool_(arena_->pages()) {
  Publish();
}

void EngineLoop::Run() {
  while (true) {
    for (Message& message : inbox_->Take(NextWake())) {
      std::visit([this](auto& typed) { Handle(typed); }, message);
    }
    ExpireDeadlines(Now());
    ExpireLookups(Now());
    if (stopping_ && (requests_.empty() || Now() >= stop_deadline_)) break;
    had_work_ = Step();
    Publish();
  }
  if (!requests_.empty()) {
    base::Log(base::LogLevel::kError,
              "engine stopped with {} transfers that did not complete within {:.0f} s", requests_.size(),
              base::ToSeconds(kStopGrace));
  }
  Publish();
}

base::TimePoint EngineLoop::NextWake() const {
  if (had_work_) return base::TimePoint{};
  const base::TimePoint lookup = lookups_.empty() ? base::kNoDeadline : lookups_.front().deadline;
  return std::min({next_deadline_, drain_deadline_, stop_deadline_, lookup, load_review_});
}

RequestState* EngineLoop::Find(base::RequestId id) {
  const auto found = requests_.find(id);
  return found == requests_.end() ? nullptr : found->second.get();
}

// ---- Messages

void EngineLoop::Handle(SubmitMessage& message) {
  RequestState& request = *message.request;
  requests_.emplace(request.id, std::move(message.request));
  waiting_.push_back(&request);
  next_deadline_ = std::min(next_deadline_, request.request.deadline);
  if (stopping_ || cancel_new_) {
    Finish(request, FinishReason::kCancelled, base::Cancelled("the engine is shutting down"));
  } else if (!request.request.remote_prefill) {
    StartLookup(request);
  }
}

void EngineLoop::Handle(CancelMessage& message) {
  RequestState* request = Find(message.id);
  if (request == nullptr || request->finished()) return;
  Finish(*request, FinishReason::kCancelled, base::Cancelled("cancelled by the caller"));
}

void EngineLoop::Handle(FirstTokenMessage& message) {
  RequestState* request = Find(message.id);
  if (request == nullptr || request->phase != Phase::kAwaitingKv || !request->generated.empty()) return;
  transfer::FirstToken& token = message.token;
  if (const base::Status status = request->SkipDraw(token.id, model_.config().vocab); !status.ok()) {
    // The completion, cancelled by this, starts the recomputation.
    request->recompute_reason =
        fmt::format("the prefill node's first token cannot be used: {}", status.ToString());
    request->CancelTransfer(request->recompute_reason);
    return;
  }
  TokenEvent event{.id = token.id, .logprob = token.logprob, .top_logprobs = std::move(token.top_logprobs)};
  request->source = KvSource::kTransfer;
  Emit(*request, std::move(event));  // may retire it
}

void EngineLoop::Handle(TransferDoneMessage& message) {
  RequestState* request = Find(message.id);
  if (request == nullptr) return;
  request->transfer_open = false;
  request->outcome = std::move(message.outcome);
  const transfer::TransferOutcome& outcome = *request->outcome;
  stats_.tiles_retried += outcome.tiles_retried;
  stats_.kv_bytes_raw += outcome.bytes_raw;
  stats_.kv_bytes_wire += outcome.bytes_wire;
  // A decode node that no longer wants the KV (its client left, one token was enough) is no failure.
  const bool declined = request->send && outcome.status.code() == base::StatusCode::kCancelled;
  if (!outcome.status.ok() && !request->transfer_cancelled && !declined) {
    ++stats_.transfers_failed;
    base::Log(base::LogLevel::kWarn, "request {}: KV transfer failed: {}", request->id.value,
              outcome.status.ToString());
  }
  if (outcome.offer_end == transfer::OfferEnd::kWithdrawn) ++stats_.offers_withdrawn;
  if (outcome.offer_end == transfer::OfferEnd::kLeaseExpired) ++stats_.offers_expired;
  if (outcome.status.ok()) ++(request->send ? stats_.transfers_sent : stats_.transfers_received);
  if (request->finished()) {
    RetireUnlessFenced(*request);
  } else if (request->phase == Phase::kAwaitingKv) {
    CompletePull(*request);
  }
  // A failed offer does not end its request: the client still gets the first token, the decode node
  // recomputes.
}

void EngineLoop::Handle(DrainMessage& message) {
  drain_deadline_ = std::min(drain_deadline_, message.deadline);
}

void EngineLoop::Handle(StopMessage&) {
  stopping_ = true;
  stop_deadline_ = Now() + kStopGrace;
  CancelAll("the engine is shutting down");
}

void EngineLoop::CompletePull(RequestState& request) {
  std::string& reason = request.recompute_reason;  // set when we cancelled it ourselves
  if (reason.empty() && !request.outcome->status.ok()) reason = request.outcome->status.ToString();
  if (reason.empty() && request.generated.empty()) reason = "the prefill node sent no first token";
  if (!reason.empty()) {
    Recompute(request);
    return;
  }
  request.phase = Phase::kDecode;
  const auto strategy = codec::Strategy::Parse(request.outcome->strategy);
  request.prefix.pushes_nothing = !strategy.ok() || strategy->lossy();
  // The prefill node may have loaded lossy KV and sent it without further loss.
  request.prefix.kv_quality = std::min(request.prefix.kv_quality, request.outcome->kv_quality);
}

void EngineLoop::Recompute(RequestState& request) {
  base::Log(base::LogLevel::kWarn, "request {}: recomputing {} prompt tokens: {}", request.id.value,
            request.prompt_tokens(), request.recompute_reason);
  ++stats_.recomputes;
  request.source = KvSource::kRecompute;
  request.phase = Phase::kPrefill;
  request.prompt_done = 0;
  StartLookup(request);
}

// ---- Deadlines

void EngineLoop::ExpireDeadlines(base::TimePoint now) {
  if (now >= drain_deadline_) {
    drain_deadline_ = base::kNoDeadline;
    cancel_new_ = true;
    CancelAll("the drain deadline has passed");
  }
  if (now < next_deadline_) return;
  next_deadline_ = base::kNoDeadline;
  std::vector<RequestState*> expired;
  for (const auto& [id, request] : requests_) {
    if (request->finished()) continue;
    if (request->request.deadline <= now) {
      expired.push_back(request.get());
    } else {
      next_deadline_ = std::min(next_deadline_, request->request.deadline);
    }
  }
  for (RequestState* request : expired) {
    Finish(*request, FinishReason::kFailed,
           base::DeadlineExceeded("the request's deadline passed after {} of {} tokens",
                                  request->generated.size(), request->max_tokens));
  }
}

void EngineLoop::CancelAll(std::string_view reason) {
  std::vector<RequestState*> all;
  for (const auto& [id, request] : requests_) all.push_back(request.get());
  for (RequestState* request : all) {
    if (request->finished()) {
      request->CancelTransfer(reason);
      EndPrefix(*request, /*keeps=*/false);
    } else {
      Finish(*request, FinishReason::kCancelled, base::Cancelled("{}", reason));
    }
  }
}

// ---- Ends

void EngineLoop::Finish(RequestState& request, FinishReason reason, base::Status status) {
  KVPLANE_CHECK(!request.finished());
  if (request.phase == Phase::kQueued) {
    std::erase(waiting_, &request);
    shared_.LeaveQueue();
  } else {
    std::erase(running_, &request);
  }
  const bool complete = reason == FinishReason::kStop || reason == FinishReason::kLength;
  const bool by_caller = reason == FinishReason::kCancelled && !stopping_ && !cancel_new_;
  EndPrefix(request, /*keeps=*/complete || by_caller);
  if (!complete || !request.send) {
    request.CancelTransfer(complete ? std::string_view("the request ended before its KV was needed")
                                    : std::string_view(status.message()));
  }
  if (complete) {
    ++stats_.requests_finished;
  } else {
    ++(reason == FinishReason::kFailed ? stats_.requests_failed : stats_.requests_cancelled);
  }
  const FinishEvent event = request.MakeFinishEvent(reason, std::move(status), Now());
  request.phase = Phase::kFinished;
  Publish();  // who hears of the end finds it counted
  request.sink->OnFinish(event);
  request.sink.reset();
  RetireUnlessFenced(request);
}

void EngineLoop::RetireUnlessFenced(RequestState& request) {
  if (request.fenced()) return;
  if (request.pages) reserved_blocks_ -= request.reserve_blocks;
  requests_.erase(request.id);
  Publish();
  shared_.Retire();
}

void EngineLoop::Publish() {
  stats_.running = static_cast<uint32_t>(running_.size());
  stats_.transferring = 0;
  stats_.loading = 0;
  for (const auto& [id, request] : requests_) {
    if (request->transfer_open) ++stats_.transferring;
    if (request->prefix.load_open) ++stats_.loading;
  }
  stats_.blocks_total = pool_.total();
  stats_.blocks_used = pool_.used();
  const model::Model::Counters& counters = model_.counters();
  stats_.gemm_seconds = counters.gemm_s;
  stats_.attention_seconds = counters.attention_s;
  shared_.Publish(stats_);
}

}  // namespace kvplane::engine
