// The prefix half of EngineLoop: what comes from the store. docs/adr/0008 is the protocol.

#include <algorithm>
#include <utility>

#include "kvplane/base/check.h"
#include "kvplane/base/log.h"
#include "kvplane/control/load_plan.h"
#include "kvplane/engine/engine_loop.h"

namespace kvplane::engine {

namespace {

using RunState = LoadJob::RunState;

// A store that does not keep its deadline is given up this much later.
constexpr base::Duration kDeadlineGrace = std::chrono::milliseconds(50);
// A load without news is looked at again after a part of the time in which a run could be computed, but not
// busily and not for long.
constexpr double kReviewShare = 0.25;
constexpr base::Duration kLeastReview = std::chrono::microseconds(500);
constexpr base::Duration kMostReview = std::chrono::milliseconds(20);
// A step over a load in progress may be predicted to wait this long, with other requests and without.
constexpr base::Duration kStallInCompany = std::chrono::milliseconds(2);
constexpr base::Duration kStallAlone = std::chrono::milliseconds(20);
// One round of reads: what the tier moves in a few of its latencies, within bounds. Short rounds let the last
// layers land one by one, and leave little on the way when the two sides meet.
constexpr double kUnitLatencies = 8;
constexpr double kLeastUnitSeconds = 0.002;
constexpr double kMostUnitSeconds = 0.01;
constexpr double kLeastUnitBytes = 64 << 10;
constexpr double kMostUnitBytes = 4 << 20;
// Taken for the cost of a token until one has been measured: much, so that the store gets its chance.
constexpr control::PrefillCost kUnknownPrefill{.per_token_s = 1e-3};
// Keeps a load that is about to end from being taken for one that has not begun.
constexpr double kLeastRemaining = 1e-9;

base::TimePoint Now() { return base::Clock::System().Now(); }

store::TierKind SlowestTier(std::span<const StoredRun> runs) {
  store::TierKind slowest = store::TierKind::kDram;
  for (const StoredRun& run : runs) slowest = std::max(slowest, run.entry.tier);
  return slowest;
}

// How long the loader needs for what is not taken, from the first read on.
double PredictedSeconds(const LoadJob& load, const LoadJob::Progress& progress) {
  uint64_t all_bytes = 0;
  for (uint32_t i = 0; i < load.runs(); ++i) all_bytes += load.run(i).entry.bytes;
  return load.options().predicted_s * static_cast<double>(progress.bytes_total) /
         static_cast<double>(std::max<uint64_t>(all_bytes, 1));
}

// When the loader is expected to be done with what is not taken of a load that it has begun.
double RemainingSeconds(const LoadJob& load, const LoadJob::Progress& progress, base::TimePoint now) {
  return control::RemainingSeconds(PredictedSeconds(load, progress), base::ToSeconds(now - *progress.started),
                                   progress.bytes_done, progress.bytes_total);
}

// Of what is still to come, the part that is not of the head, which comes after all other loads.
double TailShare(const LoadJob::Progress& progress) {
  const auto missing =
      static_cast<double>(progress.bytes_total - std::min(progress.bytes_total, progress.bytes_done));
  return missing > 0 ? 1 - std::min(static_cast<double>(progress.head_bytes) / missing, 1.0) : 0;
}

uint16_t LeastQuality(const Request& request, const PrefixOptions& options) {
  const bool accepts = request.accept_lossy &&
                       (!request.remote_decode || request.remote_decode->accept_lossy) &&
                       (!request.remote_prefill || request.remote_prefill->accept_lossy);
  return accepts ? options.min_quality : store::kLossless;
}

}  // namespace

// ---- Lookup

void EngineLoop::StartLookup(RequestState& request) {
  if (prefix_ == nullptr) return;
  const uint32_t run_tokens = options_.prefix.run_tokens;
  // The last prompt token is always computed: its logits give the first token.
  const uint32_t usable = (request.prompt_tokens() - 1) / run_tokens * run_tokens;
  if (usable == 0) return;
  RequestPrefix& prefix = request.prefix;
  if (!prefix_->context.breaker.Allow(Now())) {
    prefix.lookup_started = Now();
    ++prefix_->context.counters.lookup_errors;
    FinishLookup(request, base::Unavailable("the store has failed too often lately"));
    return;
  }
  prefix.lookup = RequestPrefix::Lookup::kPending;
  prefix.lookup_started = Now();
  const base::TimePoint deadline =
      std::min(prefix.lookup_started + options_.prefix.timeout, request.request.deadline);
  lookups_.push_back({prefix.lookup_started + options_.prefix.timeout + kDeadlineGrace, request.id});
  prefix.claim = std::make_shared<LookupClaim>();
  const std::vector<int32_t>& prompt = request.request.prompt;
  prefix_->loader.Lookup(
      {.tokens = {prompt.begin(), prompt.begin() + usable},
       .min_quality = LeastQuality(request.request, options_.prefix),
       .deadline = deadline,
       .claim = prefix.claim,
       .on_done = [inbox = inbox_, id = request.id](base::Result<std::vector<StoredRun>> found) {
         inbox->Post(LookupDoneMessage{id, std::move(found)});
       }});
}

void EngineLoop::Handle(LookupDoneMessage& message) {
  RequestState* request = Find(message.id);
  if (request == nullptr || request->prefix.lookup != RequestPrefix::Lookup::kPending) return;
  FinishLookup(*request, std::move(message.found));
}

void EngineLoop::ExpireLookups(base::TimePoint now) {
  while (!lookups_.empty()) {
    RequestState* request = Find(lookups_.front().id);
    const bool pending = request != nullptr && request->prefix.lookup == RequestPrefix::Lookup::kPending;
    if (pending && now < lookups_.front().deadline) return;
    lookups_.pop_front();
    if (!pending) continue;
    const LookupClaim::State was = request->prefix.claim->GiveUp();
    if (was == LookupClaim::State::kJudged) continue;  // its answer is on the way
    ++prefix_->context.counters.lookup_errors;
    const bool asked = was == LookupClaim::State::kAsked;
    base::Status late = asked ? base::DeadlineExceeded("the store did not answer the lookup in time")
                              : base::DeadlineExceeded("the lookup waited too long for its turn");
    if (asked) prefix_->context.Report(late);  // otherwise the store has done nothing wrong
    FinishLookup(*request, std::move(late));
  }
}

void EngineLoop::FinishLookup(RequestState& request, base::Result<std::vector<StoredRun>> found) {
  RequestPrefix& prefix = request.prefix;
  prefix.lookup = RequestPrefix::Lookup::kDone;
  prefix.outcome.lookup = Now() - prefix.lookup_started;
  if (request.finished()) return;
  if (!found.ok()) {
    prefix.outcome.reason = "compute all: the lookup failed";
    prefix.outcome.error = found.status().ToString();
  } else if (found->empty()) {
    prefix.outcome.reason = "compute all: nothing was found";
  } else {
    prefix.found = *std::move(found);
    const auto runs = static_cast<uint32_t>(prefix.found.size());
    prefix.runs_stored = prefix.runs_pushed = runs;
    prefix.outcome.found_tokens = runs * options_.prefix.run_tokens;
    for (const StoredRun& run : prefix.found) prefix.outcome.found_bytes += run.entry.bytes;
    prefix.outcome.tier = store::Name(SlowestTier(prefix.found));
    if (request.phase == Phase::kPrefill) BeginLoad(request);
    return;
  }
  LogPrefix(request);
}

// ---- Load

// In the order in which the loader serves them.
std::vector<EngineLoop::OpenLoad> EngineLoop::OpenLoads(base::TimePoint now) {
  std::vector<OpenLoad> loads;
  for (RequestState* request : running_) {
    if (request->prefix.load_open && !request->prefix.load_over) loads.push_back({.request = request});
  }
  const auto number = [](const OpenLoad& load) { return load.request->prefix.load_number; };
  std::sort(loads.begin(), loads.end(),
            [number](const OpenLoad& a, const OpenLoad& b) { return number(a) < number(b); });
  std::vector<control::QueuedLoad> queue;
  for (OpenLoad& load : loads) {
    const RequestPrefix& prefix = load.request->prefix;
    load.progress = prefix.load->progress();
    const bool started = load.progress.started.has_value();
    queue.push_back({.started = started,
                     .takes_s = started ? RemainingSeconds(*prefix.load, load.progress, now)
                                        : PredictedSeconds(*prefix.load, load.progress),
                     .tail_share = TailShare(load.progress),
                     .waited_s = prefix.first_in_line ? base::ToSeconds(now - *prefix.first_in_line) : 0});
  }
  const std::vector<control::LoadTurn> turns = control::TakeTurns(queue);
  const control::PrefillCost cost = prefix_->context.estimates.prefill();
  for (size_t i = 0; i < loads.size(); ++i) {
    RequestPrefix& prefix = loads[i].request->prefix;
    if (turns[i].begins_s == 0 && !prefix.first_in_line) prefix.first_in_line = now;
    loads[i].turn = turns[i];
    const uint32_t first = prefix.load->runs() * options_.prefix.run_tokens;
    const double hidden_s = prefix.may_overlap ? cost.Seconds(first, loads[i].request->prompt_tokens()) : 0;
    loads[i].ready_s = std::max(turns[i].begins_s + turns[i].holds_s - hidden_s, 0.0);
  }
  return loads;
}

// What prompts further ahead have to compute before a new one's turn comes: with the heads that they plan to.
double EngineLoop::ComputeAhead(const RequestState& request, const control::PrefillCost& cost) const {
  double ahead_s = 0;
  for (const RequestState* other : running_) {
    if (other == &request || other->phase != Phase::kPrefill) continue;
    const RequestPrefix& prefix = other->prefix;
    uint32_t first = other->prompt_done;
    if (prefix.load != nullptr && !prefix.load_over) {
      const uint32_t head = prefix.load->options().head_runs * options_.prefix.run_tokens;
      if (first < head) ahead_s += cost.Seconds(first, head);
      first = prefix.load->runs() * options_.prefix.run_tokens;
    }
    ahead_s += cost.Seconds(first, other->prompt_tokens());
  }
  return ahead_s;
}

void EngineLoop::BeginLoad(RequestState& request) {
  RequestPrefix& prefix = request.prefix;
  if (prefix.found.empty()) return;
  const store::TierKind slowest = SlowestTier(prefix.found);
  control::LoadSignals signals =
      prefix_->context.estimates.Signals(options_.prefix.loader_threads, slowest, Now());
  std::vector<control::FoundRun> runs;
  for (const StoredRun& run : prefix.found) {
    runs.push_back({.bytes = run.entry.bytes, .tier = static_cast<uint8_t>(run.entry.tier)});
  }
  const base::TimePoint now = Now();
  std::vector<double> others_ready_s;
  for (const OpenLoad& load : OpenLoads(now)) {
    others_ready_s.push_back(load.ready_s);
    signals.load_ahead_s += load.turn.holds_s;
  }
  signals.runs = runs;
  signals.run_tokens = options_.prefix.run_tokens;
  signals.rest_tokens = request.prompt_tokens() - static_cast<uint32_t>(runs.size()) * signals.run_tokens;
  signals.overlap_layers = model_.kv_geometry().layers;
  signals.compute_ahead_s = ComputeAhead(request, signals.prefill);
  signals.others_ready_s = others_ready_s;
  const bool always = options_.prefix.load == LoadPolicy::kAlways;
  if (always) signals.prefill = {};
  const control::LoadPlan plan = control::DecideLoad(signals);
  prefix.outcome.reason = always ? "load all, as told" : plan.reason;
  if (plan.compute_runs == runs.size()) {
    prefix.found.clear();
    ++prefix_->context.counters.loads_skipped;
    LogPrefix(request);
    return;
  }
  const control::TierSpeed& speed = signals.tiers[static_cast<size_t>(slowest)];
  const double unit_s = std::clamp(kUnitLatencies * speed.latency_s, kLeastUnitSeconds, kMostUnitSeconds);
  LoadJobOptions options;
  options.runs = std::exchange(prefix.found, {});
  options.layers = model_.kv_geometry().layers;
  options.head_runs = static_cast<uint32_t>(plan.compute_runs);
  options.accept_lossy = LeastQuality(request.request, options_.prefix) < store::kLossless;
  options.predicted_s = control::LoadSeconds(signals, 0) - signals.load_ahead_s;
  options.unit_bytes =
      static_cast<uint64_t>(std::clamp(speed.bytes_per_s * unit_s, kLeastUnitBytes, kMostUnitBytes));
  options.pages = std::make_shared<const PinnedPages>(request.pages->layers(), arena_);
  options.on_progress = [inbox = inbox_] { inbox->Post(LoadProgressMessage{}); };
  options.on_done = [inbox = inbox_, id = request.id] { inbox->Post(LoadDoneMessage{id}); };
  prefix.load_started = now;
  prefix.load_number = next_load_++;
  prefix.load = std::make_shared<LoadJob>(std::move(options));
  prefix.load_open = true;
  ++prefix_->context.counters.loads;
  prefix_->loader.Load(prefix.load);
}

// The prompt is done as far as runs have landed one behind the other.
void EngineLoop::SkipLanded(RequestState& request) {
  const uint32_t run_tokens = options_.prefix.run_tokens;
  RequestPrefix& prefix = request.prefix;
  LoadJob& load = *prefix.load;
  while (request.prompt_done % run_tokens == 0 && request.prompt_done / run_tokens < load.runs()) {
    const uint32_t run = request.prompt_done / run_tokens;
    if (load.state(run) != RunState::kLanded) return;
    if (request.send && request.transfer_open) {
      request.send->LowerQuality(load.run(run).entry.quality);
      for (uint32_t layer = 0; layer < model_.kv_geometry().layers; ++layer) {
        request.send->PostLayer(layer, request.prompt_done, run_tokens);
      }
    }
    request.prompt_done += run_tokens;
    prefix.outcome.loaded_tokens += run_tokens;
    prefix.kv_quality = std::min(prefix.kv_quality, load.run(run).entry.quality);
    prefix_->context.counters.loaded_tokens += run_tokens;
  }
}

// How far the prompt may be computed now: to its end, to the first run that the loader still has, or not at
// all.
uint32_t EngineLoop::ComputeUntil(RequestState& request) {
  RequestPrefix& prefix = request.prefix;
  prefix.overlaps = false;
  if (prefix.lookup == RequestPrefix::Lookup::kPending) return 0;
  if (prefix.load == nullptr || prefix.load_over) return kToTheEnd;
  SkipLanded(request);
  const uint32_t run_tokens = options_.prefix.run_tokens;
  uint32_t run = request.prompt_done / run_tokens;
  // A run that the prompt stands in was taken before.
  if (request.prompt_done % run_tokens != 0) ++run;
  while (run < prefix.load->runs() && Owns(request, run)) ++run;
  if (run < prefix.load->runs()) return run * run_tokens;
  EndLoad(request);
  return kToTheEnd;
}

// Whether `run` is the engine's to compute, as all are that cannot be loaded.
bool EngineLoop::Owns(RequestState& request, uint32_t run) {
  RequestPrefix& prefix = request.prefix;
  LoadJob& load = *prefix.load;
  switch (load.state(run)) {
    case RunState::kLanded:
      return false;  // the prompt skips it when it has come that far
    case RunState::kTaken:
      return true;
    case RunState::kFailed:
      if (!load.Take(run)) return false;  // a loader is just leaving it
      prefix.runs_pushed = std::min(prefix.runs_pushed, run);
      return true;
    case RunState::kPending:
      return FailStalled(load, load.progress(), Now()) && Owns(request, run);
  }
  KVPLANE_CHECK(false);
}

// One of the prompts that wait for a load may compute its next run itself, or its rest while its last layers
// land: the first in order of admission that it is worth for, unless a prompt further ahead has tokens to
// compute. One at a time, so that who is ready meanwhile waits for no more than that.
void EngineLoop::MeetLoads() {
  const std::vector<OpenLoad> loads = OpenLoads(Now());
  const auto computes = [](const RequestState* request) {
    return request->phase == Phase::kPrefill && request->prefix.compute_until > request->prompt_done;
  };
  const auto computing = static_cast<size_t>(std::count_if(running_.begin(), running_.end(), computes));
  for (RequestState* request : running_) {
    if (computes(request)) return;
    const auto own = std::find_if(loads.begin(), loads.end(),
                                  [request](const OpenLoad& load) { return load.request == request; });
    if (own == loads.end() || request->phase != Phase::kPrefill) continue;
    if (TakeFront(*own, loads, computing)) {
      request->prefix.compute_until = ComputeUntil(*request);
      return;
    }
    // A step that has to be given up takes nobody else's tokens with it.
    if (computing == 0 && Overlaps(*own)) {
      request->prefix.overlaps = true;
      request->prefix.compute_until = kToTheEnd;
      return;
    }
  }
}

// Makes the first run that the prompt has not got the engine's to compute; in a head that was planned as many
// as a step computes, unless others wait. False: the loader keeps it. `computing`: prompts behind it that
// have tokens to compute.
bool EngineLoop::TakeFront(const OpenLoad& own, std::span<const OpenLoad> loads, size_t computing) {
  if (options_.prefix.load == LoadPolicy::kAlways) return false;
  LoadJob& load = *own.request->prefix.load;
  const uint32_t run_tokens = options_.prefix.run_tokens;
  const uint32_t front = own.request->prompt_done / run_tokens;
  const uint32_t head = loads.size() + computing > 1 ? 0 : load.options().head_runs;
  uint32_t run = front;
  while (run < load.runs() && load.state(run) == RunState::kPending &&
         (run == front || (run < head && (run - front) * run_tokens < options_.step_tokens)) &&
         ShouldTake(own, run, loads, computing) && load.Take(run)) {
    ++prefix_->context.counters.taken_runs;
    ++run;
  }
  return run > front;
}

// The decision of BeginLoad over what is left, from `run` on.
bool EngineLoop::ShouldTake(const OpenLoad& own, uint32_t run, std::span<const OpenLoad> loads,
                            size_t computing) {
  const RequestState& request = *own.request;
  const RequestPrefix& prefix = request.prefix;
  const LoadJob& load = *prefix.load;
  const base::TimePoint now = Now();
  const uint32_t run_tokens = options_.prefix.run_tokens;
  const std::vector<uint64_t> missing = load.missing_bytes();
  std::vector<control::FoundRun> runs;
  double left_bytes = 0;  // less than when `own` was made, if a run has been taken since
  for (uint32_t i = run; i < load.runs(); ++i) {
    runs.push_back({.bytes = missing[i]});
    left_bytes += static_cast<double>(missing[i]);
  }
  control::LoadSignals signals = prefix_->context.estimates.Signals(options_.prefix.loader_threads,
                                                                    SlowestTier(load.options().runs), now);
  if (!signals.prefill.known()) signals.prefill = kUnknownPrefill;
  std::vector<double> others_ready_s(computing, 0.0);
  for (const OpenLoad& other : loads) {
    if (other.request == &request) continue;
    others_ready_s.push_back(other.ready_s);
  }
  const uint64_t first_token = uint64_t{run} * run_tokens;
  signals.runs = runs;
  signals.first_token = first_token;
  signals.run_tokens = run_tokens;
  signals.rest_tokens = request.prompt_tokens() - load.runs() * run_tokens;
  signals.overlap_layers = prefix.may_overlap ? model_.kv_geometry().layers : 0;
  signals.compute_ahead_s = signals.prefill.Seconds(request.prompt_done, first_token);
  signals.others_ready_s = others_ready_s;
  const double missing_bytes = static_cast<double>(own.progress.bytes_total - own.progress.bytes_done);
  const double share = missing_bytes > 0 ? std::min(left_bytes / missing_bytes, 1.0) : 1;
  signals.load_ahead_s = own.turn.begins_s;
  signals.remaining_s = std::max((own.turn.done_s - own.turn.begins_s) * share, kLeastRemaining);
  if (run < load.options().head_runs) signals.uncertainty = signals.least_gain = 0;
  const double compute_s =
      signals.compute_ahead_s + signals.prefill.Seconds(first_token, first_token + run_tokens);
  const base::Duration review =
      std::clamp(base::FromSeconds(compute_s * kReviewShare), kLeastReview, kMostReview);
  load_review_ = std::min(load_review_, now + review);  // also for one that a loader is just writing into
  if (control::DecideLoad(signals).compute_runs > 0) return true;
  if (run < load.options().head_runs) own.request->prefix.load->LoadHead();
  return false;
}

// A load on which nothing has landed for the store's timeout, though a read of it is in progress, has failed;
// so has one that has waited too long for those before it.
bool EngineLoop::FailStalled(LoadJob& load, const LoadJob::Progress& progress, base::TimePoint now) {
  const base::Duration read_patience = options_.prefix.timeout + kDeadlineGrace;
  const base::TimePoint end =
      progress.since + (progress.reading ? read_patience : options_.prefix.queue_timeout);
  if (now < end) {
    // A read begins without news: one that hangs from then on is not to have the patience of the queue.
    load_review_ = std::min({load_review_, end, now + read_patience});
    return false;
  }
  const LoadError error = progress.reading ? LoadError::kTimeout : LoadError::kQueue;
  prefix_->context.counters.run_errors[static_cast<size_t>(error)] +=
      load.FailPending(error, progress.reading ? "the store has delivered nothing for too long"
                                               : "the loads before it have taken too long");
  return true;
}

base::Duration EngineLoop::StallPatience() const {
  return running_.size() == 1 && waiting_.empty() ? kStallAlone : kStallInCompany;
}

// Whether the rest of the prompt may be computed while its loaded layers are still landing: layer 0 is there
// of every run, nothing has failed, and the last layer is expected when the step comes to it, or soon after.
bool EngineLoop::Overlaps(const OpenLoad& open) const {
  const RequestState& request = *open.request;
  const RequestPrefix& prefix = request.prefix;
  const LoadJob& load = *prefix.load;
  if (!prefix.may_overlap || !open.progress.started) return false;
  for (uint32_t run = request.prompt_done / options_.prefix.run_tokens; run < load.runs(); ++run) {
    const RunState state = load.state(run);
    if (state != RunState::kPending && state != RunState::kLanded) return false;
  }
  if (open.progress.layers_ready == 0 || open.progress.pending == 0) return false;
  const control::PrefillCost cost = prefix_->context.estimates.prefill();
  if (!cost.known()) return false;
  const uint32_t first = load.runs() * options_.prefix.run_tokens;
  const uint32_t end = std::min(request.prompt_tokens(), first + options_.step_tokens);
  return open.turn.done_s <= cost.slowdown * cost.Seconds(first, end) + base::ToSeconds(StallPatience());
}

// Every run of the load is in the cache, or is the engine's to compute.
void EngineLoop::EndLoad(RequestState& request) {
  RequestPrefix& prefix = request.prefix;
  prefix.load_over = true;
  prefix.outcome.load = Now() - prefix.load_started;
  if (const base::Status error = prefix.load->first_error(); !error.ok())
    prefix.outcome.error = error.ToString();
  LogPrefix(request);
}

void EngineLoop::Handle(LoadDoneMessage& message) {
  RequestState* request = Find(message.id);
  if (request == nullptr) return;
  RequestPrefix& prefix = request->prefix;
  prefix.load_open = false;
  const LoadJob::Pace pace = prefix.load->pace();
  const LoadJobOptions& load = prefix.load->options();
  prefix_->context.estimates.AddLoad(SlowestTier(load.runs), pace.bytes, load.unit_bytes, pace.seconds,
                                     Now());
  if (request->finished()) RetireUnlessFenced(*request);
}

void EngineLoop::LogPrefix(const RequestState& request) const {
  const PrefixOutcome& outcome = request.prefix.outcome;
  base::Log(base::LogLevel::kInfo,
            "request {}: prefix: {} prompt tokens, {} found{}{} ({:.1f} ms), {} loaded ({:.1f} ms): {}{}{}",
            request.id.value, request.prompt_tokens(), outcome.found_tokens,
            outcome.tier.empty() ? "" : " in ", outcome.tier, base::ToMillis(outcome.lookup),
            outcome.loaded_tokens, base::ToMillis(outcome.load), outcome.reason,
            outcome.error.empty() ? "" : "; ", outcome.error);
}

}  // namespace kvplane::engine
