// What two runs of a model say about the same token: the figures `bench quality` averages.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <span>

namespace kvplane::profile {

struct LogitScore {
  double kl = 0;               // KL(reference || judged) of the softmax distributions, in nats
  double loss = 0;             // -log p_judged(target), in nats
  bool same_top = false;       // both prefer the same token (the lowest id among equals)
  bool top_is_target = false;  // the judged run's preferred token is the target
};

// reference, judged: [vocab] f32 logits, finite; target in [0, vocab). Sums are in double; equal logits give
// a divergence of exactly 0.
LogitScore ScoreLogits(std::span<const float> reference, std::span<const float> judged, int32_t target);

}  // namespace kvplane::profile
