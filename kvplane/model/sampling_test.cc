#include "kvplane/model/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <string>

namespace kvplane::model {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

SampledToken SampleOnce(const SamplingParams& params, std::vector<float> logits,
                        std::vector<int32_t> prompt = {}, std::vector<int32_t> generated = {}) {
  Sampler sampler(params);
  auto token = sampler.Sample(logits, prompt, generated);
  EXPECT_TRUE(token.ok()) << token.status().ToString();
  return token.ok() ? *token : SampledToken{.id = -1, .logprob = {}, .top_logprobs = {}};
}

std::map<int32_t, int> Histogram(const SamplingParams& params, const std::vector<float>& logits, int draws) {
  Sampler sampler(params, 17);
  std::map<int32_t, int> counts;
  for (int i = 0; i < draws; ++i) {
    std::vector<float> copy = logits;
    auto token = sampler.Sample(copy, {}, {});
    EXPECT_TRUE(token.ok());
    if (token.ok()) ++counts[token->id];
  }
  return counts;
}

std::vector<float> RandomLogits(size_t count, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = static_cast<float>(3.0 * rng.Normal());
  return logits;
}

std::vector<double> Softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> p;
  for (const float logit : logits) p.push_back(std::exp(static_cast<double>(logit) / temperature));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= sum;
  return p;
}

TEST(SamplingUnit, GreedyTakesTheFirstMaximum) {
  SamplingParams params;
  params.temperature = 0.0F;
  EXPECT_EQ(SampleOnce(params, {1, 5, 5, 2}).id, 1);
  EXPECT_EQ(SampleOnce(params, {-kInf, -3, -kInf}).id, 1);
  EXPECT_FALSE(SampleOnce(params, {1, 2}).logprob.has_value());
}

TEST(SamplingUnit, LogprobsAreThoseOfTheModel) {
  SamplingParams params;
  params.temperature = 0.0F;
  params.logprobs = 2;
  params.logit_bias = {{3, 100.0F}};
  // exp: 1, 2, 4, 1 of 8.
  const SampledToken token = SampleOnce(params, {0.0F, std::log(2.0F), std::log(4.0F), 0.0F}, {}, {});
  EXPECT_EQ(token.id, 3);  // the bias wins, the log-probability stays 1/8
  EXPECT_NEAR(*token.logprob, std::log(0.125F), 1e-5);
  ASSERT_EQ(token.top_logprobs.size(), 2U);
  EXPECT_EQ(token.top_logprobs[0].id, 2);
  EXPECT_NEAR(token.top_logprobs[0].logprob, std::log(0.5F), 1e-5);
  EXPECT_EQ(token.top_logprobs[1].id, 1);
}

TEST(SamplingUnit, LogprobTiesGoToTheSmallerId) {
  SamplingParams params;
  params.temperature = 0.0F;
  params.logprobs = 3;
  const SampledToken token = SampleOnce(params, {1, 2, 2, 2, 2});
  ASSERT_EQ(token.top_logprobs.size(), 3U);
  EXPECT_EQ(token.top_logprobs[0].id, 1);
  EXPECT_EQ(token.top_logprobs[1].id, 2);
  EXPECT_EQ(token.top_logprobs[2].id, 3);
}

TEST(SamplingUnit, ZeroLogprobsMeansTheSampledTokenOnly) {
  SamplingParams params;
  params.temperature = 0.0F;
  params.logprobs = 0;
  const SampledToken token = SampleOnce(params, {0.0F, 0.0F});
  EXPECT_NEAR(*token.logprob, std::log(0.5F), 1e-6);
  EXPECT_TRUE(token.top_logprobs.empty());
}

