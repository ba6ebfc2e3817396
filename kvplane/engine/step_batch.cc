#include "kvplane/engine/step_batch.h"

#include <algorithm>
#include <utility>

namespace kvplane::engine {

void StepBatch::Add(RequestState& request, const sched::Slice& slice) {
  Row row{.request = &request, .slice = slice};
  model::SequenceInput input;
  if (slice.decode) {
    request.pages->Grow(request.decode_tokens());
    input.tokens = std::span<const int32_t>(request.generated).last(1);
    input.first_position = request.decode_tokens() - 1;
    row.samples = true;
  } else {
    input.tokens = std::span<const int32_t>(request.request.prompt).subspan(slice.first_token, slice.tokens);
    input.first_position = slice.first_token;
    // A recomputed prompt whose first token already went out (it came with the transfer) keeps that token.
    row.samples = slice.ends_prompt && request.generated.empty();
  }
  input.no_logits = !row.samples;
  input.layers = request.pages->layers();
  row.logits_row = sampling_rows_;
  if (row.samples) ++sampling_rows_;
  rows_.push_back(row);
  inputs_.push_back(input);
}

base::Status StepBatch::Run(model::Model& model, std::vector<float>& logits) {
  base::Status status = model.Forward(inputs_, this, logits);
  if (status.ok() && holds_) PostHeld();  // it has waited for every layer
  return status;
}

void StepBatch::Await(LoadJob& load, base::Duration patience, std::function<void()> on_landed) {
  loads_.push_back({&load, std::move(on_landed)});
  patience_ = patience;
  holds_ = true;
}

base::Status StepBatch::BeforeAttention(uint32_t layer) {
  base::Clock& clock = base::Clock::System();
  bool landed = true;
  for (const Awaited& awaited : loads_) {
    const base::TimePoint start = clock.Now();
    const LoadJob::Wait end = awaited.load->WaitForLayer(layer, start + patience_);
    if (end != LoadJob::Wait::kReady) {
      stalled_ = true;
      return base::DeadlineExceeded("layer {} has not come from the store", layer);
    }
    const base::Duration waited = clock.Now() - start;
    waited_ += waited;
    patience_ -= std::min(patience_, waited);
    landed = landed && awaited.load->complete();
  }
  if (holds_ && landed) PostHeld();
  return base::Status::Ok();
}

void StepBatch::AfterKvWrite(uint32_t layer) {
  if (holds_) {
    held_layers_ = layer + 1;
  } else {
    Post(layer);
  }
}

void StepBatch::PostHeld() {
  for (const Awaited& awaited : loads_) awaited.on_landed();
  holds_ = false;
  for (uint32_t layer = 0; layer < held_layers_; ++layer) Post(layer);
}

void StepBatch::Post(uint32_t layer) {
  for (const Row& row : rows_) {
    if (row.slice.decode || !row.request->send || !row.request->transfer_open) continue;
    row.request->send->PostLayer(layer, row.slice.first_token, row.slice.tokens);
  }
}

}  // namespace kvplane::engine
