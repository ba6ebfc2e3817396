#include "kvplane/kernel/row_frame/row_frame.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

using tensor::Bf16ToFloat;
using tensor::FloatToBf16;

// Rows of random values in memory of exactly their size, and a frame of random angles and means.
struct Case {
  Case(base::Rng& rng, uint32_t tokens_in, uint32_t channels_in, uint32_t half, bool centred)
      : tokens(tokens_in), channels(channels_in), values(tokens * channels), angles(tokens * 2 * half) {
    for (uint16_t& v : values) v = FloatToBf16(static_cast<float>(4.0 * rng.Normal()));
    for (uint32_t t = 0; t < tokens; ++t) {
      rows.push_back(values.data() + t * channels);
      rope.push_back(angles.data() + size_t{t} * 2 * half);
      for (uint32_t i = 0; i < half; ++i) {
        const double angle = 100.0 * rng.Uniform();
        angles[size_t{t} * 2 * half + i] = static_cast<float>(1.25 * std::cos(angle));
        angles[size_t{t} * 2 * half + half + i] = static_cast<float>(1.25 * std::sin(angle));
      }
    }
    for (uint32_t c = 0; c < channels; ++c) mean.push_back(static_cast<float>(rng.Normal()));
    frame.rope = half == 0 ? nullptr : rope.data();
    frame.half = half;
    frame.scale = 1.0f / (1.25f * 1.25f);
    frame.mean = centred ? mean.data() : nullptr;
  }
  Case(const Case&) = delete;
  Case& operator=(const Case&) = delete;

  uint32_t tokens;
  uint32_t channels;
  std::vector<uint16_t> values;
  std::vector<float> angles;
  std::vector<const uint16_t*> rows;
  std::vector<const float*> rope;
  std::vector<float> mean;
  RowFrame frame;
};

std::vector<uint16_t*> RowsOf(std::vector<uint16_t>& values, uint32_t tokens, uint32_t channels) {
  std::vector<uint16_t*> rows;
  for (uint32_t t = 0; t < tokens; ++t) rows.push_back(values.data() + size_t{t} * channels);
  return rows;
}

TEST(RowFrameUnit, AQuarterTurnByHand) {
  // Two pairs; the first turned by 90 degrees (cos 0, sin 1), the second not at all; one channel past them.
  const std::vector<uint16_t> x = {0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0};  // 1 2 3 4 5
  const float rope[] = {0.0f, 1.0f, 1.0f, 0.0f};
  const float mean[] = {1.0f, 1.0f, 1.0f, 1.0f, 1.0f};
  const uint16_t* rows[] = {x.data()};
  const float* ropes[] = {rope};
  const RowFrame frame{.rope = ropes, .half = 2, .scale = 1.0f, .mean = mean};
  for (const Isa isa : AvailableIsas()) {
    std::vector<uint16_t> y(5), back(5);
    RowFrames(isa).Remove(rows, 1, 5, frame, y.data(), 5);
    // low = 1 * 0 + 3 * 1, high = 3 * 0 - 1 * 1; less 1.
    EXPECT_EQ(y, (std::vector<uint16_t>{0x4000, 0x3f80, 0xc000, 0x4040, 0x4080}));  // 2 1 -2 3 4
    uint16_t* out[] = {back.data()};
    RowFrames(isa).Restore(y.data(), 5, 1, 5, frame, out);
    EXPECT_EQ(back, x);
    float sums[5];
    RowFrames(isa).Sum(rows, 1, 5, frame, sums);
    EXPECT_EQ(std::vector<float>(sums, sums + 5), (std::vector<float>{3, 2, -1, 4, 5}));
  }
}

