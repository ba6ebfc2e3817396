#include "kvplane/kernel/hadamard/hadamard.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

using tensor::Bf16ToFloat;
using tensor::FloatToBf16;

constexpr uint32_t kSizes[] = {1,  2,   3,   4,   12,  20,  24,  28,  40,  56,  64,  65,  72,   80,
                               96, 100, 104, 112, 128, 160, 192, 224, 256, 320, 512, 576, 1000, 1024};

std::vector<float> RandomGains(base::Rng& rng, const HadamardPlan& plan) {
  std::vector<float> gains;
  for (const HadamardSegment& segment : plan.segments()) {
    for (uint32_t i = 0; i < segment.order(); ++i) {
      gains.push_back(rng.Below(2) == 0 ? segment.gain : -segment.gain);
    }
  }
  return gains;
}

// An element of the matrix of a plan, from its definition.
int Element(const HadamardPlan& plan, uint32_t row, uint32_t column) {
  for (const HadamardSegment& s : plan.segments()) {
    if (row < s.first || row >= s.first + s.order()) continue;
    if (column < s.first || column >= s.first + s.order()) return 0;
    const uint32_t r = row - s.first, c = column - s.first;
    const bool walsh = std::popcount((r % s.block) & (c % s.block)) % 2 == 1;
    const bool paley = s.paley > 1 && PaleyIsNegative(s.paley, r / s.block, c / s.block);
    return walsh != paley ? -1 : 1;
  }
  return 0;
}

TEST(HadamardUnit, PlansByHand) {
  const auto one = [](uint32_t n) {
    const HadamardPlan plan(n);
    EXPECT_EQ(plan.segments().size(), 1u) << n;
    return plan.segments()[0];
  };
  EXPECT_EQ(one(128), (HadamardSegment{0, 1, 128, 0.088388346f}));
  EXPECT_EQ(one(80), (HadamardSegment{0, 20, 4, 0.1118034f}));
  EXPECT_EQ(one(96), (HadamardSegment{0, 12, 8, 0.102062073f}));
  EXPECT_EQ(one(112), (HadamardSegment{0, 28, 4, 0.09449112f}));
  EXPECT_EQ(one(192).paley, 12u);
  EXPECT_EQ(one(160).block, 8u);
  const HadamardPlan odd(73);
  ASSERT_EQ(odd.segments().size(), 3u);
  EXPECT_EQ(odd.segments()[0], (HadamardSegment{0, 1, 64, 0.125f}));
  EXPECT_EQ(odd.segments()[1], (HadamardSegment{64, 1, 8, 0.35355338f}));
  EXPECT_EQ(odd.segments()[2], (HadamardSegment{72, 1, 1, 1.0f}));
}

// The first rows by hand: of type I the border, then 1 on the diagonal and the residues of 11 (1 3 4 5 9).
TEST(HadamardUnit, PaleyRowsByHand) {
  const auto row = [](uint32_t order, uint32_t r) {
    std::string signs;
    for (uint32_t c = 0; c < order; ++c) signs += PaleyIsNegative(order, r, c) ? '-' : '+';
    return signs;
  };
  EXPECT_EQ(row(12, 0), "++++++++++++");
  // (row 1, column c): the character of 1 - c modulo 11, that is of 10, 9, 8, ... for c = 2, 3, 4, ...
  EXPECT_EQ(row(12, 1), "-+-+---+++-+");
  EXPECT_EQ(row(28, 0), "+-++++++++++++++++++++++++++");
  EXPECT_EQ(row(28, 1), "--+-+-+-+-+-+-+-+-+-+-+-+-+-");
}

TEST(HadamardProperty, PaleyMatricesAreHadamard) {
  for (const uint32_t order : {12u, 20u, 28u}) {
    for (uint32_t a = 0; a < order; ++a) {
      for (uint32_t b = 0; b < order; ++b) {
        int product = 0;
        for (uint32_t c = 0; c < order; ++c) {
          product += PaleyIsNegative(order, a, c) == PaleyIsNegative(order, b, c) ? 1 : -1;
        }
        ASSERT_EQ(product, a == b ? static_cast<int>(order) : 0) << order;
      }
    }
  }
}

