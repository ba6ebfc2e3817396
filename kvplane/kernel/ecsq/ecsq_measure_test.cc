#include "kvplane/kernel/ecsq/ecsq_measure.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

struct alignas(64) Line {
  float values[16];
};
struct Floats {
  explicit Floats(size_t count) : lines((count + 15) / 16) {}
  float* data() { return lines.data()->values; }
  std::vector<Line> lines;
};

TEST(EcsqMeasureUnit, TwoTokensByHand) {
  const uint16_t rows[2][3] = {{tensor::FloatToBf16(1), tensor::FloatToBf16(-2), tensor::FloatToBf16(0.5f)},
                               {tensor::FloatToBf16(3), tensor::FloatToBf16(2), tensor::FloatToBf16(0.5f)}};
  const EcsqRows shape{2, 1, 3, 3};
  ASSERT_EQ(shape.slots(), 32u);
  EXPECT_EQ(shape.slot(0, 1), 16u);
  EXPECT_EQ(shape.slot(0, 2), 1u);
  Floats mean(32), inverse(32), largest(32), energy(32);
  std::fill_n(mean.data(), 32, 1.0f);
  std::fill_n(inverse.data(), 32, 2.0f);
  const uint16_t* at[] = {rows[0], rows[1]};
  for (const Isa isa : AvailableIsas()) {
    ASSERT_TRUE(EcsqMeasure(isa)(shape, at, {mean.data(), inverse.data()}, {largest.data(), energy.data()}));
    EXPECT_EQ(largest.data()[0], 4.0f);
    EXPECT_EQ(energy.data()[0], 16.0f);  // 0, 4
    EXPECT_EQ(largest.data()[16], 6.0f);
    EXPECT_EQ(energy.data()[16], 40.0f);  // -6, 2
    EXPECT_EQ(largest.data()[1], 1.0f);
    EXPECT_EQ(energy.data()[1], 2.0f);
  }
}

TEST(EcsqMeasureDiff, EveryIsaGivesTheSameFloats) {
  base::Rng rng(5);
  constexpr uint32_t kHeadDims[] = {1, 7, 31, 32, 33, 64, 80, 96, 128, 129};
  for (int round = 0; round < 80; ++round) {
    const EcsqRows base{static_cast<uint32_t>(1 + rng.Below(64)), static_cast<uint32_t>(1 + rng.Below(4)),
                        kHeadDims[rng.Below(std::size(kHeadDims))], 0};
    EcsqRows shape = base;
    shape.head_stride = base.head_dim + rng.Below(5);
    const size_t row = shape.heads * shape.head_stride;
    std::vector<uint16_t> values(row * shape.tokens);
    for (uint16_t& value : values) {
      value = tensor::FloatToBf16(static_cast<float>(rng.Normal() * std::exp2(4 * rng.Normal())));
    }
    // What lies between heads must not count.
    for (size_t i = 0; i < values.size(); ++i) {
      if (i % row % shape.head_stride >= shape.head_dim) values[i] = 0x7fc0;
    }
    std::vector<const uint16_t*> rows;
    for (uint32_t t = 0; t < shape.tokens; ++t) rows.push_back(values.data() + t * row);
    Floats mean(shape.slots()), inverse(shape.slots());
    for (size_t i = 0; i < shape.slots(); ++i) {
      mean.data()[i] = static_cast<float>(rng.Normal());
      inverse.data()[i] = static_cast<float>(std::exp2(rng.Normal()));
    }
    Floats largest(shape.slots()), energy(shape.slots());
    ASSERT_TRUE(internal::EcsqMeasureScalar(shape, rows.data(), {mean.data(), inverse.data()},
                                            {largest.data(), energy.data()}));
    for (const Isa isa : AvailableIsas()) {
      Floats other_largest(shape.slots()), other_energy(shape.slots());
      ASSERT_TRUE(EcsqMeasure(isa)(shape, rows.data(), {mean.data(), inverse.data()},
                                   {other_largest.data(), other_energy.data()}));
      for (uint32_t h = 0; h < shape.heads; ++h) {
        for (uint32_t c = 0; c < shape.head_dim; ++c) {
          const size_t slot = shape.slot(h, c);
          ASSERT_EQ(other_largest.data()[slot], largest.data()[slot]) << Name(isa);
          ASSERT_EQ(other_energy.data()[slot], energy.data()[slot]) << Name(isa);
        }
      }
    }
  }
}

TEST(EcsqMeasureUnit, ValuesWithoutASquareAreReported) {
  constexpr uint16_t kBad[] = {0x7f80, 0xff80, 0x7fc0, 0x7e80, 0xfe81};
  for (const Isa isa : AvailableIsas()) {
    for (const uint16_t bad : kBad) {
      std::vector<uint16_t> values(40 * 5);
      const EcsqRows shape{5, 1, 40, 40};
      values[3 * 40 + 37] = bad;
      std::vector<const uint16_t*> rows;
      for (uint32_t t = 0; t < 5; ++t) rows.push_back(values.data() + t * 40);
      Floats mean(64), inverse(64), largest(64), energy(64);
      EXPECT_FALSE(EcsqMeasure(isa)(shape, rows.data(), {mean.data(), inverse.data()},
                                    {largest.data(), energy.data()}));
      values[3 * 40 + 37] = 0x7e7f;
      EXPECT_TRUE(EcsqMeasure(isa)(shape, rows.data(), {mean.data(), inverse.data()},
                                   {largest.data(), energy.data()}));
    }
  }
}

}  // namespace
}  // namespace kvplane::kernel
