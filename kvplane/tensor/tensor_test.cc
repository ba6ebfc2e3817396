#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kvplane/tensor/dtype.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::tensor {
namespace {

TEST(DTypeUnit, Bf16RoundsToNearestEven) {
  EXPECT_EQ(FloatToBf16(1.0f), 0x3f80);
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // tie, even below
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);  // tie, even above
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_EQ(FloatToBf16(std::numeric_limits<float>::infinity()), 0x7f80);
  EXPECT_EQ(FloatToBf16(std::numeric_limits<float>::max()), 0x7f80);  // rounds up to infinity
  EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(DTypeProperty, EveryBf16RoundTrips) {
  for (uint32_t x = 0; x < 65536; ++x) {
    const auto pattern = static_cast<uint16_t>(x);
    const float value = Bf16ToFloat(pattern);
    if (std::isnan(value)) continue;
    EXPECT_EQ(FloatToBf16(value), pattern);
  }
}

TEST(DTypeUnit, HalfValues) {
  EXPECT_EQ(F16ToFloat(0x3c00), 1.0f);
  EXPECT_EQ(F16ToFloat(0xc000), -2.0f);
  EXPECT_EQ(F16ToFloat(0x0001), 0x1p-24f);
  EXPECT_EQ(F16ToFloat(0x7bff), 65504.0f);
  EXPECT_TRUE(std::isinf(F16ToFloat(0x7c00)));
  EXPECT_TRUE(std::isnan(F16ToFloat(0x7e00)));
}

TEST(DTypeUnit, Names) {
  EXPECT_EQ(*ParseDType("bfloat16"), DType::kBf16);
  EXPECT_FALSE(ParseDType("int3").ok());
  EXPECT_FALSE(DTypeFromWire(0).ok());
  EXPECT_FALSE(DTypeFromWire(4).ok());
}

TEST(KvViewUnit, GeometryCountsBytes) {
  const KvGeometry geometry{.layers = 8, .kv_heads = 2, .head_dim = 64};
  EXPECT_EQ(geometry.bytes_per_token(), 4096u);  // models/demo/README.md
}

TEST(KvViewUnit, TilesCrossPages) {
  const KvGeometry geometry{.layers = 1, .kv_heads = 2, .head_dim = 8};
  const PageFormat format = PageFormat::HeadMajor(geometry, 16);
  EXPECT_EQ(format.page_elements, 2u * 2 * 16 * 8);
  std::vector<uint16_t> memory(3 * format.page_elements);
  std::vector<uint16_t*> pages;
  for (size_t i = 0; i < 3; ++i) pages.push_back(memory.data() + i * format.page_elements);
  const TileView view = MakeTileView({pages, format}, Side::kValue, 10, 30, 1, 1, 8);
  ASSERT_EQ(view.run_count, 3u);
  EXPECT_EQ(view.runs[0].tokens, 6u);
  EXPECT_EQ(view.runs[1].tokens, 16u);
  EXPECT_EQ(view.runs[2].tokens, 8u);
  EXPECT_EQ(view.runs[0].base, pages[0] + format.side_stride + format.head_stride + 10 * 8);
  EXPECT_EQ(view.runs[2].base, pages[2] + format.side_stride + format.head_stride);
}

}  // namespace
}  // namespace kvplane::tensor
