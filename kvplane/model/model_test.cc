// The demo model against its golden file, and the invariances every step must keep.
#include "kvplane/model/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/kernel/rope/rope.h"
#include "kvplane/model/kv_pages_testing.h"
#include "kvplane/model/matmul.h"
#include "kvplane/model/rope_table.h"

namespace kvplane::model {
namespace {

using nlohmann::json;
using tensor::Side;

const std::filesystem::path kFolder = KVPLANE_SOURCE_DIR "/models/demo";

const json& Golden() {
  static const json golden = json::parse(std::ifstream(kFolder / "golden.json"));
  return golden;
}

std::vector<ComputeType> Types() {
  if (Bf16MatmulSupported()) return {ComputeType::kF32, ComputeType::kBf16};
  return {ComputeType::kF32};
}

// How far from the float32 golden values a compute type may be. The golden file keeps K and V in f32, the
// cache has bf16: that alone moves logits by some hundredths.
struct Tolerance {
  double logit;
  double mean_nll;
  double kv;  // relative to the largest element of the token's K or V
};
Tolerance ToleranceOf(ComputeType type) {
  return type == ComputeType::kF32 ? Tolerance{0.05, 0.002, 0.01} : Tolerance{0.1, 0.01, 0.03};
}

class Runner {
 public:
  explicit Runner(ComputeType type, size_t threads = 1) : pool_(threads) {
    auto model = Model::Load(kFolder, {.compute = type}, pool_);
    EXPECT_TRUE(model.ok()) << model.status().ToString();
    model_ = *std::move(model);
  }
  Model& model() { return *model_; }

  std::vector<float> Step(std::span<const SequenceInput> sequences) {
    std::vector<float> logits;
    const base::Status status = model_->Forward(sequences, nullptr, logits);
    EXPECT_TRUE(status.ok()) << status.ToString();
    return logits;
  }