TEST(SamplingUnit, Penalties) {
  SamplingParams params;
  params.temperature = 0.0F;
  params.repetition_penalty = 2.0F;
  // 4 / 2 = 2 < 3; once, although the token stands in prompt and output.
  EXPECT_EQ(SampleOnce(params, {4, 3, -1}, {0}, {0, 0}).id, 1);
  EXPECT_EQ(SampleOnce(params, {4, 1.9F, -1}, {0}, {0, 0}).id, 0);
  // Negative logits are multiplied: -1 * 2 = -2 < -1.5.
  EXPECT_EQ(SampleOnce(params, {-1, -1.5F}, {0}, {}).id, 1);

  params = {};
  params.temperature = 0.0F;
  params.presence_penalty = 1.5F;
  EXPECT_EQ(SampleOnce(params, {4, 3}, {0, 0}, {}).id, 0);        // the prompt does not count
  EXPECT_EQ(SampleOnce(params, {4, 3}, {}, {0}).id, 1);           // 2.5 < 3
  EXPECT_EQ(SampleOnce(params, {4, 2.4F}, {}, {0, 0, 0}).id, 0);  // once, however often

  params = {};
  params.temperature = 0.0F;
  params.frequency_penalty = 0.6F;
  EXPECT_EQ(SampleOnce(params, {4, 3}, {}, {0}).id, 0);     // 3.4
  EXPECT_EQ(SampleOnce(params, {4, 3}, {}, {0, 0}).id, 1);  // 2.8
}

TEST(SamplingUnit, ScratchIsCleanBetweenCalls) {
  SamplingParams params;
  params.temperature = 0.0F;
  params.repetition_penalty = 2.0F;
  params.frequency_penalty = 1.0F;
  Sampler sampler(params);
  std::vector<float> logits = {4, 3};
  const std::vector<int32_t> zero = {0};
  EXPECT_EQ(sampler.Sample(logits, zero, zero)->id, 1);
  logits = {4, 3};
  EXPECT_EQ(sampler.Sample(logits, {}, {})->id, 0);
}

TEST(SamplingUnit, TruncationsKeepTheRightTokens) {
  // Probabilities 0.5, 0.25, 0.15, 0.1.
  const std::vector<float> logits = {std::log(0.1F), std::log(0.5F), std::log(0.15F), std::log(0.25F)};
  const auto kept = [&](SamplingParams params) {
    std::string ids;
    for (const auto& [id, count] : Histogram(params, logits, 400)) ids += std::to_string(id);
    return ids;
  };
  SamplingParams params;
  EXPECT_EQ(kept(params), "0123");
  params.top_k = 2;
  EXPECT_EQ(kept(params), "13");
  params.top_k = 0;
  params.top_p = 0.6F;
  EXPECT_EQ(kept(params), "13");
  params.top_p = 0.4F;
  EXPECT_EQ(kept(params), "1");
  params.top_p = 1.0F;
  params.min_p = 0.28F;  // 0.14 and more
  EXPECT_EQ(kept(params), "123");
  params.top_k = 2;
  params.top_p = 0.6F;  // of what top_k left: 2/3 and 1/3
  params.min_p = 0.0F;
  EXPECT_EQ(kept(params), "1");
}

TEST(SamplingUnit, ValidateNamesTheField) {
  const auto message = [](auto change) {
    SamplingParams params;
    change(params);
    const base::Status status = params.Validate(100);
    EXPECT_EQ(status.code(), base::StatusCode::kInvalidArgument);
    return status.message().substr(0, status.message().find(':'));
  };
  EXPECT_TRUE(SamplingParams().Validate(100).ok());
  EXPECT_EQ(message([](auto& p) { p.temperature = -0.1F; }), "temperature");
  EXPECT_EQ(message([](auto& p) { p.temperature = kNan; }), "temperature");
  EXPECT_EQ(message([](auto& p) { p.temperature = kInf; }), "temperature");
  EXPECT_EQ(message([](auto& p) { p.top_k = -2; }), "top_k");
  EXPECT_EQ(message([](auto& p) { p.top_p = 0.0F; }), "top_p");
  EXPECT_EQ(message([](auto& p) { p.top_p = 1.1F; }), "top_p");
  EXPECT_EQ(message([](auto& p) { p.min_p = -0.1F; }), "min_p");
  EXPECT_EQ(message([](auto& p) { p.repetition_penalty = 0.0F; }), "repetition_penalty");
  EXPECT_EQ(message([](auto& p) { p.presence_penalty = 2.1F; }), "presence_penalty");
  EXPECT_EQ(message([](auto& p) { p.frequency_penalty = -2.1F; }), "frequency_penalty");
  EXPECT_EQ(message([](auto& p) { p.logprobs = 21; }), "logprobs");
  EXPECT_EQ(message([](auto& p) { p.logprobs = -1; }), "logprobs");
  EXPECT_EQ(message([](auto& p) { p.logit_bias = {{100, 1.0F}}; }), "logit_bias");
  EXPECT_EQ(message([](auto& p) { p.logit_bias = {{1, 101.0F}}; }), "logit_bias");
  EXPECT_EQ(message([](auto& p) { p.logit_bias.assign(kMaxLogitBias + 1, {1, 1.0F}); }), "logit_bias");
}

