// PairedRun: the same token sequences scored after their KV went through each of several treatments, beside
// the uncompressed run.
//
// A sequence is a prefix and a tail. The prefix is prefilled once; per treatment its KV is changed
// (kv_treatment.h) and the tail is fed, teacher-forced, behind it. Every prediction that is scored reads the
// treated prefix, and the tail's own KV is computed behind it and stays uncompressed, as in a decode node.
//
// A model's rows depend neither on the batch nor on the chunks (model.h), so a treatment that changes no bit
// scores exactly as the uncompressed run: divergence 0. And an answer whose every token is the model's
// first choice after the ones before it is exactly what greedy decoding would write: exact match needs no
// token-by-token decoding.
//
// Thread safety: none; one thread at a time, which also owns the pool meanwhile.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/base/thread_pool.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/model/model.h"
#include "kvplane/profile/kv_treatment.h"
#include "kvplane/profile/sequence_kv.h"

namespace kvplane::profile {

struct ScoredSequence {
  std::vector<int32_t> tokens;
  // KV of tokens [0, prefix) is treated; tokens [prefix, size - 1) are fed behind it, and the predictions of
  // tokens [prefix + 1, size) are scored. 1 <= prefix <= size - 2.
  uint32_t prefix = 0;

  uint32_t scored() const { return static_cast<uint32_t>(tokens.size()) - prefix - 1; }
};

// One sequence under one treatment; means over its scored tokens.
struct SequenceScore {
  double kl = 0;             // nats, against the uncompressed run
  double loss = 0;           // nats per token
  double top1 = 0;           // share of tokens for which both runs prefer the same one
  bool exact = false;        // every scored token is the run's first choice
  uint64_t raw_bytes = 0;    // of the prefix, bf16
  uint64_t coded_bytes = 0;  // of its object; uncompressed: raw_bytes
};

// scores[0] is the uncompressed run, scores[1 + i] treatment i; each [sequences].
using PairedScores = std::vector<std::vector<SequenceScore>>;

class PairedRun {
 public:
  // `step_tokens`: rows of one step, at most the model's max_step_tokens. Model and pool are borrowed.
  PairedRun(model::Model& model, base::ThreadPool& pool, uint32_t step_tokens);

  // kInvalidArgument: a sequence too long for the model or with a tail longer than a step.
  base::Result<PairedScores> Run(std::span<const ScoredSequence> sequences,
                                 std::span<const KvTreatment* const> treatments);

 private:
  using Batch = std::span<const ScoredSequence>;
  base::Status Check(const ScoredSequence& sequence) const;
  size_t BatchSize(Batch rest) const;
  base::Status RunBatch(Batch batch, std::span<const KvTreatment* const> treatments, PairedScores& scores);
  base::Status Prefill(Batch batch, std::span<const SequenceKv> kv);
  base::Status FeedTails(Batch batch, std::span<const SequenceKv> kv, std::vector<float>& logits);
  base::Status TreatAll(Batch batch, const KvTreatment& treatment, std::span<SequenceScore> scores);
  void ScoreAll(Batch batch, std::span<const float> judged, std::span<SequenceScore> scores);
  base::Status ForAll(size_t count, const std::function<base::Status(size_t index, size_t worker)>& body);

  model::Model& model_;
  base::ThreadPool& pool_;
  uint32_t step_tokens_;
  std::vector<codec::Workspace> workspaces_;  // [workers]
  // Of the batch in progress.
  std::vector<SequenceKv> original_;
  std::vector<SequenceKv> treated_;
  std::vector<float> reference_logits_;
};

}  // namespace kvplane::profile
