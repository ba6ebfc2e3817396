// Scores of known distributions and the round trip of recoded KV. The run on the demo model itself is tested
// with its inputs in apps/cli/quality.
#include "kvplane/profile/paired_run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/profile/kv_recoder.h"
#include "kvplane/profile/logit_score.h"
#include "kvplane/profile/sequence_kv.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::profile {
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
  const auto off_bytes =
      Recode(geometry, codec::Strategy(), nullptr, from.layers(), kTokens, workspace, off.layers());
  ASSERT_TRUE(off_bytes.ok()) << off_bytes.status().ToString();
  EXPECT_EQ(Prefix(off, geometry, kTokens), Prefix(from, geometry, kTokens));
  // Raw values, 9 bytes for each of 6 tiles and 4 for each index per layer, prefix with texts of 5 and 5.
  EXPECT_EQ(*off_bytes, 3 * (131 * 512 + 6 * 9 + 4) + 196 + 10 + 3 * 16);

  SequenceKv int4(geometry, 16, kTokens);
  const auto int4_bytes = Recode(geometry, *codec::Strategy::Parse("int4"), nullptr, from.layers(), kTokens,
                                 workspace, int4.layers());
  ASSERT_TRUE(int4_bytes.ok()) << int4_bytes.status().ToString();
  EXPECT_LT(*int4_bytes, *off_bytes / 3);
  EXPECT_NE(Prefix(int4, geometry, kTokens), Prefix(from, geometry, kTokens));
}

}  // namespace
}  // namespace kvplane::profile
