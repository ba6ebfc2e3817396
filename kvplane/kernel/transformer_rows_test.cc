// Row kernels of the transformer: norm/, rope/, activation/.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/kernel/activation/activation.h"
#include "kvplane/kernel/norm/norm.h"
#include "kvplane/kernel/rope/rope.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

using tensor::Bf16ToFloat;
using tensor::FloatToBf16;

std::vector<float> Random(size_t n, uint64_t seed, double spread = 1.0) {
  base::Rng rng(seed);
  std::vector<float> x(n);
  for (float& value : x) value = static_cast<float>(rng.Normal() * spread);
  return x;
}

// One bf16 unit in the last place: a value near a rounding boundary may fall either way.
void ExpectSameBf16(const std::vector<uint16_t>& actual, const std::vector<uint16_t>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_NEAR(Bf16ToFloat(actual[i]), Bf16ToFloat(expected[i]),
                std::abs(Bf16ToFloat(expected[i])) / 128 + 1e-6f)
        << i;
  }
}

constexpr size_t kLengths[] = {1, 7, 8, 15, 16, 31, 33, 64, 256, 688, 1000};

TEST(NormUnit, RootMeanSquareOfThreeFour) {
  const float x[] = {3, 4};
  const float weight[] = {1, 2};
  for (const Isa isa : AvailableIsas()) {
    float y[2];
    NormKernelsFor(isa).rms_norm_f32(x, weight, 2, 0.0f, y);  // rms = sqrt(12.5)
    EXPECT_NEAR(y[0], 0.8485281f, 1e-6f);
    EXPECT_NEAR(y[1], 2.2627417f, 1e-6f);
  }
}

TEST(NormDiff, EveryIsaAgreesWithScalar) {
  for (const size_t n : kLengths) {
    const auto x = Random(n, n);
    const auto weight = Random(n, n + 1);
    std::vector<float> expected(n);
    std::vector<uint16_t> expected_bf16(n);
    kNormScalar.rms_norm_f32(x.data(), weight.data(), n, 1e-5f, expected.data());
    kNormScalar.rms_norm_bf16(x.data(), weight.data(), n, 1e-5f, expected_bf16.data());
    for (const Isa isa : AvailableIsas()) {
      SCOPED_TRACE(testing::Message() << Name(isa) << " n " << n);
      std::vector<float> y(n);
      std::vector<uint16_t> y_bf16(n);
      NormKernelsFor(isa).rms_norm_f32(x.data(), weight.data(), n, 1e-5f, y.data());
      for (size_t i = 0; i < n; ++i) EXPECT_NEAR(y[i], expected[i], std::abs(expected[i]) * 2e-6f);
      NormKernelsFor(isa).rms_norm_bf16(x.data(), weight.data(), n, 1e-5f, y_bf16.data());
      ExpectSameBf16(y_bf16, expected_bf16);
      auto sum = x;
      NormKernelsFor(isa).add(sum.data(), weight.data(), n);
      for (size_t i = 0; i < n; ++i) EXPECT_EQ(sum[i], x[i] + weight[i]);
    }
  }
}

TEST(RopeUnit, QuarterTurn) {
  const std::vector<float> cosine = {0, 0, 0, 0};
  const std::vector<float> sine = {1, 1, 1, 1};
  for (const Isa isa : AvailableIsas()) {
    std::vector<float> x = {1, 2, 3, 4, 5, 6, 7, 8};
    std::vector<uint16_t> y(8);
    RopeKernelsFor(isa).rotate_to_bf16(x.data(), cosine.data(), sine.data(), 4, y.data());
    RopeKernelsFor(isa).rotate(x.data(), cosine.data(), sine.data(), 4);
    EXPECT_EQ(x, (std::vector<float>{-5, -6, -7, -8, 1, 2, 3, 4}));
    for (size_t i = 0; i < 8; ++i) EXPECT_EQ(Bf16ToFloat(y[i]), x[i]);
  }
}

TEST(RopeDiff, EveryIsaAgreesWithScalar) {
  for (const size_t half : {4u, 12u, 16u, 20u, 32u, 64u, 100u}) {
    const auto x = Random(2 * half, half);
    std::vector<float> cosine(half), sine(half);
    for (size_t i = 0; i < half; ++i) {
      cosine[i] = std::cos(static_cast<float>(i) * 0.37f);
      sine[i] = std::sin(static_cast<float>(i) * 0.37f);
    }
    auto expected = x;
    std::vector<uint16_t> expected_bf16(2 * half);
    kRopeScalar.rotate(expected.data(), cosine.data(), sine.data(), half);
    kRopeScalar.rotate_to_bf16(x.data(), cosine.data(), sine.data(), half, expected_bf16.data());
    for (const Isa isa : AvailableIsas()) {
      SCOPED_TRACE(testing::Message() << Name(isa) << " half " << half);
      auto y = x;
      std::vector<uint16_t> y_bf16(2 * half);
      RopeKernelsFor(isa).rotate(y.data(), cosine.data(), sine.data(), half);
      RopeKernelsFor(isa).rotate_to_bf16(x.data(), cosine.data(), sine.data(), half, y_bf16.data());
      for (size_t i = 0; i < 2 * half; ++i) EXPECT_NEAR(y[i], expected[i], 1e-6f);
      ExpectSameBf16(y_bf16, expected_bf16);
    }
  }
}

TEST(ActivationDiff, EveryIsaAgreesWithScalar) {
  for (const size_t n : kLengths) {
    auto gate = Random(n, n, 4.0);
    gate[0] = -120.0f;  // exp overflows f32
    if (n > 1) gate[1] = 120.0f;
    const auto up = Random(n, n + 1);
    std::vector<float> expected(n);
    std::vector<uint16_t> expected_bf16(n);
    kActivationScalar.swiglu_f32(gate.data(), up.data(), n, expected.data());
    kActivationScalar.swiglu_bf16(gate.data(), up.data(), n, expected_bf16.data());
    for (const Isa isa : AvailableIsas()) {
      SCOPED_TRACE(testing::Message() << Name(isa) << " n " << n);
      std::vector<float> y(n);
      std::vector<uint16_t> y_bf16(n);
      ActivationKernelsFor(isa).swiglu_f32(gate.data(), up.data(), n, y.data());
      for (size_t i = 0; i < n; ++i) EXPECT_NEAR(y[i], expected[i], std::abs(expected[i]) * 2e-6f + 1e-30f);
      ActivationKernelsFor(isa).swiglu_bf16(gate.data(), up.data(), n, y_bf16.data());
      ExpectSameBf16(y_bf16, expected_bf16);
    }
  }
}

TEST(ActivationDiff, RoundingToBf16IsExact) {
  auto x = Random(1000, 5, 100.0);
  x[3] = std::numeric_limits<float>::quiet_NaN();
  x[4] = std::numeric_limits<float>::infinity();
  x[5] = 1.00390625f;  // halfway between two bf16: to even
  x[6] = 1.01171875f;
  for (const Isa isa : AvailableIsas()) {
    std::vector<uint16_t> y(x.size());
    ActivationKernelsFor(isa).round_to_bf16(x.data(), x.size(), y.data());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], FloatToBf16(x[i])) << Name(isa) << " " << i;
  }
}

}  // namespace
}  // namespace kvplane::kernel
