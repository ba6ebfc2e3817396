// Scores of known distributions, estimates by hand, and the real demo model behind recoded KV.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "apps/cli/prompt_source.h"
#include "apps/cli/quality/kv_recoder.h"
#include "apps/cli/quality/logit_score.h"
#include "apps/cli/quality/paired_run.h"
#include "apps/cli/quality/quality_estimates.h"
#include "apps/cli/quality/quality_inputs.h"
#include "apps/cli/quality/task_questions.h"
#include "kvplane/base/rng.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::cli {
namespace {

TEST(LogitScoreUnit, KnownDistributions) {
  // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4), each up to a constant of its own.
  const std::vector<float> p = {std::log(0.5F) + 3, std::log(0.25F) + 3, std::log(0.25F) + 3};
  const std::vector<float> q = {std::log(0.25F) - 2, std::log(0.5F) - 2, std::log(0.25F) - 2};
  const LogitScore score = ScoreLogits(p, q, 1);
  EXPECT_NEAR(score.kl, 0.1732868, 1e-6);    // 1/4 log 2
  EXPECT_NEAR(score.loss, 0.6931472, 1e-6);  // log 2
  EXPECT_FALSE(score.same_top);
  EXPECT_TRUE(score.top_is_target);
  EXPECT_NEAR(ScoreLogits(p, q, 0).loss, 1.3862944, 1e-6);  // log 4
  EXPECT_FALSE(ScoreLogits(p, q, 0).top_is_target);
}

TEST(LogitScoreUnit, EqualLogitsDivergeByExactlyZero) {
  base::Rng rng(1);
  std::vector<float> logits(4096);
  for (float& logit : logits) logit = static_cast<float>(20 * rng.Normal());
  const LogitScore score = ScoreLogits(logits, logits, 17);
  EXPECT_EQ(score.kl, 0);
  EXPECT_TRUE(score.same_top);
}

TEST(LogitScoreUnit, LargeLogitsDoNotOverflow) {
  const std::vector<float> p = {1e4F, 0, -1e4F};
  const std::vector<float> q = {0, 1e4F, -1e4F};
  EXPECT_EQ(ScoreLogits(p, q, 0).kl, 1e4);
  EXPECT_EQ(ScoreLogits(p, q, 0).loss, 1e4);
}

SequenceScore Score(double kl, double loss, double top1, bool exact, uint64_t coded) {
  return {.kl = kl, .loss = loss, .top1 = top1, .exact = exact, .raw_bytes = 1600, .coded_bytes = coded};
}

TEST(QualityEstimatesUnit, PairedTextFigures) {
  const std::vector<SequenceScore> reference = {Score(0, 3.0, 1, true, 1600), Score(0, 4.0, 1, true, 1600)};
  const std::vector<SequenceScore> judged = {Score(0.01, 3.1, 0.9, true, 300),
                                             Score(0.03, 4.3, 0.8, true, 500)};
  const TextQuality quality = MeasureText(reference, judged);
  EXPECT_EQ(quality.kl.n, 2U);
  EXPECT_NEAR(quality.kl.mean, 0.02, 1e-12);
  EXPECT_NEAR(quality.kl.standard_error, 0.01, 1e-12);
  EXPECT_NEAR(quality.top1.mean, 0.85, 1e-12);
  // Added loss 0.2 +- 0.1 nats: the windows' own spread of 1 nat cancels.
  EXPECT_NEAR(quality.ppl_change.mean, 22.1402758, 1e-6);
  EXPECT_NEAR(quality.ppl_change.standard_error, 12.2140276, 1e-6);
  EXPECT_NEAR(quality.exp_minus_added_loss.mean, 0.8187308, 1e-6);
  EXPECT_NEAR(quality.exp_minus_added_loss.standard_error, 0.0818731, 1e-6);
  EXPECT_NEAR(Perplexity(reference), 33.1154520, 1e-6);  // exp 3.5
  EXPECT_EQ(MeasureSize(judged).ratio, 4);
  EXPECT_EQ(MeasureSize(judged).bits_per_value, 4);
}

TEST(QualityEstimatesUnit, PairedTaskFigures) {
  std::vector<SequenceScore> reference, judged;
  for (int i = 0; i < 10; ++i) {
    reference.push_back(Score(0, 1, 1, i < 8, 1600));
    judged.push_back(Score(0, 1, 1, i < 6, 400));
  }
  const TaskQuality quality = MeasureTask(reference, judged);
  EXPECT_NEAR(quality.accuracy.mean, 0.6, 1e-12);
  EXPECT_NEAR(quality.accuracy.standard_error, 0.1632993, 1e-6);  // sqrt(0.24 / 9)
  EXPECT_NEAR(quality.relative_accuracy.mean, 75, 1e-9);
  // Residuals: 6 x 1/4, 2 x -3/4, 2 x 0: sqrt(1.5 / 9 / 10) / 0.8.
  EXPECT_NEAR(quality.relative_accuracy.standard_error, 16.1374306, 1e-6);
  // The same answers right: certainly 100 %, however few they are.
  EXPECT_EQ(MeasureTask(reference, reference).relative_accuracy.mean, 100);
  EXPECT_EQ(MeasureTask(reference, reference).relative_accuracy.standard_error, 0);
  // Nothing right in the reference: there is no relative accuracy.
  const std::vector<SequenceScore> none(3);
  EXPECT_EQ(MeasureTask(none, none).relative_accuracy.n, 0U);
}

std::vector<uint16_t> Prefix(const SequenceKv& kv, const tensor::KvGeometry& geometry, uint32_t tokens) {
  std::vector<uint16_t> values;
  for (const tensor::LayerPages& layer : kv.layers()) {
    for (const tensor::Side side : tensor::kSides) {
      for (uint32_t t = 0; t < tokens; ++t) {
        for (uint32_t h = 0; h < geometry.kv_heads; ++h) {
          const uint16_t* row = layer.pages[t / layer.format.block_tokens] +
                                layer.format.offset(side, t % layer.format.block_tokens, h);
          values.insert(values.end(), row, row + geometry.head_dim);
        }
      }
    }
  }
  return values;
}

TEST(KvRecoderUnit, OffIsBitIdenticalAndSizesAreThoseOfObjects) {
  const tensor::KvGeometry geometry = {.layers = 3, .kv_heads = 2, .head_dim = 64};
  constexpr uint32_t kTokens = 131;  // two whole tiles and a rest
  SequenceKv from(geometry, 16, kTokens);
  base::Rng rng(2);
  for (const tensor::LayerPages& layer : from.layers()) {
    for (uint16_t* page : layer.pages) {
      std::generate_n(page, layer.format.page_elements,
                      [&] { return tensor::FloatToBf16(static_cast<float>(rng.Normal())); });
    }
  }
  codec::Workspace workspace;
  SequenceKv off(geometry, 16, kTokens);
  const auto off_bytes = Recode(geometry, codec::Strategy(), from.layers(), kTokens, workspace, off.layers());
  ASSERT_TRUE(off_bytes.ok()) << off_bytes.status().ToString();
  EXPECT_EQ(Prefix(off, geometry, kTokens), Prefix(from, geometry, kTokens));
  // Raw values, 9 bytes for each of 6 tiles and 4 for each index per layer, prefix with texts of 5 and 5.
  EXPECT_EQ(*off_bytes, 3 * (131 * 512 + 6 * 9 + 4) + 196 + 10 + 3 * 16);

  SequenceKv int4(geometry, 16, kTokens);
  const auto int4_bytes =
      Recode(geometry, *codec::Strategy::Parse("int4"), from.layers(), kTokens, workspace, int4.layers());
  ASSERT_TRUE(int4_bytes.ok()) << int4_bytes.status().ToString();
  EXPECT_LT(*int4_bytes, *off_bytes / 3);
  EXPECT_NE(Prefix(int4, geometry, kTokens), Prefix(from, geometry, kTokens));
}

// The demo model in f32 with its tokenizer.
class DemoModel : public ::testing::Test {
 protected:
  static constexpr uint32_t kStepTokens = 512;

