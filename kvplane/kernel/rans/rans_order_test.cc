// Orders that leave elements out: the coded lanes are as if the others were not there, which decode as 0.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/base/rng.h"
#include "kvplane/kernel/rans/rans.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

template <typename T>
struct alignas(64) Line {
  T values[64 / sizeof(T)];
};

// Rows that hold a pattern until they are written.
constexpr uint16_t kUntouched = 0xbeef;

struct Tile {
  Tile(uint32_t tokens, uint32_t heads, uint32_t head_dim)
      : stride(size_t{heads} * head_dim + 32), lines((tokens * stride + 31) / 32) {
    uint16_t* const values = lines.data()->values;
    std::fill_n(values, lines.size() * std::size(lines[0].values), kUntouched);
    for (uint32_t t = 0; t < tokens; ++t) rows.push_back(values + t * stride);
  }
  size_t stride;
  std::vector<Line<uint16_t>> lines;
  std::vector<uint16_t*> rows;
};

// Which elements have no lane. What lies in whole windows keeps the lanes of the others at home, so that
// vector code may permute windows on their way.
enum class Drop : uint8_t {
  kNone,
  kSome,
  kLastWindows,
  kLastLane,
  kEndOfLastWindow,
  kFirstWindow,
  kAllButOne,
  kLast
};

bool Drops(Drop drop, uint32_t element, uint32_t elements, uint32_t at, base::Rng& rng) {
  const uint32_t last_window = (elements - 1) / 128;
  switch (drop) {
    case Drop::kSome:
      return rng.Below(4) == 0;
    case Drop::kLastWindows:
      return element / 128 > at % std::max(last_window, 1u);
    case Drop::kLastLane:
      return element + 1 == elements;
    case Drop::kEndOfLastWindow:
      return element / 128 == last_window && element % 128 >= 1 + at % 128;
    case Drop::kFirstWindow:
      return last_window > 0 && element < 128;
    case Drop::kAllButOne:
      return element != at % elements;
    default:
      return false;
  }
}

// Sorted at random inside windows of 128, some left out.
std::vector<uint32_t> RandomOrder(base::Rng& rng, uint32_t elements, Drop drop) {
  const auto at = static_cast<uint32_t>(rng.Below(elements));
  std::vector<uint32_t> order;
  for (uint32_t first = 0; first < elements; first += 128) {
    std::vector<uint32_t> window;
    for (uint32_t e = first; e < std::min(elements, first + 128); ++e) {
      if (!Drops(drop, e, elements, at, rng)) window.push_back(e);
    }
    for (size_t i = window.size(); i-- > 1;) std::swap(window[i], window[rng.Below(i + 1)]);
    order.insert(order.end(), window.begin(), window.end());
  }
  if (order.empty()) order.push_back(0);
  return order;
}

struct OrderTrial {
  uint32_t heads, head_dim, tokens, streams;
  Drop drop;
};

std::string Describe(const OrderTrial& trial) {
  return fmt::format("{} heads of {}, {} tokens, {} streams, drop {}", trial.heads, trial.head_dim,
                     trial.tokens, trial.streams, static_cast<int>(trial.drop));
}

// The lanes of `trial` in a random order, and as if they were all there is.
struct OrderedLanes {
  OrderedLanes(const OrderTrial& trial, base::Rng& rng)
      : elements(trial.heads * trial.head_dim),
        kept(RandomOrder(rng, elements, trial.drop)),
        inverse(elements),
        lane_picks((kept.size() + 31) / 32),
        element_picks((elements + 31) / 32),
        scales(lane_picks.size()),
        scratch(RansScratchBytes(elements) / 64 + 1) {
    for (RansScale& scale : scales) {
      rungs.push_back(RansLadderRung(static_cast<uint32_t>(rng.Below(20))));
      for (uint32_t lane = 0; lane < 32; ++lane) scale.Set(lane, 0.5f, 2.0f, 0.25f);
    }
    shape = {trial.tokens, static_cast<uint32_t>(kept.size()), rungs.data()};
    KVPLANE_CHECK(InvertRansOrder(kept, inverse));
    const bool windowed =
        BuildRansPicks(kept, lane_picks.data()) & BuildRansPicks(inverse, element_picks.data());
    order = {kept.data(), inverse.data(), lane_picks.data(), element_picks.data(), windowed};
    layout.scales = compact.scales = scales.data();
    layout.heads = trial.heads;
    layout.head_dim = trial.head_dim;
    layout.head_stride = trial.head_dim;
    layout.order = &order;
    layout.scratch = compact.scratch = scratch.data()->values;
    compact.heads = 1;
    compact.head_dim = shape.channels;
    compact.head_stride = shape.channels;
    for (uint32_t e = 0; e < elements; ++e) absent.push_back(static_cast<uint16_t>(rng.Below(65536)));
  }
  OrderedLanes(const OrderedLanes&) = delete;
  OrderedLanes& operator=(const OrderedLanes&) = delete;

  uint32_t elements;
  std::vector<uint32_t> kept;
  std::vector<uint32_t> inverse;
  std::vector<RansPick> lane_picks;
  std::vector<RansPick> element_picks;
  std::vector<RansScale> scales;
  std::vector<Line<std::byte>> scratch;
  std::vector<RansRung> rungs;
  std::vector<uint16_t> absent;
  RansShape shape;
  RansOrder order;
  RansRows layout;
  RansRows compact;
};

using Streams = std::vector<std::vector<std::byte>>;

