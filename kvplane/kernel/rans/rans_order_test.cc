// Orders that leave elements out: the coded lanes are as if the others were not there, which decode as 0.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/kernel/rans/rans.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

template <typename T>
struct alignas(64) Line {
  T values[64 / sizeof(T)];
};

struct Tile {
  Tile(uint32_t tokens, uint32_t heads, uint32_t head_dim)
      : stride(size_t{heads} * head_dim + 32), lines((tokens * stride + 31) / 32) {
    for (uint32_t t = 0; t < tokens; ++t) rows.push_back(lines.data()->values + t * stride);
  }
  size_t stride;
  std::vector<Line<uint16_t>> lines;
  std::vector<uint16_t*> rows;
};

// Sorted at random inside windows of 128, some left out.
std::vector<uint32_t> RandomOrder(base::Rng& rng, uint32_t elements, bool drop) {
  std::vector<uint32_t> order;
  for (uint32_t first = 0; first < elements; first += 128) {
    std::vector<uint32_t> window;
    for (uint32_t e = first; e < std::min(elements, first + 128); ++e) {
      if (!drop || rng.Below(4) != 0) window.push_back(e);
    }
    for (size_t i = window.size(); i-- > 1;) std::swap(window[i], window[rng.Below(i + 1)]);
    order.insert(order.end(), window.begin(), window.end());
  }
  if (order.empty()) order.push_back(0);
  return order;
}

TEST(RansDiff, OrdersThatLeaveElementsOutAgreeOnEveryIsa) {
  base::Rng rng(31);
  constexpr struct {
    uint32_t heads, head_dim;
  } kShapes[] = {{8, 128}, {3, 64}, {1, 320}, {2, 80}, {5, 7}, {1, 1}, {2, 96}};
  for (int round = 0; round < 60; ++round) {
    const auto& at = kShapes[rng.Below(std::size(kShapes))];
    const uint32_t elements = at.heads * at.head_dim;
    const auto tokens = static_cast<uint32_t>(1 + rng.Below(9));
    const std::vector<uint32_t> kept = RandomOrder(rng, elements, rng.Below(3) != 0);
    const auto channels = static_cast<uint32_t>(kept.size());
    const uint32_t groups = (channels + 31) / 32;
    std::vector<RansRung> rungs;
    std::vector<RansScale> scales(groups);
    for (RansScale& scale : scales) {
      rungs.push_back(RansLadderRung(static_cast<uint32_t>(rng.Below(20))));
      for (uint32_t lane = 0; lane < 32; ++lane) scale.Set(lane, 0.5f, 2.0f, 0.25f);
    }
    const RansShape shape{tokens, channels, rungs.data()};

    std::vector<uint32_t> inverse(elements);
    ASSERT_TRUE(InvertRansOrder(kept, inverse));
    std::vector<RansPick> lane_picks(groups), element_picks((elements + 31) / 32);
    const bool windowed =
        BuildRansPicks(kept, lane_picks.data()) & BuildRansPicks(inverse, element_picks.data());
    const RansOrder order{kept.data(), inverse.data(), lane_picks.data(), element_picks.data(), windowed};
    std::vector<Line<std::byte>> scratch(RansScratchBytes(elements) / 64 + 1);
    RansRows layout;
    layout.scales = scales.data();
    layout.heads = at.heads;
    layout.head_dim = at.head_dim;
    layout.head_stride = at.head_dim;
    layout.order = &order;
    layout.scratch = scratch.data()->values;
    RansRows compact = layout;
    compact.heads = 1;
    compact.head_dim = channels;
    compact.order = nullptr;

    std::vector<uint16_t> absent(elements);
    for (uint16_t& value : absent) value = static_cast<uint16_t>(rng.Below(65536));
    Tile in(tokens, at.heads, at.head_dim), gathered(tokens, 1, channels);
    for (uint32_t t = 0; t < tokens; ++t) {
      for (uint32_t e = 0; e < elements; ++e) {
        in.rows[t][e] = tensor::FloatToBf16(static_cast<float>(rng.Normal() * 2));
      }
      for (uint32_t i = 0; i < channels; ++i) gathered.rows[t][i] = in.rows[t][kept[i]];
    }
    const auto encode = [&](Isa isa, const RansRows& rows, const Tile& tile) {
      std::vector<std::byte> buffer(RansMaxStreamBytes(shape));
      std::byte* end = buffer.data() + buffer.size();
      size_t size = 0;
      const uint16_t* const* from = tile.rows.data();
      EXPECT_EQ(Rans(isa).encode_rows(shape, rows, 1, &from, &end, &size), 0u);
      return std::vector<std::byte>(end - size, end);
    };
    const std::vector<std::byte> expected = encode(Isa::kScalar, compact, gathered);
    const std::span<const std::byte> stream(expected);
    Tile plain(tokens, 1, channels);
    uint16_t* const* plain_rows = plain.rows.data();
    ASSERT_EQ(Rans(Isa::kScalar).decode_rows(shape, compact, 1, &stream, &plain_rows), 0u);
    for (const Isa isa : AvailableIsas()) {
      ASSERT_EQ(encode(isa, layout, in), expected) << Name(isa) << " round " << round;
      for (const bool streaming : {false, true}) {
        Tile out(tokens, at.heads, at.head_dim);
        layout.streaming_stores = streaming;
        layout.absent = streaming ? absent.data() : nullptr;
        uint16_t* const* rows = out.rows.data();
        ASSERT_EQ(Rans(isa).decode_rows(shape, layout, 1, &stream, &rows), 0u);
        for (uint32_t t = 0; t < tokens; ++t) {
          for (uint32_t e = 0; e < elements; ++e) {
            const uint16_t value = inverse[e] != kRansNoLane ? plain.rows[t][inverse[e]]
                                   : streaming               ? absent[e]
                                                             : uint16_t{0};
            ASSERT_EQ(out.rows[t][e], value) << Name(isa) << " round " << round << " element " << e;
          }
        }
      }
    }
  }
}

TEST(RansUnit, OrdersMayLeaveElementsOut) {
  std::vector<uint32_t> inverse(4);
  EXPECT_TRUE(InvertRansOrder(std::vector<uint32_t>{3, 1}, inverse));
  EXPECT_EQ(inverse, (std::vector<uint32_t>{kRansNoLane, 1, kRansNoLane, 0}));
  EXPECT_FALSE(InvertRansOrder(std::vector<uint32_t>{3, 3}, inverse));
  EXPECT_FALSE(InvertRansOrder(std::vector<uint32_t>{4}, inverse));
}

}  // namespace
}  // namespace kvplane::kernel
