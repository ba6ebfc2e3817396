// The generator against its claims, attention's error against brute force, sizes and rows of a small run.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/cli/codec_bench/codec_arena.h"
#include "apps/cli/codec_bench/codec_figures.h"
#include "apps/cli/codec_bench/codec_race.h"
#include "apps/cli/codec_bench/contestant.h"
#include "apps/cli/codec_bench/distortion.h"
#include "apps/cli/codec_bench/generator_profile.h"
#include "apps/cli/codec_bench/kernel_bars.h"
#include "apps/cli/codec_bench/kv_capture.h"
#include "apps/cli/codec_bench/synthetic_kv.h"
#include "apps/cli/strategy_list.h"
#include "kvplane/base/rng.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::cli {
namespace {

std::vector<float> Row(const PagedKv& kv, uint32_t layer, tensor::Side side, uint32_t token, uint32_t head) {
  const uint16_t* row = kv.row(layer, side, token, head);
  std::vector<float> values;
  for (uint32_t c = 0; c < kv.geometry().head_dim; ++c) values.push_back(tensor::Bf16ToFloat(row[c]));
  return values;
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

SyntheticSpec SmallSpec() {
  SyntheticSpec spec;
  spec.geometry = {.layers = 1, .kv_heads = 2, .head_dim = 64};
  spec.tokens = 6000;
  spec.rope_theta = 0;
  return spec;
}

struct Moments {
  std::vector<double> mean;
  std::vector<double> covariance;  // [n, n]
};

// Without the sinks.
Moments MomentsOf(const PagedKv& kv, tensor::Side side, uint32_t head, uint32_t first) {
  const size_t n = kv.geometry().head_dim;
  Moments moments{std::vector<double>(n), std::vector<double>(n * n)};
  const double count = kv.tokens() - first;
  for (uint32_t t = first; t < kv.tokens(); ++t) {
    const std::vector<float> x = Row(kv, 0, side, t, head);
    for (size_t c = 0; c < n; ++c) moments.mean[c] += x[c] / count;
  }
  for (uint32_t t = first; t < kv.tokens(); ++t) {
    const std::vector<float> x = Row(kv, 0, side, t, head);
    for (size_t a = 0; a < n; ++a) {
      for (size_t b = 0; b < n; ++b) {
        moments.covariance[a * n + b] += (x[a] - moments.mean[a]) * (x[b] - moments.mean[b]) / count;
      }
    }
  }
  return moments;
}

TEST(SyntheticKvProperty, MomentsAreThoseOfTheConstants) {
  SyntheticSpec spec = SmallSpec();
  spec.geometry.kv_heads = 1;
  base::ThreadPool pool(1);
  const PagedKv kv = SyntheticKv(spec, pool);
  const SyntheticHead head = SyntheticHeads(spec)[0];
  const Moments moments = MomentsOf(kv, tensor::Side::kKey, 0, spec.sinks);
  uint32_t outliers = 0;
  for (size_t c = 0; c < 64; ++c) {
    double variance = 0;
    for (size_t i = 0; i < 64; ++i) variance += double{head.mix[c * 64 + i]} * head.mix[c * 64 + i];
    EXPECT_NEAR(moments.covariance[c * 65] / variance, 1, 0.12) << c;
    EXPECT_NEAR(moments.mean[c], head.mean[c], 0.06 * std::sqrt(variance) + 0.004 * std::abs(head.mean[c]));
    if (head.mean[c] == 0) continue;
    ++outliers;
    EXPECT_GE(std::abs(head.mean[c]), 7.99 * std::sqrt(variance));
    EXPECT_LE(std::abs(head.mean[c]), 15.01 * std::sqrt(variance));
    EXPECT_GE(c % 32, 16u) << "outliers belong to the slower pairs";
  }
  EXPECT_EQ(outliers, spec.key.outliers);
}

TEST(SyntheticKvProperty, ParticipationAndSpreadAreTheWantedOnes) {
  for (const double wanted : {12.0, 24.0, 45.0, 90.0}) {
    base::Rng rng(static_cast<uint64_t>(wanted));
    const SyntheticSide side = {.spread = 0.15, .outliers = 0, .token_gain = 0, .participation = wanted};
    double sum = 0, squares = 0, participation = 0;
    constexpr int kHeads = 8;
    for (int i = 0; i < kHeads; ++i) {
      const SyntheticHead head = DrawSyntheticHead(side, 128, rng);
      participation += Participation(head) / kHeads;
      for (size_t c = 0; c < 128; ++c) {
        double variance = 0;
        for (size_t j = 0; j < 128; ++j) variance += double{head.mix[c * 128 + j]} * head.mix[c * 128 + j];
        const double ln = std::log(variance) / 2;
        sum += ln;
        squares += ln * ln;
      }
    }
    const double n = 128 * kHeads;
    EXPECT_NEAR(std::sqrt(squares / n - sum * sum / (n * n)), 0.15, 0.015) << wanted;
    EXPECT_NEAR(participation / wanted, 1, 0.12) << wanted;
  }
}

TEST(SyntheticKvProperty, SampleCovarianceHasThatParticipationToo) {
  SyntheticSpec spec = SmallSpec();
  spec.value = {.spread = 0.2, .outliers = 0, .token_gain = 0, .participation = 40};  // of 128: 20 of 64
  base::ThreadPool pool(1);
  const PagedKv kv = SyntheticKv(spec, pool);
  const Moments moments = MomentsOf(kv, tensor::Side::kValue, 1, spec.sinks);
  double trace = 0, squares = 0;
  for (size_t i = 0; i < 64; ++i) trace += moments.covariance[i * 65];
  for (const double c : moments.covariance) squares += c * c;
  EXPECT_NEAR(trace * trace / squares, 20, 4);
}

TEST(SyntheticKvProperty, TokenGainsAndSinks) {
  SyntheticSpec spec = SmallSpec();
  spec.value.token_gain = 0.5;
  base::ThreadPool pool(2);
  const PagedKv kv = SyntheticKv(spec, pool);
  std::vector<double> energy;
  for (uint32_t t = 0; t < kv.tokens(); ++t) {
    double sum = 0;
    for (const float x : Row(kv, 0, tensor::Side::kValue, t, 0)) sum += double{x} * x;
    energy.push_back(std::log(sum) / 2);
  }
  const double typical = Median({energy.begin() + 4, energy.end()});
  for (uint32_t t = 0; t < spec.sinks; ++t) EXPECT_LT(energy[t], typical + std::log(0.1) + 2.0);
  double squares = 0;
  for (size_t t = 4; t < energy.size(); ++t) squares += (energy[t] - typical) * (energy[t] - typical);
  // The gain's spread, and the norm's own (about 0.15 at this participation).
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(energy.size() - 4)), 0.52, 0.06);
}