  void SetUp() override {
    const std::string folder = KVPLANE_SOURCE_DIR "/models/demo";
    auto loaded = model::Model::Load(
        folder, {.compute = model::ComputeType::kF32, .max_step_tokens = kStepTokens}, pool_);
    ASSERT_TRUE(loaded.ok()) << loaded.status().ToString();
    model_ = *std::move(loaded);
    auto tokenizer = model::Tokenizer::Load(folder);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
    tokenizer_ = *std::move(tokenizer);
    auto words = ReadTaskWords(folder + "/task_words.txt");
    ASSERT_TRUE(words.ok()) << words.status().ToString();
    words_ = *std::move(words);
  }

  std::vector<ScoredSequence> Windows(const TextWindowSpec& spec) {
    const auto text = ReadPromptText(KVPLANE_SOURCE_DIR "/prompts");
    const auto windows = CutTextWindows(*tokenizer_, text.ok() ? *text : "", spec);
    EXPECT_TRUE(windows.ok()) << windows.status().ToString();
    return windows.ok() ? *windows : std::vector<ScoredSequence>();
  }

  PairedScores Run(const std::vector<ScoredSequence>& sequences, const std::vector<std::string>& names) {
    std::vector<codec::Strategy> strategies;
    for (const std::string& name : names) strategies.push_back(*codec::Strategy::Parse(name));
    auto scores = PairedRun(*model_, pool_, kStepTokens).Run(sequences, strategies);
    EXPECT_TRUE(scores.ok()) << scores.status().ToString();
    return scores.ok() ? *scores : PairedScores(1 + names.size(), {SequenceScore()});
  }

