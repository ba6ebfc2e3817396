#include "kvplane/model/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace kvplane::model {
namespace {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();
constexpr float kMaxRepetitionPenalty = 100.0F;
constexpr float kMaxAdditivePenalty = 2.0F;
constexpr float kMaxBias = 100.0F;

base::Status CheckRange(const char* field, float value, float low, float high) {
  if (value >= low && value <= high) return base::Status::Ok();  // false for NaN
  return base::InvalidArgument("{}: {} is outside [{}, {}]", field, value, low, high);
}

// Index of the first maximum; fails on NaN, +inf and on nothing but -inf.
base::Result<size_t> ArgMax(std::span<const float> logits) {
  float best = kNegativeInfinity;
  size_t index = logits.size();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] <= best) continue;
    // Here logits[i] is larger, or NaN, which compares false with everything.
    if (!std::isfinite(logits[i])) return base::Internal("logit {} is {}", i, logits[i]);
    best = logits[i];
    index = i;
  }
  if (index == logits.size())
    return base::Internal("no token is allowed: all {} logits are -inf", logits.size());
  return index;
}

bool InVocab(int32_t id, std::span<const float> logits) {
  return id >= 0 && static_cast<size_t>(id) < logits.size();
}

}  // namespace

base::Status SamplingParams::Validate(int32_t vocab_size) const {
  KVPLANE_RETURN_IF_ERROR(CheckRange("temperature", temperature, 0.0F, std::numeric_limits<float>::max()));
  if (top_k < -1) return base::InvalidArgument("top_k: {} is neither positive nor 0 or -1 (all)", top_k);
  KVPLANE_RETURN_IF_ERROR(CheckRange("top_p", top_p, 0.0F, 1.0F));
  if (top_p == 0.0F) return base::InvalidArgument("top_p: 0 leaves no token");
  KVPLANE_RETURN_IF_ERROR(CheckRange("min_p", min_p, 0.0F, 1.0F));
  KVPLANE_RETURN_IF_ERROR(CheckRange("repetition_penalty", repetition_penalty, 0.0F, kMaxRepetitionPenalty));
  if (repetition_penalty == 0.0F) return base::InvalidArgument("repetition_penalty: 0 is not a penalty");
  KVPLANE_RETURN_IF_ERROR(
      CheckRange("presence_penalty", presence_penalty, -kMaxAdditivePenalty, kMaxAdditivePenalty));
  KVPLANE_RETURN_IF_ERROR(
      CheckRange("frequency_penalty", frequency_penalty, -kMaxAdditivePenalty, kMaxAdditivePenalty));
  if (logprobs && (*logprobs < 0 || *logprobs > kMaxLogprobs)) {
    return base::InvalidArgument("logprobs: {} is outside [0, {}]", *logprobs, kMaxLogprobs);
  }
  if (logit_bias.size() > kMaxLogitBias) {
    return base::InvalidArgument("logit_bias: {} entries, the limit is {}", logit_bias.size(), kMaxLogitBias);
  }
  for (const auto& [id, bias] : logit_bias) {
    if (id < 0 || (vocab_size > 0 && id >= vocab_size)) {
      return base::InvalidArgument("logit_bias: token id {} is not in the vocabulary", id);
    }
    KVPLANE_RETURN_IF_ERROR(CheckRange("logit_bias", bias, -kMaxBias, kMaxBias));
  }
  return base::Status::Ok();
}

Sampler::Sampler(SamplingParams params, uint64_t fallback_seed)
    : params_(std::move(params)), rng_(params_.seed.value_or(fallback_seed)) {}

base::Result<SampledToken> Sampler::Sample(std::span<float> logits, std::span<const int32_t> prompt,
                                           std::span<const int32_t> generated) {
  SampledToken token;
  if (params_.logprobs) {
    // Checks the model's own numbers, which the copy keeps.
    KVPLANE_RETURN_IF_ERROR(ArgMax(logits).status());
    raw_logits_.assign(logits.begin(), logits.end());
  }
  ApplyBias(logits);
  ApplyPenalties(logits, prompt, generated);
  KVPLANE_ASSIGN_OR_RETURN(const size_t best, ArgMax(logits));
  token.id = params_.greedy() ? static_cast<int32_t>(best) : Draw(logits, logits[best]);
  if (params_.logprobs) AddLogprobs(raw_logits_, &token);
  return token;
}

void Sampler::ApplyBias(std::span<float> logits) const {
  for (const auto& [id, bias] : params_.logit_bias) {
    if (InVocab(id, logits)) logits[static_cast<size_t>(id)] += bias;
  }
}