TEST(SamplingProperty, SameSeedSameTokens) {
  SamplingParams params;
  params.temperature = 0.8F;
  params.top_p = 0.95F;
  params.seed = 42;
  Sampler a(params, 1);
  Sampler b(params, 2);  // the fallback seed does not matter when a seed is given
  params.seed = 43;
  Sampler c(params, 1);
  int differences = 0;
  for (uint64_t step = 0; step < 200; ++step) {
    std::vector<float> x = RandomLogits(500, step);
    std::vector<float> y = x;
    std::vector<float> z = x;
    const int32_t id = a.Sample(x, {}, {})->id;
    EXPECT_EQ(id, b.Sample(y, {}, {})->id);
    differences += id != c.Sample(z, {}, {})->id ? 1 : 0;
  }
  EXPECT_GT(differences, 20);
}

TEST(SamplingProperty, FrequenciesFollowTheDistribution) {
  const std::vector<float> logits = RandomLogits(12, 5);
  constexpr int kDraws = 40'000;
  for (const float temperature : {0.5F, 1.0F, 2.0F}) {
    SamplingParams params;
    params.temperature = temperature;
    const std::vector<double> expected = Softmax(logits, static_cast<double>(temperature));
    auto counts = Histogram(params, logits, kDraws);
    for (size_t id = 0; id < logits.size(); ++id) {
      const double p = expected[id];
      const double tolerance = 5.0 * std::sqrt(p * (1.0 - p) / kDraws) + 1e-4;  // five standard errors
      EXPECT_NEAR(counts[static_cast<int32_t>(id)] / double{kDraws}, p, tolerance)
          << temperature << " " << id;
    }
  }
}

// The nucleus by brute force: sort everything, take tokens until the mass is reached.
TEST(SamplingProperty, TopPNeverLeavesTheNucleus) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const std::vector<float> logits = RandomLogits(200, seed);
    const std::vector<double> p = Softmax(logits, 1.0);
    std::vector<size_t> order(p.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] > p[b]; });
    const double top_p = 0.05 + 0.023 * static_cast<double>(seed);
    std::vector<bool> inside(p.size());
    double mass = 0.0;
    for (size_t i = 0; i < order.size() && mass < top_p + 1e-6; ++i) {
      inside[order[i]] = true;
      mass += p[order[i]];
    }
    SamplingParams params;
    params.top_p = static_cast<float>(top_p);
    for (const auto& [id, count] : Histogram(params, logits, 300))
      EXPECT_TRUE(inside[static_cast<size_t>(id)]);
  }
}

TEST(SamplingProperty, TinyTemperatureIsGreedy) {
  SamplingParams params;
  params.temperature = 1e-38F;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const std::vector<float> logits = RandomLogits(100, seed);
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    EXPECT_EQ(SampleOnce(params, logits).id, best);
  }
}

TEST(SamplingSafety, BrokenLogitsAreAnError) {
  for (const float temperature : {0.0F, 1.0F}) {
    for (std::vector<float> logits :
         {std::vector<float>{1, kNan, 2}, {kNan, 1, 2}, {1, 2, kInf}, {-kInf, -kInf}, {}}) {
      SamplingParams params;
      params.temperature = temperature;
      Sampler sampler(params);
      EXPECT_EQ(sampler.Sample(logits, {}, {}).status().code(), base::StatusCode::kInternal);
    }
  }
}

TEST(SamplingSafety, ForeignTokenIdsAreIgnored) {
  SamplingParams params;
  params.repetition_penalty = 1.5F;
  params.frequency_penalty = 1.0F;
  params.temperature = 0.0F;
  params.logit_bias = {{1 << 30, 1.0F}};
  EXPECT_EQ(SampleOnce(params, {1, 2}, {-1, 99}, {INT32_MAX, INT32_MIN}).id, 1);
}

TEST(SamplingSafety, TopKAboveTheVocabulary) {
  SamplingParams params;
  params.top_k = INT32_MAX;
  params.top_p = 1e-9F;
  EXPECT_EQ(SampleOnce(params, {1, 3, 2}).id, 1);
}

}  // namespace
}  // namespace kvplane::model