TEST(RowFrameUnit, ExtremesAreDefined) {
  constexpr float kMean[] = {-0x1p127f, 0.0f, 0.0f, 0.0f, 1.0f};
  const RowFrame frame{.mean = kMean};
  for (const Isa isa : AvailableIsas()) {
    // To the largest finite value: an overflow, infinities, NaN; subnormals to zeros of their sign.
    const float y[] = {-0x1.8p127f, INFINITY, -INFINITY, -0x1p-127f, NAN};
    uint16_t x[5];
    uint16_t* rows[] = {x};
    RowFrames(isa).Restore(y, 5, 1, 5, frame, rows);
    EXPECT_EQ(std::vector<uint16_t>(x, x + 5),
              (std::vector<uint16_t>{0xff7f, 0x7f7f, 0xff7f, 0x8000, 0x7f7f}));
    const uint16_t subnormal[] = {0x0001, 0x807f, 0x0080, 0x8080, 0x0000};
    const uint16_t* in[] = {subnormal};
    uint16_t out[5];
    RowFrames(isa).Remove(in, 1, 5, {}, out, 5);
    EXPECT_EQ(std::vector<uint16_t>(out, out + 5),
              (std::vector<uint16_t>{0x0000, 0x8000, 0x0080, 0x8080, 0x0000}));
  }
}

// Against the formulas in binary64: within half a bf16 ulp (2^-8) and the rounding of four operations.
TEST(RowFrameProperty, FollowsTheFormulas) {
  base::Rng rng(71);
  for (int round = 0; round < 100; ++round) {
    const auto channels = static_cast<uint32_t>(1 + rng.Below(200));
    const auto half = static_cast<uint32_t>(rng.Below(channels / 2 + 1));
    const Case c(rng, 1 + static_cast<uint32_t>(rng.Below(5)), channels, half, rng.Below(2) == 0);
    std::vector<uint16_t> y(c.values.size());
    RowFrames(Isa::kScalar).Remove(c.rows.data(), c.tokens, channels, c.frame, y.data(), channels);
    for (uint32_t t = 0; t < c.tokens; ++t) {
      for (uint32_t i = 0; i < channels; ++i) {
        double expected = Bf16ToFloat(c.rows[t][i]);
        double size = std::abs(expected);
        if (i < 2 * half) {
          const uint32_t low = i < half ? i : i - half;
          const double a = Bf16ToFloat(c.rows[t][low]), b = Bf16ToFloat(c.rows[t][low + half]);
          const double cos = c.rope[t][low], sin = c.rope[t][low + half];
          expected = (i < half ? a * cos + b * sin : b * cos - a * sin) * c.frame.scale;
          size = std::abs(a) + std::abs(b);
        }
        if (c.frame.mean != nullptr) expected -= c.mean[i];
        const double tolerance = std::abs(expected) * 0x1p-8 + (size + 4) * 0x1p-21;
        ASSERT_NEAR(Bf16ToFloat(y[t * channels + i]), expected, tolerance);
      }
    }
  }
}

TEST(RowFrameProperty, RestoreUndoesRemove) {
  base::Rng rng(72);
  for (const Isa isa : AvailableIsas()) {
    const Case c(rng, 64, 128, 64, true);
    std::vector<uint16_t> y(c.values.size()), back(c.values.size());
    const auto out = RowsOf(back, 64, 128);
    RowFrames(isa).Remove(c.rows.data(), 64, 128, c.frame, y.data(), 128);
    RowFrames(isa).Restore(y.data(), 128, 64, 128, c.frame, out.data());
    double signal = 0, noise = 0;
    for (size_t i = 0; i < back.size(); ++i) {
      const double x = Bf16ToFloat(c.values[i]);
      const double error = Bf16ToFloat(back[i]) - x;
      signal += x * x;
      noise += error * error;
    }
    EXPECT_GT(10 * std::log10(signal / noise), 50.0);
  }
}