void Sampler::ApplyPenalties(std::span<float> logits, std::span<const int32_t> prompt,
                             std::span<const int32_t> generated) {
  const bool repetition = params_.repetition_penalty != 1.0F;
  const bool counted = params_.presence_penalty != 0.0F || params_.frequency_penalty != 0.0F;
  if (repetition) {
    seen_.resize(logits.size());
    const auto penalize = [&](int32_t id) {
      if (!InVocab(id, logits) || std::exchange(seen_[static_cast<size_t>(id)], uint8_t{1}) != 0) return;
      float& logit = logits[static_cast<size_t>(id)];
      logit = logit > 0.0F ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
    };
    for (const int32_t id : prompt) penalize(id);
    for (const int32_t id : generated) penalize(id);
    for (const auto ids : {prompt, generated}) {
      for (const int32_t id : ids) {
        if (InVocab(id, logits)) seen_[static_cast<size_t>(id)] = 0;
      }
    }
  }
  if (!counted) return;
  output_counts_.resize(logits.size());
  for (const int32_t id : generated) {
    if (InVocab(id, logits)) ++output_counts_[static_cast<size_t>(id)];
  }
  for (const int32_t id : generated) {  // the count goes to zero with the first visit
    if (!InVocab(id, logits)) continue;
    const uint32_t count = std::exchange(output_counts_[static_cast<size_t>(id)], 0U);
    if (count == 0) continue;
    logits[static_cast<size_t>(id)] -=
        params_.presence_penalty + params_.frequency_penalty * static_cast<float>(count);
  }
}

void Sampler::AddLogprobs(std::span<const float> logits, SampledToken* token) const {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit - largest));
  const auto log_sum = static_cast<float>(std::log(sum));
  const auto logprob = [&](int32_t id) { return logits[static_cast<size_t>(id)] - largest - log_sum; };
  token->logprob = logprob(token->id);

  const size_t count = std::min(static_cast<size_t>(*params_.logprobs), logits.size());
  if (count == 0) return;
  std::vector<int32_t> top;  // min-heap of the most likely so far
  const auto more_likely = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)];
    const float y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  for (size_t i = 0; i < logits.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    if (top.size() == count) {
      if (!more_likely(id, top.front())) continue;
      std::pop_heap(top.begin(), top.end(), more_likely);
      top.pop_back();
    }
    top.push_back(id);
    std::push_heap(top.begin(), top.end(), more_likely);
  }
  std::sort_heap(top.begin(), top.end(), more_likely);
  for (const int32_t id : top) token->top_logprobs.push_back({id, logprob(id)});
}

int32_t Sampler::Draw(std::span<const float> logits, float largest) {
  // Scaled relative to the largest, so a tiny temperature gives -inf and never NaN; below `floor` a token
  // does not pass min_p.
  const float floor = params_.min_p > 0.0F ? std::log(params_.min_p) : kNegativeInfinity;
  candidates_.clear();
  double total = 0.0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const float scaled = (logits[i] - largest) / params_.temperature;
    if (scaled < floor || scaled == kNegativeInfinity) continue;
    candidates_.push_back({static_cast<int32_t>(i), scaled});
    total += std::exp(static_cast<double>(scaled));
  }
  if (params_.top_k > 0 && static_cast<size_t>(params_.top_k) < candidates_.size()) {
    KeepTopK();
    total = 0.0;
    for (const Candidate& candidate : candidates_) total += std::exp(static_cast<double>(candidate.logit));
  }
  if (params_.top_p < 1.0F) total = KeepTopP(total);
  return DrawFromCandidates(total);
}

void Sampler::KeepTopK() {
  const auto more_likely = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  const auto end = candidates_.begin() + params_.top_k;
  std::nth_element(candidates_.begin(), end, candidates_.end(), more_likely);
  candidates_.erase(end, candidates_.end());
  std::sort(candidates_.begin(), candidates_.end(), more_likely);  // a fixed order for sums and draws
}

double Sampler::KeepTopP(double total) {
  const double mass = total * static_cast<double>(params_.top_p);
  // Tokens below (1 - p) / n of the mass hold less than 1 - p together: none is needed to reach p.
  const double least = (total - mass) / static_cast<double>(candidates_.size());
  std::erase_if(candidates_, [least](const Candidate& candidate) {
    return candidate.logit < 0.0F && std::exp(static_cast<double>(candidate.logit)) < least;
  });
  const auto less_likely = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit < b.logit : a.id > b.id;
  };
  std::make_heap(candidates_.begin(), candidates_.end(), less_likely);
  auto heap_end = candidates_.end();
  double kept = 0.0;
  while (heap_end != candidates_.begin() && kept < mass) {
    std::pop_heap(candidates_.begin(), heap_end, less_likely);  // moves the most likely to --heap_end
    --heap_end;
    kept += std::exp(static_cast<double>(heap_end->logit));
  }
  candidates_.erase(candidates_.begin(), heap_end);
  return kept;
}

int32_t Sampler::DrawFromCandidates(double total) {
  double left = rng_.Uniform() * total;
  for (const Candidate& candidate : candidates_) {
    left -= std::exp(static_cast<double>(candidate.logit));
    if (left < 0.0) return candidate.id;
  }
  return candidates_.back().id;  // rounding only; the best token is always a candidate
}

}  // namespace kvplane::model
