#include "kvplane/kernel/project/project.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

using tensor::Bf16ToFloat;
using tensor::FloatToBf16;

std::vector<uint16_t> Normal(base::Rng& rng, size_t count) {
  std::vector<uint16_t> values(count);
  for (uint16_t& v : values) v = FloatToBf16(static_cast<float>(rng.Normal()));
  return values;
}

TEST(ProjectUnit, TwoRowsByHand) {
  const std::vector<uint16_t> x = {0x3f80, 0x4000, 0x4040, 0xbf80, 0x0000, 0x3f00};  // 1 2 3; -1 0 0.5
  const std::vector<uint16_t> m = {0x3f80, 0x4000, 0x4080, 0x3f80, 0xbf80, 0x0000};  // 1 2; 4 1; -1 0
  const PackedMatrix packed = PackedMatrix::Pack(m.data(), 3, 2, 2);
  for (const ProjectKernel& kernel : ProjectKernels()) {
    float y[4];
    uint16_t rounded[4];
    const Projection all{x.data(), 3, 2, 3, &packed, 2};
    kernel.to_f32(all, y, 2);
    EXPECT_EQ(std::vector<float>(y, y + 4), (std::vector<float>{6.0f, 4.0f, -1.5f, -2.0f})) << kernel.name;
    kernel.to_bf16(all, rounded, 2);
    EXPECT_EQ(std::vector<uint16_t>(rounded, rounded + 4),
              (std::vector<uint16_t>{0x40c0, 0x4080, 0xbfc0, 0xc000}));
    // The first row of the matrix and its first column alone.
    kernel.to_f32({x.data(), 3, 2, 1, &packed, 1}, y, 1);
    EXPECT_EQ(y[0], 1.0f);
    EXPECT_EQ(y[1], -1.0f);
  }
}

// Against binary64, for odd shapes, leading parts and strided operands that end where their memory ends.
TEST(ProjectDiff, EveryKernelIsTheProductToRounding) {
  base::Rng rng(91);
  for (int round = 0; round < 150; ++round) {
    const auto tokens = static_cast<uint32_t>(1 + rng.Below(20));
    const auto rows = static_cast<uint32_t>(1 + rng.Below(150));
    const auto columns = static_cast<uint32_t>(1 + rng.Below(150));
    const auto depth = static_cast<uint32_t>(rng.Below(3) == 0 ? 1 + rng.Below(rows) : rows);
    const auto taken = static_cast<uint32_t>(rng.Below(3) == 0 ? 1 + rng.Below(columns) : columns);
    const size_t stride = columns + rng.Below(3);
    const size_t x_stride = depth + rng.Below(3);
    const std::vector<uint16_t> m = Normal(rng, (rows - 1) * stride + columns);
    const PackedMatrix packed = PackedMatrix::Pack(m.data(), rows, columns, stride);
    const std::vector<uint16_t> all = Normal(rng, (tokens - 1) * x_stride + depth);
    const auto x = std::make_unique<uint16_t[]>(all.size());  // no spare capacity: ASan sees a read past it
    std::copy(all.begin(), all.end(), x.get());
    const Projection projection{x.get(), x_stride, tokens, depth, &packed, taken};
    const size_t y_stride = taken + rng.Below(3);
    const size_t y_size = (tokens - 1) * y_stride + taken;
    for (const ProjectKernel& kernel : ProjectKernels()) {
      std::vector<float> y(y_size, -77.0f);
      std::vector<uint16_t> rounded(y_size, 0xbeef);
      kernel.to_f32(projection, y.data(), y_stride);
      kernel.to_bf16(projection, rounded.data(), y_stride);
      for (uint32_t t = 0; t < tokens; ++t) {
        for (uint32_t c = 0; c < taken; ++c) {
          double sum = 0, size = 0;
          for (uint32_t k = 0; k < depth; ++k) {
            const double term =
                static_cast<double>(Bf16ToFloat(x[t * x_stride + k])) * Bf16ToFloat(m[k * stride + c]);
            sum += term;
            size += std::abs(term);
          }
          const size_t at = t * y_stride + c;
          ASSERT_NEAR(y[at], sum, size * depth * 0x1p-24) << kernel.name;
          ASSERT_EQ(rounded[at], FloatToBf16(y[at])) << kernel.name;
        }
        for (size_t at = t * y_stride + taken; at < std::min(y_size, (t + 1) * y_stride); ++at) {
          ASSERT_EQ(y[at], -77.0f);
          ASSERT_EQ(rounded[at], 0xbeef);
        }
      }
    }
  }
}

TEST(ProjectUnit, TheActiveKernelIsOfTheActiveIsa) { EXPECT_EQ(Project().isa, ActiveIsa()); }

}  // namespace
}  // namespace kvplane::kernel