TEST(RowFrameDiff, EveryIsaGivesTheScalarBytes) {
  base::Rng rng(73);
  const RowFrameKernels scalar = RowFrames(Isa::kScalar);
  for (int round = 0; round < 300; ++round) {
    const auto tokens = static_cast<uint32_t>(1 + rng.Below(5));
    const auto channels = static_cast<uint32_t>(1 + rng.Below(300));
    const auto half = static_cast<uint32_t>(rng.Below(2) * rng.Below(channels / 2 + 1));
    Case c(rng, tokens, channels, half, rng.Below(2) == 0);
    if (rng.Below(4) == 0) {  // any finite pattern
      for (uint16_t& v : c.values) v = static_cast<uint16_t>(rng.Next() % 0x7f80 | (rng.Next() & 0x8000));
    }
    std::vector<float> sums(channels), sums2(channels), wide(c.values.size());
    std::vector<uint16_t> y(c.values.size()), y2(y), x(y), x2(y), w(y), w2(y);
    for (size_t i = 0; i < wide.size(); ++i) wide[i] = static_cast<float>(rng.Normal());
    scalar.Sum(c.rows.data(), tokens, channels, c.frame, sums.data());
    scalar.Remove(c.rows.data(), tokens, channels, c.frame, y.data(), channels);
    scalar.Restore(c.values.data(), channels, tokens, channels, c.frame, RowsOf(x, tokens, channels).data());
    scalar.Restore(wide.data(), channels, tokens, channels, c.frame, RowsOf(w, tokens, channels).data());
    for (const Isa isa : AvailableIsas()) {
      const RowFrameKernels kernels = RowFrames(isa);
      kernels.Sum(c.rows.data(), tokens, channels, c.frame, sums2.data());
      kernels.Remove(c.rows.data(), tokens, channels, c.frame, y2.data(), channels);
      kernels.Restore(c.values.data(), channels, tokens, channels, c.frame,
                      RowsOf(x2, tokens, channels).data());
      kernels.Restore(wide.data(), channels, tokens, channels, c.frame, RowsOf(w2, tokens, channels).data());
      ASSERT_EQ(std::memcmp(sums.data(), sums2.data(), channels * sizeof(float)), 0);
      ASSERT_EQ(y2, y);
      ASSERT_EQ(x2, x);
      ASSERT_EQ(w2, w);
    }
  }
}

// Aligned rows, which streaming stores take, and others: the same values, and none behind the rows.
TEST(RowFrameDiff, StreamedRowsAreTheSame) {
  struct alignas(64) Line {
    uint16_t values[32] = {};
  };
  base::Rng rng(14);
  for (int round = 0; round < 200; ++round) {
    const auto tokens = static_cast<uint32_t>(1 + rng.Below(10));
    const auto channels =
        static_cast<uint32_t>(rng.Below(3) == 0 ? 1 + rng.Below(140) : 32 * (1 + rng.Below(5)));
    const auto half = static_cast<uint32_t>(rng.Below(2) == 0 ? rng.Below(channels / 2 + 1) : channels / 2);
    Case data(rng, tokens, channels, half, rng.Below(2) == 0);
    data.frame.ahead = channels;
    const size_t lines = (channels + 31) / 32 + 1;
    std::vector<float> wide;
    for (const uint16_t v : data.values) wide.push_back(Bf16ToFloat(v) * 1.01f);
    for (const Isa isa : AvailableIsas()) {
      std::vector<uint16_t> expected(data.values.size());
      RowFrames(isa).Restore(wide.data(), channels, tokens, channels, data.frame,
                             RowsOf(expected, tokens, channels).data());
      std::vector<Line> memory(tokens * lines);
      std::vector<uint16_t*> rows;
      for (uint32_t t = 0; t < tokens; ++t) rows.push_back(memory[t * lines].values);
      RowFrame streamed = data.frame;
      streamed.streaming_stores = true;
      RowFrames(isa).Restore(wide.data(), channels, tokens, channels, streamed, rows.data());
      for (uint32_t t = 0; t < tokens; ++t) {
        ASSERT_EQ(std::memcmp(rows[t], expected.data() + size_t{t} * channels, channels * sizeof(uint16_t)),
                  0)
            << Name(isa) << " channels " << channels << " half " << half << " token " << t;
        for (size_t c = channels; c < lines * 32; ++c) ASSERT_EQ(rows[t][c], 0);
      }
      // A fetch ahead changes nothing.
      std::vector<uint16_t> removed(data.values.size()), plain(data.values.size());
      RowFrames(isa).Remove(data.rows.data(), tokens, channels, data.frame, removed.data(), channels);
      RowFrame alone = data.frame;
      alone.ahead = 0;
      RowFrames(isa).Remove(data.rows.data(), tokens, channels, alone, plain.data(), channels);
      ASSERT_EQ(removed, plain);
    }
  }
}

}  // namespace
}  // namespace kvplane::kernel
