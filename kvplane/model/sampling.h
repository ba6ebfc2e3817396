// Sampling: from the logits of one position to the next token.
//
// Order of effects, as in vLLM: logit_bias, repetition penalty, presence and frequency penalties,
// temperature, min_p, top_k, top_p (on what top_k left), then one draw. Log-probabilities are those of the
// model itself: log softmax of the logits as they came, before any of the above.
//
// Penalties: repetition (Keskar et al., "CTRL", 2019) divides the positive and multiplies the negative
// logits of tokens that stand in prompt or output; presence and frequency (OpenAI's API) subtract once,
// and once per occurrence, for tokens of the output.
//
// Determinism: the same parameters, seed and logits give the same tokens on every machine with the same
// exp(). Greedy takes the first maximum. A request at temperature 0 never draws a random number.
//
// Thread safety: none; one Sampler per sequence.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/base/status.h"

namespace kvplane::model {

inline constexpr int32_t kMaxLogprobs = 20;    // OpenAI's limit of top_logprobs
inline constexpr size_t kMaxLogitBias = 1024;  // entries; OpenAI's documents speak of some hundreds

struct SamplingParams {
  float temperature = 1.0F;         // >= 0; 0 = greedy
  int32_t top_k = 0;                // keep the k most likely; 0 or -1 = all
  float top_p = 1.0F;               // (0, 1]: smallest set of likely tokens with this mass
  float min_p = 0.0F;               // [0, 1]: at least this share of the most likely token's probability
  float repetition_penalty = 1.0F;  // (0, 100]; 1 = none
  float presence_penalty = 0.0F;    // [-2, 2]
  float frequency_penalty = 0.0F;   // [-2, 2]
  std::optional<uint64_t> seed;     // absent: the engine's choice
  // Absent: none. 0: of the sampled token only. n: of the n most likely as well.
  std::optional<int32_t> logprobs;
  std::vector<std::pair<int32_t, float>> logit_bias;  // token id, [-100, 100] added to its logit

  // kInvalidArgument that begins with the name of the bad field; also for a bias on an id beyond the
  // vocabulary when `vocab_size` > 0.
  base::Status Validate(int32_t vocab_size = 0) const;

  bool greedy() const { return temperature == 0.0F; }
};

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0.0F;  // natural logarithm
};

struct SampledToken {
  int32_t id = 0;
  std::optional<float> logprob;            // when asked for
  std::vector<TokenLogprob> top_logprobs;  // most likely first; ties by id
};

class Sampler {
 public:
  // `params` must be valid. `fallback_seed` is used when they name none.
  explicit Sampler(SamplingParams params, uint64_t fallback_seed = 0);

  // `logits`: [vocab] f32, overwritten. -inf marks a forbidden token. Errors: NaN, +inf or nothing allowed
  // (kInternal: the model is broken, no token is invented). Cost: O(vocab), plus sorting what min_p, top_k
  // and top_p keep; greedy without penalties and logprobs is one pass.
  base::Result<SampledToken> Sample(std::span<float> logits, std::span<const int32_t> prompt,
                                    std::span<const int32_t> generated);

  const SamplingParams& params() const { return params_; }

 private:
  struct Candidate {
    int32_t id;
    float logit;  // scaled by the temperature, the largest is 0
  };

  void ApplyBias(std::span<float> logits) const;
  void ApplyPenalties(std::span<float> logits, std::span<const int32_t> prompt,
                      std::span<const int32_t> generated);
  void AddLogprobs(std::span<const float> logits, SampledToken* token) const;
  int32_t Draw(std::span<const float> logits, float largest);
  int32_t DrawFromCandidates(double total);
  void KeepTopK();
  double KeepTopP(double total);

  SamplingParams params_;
  base::Rng rng_;
  std::vector<Candidate> candidates_;
  std::vector<float> raw_logits_;        // copy for the log-probabilities of a changed distribution
  std::vector<uint32_t> output_counts_;  // [vocab], zero between calls
  std::vector<uint8_t> seen_;            // [vocab], zero between calls
};

}  // namespace kvplane::model