TEST(HadamardUnit, FourChannelsByHand) {
  const std::vector<uint16_t> x = {0x3f80, 0x4000, 0x4040, 0x4080};  // 1 2 3 4
  const float gains[] = {0.5f, 0.5f, -0.5f, 0.5f};
  const uint16_t* rows[] = {x.data()};
  for (const Isa isa : AvailableIsas()) {
    std::vector<uint16_t> y(4), back(4);
    Hadamard(isa).Forward(HadamardPlan(4), rows, 1, {}, gains, y.data(), 4);
    // 0.5 (1 + 2 - 3 + 4), 0.5 (1 - 2 - 3 - 4), 0.5 (1 + 2 + 3 - 4), 0.5 (1 - 2 + 3 + 4)
    EXPECT_EQ(y, (std::vector<uint16_t>{0x4000, 0xc080, 0x3f80, 0x4040}));  // 2 -4 1 3
    uint16_t* out[] = {back.data()};
    Hadamard(isa).Inverse(HadamardPlan(4), y.data(), 4, 1, {}, gains, out);
    EXPECT_EQ(back, x);
  }
}

// Brute force in binary64, and the norm that a rotation keeps.
TEST(HadamardProperty, IsTheMatrixOfItsPlan) {
  base::Rng rng(81);
  for (const uint32_t n : kSizes) {
    const HadamardPlan plan(n);
    const std::vector<float> gains = RandomGains(rng, plan);
    std::vector<uint16_t> x(n), y(n);
    std::vector<float> mean(n);
    for (uint32_t c = 0; c < n; ++c) {
      x[c] = FloatToBf16(static_cast<float>(rng.Normal()));
      mean[c] = static_cast<float>(rng.Normal());
    }
    const uint16_t* rows[] = {x.data()};
    Hadamard(Isa::kScalar).Forward(plan, rows, 1, {.mean = mean.data()}, gains.data(), y.data(), n);
    double norm_in = 0, norm_out = 0;
    for (uint32_t r = 0; r < n; ++r) {
      double sum = 0;
      for (uint32_t c = 0; c < n; ++c) {
        sum += static_cast<double>(Element(plan, r, c)) * gains[c] *
               (static_cast<double>(Bf16ToFloat(x[c])) - mean[c]);
      }
      ASSERT_NEAR(Bf16ToFloat(y[r]), sum, std::abs(sum) * 0x1p-8 + 1e-5) << n;
      norm_in += std::pow(static_cast<double>(Bf16ToFloat(x[r])) - mean[r], 2);
      norm_out += sum * sum;
    }
    EXPECT_NEAR(norm_out / norm_in, 1.0, 1e-6) << n;
  }
}

TEST(HadamardProperty, InverseUndoesForward) {
  base::Rng rng(82);
  for (const Isa isa : AvailableIsas()) {
    for (const uint32_t n : kSizes) {
      const HadamardPlan plan(n);
      const std::vector<float> gains = RandomGains(rng, plan);
      double signal = 0, noise = 0;
      for (int round = 0; round < 32; ++round) {
        std::vector<uint16_t> x(n), y(n), back(n);
        for (uint16_t& v : x) v = FloatToBf16(static_cast<float>(rng.Normal()));
        const uint16_t* rows[] = {x.data()};
        uint16_t* out[] = {back.data()};
        Hadamard(isa).Forward(plan, rows, 1, {}, gains.data(), y.data(), n);
        Hadamard(isa).Inverse(plan, y.data(), n, 1, {}, gains.data(), out);
        for (uint32_t c = 0; c < n; ++c) {
          const double value = Bf16ToFloat(x[c]);
          signal += value * value;
          noise += std::pow(Bf16ToFloat(back[c]) - value, 2);
        }
      }
      EXPECT_GT(10 * std::log10(signal / noise), 50.0) << Name(isa) << " " << n;
    }
  }
}