Streams Encode(Isa isa, const RansShape& shape, const RansRows& rows, const std::vector<Tile>& tiles) {
  const size_t room = RansMaxStreamBytes(shape);
  std::vector<std::byte> buffer(tiles.size() * room);
  std::vector<const uint16_t* const*> from;
  std::vector<std::byte*> ends;
  std::vector<size_t> sizes(tiles.size());
  for (const Tile& tile : tiles) {
    from.push_back(tile.rows.data());
    ends.push_back(buffer.data() + from.size() * room);
  }
  EXPECT_EQ(Rans(isa).encode_rows(shape, rows, static_cast<uint32_t>(tiles.size()), from.data(), ends.data(),
                                  sizes.data()),
            0u);
  Streams streams;
  for (size_t v = 0; v < tiles.size(); ++v) streams.emplace_back(ends[v] - sizes[v], ends[v]);
  return streams;
}

uint32_t Decode(Isa isa, const RansShape& shape, const RansRows& rows, const Streams& streams,
                std::vector<Tile>& tiles) {
  const std::vector<std::span<const std::byte>> in(streams.begin(), streams.end());
  std::vector<uint16_t* const*> to;
  for (Tile& tile : tiles) to.push_back(tile.rows.data());
  return Rans(isa).decode_rows(shape, rows, static_cast<uint32_t>(streams.size()), in.data(), to.data());
}

// Everything that decoding on `isa` writes: each lane's value at its element, `absent` at the others, and
// nothing beside the rows.
void ExpectRows(Isa isa, const OrderTrial& trial, OrderedLanes& lanes, const Streams& streams,
                const std::vector<Tile>& plain) {
  for (const bool streaming : {false, true}) {
    std::vector<Tile> out;
    for (uint32_t v = 0; v < trial.streams; ++v) out.emplace_back(trial.tokens, trial.heads, trial.head_dim);
    lanes.layout.streaming_stores = streaming;
    lanes.layout.absent = streaming ? lanes.absent.data() : nullptr;
    ASSERT_EQ(Decode(isa, lanes.shape, lanes.layout, streams, out), 0u);
    for (uint32_t v = 0; v < trial.streams; ++v) {
      std::vector<Tile> expected(1, Tile(trial.tokens, trial.heads, trial.head_dim));
      Tile& tile = expected.front();
      for (uint32_t i = 0; i < trial.tokens * lanes.elements; ++i) {
        const uint32_t e = i % lanes.elements;
        const uint32_t t = i / lanes.elements;
        const uint32_t lane = lanes.inverse[e];
        const uint16_t other = streaming ? lanes.absent[e] : uint16_t{0};
        tile.lines.data()->values[t * tile.stride + e] = lane == kRansNoLane ? other : plain[v].rows[t][lane];
      }
      const bool same = std::equal(tile.lines.begin(), tile.lines.end(), out[v].lines.begin(),
                                   [](const auto& a, const auto& b) {
                                     return std::equal(std::begin(a.values), std::end(a.values), b.values);
                                   });
      ASSERT_TRUE(same) << Name(isa) << ", " << Describe(trial) << ", stream " << v << ", streaming "
                        << streaming;
    }
  }
}

void TryOrder(const OrderTrial& trial, base::Rng& rng) {
  OrderedLanes lanes(trial, rng);
  std::vector<Tile> in, gathered, plain;
  for (uint32_t v = 0; v < trial.streams; ++v) {
    in.emplace_back(trial.tokens, trial.heads, trial.head_dim);
    gathered.emplace_back(trial.tokens, 1, lanes.shape.channels);
    plain.emplace_back(trial.tokens, 1, lanes.shape.channels);
    for (uint32_t t = 0; t < trial.tokens; ++t) {
      for (uint32_t e = 0; e < lanes.elements; ++e) {
        in[v].rows[t][e] = tensor::FloatToBf16(static_cast<float>(rng.Normal() * 2));
      }
      for (uint32_t i = 0; i < lanes.shape.channels; ++i)
        gathered[v].rows[t][i] = in[v].rows[t][lanes.kept[i]];
    }
  }
  const Streams expected = Encode(Isa::kScalar, lanes.shape, lanes.compact, gathered);
  ASSERT_EQ(Decode(Isa::kScalar, lanes.shape, lanes.compact, expected, plain), 0u);
  for (const Isa isa : AvailableIsas()) {
    ASSERT_EQ(Encode(isa, lanes.shape, lanes.layout, in), expected) << Name(isa) << ", " << Describe(trial);
    ExpectRows(isa, trial, lanes, expected, plain);
  }
}

TEST(RansDiff, OrdersThatLeaveElementsOutAgreeOnEveryIsa) {
  base::Rng rng(31);
  constexpr struct {
    uint32_t heads, head_dim;
  } kShapes[] = {{8, 128}, {3, 64}, {1, 320}, {2, 80},  {5, 7},   {1, 1},   {2, 96},
                 {1, 128}, {2, 64}, {4, 64},  {2, 128}, {1, 256}, {16, 64}, {1, 384}};
  constexpr uint32_t kStreams[] = {1, 2, 3, 4, 7, 8};
  for (const auto& at : kShapes) {
    for (int drop = 0; drop < static_cast<int>(Drop::kLast); ++drop) {
      for (const uint32_t streams : kStreams) {
        const auto tokens = static_cast<uint32_t>(1 + rng.Below(5));
        TryOrder({at.heads, at.head_dim, tokens, streams, static_cast<Drop>(drop)}, rng);
        if (::testing::Test::HasFatalFailure()) return;
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
