// Steps and ranks by hand; moments, noise and the whole fit on the real demo model.
#include "kvplane/profile/profile_fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/codec/testing/synthetic_profile.h"
#include "kvplane/model/rope_table.h"
#include "kvplane/profile/basis_noise.h"
#include "kvplane/profile/sequence_kv.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::profile {
namespace {

using codec::Basis;
using codec::KvSpace;
using ::testing::HasSubstr;

HeadMetrics Identity(double scale) {
  SquareMatrix metric = SquareMatrix::Zero(2);
  metric.at(0, 0) = metric.at(1, 1) = scale;
  return {metric};
}

// One head of two channels in every layer; all spaces alike, deviations 1 and 1/2.
KvMoments TwoLayers() {
  KvMoments moments;
  moments.geometry = {.layers = 2, .kv_heads = 1, .head_dim = 2};
  base::Rng rng(3);
  std::vector<float> rows;
  for (int t = 0; t < 4000; ++t) {
    rows.push_back(static_cast<float>(rng.Normal()));
    rows.push_back(static_cast<float>(0.5 * rng.Normal()));
  }
  for (int layer = 0; layer < 2; ++layer) {
    LayerMoments& one = moments.layers.emplace_back(moments.geometry);
    for (Covariance* sum : {&one.key_rotated, &one.key_unrotated, &one.value}) sum->Add(rows);
  }
  return moments;
}

const codec::LaneScale& Lane(const codec::ModelProfileData& data, size_t layer, KvSpace space, Basis basis) {
  return data.layers[layer][static_cast<size_t>(space)]->bases[static_cast<size_t>(basis)]->lanes[0];
}

TEST(AssembleProfileUnit, OneSlope) {
  const KvMoments moments = TwoLayers();
  // An error of the keys of layer 1 costs 64 times any other.
  const std::vector<SpaceMetrics> metrics = {{Identity(1), Identity(1), Identity(1)},
                                             {Identity(64), Identity(64), Identity(1)}};
  constexpr Basis kKinds[] = {Basis::kChannel, Basis::kLayer, Basis::kLayerAttention};
  const auto data = AssembleProfile(moments, metrics, kKinds, 0);
  ASSERT_TRUE(data.ok()) << data.status().ToString();
  for (const Basis basis : kKinds) {
    const codec::LaneScale& plain = Lane(*data, 0, KvSpace::kKeyUnrotated, basis);
    const codec::LaneScale& dear = Lane(*data, 1, KvSpace::kKeyUnrotated, basis);
    const codec::LaneScale& value = Lane(*data, 1, KvSpace::kValue, basis);
    // Uniform: step^2 / 12 = (1 + 1/4) / 2, sqrt(7.5) = 2^(93/64).
    EXPECT_NEAR(plain.uniform_step, 93, 3);
    EXPECT_EQ(plain.uniform_step, dear.uniform_step);
    // Weighted: 64 times the cost is an eighth of the step, three octaves.
    EXPECT_NEAR(plain.weighted_step - dear.weighted_step, 192, 1);
    EXPECT_NEAR(plain.weighted_step, value.weighted_step, 1);
  }
  // A metric that treats all directions alike leaves the values as they are, whatever its scale.
  const auto& dear = *data->layers[1][1]->bases[static_cast<size_t>(Basis::kLayerAttention)];
  EXPECT_NEAR(tensor::Bf16ToFloat(dear.forward[0]), 1, 0.02);
}

TEST(RankHeadsUnit, LeastImportantFirst) {
  const SensitivityTable table = {{{{{0.3, 1}, {0.1, 1}}, {{0.3, 1}, {0.1, 1}}}},
                                  {{{{0.2, 1}, {0.0, 1}}, {{0.2, 1}, {0.9, 1}}}}};
  EXPECT_EQ(RankHeads(table), (std::vector<uint16_t>{2, 0, 1, 3}));
}

TEST(ProbesUnit, HalfGoOnHalfRepeat) {
  std::vector<std::vector<int32_t>> prompts(1);
  for (int32_t i = 0; i < 40; ++i) prompts[0].push_back(100 + i);
  const ProbeOptions options{.sequences = 4, .prefix_tokens = 20, .scored_tokens = 5};
  const auto probes = MakeProbes(prompts, options);
  ASSERT_TRUE(probes.ok()) << probes.status().ToString();
  ASSERT_EQ(probes->size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    const std::vector<int32_t>& tokens = (*probes)[i].tokens;
    ASSERT_EQ(tokens.size(), 26u);
    EXPECT_EQ((*probes)[i].scored(), 5u);
    for (size_t t = 0; t < 20; ++t) EXPECT_EQ(tokens[t], prompts[0][t]);
    const int32_t first = tokens[20];
    if (i < 2) {
      EXPECT_EQ(first, 120);
    } else {
      EXPECT_GE(first, 101);
      EXPECT_LE(first, 114);
    }
    for (int32_t t = 0; t < 6; ++t) EXPECT_EQ(tokens[20 + static_cast<size_t>(t)], first + t);
  }
}

TEST(ProbesSafety, RefusesWhatDoesNotFit) {
  const std::vector<std::vector<int32_t>> prompts(1, std::vector<int32_t>(25));
  const ProbeOptions good{.sequences = 2, .prefix_tokens = 20, .scored_tokens = 4};
  EXPECT_TRUE(MakeProbes(prompts, good).ok());
  for (const ProbeOptions& bad : {ProbeOptions{.sequences = 2, .prefix_tokens = 20, .scored_tokens = 5},
                                  ProbeOptions{.sequences = 1, .prefix_tokens = 20, .scored_tokens = 4},
                                  ProbeOptions{.sequences = 2, .prefix_tokens = 4, .scored_tokens = 4}}) {
    EXPECT_EQ(MakeProbes(prompts, bad).status().code(), base::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(MakeProbes({}, good).status().code(), base::StatusCode::kInvalidArgument);
}

// The KV of noise, 2 layers of 2 heads x 16.
class NoisyKv : public ::testing::Test {
 protected:
  static constexpr uint32_t kTokens = 40;
  static constexpr uint32_t kSkipped = 4;

  void SetUp() override {
    base::Rng rng(8);
    for (const tensor::LayerPages& layer : from_.layers()) {
      for (uint16_t* page : layer.pages) {
        for (size_t i = 0; i < layer.format.page_elements; ++i) {
          page[i] = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
        }
      }
    }
    rope_.Reserve(kTokens);
  }

  NoisePart Part(uint32_t layer, tensor::Side side, Basis basis, float step) const {
    const size_t space = side == tensor::Side::kKey ? 1 : 2;
    const codec::SpaceData& data = *profile_->data().layers[layer][space];
    const codec::BasisData& of = *data.bases[static_cast<size_t>(basis)];
    return {layer, side, &data.mean, basis, &of, std::vector<float>(of.lanes.size(), step)};
  }

  // Squared error of a token, by side and head of the layer.
  double Error(const SequenceKv& to, uint32_t layer, tensor::Side side, uint32_t head) const {
    double error = 0;
    for (uint32_t t = 0; t < kTokens; ++t) {
      const auto at = [&](const SequenceKv& kv) {
        const tensor::LayerPages& pages = kv.layers()[layer];
        return pages.pages[t / pages.format.block_tokens] +
               pages.format.offset(side, t % pages.format.block_tokens, head);
      };
      for (uint32_t i = 0; i < 16; ++i) {
        const double difference = tensor::Bf16ToFloat(at(from_)[i]) - tensor::Bf16ToFloat(at(to)[i]);
        EXPECT_TRUE(t >= kSkipped || difference == 0);
        error += difference * difference;
      }
    }
    return error / (kTokens - kSkipped);
  }

  const tensor::KvGeometry geometry_{.layers = 2, .kv_heads = 2, .head_dim = 16};
  const std::shared_ptr<const codec::ModelProfile> profile_ =
      codec::testing::SyntheticProfile({.geometry = geometry_});
  model::RopeTable rope_{model::RopeConfig(), 16};
  SequenceKv from_{geometry_, 16, kTokens};
  SequenceKv to_{geometry_, 16, kTokens};
  codec::Workspace workspace_;
};
using BasisNoiseUnit = NoisyKv;
using BasisNoiseProperty = NoisyKv;

TEST_F(BasisNoiseUnit, TouchesOnlyWhatIsNamed) {
  NoisePart part = Part(1, tensor::Side::kKey, Basis::kHeadAttention, 0.0f);
  for (size_t i = 16; i < 32; ++i) part.steps[i] = 0.5f;  // head 1
  std::vector<NoisePart> parts;
  parts.push_back(std::move(part));
  const BasisNoise noise("head 1", std::move(parts), rope_, kSkipped);
  const auto bytes = noise.Apply(geometry_, from_.layers(), kTokens, workspace_, to_.layers());
  ASSERT_TRUE(bytes.ok()) << bytes.status().ToString();
  EXPECT_EQ(*bytes, geometry_.bytes_per_token() * kTokens);
  for (uint32_t layer = 0; layer < 2; ++layer) {
    for (const tensor::Side side : tensor::kSides) {
      for (uint32_t head = 0; head < 2; ++head) {
        const bool named = layer == 1 && side == tensor::Side::kKey && head == 1;
        EXPECT_EQ(Error(to_, layer, side, head) > 0, named);
      }
    }
  }
  // Even errors within a step: step^2 / 12 of each of 16 lanes.
  EXPECT_NEAR(noise.error_per_token(), 16 * 0.25 / 12, 0.05);
}

TEST_F(BasisNoiseProperty, OrthogonalBasesKeepTheError) {
  for (const Basis basis : {Basis::kChannel, Basis::kHead, Basis::kLayer}) {
    std::vector<NoisePart> parts;
    parts.push_back(Part(0, tensor::Side::kKey, basis, 0.5f));
    const BasisNoise noise("keys", std::move(parts), rope_, kSkipped);
    ASSERT_TRUE(noise.Apply(geometry_, from_.layers(), kTokens, workspace_, to_.layers()).ok());
    const double error = Error(to_, 0, tensor::Side::kKey, 0) + Error(to_, 0, tensor::Side::kKey, 1);
    EXPECT_NEAR(error / noise.error_per_token(), 1, 0.05);  // bf16 on both ends
  }
}

// The demo model in f32.
class DemoFit : public ::testing::Test {
 protected:
  static constexpr uint32_t kStepTokens = 512;
  static inline const std::string kFolder = KVPLANE_SOURCE_DIR "/models/demo";

  static std::unique_ptr<model::Model> Load(base::ThreadPool& pool) {
    auto loaded = model::Model::Load(
        kFolder, {.compute = model::ComputeType::kF32, .max_step_tokens = kStepTokens}, pool);
    EXPECT_TRUE(loaded.ok()) << loaded.status().ToString();
    return loaded.ok() ? *std::move(loaded) : nullptr;
  }

  // Words of noise with repeats.
  static std::vector<std::vector<int32_t>> Prompts(size_t count, size_t tokens) {
    base::Rng rng(11);
    std::vector<std::vector<int32_t>> prompts(count);
    for (auto& prompt : prompts) {
      prompt.push_back(1);
      while (prompt.size() < tokens) prompt.push_back(static_cast<int32_t>(300 + rng.Below(500)));
    }
    return prompts;
  }

  static FitOptions Options() {
    FitOptions options;
    options.capture.step_tokens = kStepTokens;
    options.probe = {
        .sequences = 4, .prefix_tokens = 96, .scored_tokens = 16, .step_tokens = kStepTokens, .seed = 1};
    options.note = "test";
    return options;
  }
};
using CaptureProperty = DemoFit;
using CaptureSafety = DemoFit;
using ProfileFitProperty = DemoFit;
using ProfileFitSafety = DemoFit;

// What the observer sums is what stands in the pages: rotated keys and values, sinks left out.
TEST_F(CaptureProperty, MomentsAreThoseOfTheCache) {
  base::ThreadPool pool(2);
  const auto model = Load(pool);
  ASSERT_NE(model, nullptr);
  const auto prompts = Prompts(3, 100);
  const auto moments = CaptureMoments(*model, prompts, {.skip_tokens = 4, .step_tokens = 256});
  ASSERT_TRUE(moments.ok()) << moments.status().ToString();
  EXPECT_EQ(moments->tokens, 3u * 96);
  const tensor::KvGeometry geometry = model->kv_geometry();
  std::vector<Covariance> keys(geometry.layers, Covariance(128));
  std::vector<Covariance> values(geometry.layers, Covariance(128));
  for (const auto& prompt : prompts) {
    const SequenceKv kv(geometry, 16, 100);
    std::vector<float> logits;
    const model::SequenceInput input{.tokens = prompt, .layers = kv.layers()};
    ASSERT_TRUE(model->Forward({&input, 1}, nullptr, logits).ok());
    for (uint32_t layer = 0; layer < geometry.layers; ++layer) {
      const tensor::LayerPages& pages = kv.layers()[layer];
      for (const tensor::Side side : tensor::kSides) {
        std::vector<float> rows;
        for (uint32_t t = 4; t < 100; ++t) {
          for (uint32_t head = 0; head < 2; ++head) {
            const uint16_t* row = pages.pages[t / 16] + pages.format.offset(side, t % 16, head);
            for (size_t i = 0; i < 64; ++i) rows.push_back(tensor::Bf16ToFloat(row[i]));
          }
        }
        (side == tensor::Side::kKey ? keys : values)[layer].Add(rows);
      }
    }
  }
  for (uint32_t layer = 0; layer < geometry.layers; ++layer) {
    const auto expect_near = [](const Covariance& sum, const Covariance& expected) {
      const SquareMatrix a = sum.SecondMoment();
      const SquareMatrix b = expected.SecondMoment();
      const double scale = b.Trace() / 128;
      for (size_t i = 0; i < a.values.size(); ++i) EXPECT_NEAR(a.values[i], b.values[i], 0.01 * scale);
    };
    expect_near(moments->layers[layer].key_rotated, keys[layer]);
    expect_near(moments->layers[layer].value, values[layer]);
    // Rotation keeps lengths.
    EXPECT_NEAR(moments->layers[layer].key_unrotated.SecondMoment().Trace() /
                    moments->layers[layer].key_rotated.SecondMoment().Trace(),
                1, 1e-4);
    EXPECT_NEAR(moments->layers[layer].query_at_unrotated[1].SecondMoment().Trace() /
                    moments->layers[layer].query_rotated[1].SecondMoment().Trace(),
                1, 1e-4);
  }
}

TEST_F(CaptureSafety, PromptsThatCannotServe) {
  base::ThreadPool pool(1);
  const auto model = Load(pool);
  ASSERT_NE(model, nullptr);
  const CaptureOptions options{.skip_tokens = 4, .step_tokens = 64};
  const std::vector<std::vector<int32_t>> bad[] = {{}, Prompts(1, 4), Prompts(1, 65)};
  for (const auto& prompts : bad) {
    EXPECT_EQ(CaptureMoments(*model, prompts, options).status().code(), base::StatusCode::kInvalidArgument);
  }
  std::vector<std::vector<int32_t>> strange = Prompts(1, 10);
  strange[0][3] = -1;
  EXPECT_EQ(CaptureMoments(*model, strange, options).status().code(), base::StatusCode::kInvalidArgument);
}

TEST_F(ProfileFitProperty, OneFileForOneSeedOnAnyNumberOfThreads) {
  base::ThreadPool one(1);
  base::ThreadPool two(2);
  const auto alone = Load(one);
  const auto shared = Load(two);
  ASSERT_TRUE(alone != nullptr && shared != nullptr);
  const auto prompts = Prompts(6, 128);
  const auto first = FitProfile(*alone, one, kFolder, prompts, Options());
  ASSERT_TRUE(first.ok()) << first.status().ToString();
  const auto again = FitProfile(*shared, two, kFolder, prompts, Options());
  ASSERT_TRUE(again.ok()) << again.status().ToString();
  EXPECT_TRUE(first->profile->id() == again->profile->id());

  const codec::ModelProfileData& data = first->profile->data();
  EXPECT_EQ(first->tokens, 6u * 124);
  EXPECT_TRUE(data.geometry == alone->kv_geometry());
  EXPECT_EQ(data.model_fingerprint, alone->fingerprint());
  ASSERT_TRUE(data.rope.has_value());
  EXPECT_EQ(data.rope->inverse_frequencies.size(), 32u);
  EXPECT_EQ(data.head_rank.size(), 16u);
  double uniform = 0;
  double weighted = 0;
  for (uint32_t layer = 0; layer < 8; ++layer) {
    for (const KvSpace space : {KvSpace::kKeyUnrotated, KvSpace::kValue}) {
      const codec::BasisData& basis = *first->profile->basis(layer, space, Basis::kLayerAttention);
      ASSERT_EQ(basis.lanes.size(), 128u);
      uniform += basis.lanes[0].uniform_step;
      weighted += basis.lanes[0].weighted_step;
    }
    EXPECT_GT(first->rows[layer][0].uniform_bits, 0);
    EXPECT_GT(first->rows[layer][1].weighted_bits, 0);
  }
  // One average, another share for each.
  EXPECT_NEAR(uniform / 16, weighted / 16, 1);
}

TEST_F(ProfileFitSafety, ErrorsHaveNames) {
  base::ThreadPool pool(1);
  const auto model = Load(pool);
  ASSERT_NE(model, nullptr);
  const auto short_prompts = FitProfile(*model, pool, kFolder, Prompts(2, 64), Options());
  EXPECT_THAT(short_prompts.status().message(), HasSubstr("too short for a probe"));
  EXPECT_EQ(FitProfile(*model, pool, kFolder, {}, Options()).status().code(),
            base::StatusCode::kInvalidArgument);
  EXPECT_EQ(FitProfile(*model, pool, "/nonexistent", Prompts(2, 128), Options()).status().code(),
            base::StatusCode::kNotFound);
}

}  // namespace
}  // namespace kvplane::profile