TEST(HadamardDiff, EveryIsaGivesTheScalarBytes) {
  base::Rng rng(83);
  const HadamardKernels scalar = Hadamard(Isa::kScalar);
  for (int round = 0; round < 400; ++round) {
    const auto n =
        rng.Below(3) == 0 ? static_cast<uint32_t>(1 + rng.Below(300)) : kSizes[rng.Below(std::size(kSizes))];
    const auto tokens = static_cast<uint32_t>(1 + rng.Below(5));
    const HadamardPlan plan(n);
    const std::vector<float> gains = RandomGains(rng, plan);
    const auto half = static_cast<uint32_t>(rng.Below(3) == 0 ? 0 : rng.Below(2) == 0 ? n / 2 : n / 4);
    std::vector<uint16_t> x(size_t{tokens} * n), y(x.size()), y2(x.size()), back(x.size()), back2(x.size());
    const bool any = rng.Below(4) == 0;
    for (uint16_t& v : x) {
      v = any ? static_cast<uint16_t>(rng.Next() % 0x7b80 | (rng.Next() & 0x8000))
              : FloatToBf16(static_cast<float>(rng.Normal()));
    }
    std::vector<float> mean(n), angles(size_t{tokens} * 2 * half);
    for (float& m : mean) m = static_cast<float>(rng.Normal());
    for (float& a : angles) a = static_cast<float>(2 * rng.Uniform() - 1);
    std::vector<const uint16_t*> rows;
    std::vector<uint16_t*> out, out2;
    std::vector<const float*> rope;
    for (uint32_t t = 0; t < tokens; ++t) {
      rows.push_back(x.data() + t * n);
      out.push_back(back.data() + t * n);
      out2.push_back(back2.data() + t * n);
      rope.push_back(angles.data() + size_t{t} * 2 * half);
    }
    const RowFrame frame{.rope = half == 0 ? nullptr : rope.data(),
                         .half = half,
                         .scale = 0.75f,
                         .mean = rng.Below(2) == 0 ? mean.data() : nullptr};
    scalar.Forward(plan, rows.data(), tokens, frame, gains.data(), y.data(), n);
    scalar.Inverse(plan, x.data(), n, tokens, frame, gains.data(), out.data());
    for (const Isa isa : AvailableIsas()) {
      Hadamard(isa).Forward(plan, rows.data(), tokens, frame, gains.data(), y2.data(), n);
      Hadamard(isa).Inverse(plan, x.data(), n, tokens, frame, gains.data(), out2.data());
      ASSERT_EQ(y2, y) << Name(isa) << " " << n;
      ASSERT_EQ(back2, back) << Name(isa) << " " << n;
    }
  }
}

// Hints change nothing: aligned rows written around the caches, the next rows fetched.
TEST(HadamardDiff, StreamedRowsAreTheSame) {
  struct alignas(64) Line {
    uint16_t values[32] = {};
  };
  base::Rng rng(15);
  for (const uint32_t n : kSizes) {
    const HadamardPlan plan(n);
    const std::vector<float> gains = RandomGains(rng, plan);
    constexpr uint32_t kTokens = 5;
    const size_t lines = (n + 31) / 32 + 1;
    std::vector<uint16_t> in(size_t{kTokens} * n);
    for (uint16_t& v : in) v = FloatToBf16(static_cast<float>(rng.Normal()));
    for (const Isa isa : AvailableIsas()) {
      std::vector<Line> memory[2] = {std::vector<Line>(kTokens * lines), std::vector<Line>(kTokens * lines)};
      std::vector<uint16_t> forward[2] = {std::vector<uint16_t>(in.size()), std::vector<uint16_t>(in.size())};
      for (const bool hinted : {false, true}) {
        std::vector<uint16_t*> rows;
        std::vector<const uint16_t*> from;
        for (uint32_t t = 0; t < kTokens; ++t) {
          rows.push_back(memory[hinted][t * lines].values);
          from.push_back(in.data() + size_t{t} * n);
        }
        RowFrame frame;
        frame.streaming_stores = hinted;
        frame.ahead = hinted ? n : 0;
        Hadamard(isa).Inverse(plan, in.data(), n, kTokens, frame, gains.data(), rows.data());
        Hadamard(isa).Forward(plan, from.data(), kTokens, frame, gains.data(), forward[hinted].data(), n);
      }
      EXPECT_EQ(forward[0], forward[1]);
      for (size_t i = 0; i < memory[0].size(); ++i) {
        ASSERT_TRUE(
            std::equal(std::begin(memory[0][i].values), std::end(memory[0][i].values), memory[1][i].values))
            << Name(isa) << " n " << n;
      }
    }
  }
}

}  // namespace
}  // namespace kvplane::kernel
