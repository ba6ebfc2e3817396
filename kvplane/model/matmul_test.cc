#include "kvplane/model/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "kvplane/base/rng.h"

namespace kvplane::model {
namespace {

struct Problem {
  uint32_t n, k;
};
// Multiples of 64 (columns can be split), others, and one large enough that RunSplit does split.
constexpr Problem kProblems[] = {{512, 256}, {1376, 256}, {256, 688}, {100, 200}, {72, 40}, {4096, 1024}};
constexpr uint32_t kMostRows = 256;

std::vector<uint16_t> RandomBf16(size_t count, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<uint16_t> out(count);
  for (uint16_t& x : out) x = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
  return out;
}

std::vector<float> Widened(const std::vector<uint16_t>& values) {
  std::vector<float> out;
  for (const uint16_t x : values) out.push_back(tensor::Bf16ToFloat(x));
  return out;
}

WeightRows Part(const std::vector<uint16_t>& w, uint32_t first, uint32_t rows, uint32_t k) {
  return {reinterpret_cast<const std::byte*>(w.data() + size_t{first} * k), tensor::DType::kBf16, rows, k};
}

std::vector<ComputeType> Types() {
  if (Bf16MatmulSupported()) return {ComputeType::kF32, ComputeType::kBf16};
  return {ComputeType::kF32};
}

class MatmulTest : public testing::TestWithParam<Problem> {
 protected:
  void SetUp() override {
    const auto [n, k] = GetParam();
    weights_ = RandomBf16(size_t{n} * k, n + k);
    x_bf16_ = RandomBf16(size_t{kMostRows} * k, 7);
    x_f32_ = Widened(x_bf16_);
  }

  const void* x(ComputeType type) const {
    return type == ComputeType::kBf16 ? static_cast<const void*>(x_bf16_.data()) : x_f32_.data();
  }

  std::vector<uint16_t> weights_, x_bf16_;
  std::vector<float> x_f32_;
};

TEST_P(MatmulTest, AgreesWithDoublesDiff) {
  const auto [n, k] = GetParam();
  const auto wide = Widened(weights_);
  for (const ComputeType type : Types()) {
    auto matmul = Matmul::Create(type, 1);
    ASSERT_TRUE(matmul.ok()) << matmul.status().ToString();
    // Three parts of uneven height give the matrix they were cut from.
    const WeightRows parts[] = {Part(weights_, 0, 3, k), Part(weights_, 3, n / 2, k),
                                Part(weights_, 3 + n / 2, n - 3 - n / 2, k)};
    auto packed = (*matmul)->Pack(parts);
    ASSERT_TRUE(packed.ok()) << packed.status().ToString();
    std::vector<float> y(size_t{5} * n);
    (*matmul)->Run(*packed, x(type), 5, y.data(), 0);
    for (uint32_t row = 0; row < 5; ++row) {
      for (uint32_t column = 0; column < n; ++column) {
        double expected = 0;
        for (uint32_t i = 0; i < k; ++i) {
          expected += double{x_f32_[row * k + i]} * double{wide[size_t{column} * k + i]};
        }
        ASSERT_NEAR(y[row * n + column], expected, 1e-5 * k) << Name(type) << " " << row << " " << column;
      }
    }
  }
}

TEST_P(MatmulTest, ARowNeverDependsOnTheOthersProperty) {
  const auto [n, k] = GetParam();
  for (const ComputeType type : Types()) {
    std::vector<float> reference(size_t{kMostRows} * n);
    {
      auto matmul = Matmul::Create(type, 1);
      const WeightRows part = Part(weights_, 0, n, k);
      auto packed = (*matmul)->Pack(std::span(&part, 1));
      const size_t row_bytes = k * (*matmul)->element_bytes();
      for (uint32_t row = 0; row < kMostRows; ++row) {
        (*matmul)->Run(*packed, static_cast<const std::byte*>(x(type)) + row * row_bytes, 1,
                       reference.data() + size_t{row} * n, 0);
      }
    }
    for (const size_t threads : {1u, 2u, 3u}) {
      base::ThreadPool pool(threads);
      auto matmul = Matmul::Create(type, threads);
      const WeightRows part = Part(weights_, 0, n, k);
      auto packed = (*matmul)->Pack(std::span(&part, 1));
      for (const uint32_t rows : {1u, 2u, 3u, 5u, 7u, 12u, 16u, 33u, 64u, 100u, 256u}) {
        SCOPED_TRACE(testing::Message() << Name(type) << " threads " << threads << " rows " << rows);
        const size_t values = size_t{rows} * n;
        std::vector<float> y(values + 1, 42.0f);
        (*matmul)->Run(*packed, x(type), rows, y.data(), threads - 1);
        EXPECT_EQ(0, std::memcmp(y.data(), reference.data(), values * sizeof(float)));
        EXPECT_EQ(y[values], 42.0f);
        if (rows > kRowBuckets.back()) continue;
        std::fill(y.begin(), y.end(), 42.0f);
        (*matmul)->RunSplit(*packed, x(type), rows, y.data(), pool);
        EXPECT_EQ(0, std::memcmp(y.data(), reference.data(), values * sizeof(float)));
        EXPECT_EQ(y[values], 42.0f);
      }
      EXPECT_GT((*matmul)->seconds(), 0.0);
      (*matmul)->ResetSeconds();
      EXPECT_EQ((*matmul)->seconds(), 0.0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, MatmulTest, testing::ValuesIn(kProblems), [](const auto& problem) {
  return fmt::format("{}x{}", problem.param.n, problem.param.k);
});

TEST(MatmulUnit, ReadsEveryStoredType) {
  const float f32[] = {1, 2, 3, 4};
  const uint16_t bf16[] = {0x3f80, 0x4000, 0x4040, 0x4080};
  const uint16_t f16[] = {0x3c00, 0x4000, 0x4200, 0x4400};
  const std::pair<const void*, tensor::DType> stored[] = {
      {f32, tensor::DType::kF32}, {bf16, tensor::DType::kBf16}, {f16, tensor::DType::kF16}};
  for (const ComputeType type : Types()) {
    const float x_f32[] = {1, 10};
    const uint16_t x_bf16[] = {0x3f80, 0x4120};
    for (const auto& [bytes, dtype] : stored) {
      auto matmul = Matmul::Create(type, 1);
      const WeightRows part{static_cast<const std::byte*>(bytes), dtype, 2, 2};
      auto packed = (*matmul)->Pack(std::span(&part, 1));
      ASSERT_TRUE(packed.ok()) << packed.status().ToString();
      float y[2];
      (*matmul)->Run(*packed, type == ComputeType::kBf16 ? static_cast<const void*>(x_bf16) : x_f32, 1, y, 0);
      EXPECT_EQ(y[0], 21.0f);
      EXPECT_EQ(y[1], 43.0f);
    }
  }
}

TEST(MatmulUnit, FasterComputeTypeIsOneThatWorks) {
  EXPECT_TRUE(Matmul::Create(FasterComputeType(), 1).ok());
  EXPECT_NE(FasterComputeType(), ComputeType::kAuto);
}

}  // namespace
}  // namespace kvplane::model
