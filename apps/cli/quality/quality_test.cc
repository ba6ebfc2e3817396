// Scores of known distributions, estimates by hand, and the real demo model behind recoded KV.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "apps/cli/prompt_source.h"
#include "apps/cli/quality/quality_estimates.h"
#include "apps/cli/quality/quality_inputs.h"
#include "apps/cli/quality/task_questions.h"
#include "kvplane/profile/kv_recoder.h"
#include "kvplane/profile/paired_run.h"

namespace kvplane::cli {
namespace {

profile::SequenceScore Score(double kl, double loss, double top1, bool exact, uint64_t coded) {
  return {.kl = kl, .loss = loss, .top1 = top1, .exact = exact, .raw_bytes = 1600, .coded_bytes = coded};
}

TEST(QualityEstimatesUnit, PairedTextFigures) {
  const std::vector<profile::SequenceScore> reference = {Score(0, 3.0, 1, true, 1600),
                                                         Score(0, 4.0, 1, true, 1600)};
  const std::vector<profile::SequenceScore> judged = {Score(0.01, 3.1, 0.9, true, 300),
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
  std::vector<profile::SequenceScore> reference, judged;
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
  const std::vector<profile::SequenceScore> none(3);
  EXPECT_EQ(MeasureTask(none, none).relative_accuracy.n, 0U);
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

  std::vector<profile::ScoredSequence> Windows(const TextWindowSpec& spec) {
    const auto text = ReadPromptText(KVPLANE_SOURCE_DIR "/prompts");
    const auto windows = CutTextWindows(*tokenizer_, text.ok() ? *text : "", spec);
    EXPECT_TRUE(windows.ok()) << windows.status().ToString();
    return windows.ok() ? *windows : std::vector<profile::ScoredSequence>();
  }

  profile::PairedScores Run(const std::vector<profile::ScoredSequence>& sequences,
                            const std::vector<std::string>& names) {
    std::vector<std::unique_ptr<const profile::KvTreatment>> owned;
    std::vector<const profile::KvTreatment*> treatments;
    for (const std::string& name : names) {
      owned.push_back(std::make_unique<profile::StrategyTreatment>(*codec::Strategy::Parse(name), nullptr));
      treatments.push_back(owned.back().get());
    }
    auto scores = profile::PairedRun(*model_, pool_, kStepTokens).Run(sequences, treatments);
    EXPECT_TRUE(scores.ok()) << scores.status().ToString();
    return scores.ok() ? *scores : profile::PairedScores(1 + names.size(), {profile::SequenceScore()});
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
  std::vector<profile::ScoredSequence> sequences = Windows({.windows = 3, .prefix = 150, .scored = 40});
  for (const TaskSpec& spec : StandardTasks()) {
    const auto questions = MakeTaskSequences(*tokenizer_, spec, words_, 2, 9);
    ASSERT_TRUE(questions.ok()) << questions.status().ToString();
    sequences.insert(sequences.end(), questions->begin(), questions->end());
  }
  const profile::PairedScores scores = Run(sequences, {"off"});
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
  const profile::PairedScores scores =
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
  const profile::PairedScores together = Run(windows, {"int4"});
  for (size_t i = 0; i < windows.size(); ++i) {
    const profile::PairedScores alone = Run({windows[i]}, {"int4"});
    EXPECT_EQ(alone[0][0].loss, together[0][i].loss);
    EXPECT_EQ(alone[1][0].loss, together[1][i].loss);
    EXPECT_EQ(alone[1][0].kl, together[1][i].kl);
  }
}

// Teacher forcing finds an answer right exactly when greedy decoding would write it.
TEST_F(QualityUnit, TheModelAnswersFromItsCache) {
  const auto questions = MakeTaskSequences(*tokenizer_, {TaskKind::kFacts, 8}, words_, 20, 4);
  ASSERT_TRUE(questions.ok()) << questions.status().ToString();
  const profile::PairedScores scores = Run(*questions, {});
  EXPECT_GE(MeasureTask(scores[0], scores[0]).accuracy.mean, 0.9);
  // The answer to another question is wrong.
  std::vector<profile::ScoredSequence> swapped = *questions;
  for (size_t i = 0; i < swapped.size(); ++i) {
    const profile::ScoredSequence& other = (*questions)[(i + 1) % swapped.size()];
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
  profile::PairedRun run(*model_, pool_, kStepTokens);
  const std::vector<std::vector<profile::ScoredSequence>> bad = {{{std::vector<int32_t>(10, 5), 0}},
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
