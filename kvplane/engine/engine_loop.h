// EngineLoop: what the engine's thread runs: messages in, one step out, until told to stop.
//
// Order of one round: take messages (sleeping only when the last round found nothing to do), expire
// deadlines, let sched decide, run the step, publish counters. Every transition of a request happens here.
//
// Memory: a request claims reserve_blocks from admission to retirement; retirement comes after its finish
// and after the completion of its transfer, its load and its pushes, whichever is last. Thread safety: Run()
// on one thread; nothing else may be called while it runs.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/ids.h"
#include "kvplane/base/status.h"
#include "kvplane/cache/block_pool.h"
#include "kvplane/engine/engine.h"
#include "kvplane/engine/inbox.h"
#include "kvplane/engine/kv_arena.h"
#include "kvplane/engine/prefix_services.h"
#include "kvplane/engine/request_state.h"
#include "kvplane/engine/shared_state.h"
#include "kvplane/engine/step_batch.h"
#include "kvplane/engine/transfers.h"
#include "kvplane/model/model.h"
#include "kvplane/sched/admit.h"

namespace kvplane::engine {

class EngineLoop {
 public:
  // How long Run() waits, once stopped, for cancelled transfers to complete. After that it leaves; the
  // callbacks keep the pages alive.
  static constexpr base::Duration kStopGrace = std::chrono::seconds(10);

  // `options` with everything resolved. `model` and `shared` outlive the loop.
  // `prefix` may be null: no store.
  EngineLoop(model::Model& model, const EngineOptions& options, std::shared_ptr<KvArena> arena,
             std::shared_ptr<Inbox> inbox, SharedState& shared, Transfers transfers, PrefixServices* prefix);

  void Run();

 private:
  // Messages.
  void Handle(SubmitMessage& message);
  void Handle(CancelMessage& message);
  void Handle(FirstTokenMessage& message);
  void Handle(TransferDoneMessage& message);
  void Handle(LookupDoneMessage& message);
  void Handle(LoadProgressMessage&) {}  // the step that follows looks at all loads
  void Handle(LoadDoneMessage& message);
  void Handle(PushDoneMessage& message);
  void Handle(DrainMessage& message);
  void Handle(StopMessage& message);
  void CompletePull(RequestState& request);
  void Recompute(RequestState& request);  // for its recompute_reason

  // Deadlines.
  void ExpireDeadlines(base::TimePoint now);
  base::TimePoint NextWake() const;
  void CancelAll(std::string_view reason);

  // Prefixes (engine_prefix.cc).
  void StartLookup(RequestState& request);
  void FinishLookup(RequestState& request, base::Result<std::vector<StoredRun>> found);
  void ExpireLookups(base::TimePoint now);
  // A load whose prompt waits for it.
  struct OpenLoad {
    RequestState* request = nullptr;
    LoadJob::Progress progress{};
    control::LoadTurn turn{};  // of all of it that is not taken
    double ready_s = 0;        // when its prompt can go on behind the runs, had it the processors
  };
  std::vector<OpenLoad> OpenLoads(base::TimePoint now);
  void BeginLoad(RequestState& request);
  void SkipLanded(RequestState& request);
  double ComputeAhead(const RequestState& request, const control::PrefillCost& cost) const;
  uint32_t ComputeUntil(RequestState& request);
  bool Owns(RequestState& request, uint32_t run);
  void MeetLoads();
  bool TakeFront(const OpenLoad& own, std::span<const OpenLoad> loads, size_t computing);
  bool ShouldTake(const OpenLoad& own, uint32_t run, std::span<const OpenLoad> loads, size_t computing);
  bool FailStalled(LoadJob& load, const LoadJob::Progress& progress, base::TimePoint now);
  bool Overlaps(const OpenLoad& open) const;
  base::Duration StallPatience() const;
  void EndLoad(RequestState& request);
  void LogPrefix(const RequestState& request) const;

  // KV for the store (engine_push.cc).
  void PushRuns(RequestState& request, bool look_first);
  void EndPrefix(RequestState& request, bool keeps);  // its request has finished
  void YieldPages();

  // Steps.
  bool Step();  // false: there was nothing to do
  sched::Batch Decide();
  void Start(RequestState& request);  // just admitted
  StepBatch BuildStep(const sched::Batch& batch);
  void RunBatch(StepBatch& step);
  void Advance(const StepBatch::Row& row);
  void Sample(const StepBatch::Row& row);
  void Emit(RequestState& request, TokenEvent event);

  // Ends.
  void Finish(RequestState& request, FinishReason reason, base::Status status);
  void RetireUnlessFenced(RequestState& request);

  RequestState* Find(base::RequestId id);
  void Publish();

  model::Model& model_;
  const EngineOptions options_;
  std::shared_ptr<KvArena> arena_;
  std::shared_ptr<Inbox> inbox_;
  SharedState& shared_;
  Transfers transfers_;
  PrefixServices* const prefix_;  // null: no store
  cache::BlockPool pool_;
  uint32_t reserved_blocks_ = 0;

  std::unordered_map<base::RequestId, std::unique_ptr<RequestState>> requests_;  // until retired
  std::deque<RequestState*> waiting_;                                            // in order of arrival
  std::vector<RequestState*> running_;                                           // in order of admission

  std::vector<float> logits_;  // [sampling rows, vocab] of the last step
  EngineStats stats_;
  base::TimePoint next_deadline_ = base::kNoDeadline;  // no request's deadline is earlier
  base::TimePoint drain_deadline_ = base::kNoDeadline;
  base::TimePoint stop_deadline_ = base::kNoDeadline;
  struct OpenLookup {
    base::TimePoint deadline;
    base::RequestId id;
  };
  std::deque<OpenLookup> lookups_;                   // by deadline; also some that were answered
  uint64_t next_load_ = 0;                           // RequestPrefix::load_number
  base::TimePoint load_review_ = base::kNoDeadline;  // when a load without news is looked at again
  bool stopping_ = false;
  bool cancel_new_ = false;  // the drain deadline has passed: late submissions end at once
  bool had_work_ = false;    // in the last round: look for more without sleeping
};

}  // namespace kvplane::engine
