// StepBatch: one step's slices as the model wants them, and the hook that hands fresh KV to transfers.
//
// While the model computes layer l + 1, the senders code and send layer l: AfterKvWrite posts it the moment
// its pages are written. Thread safety: none; built, run and dropped by the engine's thread within one step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

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
  bool empty() const { return rows_.empty(); }
  std::span<const Row> rows() const { return rows_; }

  // logits: [sampling rows, vocab] f32.
  base::Status Run(model::Model& model, std::vector<float>& logits);

 private:
  base::Status BeforeAttention(uint32_t layer) override;
  void AfterKvWrite(uint32_t layer) override;

  std::vector<Row> rows_;
  std::vector<model::SequenceInput> inputs_;  // [rows]
  size_t sampling_rows_ = 0;
};

}  // namespace kvplane::engine