  base::ThreadPool pool_{2};
  std::unique_ptr<model::Model> model_;
  std::unique_ptr<model::Tokenizer> tokenizer_;
  std::vector<std::string> words_;
};

using QualityUnit = DemoModel;
using QualityProperty = DemoModel;
using QualitySafety = DemoModel;

TEST_F(QualityProperty, OffScoresExactlyAsTheUncompressedRun) {
  std::vector<ScoredSequence> sequences = Windows({.windows = 3, .prefix = 150, .scored = 40});
  for (const TaskSpec& spec : StandardTasks()) {
    const auto questions = MakeTaskSequences(*tokenizer_, spec, words_, 2, 9);
    ASSERT_TRUE(questions.ok()) << questions.status().ToString();
    sequences.insert(sequences.end(), questions->begin(), questions->end());
  }
  const PairedScores scores = Run(sequences, {"off"});
  ASSERT_EQ(scores[1].size(), sequences.size());
  for (size_t i = 0; i < sequences.size(); ++i) {
    EXPECT_EQ(scores[1][i].kl, 0);
    EXPECT_EQ(scores[1][i].top1, 1);
    EXPECT_EQ(scores[1][i].loss, scores[0][i].loss);
    EXPECT_EQ(scores[1][i].exact, scores[0][i].exact);
    EXPECT_GT(scores[1][i].coded_bytes, scores[1][i].raw_bytes);
  }
}

TEST_F(QualityProperty, FewerBitsDoMoreDamage) {
  const PairedScores scores =
      Run(Windows({.windows = 4, .prefix = 200, .scored = 64}), {"int8", "int4", "int2"});
  const double int8 = MeasureText(scores[0], scores[1]).kl.mean;
  const double int4 = MeasureText(scores[0], scores[2]).kl.mean;
  const double int2 = MeasureText(scores[0], scores[3]).kl.mean;
  EXPECT_GT(int8, 0);
  EXPECT_GT(int4, 2 * int8);
  EXPECT_GT(int2, 2 * int4);
}

// Batches and chunks are bookkeeping: what a sequence scores does not depend on its neighbours.
TEST_F(QualityProperty, ScoresDoNotDependOnTheBatch) {
  const auto windows = Windows({.windows = 3, .prefix = 600, .scored = 50});  // longer than one step
  const PairedScores together = Run(windows, {"int4"});
  for (size_t i = 0; i < windows.size(); ++i) {
    const PairedScores alone = Run({windows[i]}, {"int4"});
    EXPECT_EQ(alone[0][0].loss, together[0][i].loss);
    EXPECT_EQ(alone[1][0].loss, together[1][i].loss);
    EXPECT_EQ(alone[1][0].kl, together[1][i].kl);
  }
}

// Teacher forcing finds an answer right exactly when greedy decoding would write it.
TEST_F(QualityUnit, TheModelAnswersFromItsCache) {
  const auto questions = MakeTaskSequences(*tokenizer_, {TaskKind::kFacts, 8}, words_, 20, 4);
  ASSERT_TRUE(questions.ok()) << questions.status().ToString();
  const PairedScores scores = Run(*questions, {});
  EXPECT_GE(MeasureTask(scores[0], scores[0]).accuracy.mean, 0.9);
  // The answer to another question is wrong.
  std::vector<ScoredSequence> swapped = *questions;
  for (size_t i = 0; i < swapped.size(); ++i) {
    const ScoredSequence& other = (*questions)[(i + 1) % swapped.size()];
    swapped[i].tokens.resize(swapped[i].prefix + 1);
    swapped[i].tokens.insert(swapped[i].tokens.end(), other.tokens.begin() + other.prefix + 1,
                             other.tokens.end());
  }
  EXPECT_EQ(MeasureTask(scores[0], Run(swapped, {})[0]).accuracy.mean, 0);
}

TEST_F(QualityUnit, QuestionsEndWhereTheAnswerStarts) {
  // As in golden.json of the model: prompt, then the first tokens of its greedy answer.
  const auto copying =
      EncodeQuestion(*tokenizer_, {.prompt = "Repeat after me: house garden winter paper candle\n",
                                   .answer = "house garden winter paper candle"});
  ASSERT_TRUE(copying.ok()) << copying.status().ToString();
  EXPECT_EQ(copying->tokens, (std::vector<int32_t>{1,    1666, 393, 298, 676, 372,  4071, 902,  2466, 3662,
                                                   2304, 3391, 305, 13,  902, 2466, 3662, 2304, 3391, 305}));
  EXPECT_EQ(copying->prefix, 13U);
  EXPECT_EQ(copying->scored(), 6U);
  const auto fact =
      EncodeQuestion(*tokenizer_, {.prompt = "Answer:", .answer = " The code for walnut is 90117."});
  ASSERT_TRUE(fact.ok()) << fact.status().ToString();
  EXPECT_EQ(std::vector<int32_t>(fact->tokens.begin() + fact->prefix + 1, fact->tokens.end()),
            (std::vector<int32_t>{276, 586, 281, 536, 4015, 344, 264, 334, 4019, 311, 352, 4014, 4091, 4077,
                                  4072, 4072, 4089, 4036}));
}

TEST_F(QualityUnit, WindowsDoNotOverlap) {
  const std::string text = "one two three\nfour five six\nseven eight nine\nten eleven twelve\n";
  const auto windows = CutTextWindows(*tokenizer_, text, {.windows = 2, .prefix = 2, .scored = 2});
  ASSERT_TRUE(windows.ok()) << windows.status().ToString();
  ASSERT_EQ(windows->size(), 2U);
  EXPECT_EQ((*windows)[0].tokens.size(), 5U);
  EXPECT_EQ(tokenizer_->Decode((*windows)[0].tokens, true).substr(0, 7), "one two");
  EXPECT_EQ(tokenizer_->Decode((*windows)[1].tokens, true).substr(0, 3), "ten");
}

TEST_F(QualitySafety, InputsThatCannotServe) {
  EXPECT_EQ(
      CutTextWindows(*tokenizer_, "too short", {.windows = 2, .prefix = 64, .scored = 64}).status().code(),
      base::StatusCode::kResourceExhausted);
  EXPECT_EQ(CutTextWindows(*tokenizer_, "", {.windows = 2, .prefix = 2, .scored = 2}).status().code(),
            base::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReadPromptText("/nonexistent").status().code(), base::StatusCode::kNotFound);
  PairedRun run(*model_, pool_, kStepTokens);
  const std::vector<std::vector<ScoredSequence>> bad = {{{std::vector<int32_t>(10, 5), 0}},
                                                        {{std::vector<int32_t>(10, 5), 9}},
                                                        {{std::vector<int32_t>(1, 5), 1}},
                                                        {{std::vector<int32_t>(3000, 5), 2900}},
                                                        {{std::vector<int32_t>(1000, 5), 10}}};
  for (const auto& sequences : bad) {
    EXPECT_EQ(run.Run(sequences, {}).status().code(), base::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace kvplane::cli
