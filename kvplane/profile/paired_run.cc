#include "kvplane/profile/paired_run.h"

#include <algorithm>

#include "kvplane/profile/logit_score.h"

namespace kvplane::profile {
namespace {

constexpr uint32_t kBlockTokens = 16;  // small blocks waste little on short prompts
// Bound on the logits kept of one batch and run: with a vocabulary of 128 k they take 0.5 GB.
constexpr uint32_t kMaxScoredRows = 1024;

}  // namespace

PairedRun::PairedRun(model::Model& model, base::ThreadPool& pool, uint32_t step_tokens)
    : model_(model), pool_(pool), step_tokens_(step_tokens), workspaces_(pool.size()) {}

base::Status PairedRun::Check(const ScoredSequence& sequence) const {
  const size_t size = sequence.tokens.size();
  if (sequence.prefix < 1 || size < 2 || sequence.prefix > size - 2) {
    return base::InvalidArgument("a sequence of {} tokens with a prefix of {}: nothing to score", size,
                                 sequence.prefix);
  }
  if (size > model_.config().max_context) {
    return base::InvalidArgument("a sequence of {} tokens is beyond the model's {}", size,
                                 model_.config().max_context);
  }
  if (const uint32_t most = std::min(step_tokens_, kMaxScoredRows); sequence.scored() > most) {
    return base::InvalidArgument("{} tokens to score at once: at most {}", sequence.scored(), most);
  }
  return base::Status::Ok();
}

size_t PairedRun::BatchSize(Batch rest) const {
  uint32_t prefix_rows = 0;
  uint32_t scored_rows = 0;
  size_t count = 0;
  for (const ScoredSequence& sequence : rest) {
    prefix_rows += sequence.prefix;
    scored_rows += sequence.scored();
    const bool fits = prefix_rows <= step_tokens_ && scored_rows <= std::min(step_tokens_, kMaxScoredRows);
    if (count > 0 && !fits) break;
    ++count;
  }
  return count;
}

base::Result<PairedScores> PairedRun::Run(std::span<const ScoredSequence> sequences,
                                          std::span<const KvTreatment* const> treatments) {
  for (const ScoredSequence& sequence : sequences) KVPLANE_RETURN_IF_ERROR(Check(sequence));
  PairedScores scores(1 + treatments.size());
  for (Batch rest = sequences; !rest.empty();) {
    const Batch batch = rest.first(BatchSize(rest));
    KVPLANE_RETURN_IF_ERROR(RunBatch(batch, treatments, scores));
    rest = rest.subspan(batch.size());
  }
  return scores;
}

base::Status PairedRun::RunBatch(Batch batch, std::span<const KvTreatment* const> treatments,
                                 PairedScores& scores) {
  const tensor::KvGeometry geometry = model_.kv_geometry();
  original_.clear();
  treated_.clear();
  for (const ScoredSequence& sequence : batch) {
    const auto tokens = static_cast<uint32_t>(sequence.tokens.size());
    original_.emplace_back(geometry, kBlockTokens, tokens);
    treated_.emplace_back(geometry, kBlockTokens, tokens);
  }
  KVPLANE_RETURN_IF_ERROR(Prefill(batch, original_));
  // The tail's KV lies behind the prefix: the prefix that the treatments change stays as it was prefilled.
  KVPLANE_RETURN_IF_ERROR(FeedTails(batch, original_, reference_logits_));
  std::vector<SequenceScore> uncompressed(batch.size());
  for (size_t i = 0; i < batch.size(); ++i) {
    uncompressed[i].raw_bytes = geometry.bytes_per_token() * batch[i].prefix;
    uncompressed[i].coded_bytes = uncompressed[i].raw_bytes;
  }
  ScoreAll(batch, reference_logits_, uncompressed);
  scores[0].insert(scores[0].end(), uncompressed.begin(), uncompressed.end());

  std::vector<float> logits;
  for (size_t s = 0; s < treatments.size(); ++s) {
    std::vector<SequenceScore> judged = uncompressed;  // for raw_bytes; the rest is written anew
    KVPLANE_RETURN_IF_ERROR(TreatAll(batch, *treatments[s], judged).Annotate(treatments[s]->Name()));
    KVPLANE_RETURN_IF_ERROR(FeedTails(batch, treated_, logits));
    ScoreAll(batch, logits, judged);
    scores[1 + s].insert(scores[1 + s].end(), judged.begin(), judged.end());
  }
  return base::Status::Ok();
}

base::Status PairedRun::Prefill(Batch batch, std::span<const SequenceKv> kv) {
  std::vector<model::SequenceInput> inputs;
  std::vector<float> no_logits;
  uint32_t room = step_tokens_;
  for (size_t i = 0; i < batch.size(); ++i) {
    for (uint32_t at = 0; at < batch[i].prefix;) {
      const uint32_t count = std::min(room, batch[i].prefix - at);
      inputs.push_back({.tokens = std::span(batch[i].tokens).subspan(at, count),
                        .first_position = at,
                        .layers = kv[i].layers(),
                        .no_logits = true});
      at += count;
      room -= count;
      const bool last = i + 1 == batch.size() && at == batch[i].prefix;
      if (room > 0 && !last) continue;
      KVPLANE_RETURN_IF_ERROR(model_.Forward(inputs, nullptr, no_logits));
      inputs.clear();
      room = step_tokens_;
    }
  }
  return base::Status::Ok();
}

base::Status PairedRun::FeedTails(Batch batch, std::span<const SequenceKv> kv, std::vector<float>& logits) {
  std::vector<model::SequenceInput> inputs;
  for (size_t i = 0; i < batch.size(); ++i) {
    inputs.push_back({.tokens = std::span(batch[i].tokens).subspan(batch[i].prefix, batch[i].scored()),
                      .first_position = batch[i].prefix,
                      .layers = kv[i].layers(),
                      .all_logits = true});
  }
  return model_.Forward(inputs, nullptr, logits);
}

base::Status PairedRun::ForAll(size_t count,
                               const std::function<base::Status(size_t index, size_t worker)>& body) {
  std::vector<base::Status> results(count);
  pool_.ParallelFor(count, [&](size_t index, size_t worker) { results[index] = body(index, worker); });
  for (const base::Status& result : results) KVPLANE_RETURN_IF_ERROR(result);
  return base::Status::Ok();
}

base::Status PairedRun::TreatAll(Batch batch, const KvTreatment& treatment, std::span<SequenceScore> scores) {
  const tensor::KvGeometry geometry = model_.kv_geometry();
  return ForAll(batch.size(), [&](size_t i, size_t worker) -> base::Status {
    KVPLANE_ASSIGN_OR_RETURN(scores[i].coded_bytes,
                             treatment.Apply(geometry, original_[i].layers(), batch[i].prefix,
                                             workspaces_[worker], treated_[i].layers()));
    return base::Status::Ok();
  });
}

void PairedRun::ScoreAll(Batch batch, std::span<const float> judged, std::span<SequenceScore> scores) {
  std::vector<size_t> first_row;
  size_t rows = 0;
  for (const ScoredSequence& sequence : batch) {
    first_row.push_back(rows);
    rows += sequence.scored();
  }
  const size_t vocab = judged.size() / rows;
  pool_.ParallelFor(batch.size(), [&](size_t i, size_t) {
    SequenceScore& score = scores[i];
    score.kl = score.loss = score.top1 = 0;
    score.exact = true;
    for (uint32_t t = 0; t < batch[i].scored(); ++t) {
      const size_t row = (first_row[i] + t) * vocab;
      const LogitScore one =
          ScoreLogits(std::span<const float>(reference_logits_).subspan(row, vocab),
                      judged.subspan(row, vocab), batch[i].tokens[batch[i].prefix + 1 + t]);
      score.kl += one.kl;
      score.loss += one.loss;
      score.top1 += one.same_top ? 1 : 0;
      score.exact = score.exact && one.top_is_target;
    }
    const double scored = batch[i].scored();
    score.kl /= scored;
    score.loss /= scored;
    score.top1 /= scored;
  });
}

}  // namespace kvplane::profile
