#include "kvplane/kernel/ecsq/level_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

template <typename T>
class AlignedArray {
 public:
  explicit AlignedArray(size_t count) : blocks_((count * sizeof(T) + 63) / 64) {}
  T* data() { return reinterpret_cast<T*>(blocks_.data()); }
  T& operator[](size_t i) { return data()[i]; }

 private:
  struct alignas(64) Block {
    std::byte bytes[64];
  };
  std::vector<Block> blocks_;
};

// Rows and everything that belongs to their elements, drawn at random.
struct Tile {
  Tile(base::Rng& rng, uint32_t tokens, uint32_t heads, uint32_t head_dim, bool ordered)
      : mean(heads * head_dim),
        inverse_step(heads * head_dim),
        element_of_lane(heads * head_dim),
        lane_of_element(heads * head_dim),
        cap(heads * head_dim),
        weight(heads * head_dim) {
    shape = {tokens, heads, head_dim, head_dim + 32 * rng.Below(2) + rng.Below(3)};
    for (uint32_t first = 0; first < shape.elements(); first += kLevelWindow) {
      std::vector<uint8_t> order(kLevelWindow);
      std::iota(order.begin(), order.end(), uint8_t{0});
      if (ordered) {
        for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.Below(i)]);
      }
      for (uint32_t lane = 0; lane < kLevelWindow; ++lane) {
        element_of_lane[first + lane] = order[lane];
        lane_of_element[first + order[lane]] = static_cast<uint8_t>(lane);
      }
    }
    for (uint32_t e = 0; e < shape.elements(); ++e) {
      mean[e] = static_cast<float>(rng.Normal());
      inverse_step[e] = static_cast<float>(std::exp2(rng.Normal()));
      cap[e] = static_cast<uint8_t>(1 + rng.Below(127));
      weight[e] = static_cast<int8_t>(1 + rng.Below(127));
    }
    const size_t row = shape.heads * shape.head_stride;
    values.resize(row * tokens);
    for (uint16_t& value : values) {
      value = tensor::FloatToBf16(static_cast<float>(rng.Normal() * std::exp2(2 * rng.Normal())));
    }
    for (uint32_t t = 0; t < tokens; ++t) rows.push_back(values.data() + t * row);
  }

  ToLevels to() {
    return {mean.data(), inverse_step.data(), element_of_lane.data(), cap.data(), weight.data()};
  }
  size_t size() const { return size_t{shape.tokens} * shape.elements(); }

  LevelRows shape;
  AlignedArray<float> mean, inverse_step;
  AlignedArray<uint8_t> element_of_lane, lane_of_element, cap;
  AlignedArray<int8_t> weight;
  std::vector<uint16_t> values;
  std::vector<const uint16_t*> rows;
};

Tile RandomTile(base::Rng& rng) {
  constexpr uint32_t kShapes[][2] = {{1, 128}, {2, 64}, {4, 32}, {4, 96}, {8, 128}, {1, 256}, {2, 192}};
  const auto& [heads, head_dim] = kShapes[rng.Below(std::size(kShapes))];
  return Tile(rng, static_cast<uint32_t>(1 + rng.Below(64)), heads, head_dim, rng.Below(2) == 0);
}

TEST(LevelRowsUnit, OneElementByHand) {
  base::Rng rng(1);
  Tile tile(rng, 5, 1, 128, true);
  tile.mean[3] = 1;
  tile.inverse_step[3] = 2;
  const uint32_t lane = tile.lane_of_element[3];
  const float in[] = {1.25f, 1.75f, -70.0f, 3.0f, std::numeric_limits<float>::infinity()};
  const int8_t levels_wanted[] = {0, 2, -128, 4, -128};  // 0.5 and 1.5 to even
  for (uint32_t t = 0; t < 5; ++t)
    tile.values[t * tile.shape.heads * tile.shape.head_stride + 3] = tensor::FloatToBf16(in[t]);
  for (uint32_t i = 0; i < kLevelWindow; ++i) tile.cap[i] = 0;
  tile.cap[lane] = 100;
  tile.weight[lane] = 3;
  for (const Isa isa : AvailableIsas()) {
    AlignedArray<int8_t> levels(tile.size());
    std::vector<uint32_t> sums(4);
    LevelRowsOf(isa).to_levels(tile.shape, tile.to(), tile.rows.data(), levels.data(), sums.data());
    for (uint32_t t = 0; t < 5; ++t) EXPECT_EQ(levels[t * 128 + lane], levels_wanted[t]) << Name(isa) << t;
    for (uint32_t g = 0; g < 4; ++g) EXPECT_EQ(sums[g], g == lane / 32 ? 3u * (2 + 100 + 4 + 100) : 0u);
  }
}

TEST(LevelRowsDiff, LevelsAndSumsAreTheSameOnEveryIsa) {
  base::Rng rng(2);
  for (int round = 0; round < 60; ++round) {
    Tile tile = RandomTile(rng);
    constexpr uint16_t kOdd[] = {0x7f80, 0xff80, 0x7fc1, 0x7f7f, 0xff7f, 0x0001, 0x8000};
    for (int i = 0; i < 20; ++i) {
      tile.values[rng.Below(tile.values.size())] = kOdd[rng.Below(std::size(kOdd))];
    }
    AlignedArray<int8_t> levels(tile.size());
    std::vector<uint32_t> sums(tile.shape.groups());
    LevelRowsOf(Isa::kScalar).to_levels(tile.shape, tile.to(), tile.rows.data(), levels.data(), sums.data());
    for (const Isa isa : AvailableIsas()) {
      AlignedArray<int8_t> other(tile.size());
      std::vector<uint32_t> other_sums(tile.shape.groups());
      LevelRowsOf(isa).to_levels(tile.shape, tile.to(), tile.rows.data(), other.data(), other_sums.data());
      ASSERT_TRUE(std::equal(levels.data(), levels.data() + tile.size(), other.data())) << Name(isa);
      ASSERT_EQ(sums, other_sums) << Name(isa);
    }
  }
}

TEST(LevelRowsDiff, LevelsAboveTheirLanesLimitsAreFoundInOrder) {
  base::Rng rng(4);
  for (int round = 0; round < 30; ++round) {
    Tile tile = RandomTile(rng);
    AlignedArray<int8_t> levels(tile.size());
    for (size_t i = 0; i < tile.size(); ++i) levels[i] = static_cast<int8_t>(rng.Below(256));
    std::vector<uint8_t> highest(tile.shape.elements());
    for (uint8_t& limit : highest) limit = static_cast<uint8_t>(100 + rng.Below(28));
    std::vector<uint32_t> expected;
    for (uint32_t i = 0; i < tile.size(); ++i) {
      const uint32_t lane = i % tile.shape.elements();
      if (std::abs(levels[i]) > highest[lane]) {
        expected.push_back(LevelPosition(i / tile.shape.elements(), lane));
      }
    }
    for (const Isa isa : AvailableIsas()) {
      std::vector<uint32_t> found(tile.size());
      const size_t count =
          LevelRowsOf(isa).find_above(tile.shape, highest.data(), levels.data(), found.size(), found.data());
      found.resize(count);
      ASSERT_EQ(found, expected) << Name(isa);
      uint32_t first = 0;
      EXPECT_EQ(
          LevelRowsOf(isa).find_above(tile.shape, highest.data(), levels.data(), count > 0 ? 1 : 0, &first),
          count);
      EXPECT_EQ(first, count > 0 ? expected[0] : 0u);
    }
  }
}

}  // namespace
}  // namespace kvplane::kernel
