// StepBatch: one step's slices as the model wants them, and the hook that hands fresh KV to transfers.
//
// While the model computes layer l + 1, the senders code and send layer l: AfterKvWrite posts it the moment
// its pages are written. While a store's layer l is attended to, its layer l + 1 is being loaded:
// BeforeAttention waits for what has not landed yet, for a bounded time in all. Until everything that it may
// wait for has landed, the step may have to be done again, and what was posted cannot be posted again: so its
// fresh KV is held back until then. Thread safety: none; built, run and dropped by the engine's thread within
// one step.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/engine/request_state.h"
#include "kvplane/model/model.h"
#include "kvplane/sched/admit.h"

namespace kvplane::engine {

class StepBatch : private model::LayerObserver {
 public:
  struct Row {
    RequestState* request = nullptr;
    sched::Slice slice;
    bool samples = false;   // a token is sampled from its logits
    size_t logits_row = 0;  // where they are
  };

  // Grows the pages of a decoding request as needed. The request's vectors must not change until Run returns.
  void Add(RequestState& request, const sched::Slice& slice);
  // The step reads KV that this load brings: it may wait for it, for `patience` in all. `on_landed` is called
  // once all loads that are awaited have landed, before KV of this step is posted.
  void Await(LoadJob& load, base::Duration patience, std::function<void()> on_landed);
  bool empty() const { return rows_.empty(); }
  std::span<const Row> rows() const { return rows_; }

  // logits: [sampling rows, vocab] f32.
  base::Status Run(model::Model& model, std::vector<float>& logits);
  // Run() failed because a load did not come in time, or failed: nothing has happened, the step may be built
  // again.
  bool stalled() const { return stalled_; }
  bool awaits_loads() const { return !loads_.empty(); }
  base::Duration waited() const { return waited_; }  // for loads, of the time that Run() took

 private:
  base::Status BeforeAttention(uint32_t layer) override;
  void AfterKvWrite(uint32_t layer) override;
  void Post(uint32_t layer);
  void PostHeld();

  std::vector<Row> rows_;
  std::vector<model::SequenceInput> inputs_;  // [rows]
  size_t sampling_rows_ = 0;
  struct Awaited {
    LoadJob* load = nullptr;
    std::function<void()> on_landed;
  };
  std::vector<Awaited> loads_;
  base::Duration patience_{};  // left
  base::Duration waited_{};
  bool holds_ = false;        // nothing is posted yet
  uint32_t held_layers_ = 0;  // written, to be posted
  bool stalled_ = false;
};

}  // namespace kvplane::engine