TEST(SyntheticKvProperty, SameOnAnyNumberOfThreadsAndRotationKeepsPairs) {
  SyntheticSpec spec = SmallSpec();
  spec.tokens = 100;
  base::ThreadPool one(1), three(3);
  const PagedKv plain = SyntheticKv(spec, one);
  const PagedKv threaded = SyntheticKv(spec, three);
  EXPECT_TRUE(std::equal(plain.memory().begin(), plain.memory().end(), threaded.memory().begin()));
  spec.rope_theta = 10'000;
  const PagedKv rotated = SyntheticKv(spec, one);
  for (const uint32_t t : {0u, 1u, 57u, 99u}) {
    const std::vector<float> a = Row(plain, 0, tensor::Side::kKey, t, 1);
    const std::vector<float> b = Row(rotated, 0, tensor::Side::kKey, t, 1);
    for (size_t i = 0; i < 32; ++i) {
      const double energy = std::hypot(a[i], a[i + 32]);
      EXPECT_NEAR(std::hypot(b[i], b[i + 32]), energy, 0.01 * energy);
      const double angle = t * std::pow(10'000, -2.0 * static_cast<double>(i) / 64);
      EXPECT_NEAR(b[i], a[i] * std::cos(angle) - a[i + 32] * std::sin(angle), 0.015 * energy);
    }
    EXPECT_EQ(Row(plain, 0, tensor::Side::kValue, t, 1), Row(rotated, 0, tensor::Side::kValue, t, 1));
  }
}

TEST(SyntheticKvProperty, DrawsAndLayersShareConstantsOnly) {
  SyntheticSpec spec = SmallSpec();
  spec.geometry.layers = 2;
  spec.tokens = 3000;
  base::ThreadPool pool(2);
  const PagedKv first = SyntheticKv(spec, pool);
  spec.draw = 1;
  const PagedKv second = SyntheticKv(spec, pool);
  EXPECT_NE(Row(first, 0, tensor::Side::kKey, 9, 0), Row(second, 0, tensor::Side::kKey, 9, 0));
  EXPECT_NE(Row(first, 0, tensor::Side::kKey, 9, 0), Row(first, 1, tensor::Side::kKey, 9, 0));
  const Moments a = MomentsOf(first, tensor::Side::kKey, 0, 4);
  const Moments b = MomentsOf(second, tensor::Side::kKey, 0, 4);
  for (size_t c = 0; c < 64; ++c) {
    EXPECT_NEAR(a.covariance[c * 65] / b.covariance[c * 65], 1, 0.2);
    EXPECT_NEAR(a.mean[c], b.mean[c], 0.15 * std::sqrt(a.covariance[c * 65]));
  }
}

// What the profile says of the generator, and that strategies run with it.
TEST(GeneratorProfileProperty, HoldsTheConstantsAndServesEveryPreset) {
  SyntheticSpec spec = SmallSpec();
  spec.geometry.layers = 2;
  spec.rope_theta = 10'000;
  spec.tokens = 256;
  base::ThreadPool pool(2);
  const auto profile = FitGeneratorProfile(spec, pool);
  ASSERT_TRUE(profile.ok()) << profile.status().ToString();
  const std::vector<SyntheticHead> heads = SyntheticHeads(spec);
  const codec::SpaceData& keys = *(*profile)->space(1, codec::KvSpace::kKeyUnrotated);
  for (size_t c = 0; c < 64; ++c) {
    double variance = 0;
    for (size_t i = 0; i < 64; ++i) variance += double{heads[1].mix[c * 64 + i]} * heads[1].mix[c * 64 + i];
    EXPECT_NEAR(tensor::Bf16ToFloat(keys.mean[64 + c]), heads[1].mean[c],
                0.08 * std::sqrt(variance) + 0.01 * std::abs(heads[1].mean[c]));
    const int16_t log = keys.bases[0]->lanes[64 + c].deviation;
    EXPECT_NEAR(std::exp2(log / 64.0), std::sqrt(variance), 0.08 * std::sqrt(variance));
  }
  std::vector<PagedKv> sequences;
  sequences.push_back(SyntheticKv(spec, pool));
  CodecArena arena(std::move(sequences));
  CodecRace race(arena, pool, 1e-4);
  const auto strategies = ReadStrategyLists({});
  ASSERT_TRUE(strategies.ok()) << strategies.status().ToString();
  for (const NamedStrategy& named : *strategies) {
    auto contestant = MakeStrategyContestant(arena, 2, named.label, named.strategy, *profile);
    ASSERT_TRUE(contestant.ok()) << named.label << ": " << contestant.status().ToString();
    const base::Status status = race.WarmUp(**contestant);
    ASSERT_TRUE(status.ok()) << named.label << ": " << status.ToString();
    const SquaredError error = CompareValues(arena.inputs()[0], arena.outputs()[0], pool);
    EXPECT_EQ(std::isinf(error.SnrDb(0)), !named.strategy.side(tensor::Side::kKey).lossy()) << named.label;
    EXPECT_GT(error.SnrDb(0), 5) << named.label;
    EXPECT_GT(error.SnrDb(1), 3) << named.label;
  }
}

TEST(SyntheticKvUnit, ParsesAndRefuses) {
  const auto spec = ParseSyntheticSpec(
      "spread=0.9/0.3,outliers=4/1,gain=0.4,participation=20/50,sinks=2,theta=0,head_dim=64,seed=9");
  ASSERT_TRUE(spec.ok()) << spec.status().ToString();
  EXPECT_EQ(spec->key.spread, 0.9);
  EXPECT_EQ(spec->value.spread, 0.3);
  EXPECT_EQ(spec->key.outliers, 4u);
  EXPECT_EQ(spec->value.outliers, 1u);
  EXPECT_EQ(spec->value.token_gain, 0.4);
  EXPECT_EQ(spec->sinks, 2u);
  EXPECT_EQ(spec->geometry.head_dim, 64u);
  EXPECT_EQ(spec->seed, 9u);
  for (const char* bad : {"spred=1", "spread", "spread=", "spread=x", "spread=-1", "spread=nan",
                          "outliers=65", "participation=0.5", "head_dim=3", "head_dim=100000", "layers=0",
                          "theta=0.5", "layers=4000000000", "=", ",,"}) {
    EXPECT_FALSE(ParseSyntheticSpec(bad).ok()) << bad;
  }
}

// A tiny cache with queries.
struct Tiny {
  PagedKv kv{{.layers = 2, .kv_heads = 2, .head_dim = 8}, 11};
  SampledQueries queries;
};

Tiny MakeTiny(uint64_t seed) {
  Tiny tiny;
  base::Rng rng(seed);
  for (uint16_t& value : tiny.kv.memory()) value = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
  tiny.queries.heads = 4;
  tiny.queries.positions = {0, 6, 10};
  tiny.queries.windows = {0, 3};
  tiny.queries.values.resize(size_t{2} * 3 * 4 * 8);
  for (float& value : tiny.queries.values) value = static_cast<float>(rng.Normal());
  return tiny;
}

// Attention written down once more, one query at a time, in long double.
std::vector<double> BruteForce(const PagedKv& kv, const SampledQueries& queries, uint32_t layer, size_t p,
                               uint32_t head) {
  const uint32_t kv_head = head / 2;
  const uint32_t position = queries.positions[p];
  const uint32_t window = queries.windows[layer];
  std::vector<long double> sums(8);
  long double total = 0;
  for (uint32_t t = 0; t <= position; ++t) {
    if (window != 0 && t + window <= position) continue;
    const std::vector<float> key = Row(kv, layer, tensor::Side::kKey, t, kv_head);
    const std::vector<float> value = Row(kv, layer, tensor::Side::kValue, t, kv_head);
    long double score = 0;
    for (size_t c = 0; c < 8; ++c)
      score += static_cast<long double>(queries.row(layer, p, head, 8)[c]) * key[c];
    const long double weight = std::exp(score / std::sqrt(8.0L));
    total += weight;
    for (size_t c = 0; c < 8; ++c) sums[c] += weight * value[c];
  }
  std::vector<double> out;
  for (const long double sum : sums) out.push_back(static_cast<double>(sum / total));
  return out;
}

TEST(AttentionErrorDiff, AgreesWithBruteForce) {
  const Tiny tiny = MakeTiny(1);
  PagedKv decoded(tiny.kv.geometry(), tiny.kv.tokens());
  base::Rng rng(5);
  for (size_t i = 0; i < decoded.memory().size(); ++i) {
    decoded.memory()[i] = tensor::FloatToBf16(tensor::Bf16ToFloat(tiny.kv.memory()[i]) +
                                              0.1f * static_cast<float>(rng.Normal()));
  }
  base::ThreadPool pool(2);
  const AttentionJudge judge(tiny.kv, tiny.queries, pool);
  const AttentionError error = judge.Judge(decoded, pool);
  std::vector<double> expected;
  for (uint32_t layer = 0; layer < 2; ++layer) {
    double signal = 0, noise = 0;
    for (size_t p = 0; p < 3; ++p) {
      for (uint32_t head = 0; head < 4; ++head) {
        const std::vector<double> a = BruteForce(tiny.kv, tiny.queries, layer, p, head);
        const std::vector<double> b = BruteForce(decoded, tiny.queries, layer, p, head);
        for (size_t c = 0; c < 8; ++c) {
          signal += a[c] * a[c];
          noise += (a[c] - b[c]) * (a[c] - b[c]);
        }
      }
    }
    expected.push_back(std::sqrt(noise / signal));
  }
  ASSERT_EQ(error.PerLayer().size(), 2u);
  EXPECT_NEAR(error.PerLayer()[0], expected[0], 1e-5);
  EXPECT_NEAR(error.PerLayer()[1], expected[1], 1e-5);
  EXPECT_GT(expected[0], 0.01);
  EXPECT_NEAR(error.Mean(), (expected[0] + expected[1]) / 2, 1e-5);
  EXPECT_NEAR(error.Worst(), std::max(expected[0], expected[1]), 1e-5);
}

TEST(AttentionErrorUnit, EqualCachesHaveNoError) {
  const Tiny tiny = MakeTiny(2);
  base::ThreadPool pool(1);
  const AttentionError error = AttentionJudge(tiny.kv, tiny.queries, pool).Judge(tiny.kv, pool);
  EXPECT_EQ(error.Mean(), 0);
  EXPECT_EQ(error.Worst(), 0);
}

TEST(DistortionUnit, SnrOfAKnownError) {
  PagedKv a({.layers = 1, .kv_heads = 1, .head_dim = 8}, 3);
  PagedKv b({.layers = 1, .kv_heads = 1, .head_dim = 8}, 3);
  for (uint32_t t = 0; t < 3; ++t) {
    for (uint32_t c = 0; c < 8; ++c) {
      a.row(0, tensor::Side::kKey, t, 0)[c] = b.row(0, tensor::Side::kKey, t, 0)[c] =
          tensor::FloatToBf16(2.0f);
      a.row(0, tensor::Side::kValue, t, 0)[c] = tensor::FloatToBf16(10.0f);
      b.row(0, tensor::Side::kValue, t, 0)[c] = tensor::FloatToBf16(9.0f);
    }
  }
  base::ThreadPool pool(1);
  const SquaredError error = CompareValues(a, b, pool);
  EXPECT_EQ(error.SnrDb(0), std::numeric_limits<double>::infinity());
  EXPECT_DOUBLE_EQ(error.SnrDb(1), 20);
  EXPECT_EQ(FormatSnr(error.SnrDb(0)), "exact");
  EXPECT_EQ(FormatSnr(error.SnrDb(1)), "20.0");
}

// What is no number and came back as it was is exact; what did not is as wrong as can be.
TEST(DistortionUnit, PatternsAreComparedFirst) {
  PagedKv a({.layers = 1, .kv_heads = 1, .head_dim = 4}, 1);
  PagedKv b({.layers = 1, .kv_heads = 1, .head_dim = 4}, 1);
  constexpr uint16_t kPatterns[] = {0x7f80, 0xff80, 0x7fc1, 0x3f80};  // infinities, a NaN, 1
  for (const tensor::Side side : tensor::kSides) {
    std::copy_n(kPatterns, 4, a.row(0, side, 0, 0));
    std::copy_n(kPatterns, 4, b.row(0, side, 0, 0));
  }
  b.row(0, tensor::Side::kValue, 0, 0)[2] = 0x3f80;
  base::ThreadPool pool(1);
  const SquaredError error = CompareValues(a, b, pool);
  EXPECT_EQ(FormatSnr(error.SnrDb(0)), "exact");
  EXPECT_EQ(error.SnrDb(1), -std::numeric_limits<double>::infinity());
}

TEST(KvCaptureUnit, QueriesComeFromTheSecondHalf) {
  EXPECT_EQ(QueryPositions(16, 4), (std::vector<uint32_t>{9, 11, 13, 15}));
  EXPECT_EQ(QueryPositions(5, 100), (std::vector<uint32_t>{2, 3, 4}));
  EXPECT_EQ(QueryPositions(1, 3), (std::vector<uint32_t>{0}));
}

TEST(StrategyListUnit, SplitsMergesAndLabels) {
  const auto all = ReadStrategyLists({});
  ASSERT_TRUE(all.ok());
  EXPECT_EQ((*all)[0].label, "off");
  const std::vector<std::string> lists = {"int2,kivi-2,affine(bits=4,group=64) | pack", "int4"};
  const auto named = ReadStrategyLists(lists);
  ASSERT_TRUE(named.ok()) << named.status().ToString();
  ASSERT_EQ(named->size(), 2u);
  EXPECT_EQ((*named)[0].label, "int2 = kivi-2");
  EXPECT_EQ((*named)[0].family, StrategyFamily::kPublished);
  EXPECT_EQ((*named)[1].label, "s1");
  EXPECT_NE((*named)[1].Explanation().find("s1 is k: affine(bits=4"), std::string::npos);
  EXPECT_FALSE(ReadStrategyLists(std::vector<std::string>{"int4,nonsense"}).ok());
}

// The whole path on 300 tokens in two sequences: sizes by hand, exact copies, rows.
TEST(CodecBenchProperty, RaceOfKnownStrategies) {
  SyntheticSpec spec = SmallSpec();
  spec.tokens = 300;
  base::ThreadPool pool(2);
  std::vector<PagedKv> sequences;
  sequences.push_back(SyntheticKv(spec, pool));
  spec.tokens = 64;
  sequences.push_back(SyntheticKv(spec, pool));
  CodecArena arena(std::move(sequences));
  ASSERT_EQ(arena.jobs().size(), 3u);  // 256 + 44 tokens, and 64
  EXPECT_EQ(arena.raw_bytes(), 364u * 2 * 2 * 64 * 2);
  EXPECT_EQ(arena.TileOf(1, 0).context.first_position, 256u);
  EXPECT_EQ(arena.TileOf(1, 1).side, tensor::Side::kValue);
  EXPECT_EQ(arena.TileOf(1, 1).context.end_position, 300u);

  std::vector<std::unique_ptr<Contestant>> contestants;
  contestants.push_back(MakeMemcpyContestant(arena));
  contestants.push_back(MakeZstdContestant(arena, 2));
  contestants.push_back(MakeLz4Contestant(arena, 2));
  for (const char* name : {"off", "int8"}) {
    auto contestant = MakeStrategyContestant(arena, 2, name, *codec::Strategy::Parse(name), nullptr);
    ASSERT_TRUE(contestant.ok());
    contestants.push_back(*std::move(contestant));
  }
  CodecRace race(arena, pool, 1e-4);
  for (const auto& contestant : contestants) {
    ASSERT_TRUE(race.WarmUp(*contestant).ok());
    const SquaredError error = CompareValues(arena.inputs()[0], arena.outputs()[0], pool);
    if (contestant->name() == "int8") {
      EXPECT_GT(error.SnrDb(1), 35);
      EXPECT_LT(error.SnrDb(1), 60);
    } else {
      EXPECT_TRUE(std::isinf(error.SnrDb(0)) && std::isinf(error.SnrDb(1))) << contestant->name();
    }
  }
  // Six tiles and six of the other side, a method byte and an index entry each.
  EXPECT_EQ(contestants[3]->coded_bytes()[0], arena.raw_bytes() / 2 + 6 * 9);
  EXPECT_EQ(contestants[3]->coded_bytes()[1], arena.raw_bytes() / 2 + 6 * 9);

  std::vector<RaceResult> results(contestants.size());
  for (int round = 0; round < 3; ++round) ASSERT_TRUE(race.Round(contestants, true, results).ok());
  EXPECT_EQ(results[0].one_core.encode.size(), 3u);
  EXPECT_TRUE(results[0].one_core.decode.empty());  // memcpy goes one way
  EXPECT_EQ(results[4].one_core_cpu.decode.size(), 3u);
  EXPECT_EQ(results[4].all_cores.decode.size(), 3u);
  EXPECT_EQ(results[4].core_share.size(), 6u);

  CodecFigures figures;
  figures.label = "int8";
  figures.strategy = true;
  figures.family = FamilyOf(*contestants[4]->strategy(), false);
  EXPECT_EQ(figures.family, StrategyFamily::kFixedWidth);
  figures.raw_bytes = arena.raw_bytes();
  figures.coded_bytes = contestants[4]->coded_bytes();
  figures.error = CompareValues(arena.inputs()[0], arena.outputs()[0], pool);
  figures.speed = results[4];
  EXPECT_NEAR(figures.bits_per_value(), 8.6, 0.3);
  BenchReport report("codec", "test");
  AddCodecRows(report, {{"input", std::string("tiny")}}, figures, 2);
  const nlohmann::json json = nlohmann::json::parse(report.ToJson());
  std::vector<std::string> metrics;
  for (const auto& row : json["rows"]) {
    EXPECT_EQ(row["case"]["strategy"], "int8");
    EXPECT_EQ(row["case"]["input"], "tiny");
    metrics.push_back(row["metric"]);
  }
  EXPECT_EQ(metrics,
            (std::vector<std::string>{"bits_per_value", "ratio", "bits_per_value", "snr", "bits_per_value",
                                      "snr", "encode_bytes_per_s", "decode_bytes_per_s",
                                      "encode_bytes_per_cpu_s", "decode_bytes_per_cpu_s",
                                      "encode_bytes_per_s", "decode_bytes_per_s", "core_share"}));
  figures.speed.core_share = {0.98, 0.2, 0.97};
  CodecFigures short_turns;
  short_turns.speed.core_share = {0.5};
  EXPECT_EQ(DescribeCores(std::vector{figures, CodecFigures{}, figures, short_turns}, 2),
            "all cores: 2 threads, which had 97 % of them");
  EXPECT_EQ(
      DescribeCores(std::vector{short_turns}, 2),
      "all cores: 2 threads, which had 50 % of them; other work ran beside them, these figures are not the "
      "machine's");
  EXPECT_EQ(DescribeCores({}, 1), "all cores: 1 thread");
  const std::string table = CodecTable(std::vector<CodecFigures>{figures});
  EXPECT_NE(table.find("int8"), std::string::npos);
  EXPECT_EQ(CodecPlot(std::vector<CodecFigures>{figures}, "x").panels.size(), 2u);
}

TEST(KernelBarsUnit, FamiliesAndVerdicts) {
  EXPECT_EQ(CpuFamilyOf("AMD EPYC (family 26 model 2)"), CpuFamily::kZen5);
  EXPECT_EQ(CpuFamilyOf("INTEL(R) Intel XEON (family 6 model 207)"), CpuFamily::kEmeraldRapids);
  EXPECT_EQ(CpuFamilyOf("Intel XEON (family 6 model 143)"), CpuFamily::kOther);
  EXPECT_EQ(CpuFamilyOf("AMD EPYC (family 25 model 17)"), CpuFamily::kOther);
  const KernelFigure figure{"a", "GB/s", {5, 9, 6}, {8, 8, 9}, KernelBar{8, 6}};
  EXPECT_EQ(figure.wall_median(), 6);
  EXPECT_EQ(Judge(figure, CpuFamily::kEmeraldRapids), BarVerdict::kMet);
  EXPECT_EQ(Judge(figure, CpuFamily::kZen5), BarVerdict::kMetInCpuTime);
  EXPECT_EQ(Judge(figure, CpuFamily::kOther), BarVerdict::kNone);
  const KernelFigure slow{"b", "GB/s", {5}, {5}, KernelBar{8, 6}};
  EXPECT_EQ(Judge(slow, CpuFamily::kZen5), BarVerdict::kMissed);
  EXPECT_EQ(BarOf({"c", "x", {1}, {1}, std::nullopt}, CpuFamily::kZen5), std::nullopt);
}

TEST(KernelBarsProperty, EveryCaseRunsOnceARoundAndRatiosFollow) {
  int runs = 0;
  volatile uint64_t sum = 0;
  const auto work = [&] {
    ++runs;
    for (uint64_t i = 0; i < 100'000; ++i) sum = sum + i;
  };
  const std::vector<KernelCase> cases = {{"a", "Gval/s", 2e9, work, std::nullopt},
                                         {"b", "GB/s", 1e9, work, KernelBar{1e-9, 1e9}}};
  const auto figures = MeasureKernels(cases, {{"a over b", "a", "b", {1, 1}}}, 3, 1e-9);
  EXPECT_EQ(runs, 2 * (1 + 3));
  ASSERT_EQ(figures.size(), 3u);
  for (size_t round = 0; round < 3; ++round) {
    EXPECT_GT(figures[0].by_wall[round], 0);
    EXPECT_DOUBLE_EQ(figures[2].by_wall[round], figures[0].by_wall[round] / figures[1].by_wall[round]);
  }
  BenchReport report("codec_kernels", "test");
  AddKernelRows(report, figures, CpuFamily::kEmeraldRapids);
  const nlohmann::json rows = nlohmann::json::parse(report.ToJson())["rows"];
  ASSERT_EQ(rows.size(), 6u);
  EXPECT_EQ(rows[0]["metric"], "values_per_s");
  EXPECT_FALSE(rows[0]["case"].contains("bar"));
  EXPECT_EQ(rows[2]["metric"], "bytes_per_s");
  EXPECT_EQ(rows[2]["case"]["bar"], 1e18);
  EXPECT_EQ(rows[2]["case"]["verdict"], "missed");
  EXPECT_EQ(rows[4]["metric"], "speedup");
  EXPECT_NE(KernelTable(figures, CpuFamily::kZen5).find("met"), std::string::npos);
}

// The queries a real model asked, on the real demo model: attention on its own KV has no error.
TEST(KvCaptureProperty, QueriesOfTheDemoModel) {
  const std::string folder = std::string(KVPLANE_SOURCE_DIR) + "/models/demo";
  base::ThreadPool pool(2);
  const auto model = model::Model::Load(folder, {.compute = model::ComputeType::kF32}, pool);
  ASSERT_TRUE(model.ok()) << model.status().ToString();
  std::vector<int32_t> tokens = {1};
  base::Rng rng(4);
  while (tokens.size() < 90) tokens.push_back(static_cast<int32_t>(3 + rng.Below(4000)));
  const auto whole = CaptureKv(**model, tokens, 90, 6);
  const auto stepped = CaptureKv(**model, tokens, 32, 6);
  ASSERT_TRUE(whole.ok() && stepped.ok());
  EXPECT_EQ(whole->queries.positions.size(), 6u);
  EXPECT_EQ(whole->queries.values, stepped->queries.values);  // rows do not depend on the step
  double energy = 0;
  for (const float value : whole->queries.values) energy += double{value} * value;
  EXPECT_GT(energy / static_cast<double>(whole->queries.values.size()), 1e-3);
  EXPECT_EQ(AttentionJudge(whole->kv, whole->queries, pool).Judge(stepped->kv, pool).Worst(), 0);
  const auto none = CaptureKv(**model, tokens, 90, 0);
  ASSERT_TRUE(none.ok());
  EXPECT_EQ(none->queries.heads, 0u);
}

}  // namespace
}  // namespace kvplane::cli