  // Logits of every token, the prompt cut into chunks.
  std::vector<float> Prefill(std::span<const int32_t> tokens, KvPages& pages, size_t chunk) {
    std::vector<float> all;
    for (size_t t = 0; t < tokens.size(); t += chunk) {
      SequenceInput input;
      input.tokens = tokens.subspan(t, std::min(chunk, tokens.size() - t));
      input.first_position = static_cast<uint32_t>(t);
      input.layers = pages.layers();
      input.all_logits = true;
      const std::vector<float> logits = Step(std::span(&input, 1));
      all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
  }

 private:
  base::ThreadPool pool_;
  std::unique_ptr<Model> model_;
};

double NegativeLogProbability(std::span<const float> logits, int32_t token) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - largest);
  return std::log(sum) + largest - double{logits[static_cast<size_t>(token)]};
}

class GoldenTest : public testing::TestWithParam<ComputeType> {};

TEST_P(GoldenTest, LogitsAndLossUnit) {
  Runner runner(GetParam());
  const Tolerance tolerance = ToleranceOf(GetParam());
  const size_t vocab = runner.model().config().vocab;
  double worst = 0;
  for (const json& prompt : Golden()["prompts"]) {
    const auto tokens = prompt["token_ids"].get<std::vector<int32_t>>();
    SCOPED_TRACE(prompt["prompt"].get<std::string>().substr(0, 40));
    KvPages pages(runner.model().kv_geometry(), static_cast<uint32_t>(tokens.size()));
    const auto logits = runner.Prefill(tokens, pages, tokens.size());
    ASSERT_EQ(logits.size(), tokens.size() * vocab);
    const std::span<const float> last = std::span(logits).last(vocab);
    for (const json& entry : prompt["last_logits_top8"]) {
      const double error = std::abs(double{last[entry[0].get<size_t>()]} - entry[1].get<double>());
      worst = std::max(worst, error);
      EXPECT_LE(error, tolerance.logit) << "token " << entry[0];
    }
    double nll = 0;
    for (size_t t = 0; t + 1 < tokens.size(); ++t) {
      nll += NegativeLogProbability(std::span(logits).subspan(t * vocab, vocab), tokens[t + 1]);
    }
    if (tokens.size() > 1) {
      EXPECT_NEAR(nll / static_cast<double>(tokens.size() - 1), prompt["mean_nll"].get<double>(),
                  tolerance.mean_nll);
    }
  }
  RecordProperty("worst_logit_error", std::to_string(worst));
}

TEST_P(GoldenTest, LastTokenKvUnit) {
  Runner runner(GetParam());
  const ModelConfig& config = runner.model().config();
  RopeTable table(config.rope, config.head_dim);
  table.Reserve(config.max_context);
  for (const json& prompt : Golden()["prompts"]) {
    const auto tokens = prompt["token_ids"].get<std::vector<int32_t>>();
    KvPages pages(runner.model().kv_geometry(), static_cast<uint32_t>(tokens.size()));
    runner.Prefill(tokens, pages, tokens.size());
    const auto position = static_cast<uint32_t>(tokens.size() - 1);
    for (const uint32_t layer : {0u, 4u, 7u}) {
      SCOPED_TRACE(testing::Message() << "layer " << layer << ", " << tokens.size() << " tokens");
      const auto prefix = "layer" + std::to_string(layer);
      auto k = prompt["last_token_kv"][prefix + ".k_before_rope"].get<std::vector<float>>();
      for (uint32_t head = 0; head < config.kv_heads; ++head) {
        kernel::kRopeScalar.rotate(k.data() + head * config.head_dim, table.cos(position),
                                   table.sin(position), config.head_dim / 2);
      }
      const auto v = prompt["last_token_kv"][prefix + ".v"].get<std::vector<float>>();
      for (const auto& [side, expected] : {std::pair(Side::kKey, k), std::pair(Side::kValue, v)}) {
        const auto actual = pages.Token(layer, side, position);
        ASSERT_EQ(actual.size(), expected.size());
        float largest = 0;
        for (const float x : expected) largest = std::max(largest, std::abs(x));
        for (size_t i = 0; i < expected.size(); ++i) {
          EXPECT_NEAR(actual[i], expected[i], ToleranceOf(GetParam()).kv * double{largest}) << i;
        }
      }
    }
  }
}

// Greedy continuations. bf16: compared up to the first difference at a margin within twice the logit
// tolerance.
TEST_P(GoldenTest, GreedyUnit) {
  Runner runner(GetParam());
  const double near_tie = GetParam() == ComputeType::kF32 ? 0.0 : 2 * ToleranceOf(GetParam()).logit;
  size_t compared = 0;
  for (const json& prompt : Golden()["prompts"]) {
    auto tokens = prompt["token_ids"].get<std::vector<int32_t>>();
    const auto expected = prompt["greedy_32"].get<std::vector<int32_t>>();
    const auto margins = prompt["greedy_margins"].get<std::vector<double>>();
    SCOPED_TRACE(prompt["prompt"].get<std::string>().substr(0, 40));
    KvPages pages(runner.model().kv_geometry(), static_cast<uint32_t>(tokens.size() + expected.size()));
    SequenceInput input;
    input.tokens = tokens;
    input.layers = pages.layers();
    for (size_t step = 0; step < expected.size(); ++step) {
      const auto logits = runner.Step(std::span(&input, 1));
      const auto best = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
      if (best != expected[step] && margins[step] < near_tie) break;
      ASSERT_EQ(best, expected[step]) << "step " << step << ", margin " << margins[step];
      ++compared;
      input.first_position += static_cast<uint32_t>(input.tokens.size());
      input.tokens = std::span(&expected[step], 1);
    }
  }
  EXPECT_GE(compared, GetParam() == ComputeType::kF32 ? 288u : 200u);
  RecordProperty("compared", std::to_string(compared));
}

INSTANTIATE_TEST_SUITE_P(Types, GoldenTest, testing::ValuesIn(Types()),
                         [](const auto& type) { return std::string(Name(type.param)); });

class InvarianceTest : public testing::TestWithParam<ComputeType> {
 protected:
  static std::vector<int32_t> LongPrompt() {
    return Golden()["prompts"].back()["token_ids"].get<std::vector<int32_t>>();
  }
};

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST_P(InvarianceTest, ChunksAndThreadsNeverChangeABitProperty) {
  auto tokens = LongPrompt();
  tokens.resize(333);
  std::optional<std::vector<float>> reference;
  std::optional<std::vector<std::vector<uint16_t>>> cache;
  for (const size_t threads : {1u, 2u, 3u}) {
    Runner runner(GetParam(), threads);
    for (const size_t chunk : {333u, 1u, 7u, 64u, 129u}) {
      SCOPED_TRACE(testing::Message() << threads << " threads, chunks of " << chunk);
      KvPages pages(runner.model().kv_geometry(), 333, chunk == 64 ? 64 : 16);
      const auto logits = runner.Prefill(tokens, pages, chunk);
      if (!reference) reference = logits;
      EXPECT_TRUE(SameBits(logits, *reference));
      if (chunk == 64) continue;  // other pages
      if (!cache) cache = pages.pages();
      EXPECT_EQ(pages.pages(), *cache);
    }
  }
}

// A step with prefill chunks, decode tokens and a chunk without logits gives each what it gets alone.
TEST_P(InvarianceTest, MixedBatchesNeverChangeABitProperty) {
  const auto tokens = LongPrompt();
  for (const size_t threads : {1u, 2u}) {
    Runner runner(GetParam(), threads);
    const auto geometry = runner.model().kv_geometry();
    struct Part {
      uint32_t offset, before, count;
      bool all, none;
    };
    const Part parts[] = {{0, 90, 1, false, false},   {100, 0, 50, true, false}, {300, 40, 75, false, false},
                          {500, 17, 33, false, true}, {700, 0, 1, false, false}, {710, 200, 1, true, false}};
    std::vector<std::unique_ptr<KvPages>> alone, together;
    std::vector<float> expected;
    std::vector<SequenceInput> inputs;
    for (const Part& part : parts) {
      const auto all = std::span(tokens).subspan(part.offset, part.before + part.count);
      for (auto* pages : {&alone, &together}) {
        pages->push_back(std::make_unique<KvPages>(geometry, part.before + part.count));
        if (part.before != 0) runner.Prefill(all.first(part.before), *pages->back(), 64);
      }
      SequenceInput input;
      input.tokens = all.last(part.count);
      input.first_position = part.before;
      input.all_logits = part.all;
      input.no_logits = part.none;
      input.layers = alone.back()->layers();
      const auto logits = runner.Step(std::span(&input, 1));
      EXPECT_EQ(logits.size(), (part.none ? 0 : part.all ? part.count : 1) * runner.model().config().vocab);
      expected.insert(expected.end(), logits.begin(), logits.end());
      input.layers = together.back()->layers();
      inputs.push_back(input);
    }
    EXPECT_TRUE(SameBits(runner.Step(inputs), expected));
    for (size_t i = 0; i < alone.size(); ++i) EXPECT_EQ(alone[i]->pages(), together[i]->pages()) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, InvarianceTest, testing::ValuesIn(Types()),
                         [](const auto& type) { return std::string(Name(type.param)); });

class RecordingObserver final : public LayerObserver {
 public:
  explicit RecordingObserver(uint32_t fail_at) : fail_at_(fail_at) {}
  base::Status BeforeAttention(uint32_t layer) override {
    calls.push_back("before " + std::to_string(layer));
    return layer == fail_at_ ? base::DeadlineExceeded("load of layer {}", layer) : base::Status::Ok();
  }
  void AfterKvWrite(uint32_t layer) override { calls.push_back("after " + std::to_string(layer)); }
  std::vector<std::string> calls;

 private:
  uint32_t fail_at_;
};

TEST(ModelUnit, ObserverSeesEveryLayerInOrderAndMayEndTheStep) {
  Runner runner(ComputeType::kF32);
  const int32_t token = 1;
  KvPages pages(runner.model().kv_geometry(), 1);
  SequenceInput input;
  input.tokens = std::span(&token, 1);
  input.layers = pages.layers();
  std::vector<float> logits;
  RecordingObserver all(99);
  EXPECT_TRUE(runner.model().Forward(std::span(&input, 1), &all, logits).ok());
  ASSERT_EQ(all.calls.size(), 16u);
  EXPECT_EQ(all.calls[0], "after 0");
  EXPECT_EQ(all.calls[1], "before 0");
  EXPECT_EQ(all.calls[15], "before 7");
  RecordingObserver failing(2);
  EXPECT_EQ(runner.model().Forward(std::span(&input, 1), &failing, logits).code(),
            base::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(failing.calls.back(), "before 2");
}

TEST(ModelSafety, RefusesStepsThatDoNotFit) {
  Runner runner(ComputeType::kF32);
  KvPages pages(runner.model().kv_geometry(), 16);
  const auto code = [&](std::vector<int32_t> tokens, uint32_t first, bool both = false) {
    SequenceInput input;
    input.tokens = tokens;
    input.first_position = first;
    input.layers = pages.layers();
    input.all_logits = input.no_logits = both;
    std::vector<float> logits;
    return runner.model().Forward(std::span(&input, 1), nullptr, logits).code();
  };
  using enum base::StatusCode;
  EXPECT_EQ(code({1}, 15), kOk);
  EXPECT_EQ(code({4096}, 0), kInvalidArgument);
  EXPECT_EQ(code({-1}, 0), kInvalidArgument);
  EXPECT_EQ(code({}, 0), kInvalidArgument);
  EXPECT_EQ(code({1}, 16), kInvalidArgument);           // beyond the pages
  EXPECT_EQ(code({1}, 2048), kInvalidArgument);         // beyond the context
  EXPECT_EQ(code({1}, 0xffffffffu), kInvalidArgument);  // overflow
  EXPECT_EQ(code({1}, 0, true), kInvalidArgument);
  std::vector<float> logits;
  EXPECT_EQ(runner.model().Forward({}, nullptr, logits).code(), kInvalidArgument);
  SequenceInput without_pages;
  const int32_t token = 1;
  without_pages.tokens = std::span(&token, 1);
  EXPECT_EQ(runner.model().Forward(std::span(&without_pages, 1), nullptr, logits).code(), kInvalidArgument);
}

TEST(ModelSafety, RefusesStepsOverTheBound) {
  base::ThreadPool pool(1);
  auto model = Model::Load(kFolder, {.compute = ComputeType::kF32, .max_step_tokens = 4}, pool);
  ASSERT_TRUE(model.ok());
  KvPages pages((*model)->kv_geometry(), 16);
  const std::vector<int32_t> tokens(5, 1);
  SequenceInput input;
  input.tokens = tokens;
  input.layers = pages.layers();
  std::vector<float> logits;
  EXPECT_EQ((*model)->Forward(std::span(&input, 1), nullptr, logits).code(),
            base::StatusCode::kResourceExhausted);
  input.tokens = std::span(tokens).first(4);
  EXPECT_TRUE((*model)->Forward(std::span(&input, 1), nullptr, logits).ok());
}

TEST(ModelUnit, CountersAndShapes) {
  Runner runner(ComputeType::kAuto);
  EXPECT_NE(runner.model().compute(), ComputeType::kAuto);
  KvPages pages(runner.model().kv_geometry(), 40);
  const std::vector<int32_t> tokens(40, 5);
  runner.Prefill(tokens, pages, 40);
  const Model::Counters& counters = runner.model().counters();
  EXPECT_EQ(counters.tokens, 40u);
  EXPECT_GT(counters.gemm_s, 0);
  EXPECT_GT(counters.attention_s, 0);
  EXPECT_GT(counters.total_s, counters.gemm_s + counters.attention_s);  // one thread
  runner.model().ResetCounters();
  EXPECT_EQ(runner.model().counters().tokens, 0u);
  const auto shapes = runner.model().gemm_shapes();
  ASSERT_EQ(shapes.size(), 5u);
  EXPECT_EQ(shapes[0].n, 512u);
  EXPECT_EQ(shapes[0].k, 256u);
  EXPECT_EQ(shapes[0].per_forward, 8u);
  EXPECT_EQ(shapes[4].n, 4096u);
}

TEST(ModelUnit, FingerprintIsOfTheWeightsNotOfTheComputeType) {
  Runner f32(ComputeType::kF32);
  Runner other(ComputeType::kAuto);
  EXPECT_EQ(f32.model().fingerprint(), other.model().fingerprint());
}

}  // namespace
}  // namespace kvplane::model
