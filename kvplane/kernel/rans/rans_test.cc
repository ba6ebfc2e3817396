#include "kvplane/kernel/rans/rans.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

using Bytes = std::vector<std::byte>;

// A shape that owns its rungs.
struct Plan {
  Plan(uint32_t tokens, uint32_t channels, std::vector<RansRung> rungs_in) : rungs(std::move(rungs_in)) {
    shape = {tokens, channels, rungs.data()};
  }
  Plan(const Plan&) = delete;

  std::vector<RansRung> rungs;
  RansShape shape;
};

std::vector<RansRung> RandomRungs(base::Rng& rng, uint32_t groups) {
  const bool bypass = rng.Below(2) == 0;
  std::vector<RansRung> rungs(groups);
  for (RansRung& rung : rungs) {
    const auto rans_class = static_cast<uint32_t>(rng.Below(kRansClasses));
    rung = RansRung::Of(rans_class, bypass ? static_cast<uint32_t>(rng.Below(kRansMaxBypass + 1)) : 0);
  }
  return rungs;
}

std::unique_ptr<Plan> RandomPlan(base::Rng& rng) {
  const auto tokens = static_cast<uint32_t>(1 + rng.Below(64));
  const auto channels =
      static_cast<uint32_t>(rng.Below(2) == 0 ? 32 * (1 + rng.Below(6)) : 1 + rng.Below(200));
  return std::make_unique<Plan>(tokens, channels, RandomRungs(rng, (channels + 31) / 32));
}

double Sigma(RansRung rung) { return 0.25 * std::exp2(rung.rans_class() / 4.0 + rung.bypass()); }

// Levels of the rung's own spread, inside its range; dead lanes 0.
std::vector<int16_t> RandomLevels(base::Rng& rng, const RansShape& shape) {
  std::vector<int16_t> levels(shape.steps() * kRansLanes);
  for (size_t i = 0; i < levels.size(); ++i) {
    const size_t g = i / kRansLanes % shape.groups();
    if (g * kRansLanes + i % kRansLanes >= shape.channels) continue;
    const RansRung rung = shape.rungs[g];
    const auto level = static_cast<int32_t>(std::lround(rng.Normal() * Sigma(rung)));
    levels[i] = static_cast<int16_t>(std::clamp(level, rung.min_level(), rung.max_level()));
  }
  return levels;
}

std::vector<Bytes> EncodeLevels(Isa isa, const RansShape& shape,
                                const std::vector<std::vector<int16_t>>& levels) {
  const auto streams = static_cast<uint32_t>(levels.size());
  std::vector<Bytes> buffers(streams, Bytes(RansMaxStreamBytes(shape)));
  const int16_t* in[kRansMaxStreams];
  std::byte* ends[kRansMaxStreams];
  size_t sizes[kRansMaxStreams];
  for (uint32_t v = 0; v < streams; ++v) {
    in[v] = levels[v].data();
    ends[v] = buffers[v].data() + buffers[v].size();
  }
  Rans(isa).encode_levels(shape, streams, in, ends, sizes);
  std::vector<Bytes> out;
  for (uint32_t v = 0; v < streams; ++v) out.emplace_back(ends[v] - sizes[v], ends[v]);
  return out;
}

struct DecodedLevels {
  uint32_t corrupt = 0;
  std::vector<std::vector<int16_t>> levels;
};
DecodedLevels DecodeLevels(Isa isa, const RansShape& shape, const std::vector<Bytes>& coded) {
  DecodedLevels out;
  const auto streams = static_cast<uint32_t>(coded.size());
  out.levels.assign(streams, std::vector<int16_t>(shape.steps() * kRansLanes, int16_t{0x5a5a}));
  std::span<const std::byte> in[kRansMaxStreams];
  int16_t* to[kRansMaxStreams];
  for (uint32_t v = 0; v < streams; ++v) {
    in[v] = coded[v];
    to[v] = out.levels[v].data();
  }
  out.corrupt = Rans(isa).decode_levels(shape, streams, in, to);
  return out;
}

// The example of docs/formats/rans.md, section 9.
TEST(RansUnit, ExampleOfTheSpecification) {
  const Plan plan(3, 3, {RansRung::Of(9, 1)});
  std::vector<int16_t> levels(3 * kRansLanes);
  const int16_t rows[3][3] = {{1, 0, -5}, {0, 1, 2}, {-1, 0, 4}};
  for (size_t t = 0; t < 3; ++t)
    std::copy_n(rows[t], 3, levels.begin() + static_cast<ptrdiff_t>(t * kRansLanes));
  std::vector<uint8_t> expected = {0x66, 0x24, 0x36, 0x24, 0x8a, 0x02};
  for (int lane = 3; lane < 32; ++lane) expected.insert(expected.end(), {0x00, 0x01});
  expected.insert(expected.end(), {0x65, 0x02, 0, 0, 0, 0x05, 0, 0, 0, 0x06, 0, 0, 0});
  for (const Isa isa : AvailableIsas()) {
    const Bytes coded = EncodeLevels(isa, plan.shape, {levels})[0];
    ASSERT_EQ(coded.size(), expected.size());
    for (size_t i = 0; i < coded.size(); ++i) EXPECT_EQ(static_cast<uint8_t>(coded[i]), expected[i]) << i;
    const DecodedLevels decoded = DecodeLevels(isa, plan.shape, {coded});
    EXPECT_EQ(decoded.corrupt, 0u);
    EXPECT_EQ(decoded.levels[0], levels);
  }
}

TEST(RansUnit, RungsHaveTheirRanges) {
  EXPECT_EQ(RansRung::Of(0, 0).max_level(), 1);
  EXPECT_EQ(RansRung::Of(0, 0).min_level(), -1);
  EXPECT_EQ(RansRung::Of(9, 1).max_level(), 8);
  EXPECT_EQ(RansRung::Of(9, 1).min_level(), -9);
  EXPECT_EQ(RansRung::Of(16, 4).max_level(), 247);
  EXPECT_EQ(RansRung::Of(16, 4).min_level(), -248);
  EXPECT_EQ(RansLadderRung(0), RansRung::Of(0, 0));
  EXPECT_EQ(RansLadderRung(13), RansRung::Of(13, 0));
  EXPECT_EQ(RansLadderRung(14), RansRung::Of(10, 1));
  EXPECT_EQ(RansLadderRung(18), RansRung::Of(10, 2));
  EXPECT_EQ(RansLadderRung(29), RansRung::Of(13, 4));
  EXPECT_EQ(RansLadderRung(32), RansRung::Of(16, 4));
  EXPECT_FALSE((RansRung{17}).valid());
  EXPECT_FALSE((RansRung{5 << 5}).valid());
}

TEST(RansUnit, LevelsBeyondTheRangeAreClamped) {
  const Plan plan(1, 32, {RansRung::Of(9, 1)});
  std::vector<int16_t> levels(32), clamped(32);
  for (size_t i = 0; i < 32; ++i) {
    levels[i] = static_cast<int16_t>(i < 16 ? -32768 + static_cast<int>(i) : 32767 - static_cast<int>(i));
    clamped[i] = i < 16 ? -9 : 8;
  }
  for (const Isa isa : AvailableIsas()) {
    EXPECT_EQ(DecodeLevels(isa, plan.shape, EncodeLevels(isa, plan.shape, {levels})).levels[0], clamped);
  }
}

TEST(RansDiff, RoundTripsAndBytesAgreeOnEveryIsa) {
  base::Rng rng(11);
  for (int round = 0; round < 300; ++round) {
    const auto plan = RandomPlan(rng);
    std::vector<std::vector<int16_t>> levels(1 + rng.Below(kRansMaxStreams));
    for (auto& stream : levels) stream = RandomLevels(rng, plan->shape);
    const std::vector<Bytes> expected = EncodeLevels(Isa::kScalar, plan->shape, levels);
    for (const Isa isa : AvailableIsas()) {
      ASSERT_EQ(EncodeLevels(isa, plan->shape, levels), expected) << Name(isa) << " round " << round;
      const DecodedLevels decoded = DecodeLevels(isa, plan->shape, expected);
      ASSERT_EQ(decoded.corrupt, 0u) << Name(isa) << " round " << round;
      ASSERT_EQ(decoded.levels, levels) << Name(isa) << " round " << round;
    }
  }
}

// Uniform levels meet every (state, symbol) far more often than data of the class do.
TEST(RansDiff, UnlikelyLevelsAgreeOnEveryIsa) {
  base::Rng rng(12);
  for (uint32_t rans_class = 0; rans_class < kRansClasses; ++rans_class) {
    const Plan plan(64, 64, {RansRung::Of(rans_class, 0), RansRung::Of(rans_class, 2)});
    std::vector<std::vector<int16_t>> levels(4, std::vector<int16_t>(plan.shape.steps() * kRansLanes));
    for (auto& stream : levels) {
      for (size_t i = 0; i < stream.size(); ++i) {
        const RansRung rung = plan.rungs[i / kRansLanes % 2];
        const auto width = static_cast<uint64_t>(rung.max_level() - rung.min_level() + 1);
        stream[i] = static_cast<int16_t>(rung.min_level() + static_cast<int32_t>(rng.Below(width)));
      }
    }
    const std::vector<Bytes> expected = EncodeLevels(Isa::kScalar, plan.shape, levels);
    for (const Isa isa : AvailableIsas()) {
      ASSERT_EQ(EncodeLevels(isa, plan.shape, levels), expected) << Name(isa) << " class " << rans_class;
      ASSERT_EQ(DecodeLevels(isa, plan.shape, expected).levels, levels) << Name(isa);
    }
  }
}

// Bits that the class frequencies promise for `levels`, all of `rung`.
double ModelBits(const std::vector<int16_t>& levels, RansRung rung) {
  const RansClass& rans_class = kRansClassTable[rung.rans_class()];
  double bits = 0;
  for (const int16_t level : levels) {
    const int upper = (level + (1 << rung.bypass() >> 1)) >> rung.bypass();
    bits += 7 - std::log2(rans_class.frequency[upper + rans_class.half_range]) + rung.bypass();
  }
  return bits;
}

// A lane's state costs 16 bits and starts out holding 8 that say nothing; about 4 are used at the end of
// encoding. That is 48 bytes a stream, whatever its length; the rest is what the coder itself loses.
constexpr double kStateOverheadBits = 8.0 * 48;

TEST(RansProperty, SizeIsTheModelsPlusTheStates) {
  base::Rng rng(13);
  for (const uint32_t channels : {128u, 1024u}) {
    for (uint32_t k = 0; k < kRansLadder; ++k) {
      const Plan plan(64, channels, std::vector<RansRung>(channels / 32, RansLadderRung(k)));
      const std::vector<int16_t> levels = RandomLevels(rng, plan.shape);
      const double model = ModelBits(levels, plan.rungs[0]);
      const double size =
          8.0 * static_cast<double>(EncodeLevels(Isa::kScalar, plan.shape, {levels})[0].size());
      EXPECT_LT(size, 1.005 * model + 1.05 * kStateOverheadBits) << channels << " channels, rung " << k;
      // In all: within one per cent from 0.6 bits a value on, at 64 tokens x 1024 channels.
      if (channels < 1024 || k < 2) continue;
      EXPECT_LT(size, 1.01 * model) << channels << " channels, rung " << k;
    }
  }
}

// --- Rows ---

// Rows of `streams` tiles [tokens, heads, head_dim] with gaps, their scales and, perhaps, a channel order.
struct RowSet {
  RowSet(base::Rng& rng, const RansShape& shape, uint32_t heads_in, uint32_t streams_in, bool aligned)
      : heads(heads_in), streams(streams_in), tokens(shape.tokens), channels(shape.channels) {
    layout.heads = heads;
    layout.head_dim = channels / heads;
    layout.head_stride = layout.head_dim + (aligned ? 32 : rng.Below(5));
    token_stride = heads * layout.head_stride + (aligned ? 32 : rng.Below(7));
    scales.resize(shape.groups());
    for (RansScale& scale : scales) {
      for (uint32_t lane = 0; lane < kRansLanes; ++lane) {
        const auto step = static_cast<float>(std::exp2(rng.Uniform() * 8 - 4));
        scale.Set(lane, step, 1 / step, static_cast<float>(rng.Normal() * 3));
      }
    }
    layout.scales = scales.data();
    scratch.reset(new (std::align_val_t{64}) std::byte[RansScratchBytes(channels)]);
    layout.scratch = scratch.get();
    lane_of_element.resize(channels);
    std::iota(lane_of_element.begin(), lane_of_element.end(), 0u);
    element_of_lane = lane_of_element;
  }

  void Permute(base::Rng& rng, uint32_t window) {
    for (uint32_t first = 0; first < channels; first += window) {
      const uint32_t count = std::min(window, channels - first);
      for (uint32_t i = count; i-- > 1;) {
        std::swap(element_of_lane[first + i], element_of_lane[first + rng.Below(i + 1)]);
      }
    }
    ASSERT_TRUE(InvertRansOrder(element_of_lane, lane_of_element));
    lane_picks.resize(scales.size());
    element_picks.resize(scales.size());
    const bool lanes_aligned = BuildRansPicks(element_of_lane, lane_picks.data());
    const bool elements_aligned = BuildRansPicks(lane_of_element, element_picks.data());
    order = {element_of_lane.data(), lane_of_element.data(), lane_picks.data(), element_picks.data(),
             lanes_aligned && elements_aligned && rng.Below(4) != 0};
    layout.order = &order;
  }

  size_t Offset(uint32_t v, uint32_t t, uint32_t element) const {
    return (size_t{v} * tokens + t) * token_stride + element / layout.head_dim * layout.head_stride +
           element % layout.head_dim;
  }
  size_t elements() const { return size_t{streams} * tokens * token_stride; }
  std::vector<std::vector<uint16_t*>> Rows(uint16_t* base) const {
    std::vector<std::vector<uint16_t*>> rows(streams);
    for (uint32_t v = 0; v < streams; ++v) {
      for (uint32_t t = 0; t < tokens; ++t) rows[v].push_back(base + (size_t{v} * tokens + t) * token_stride);
    }
    return rows;
  }
  const RansScale& ScaleOf(uint32_t lane) const { return scales[lane / kRansLanes]; }

  struct Free {
    void operator()(std::byte* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
  };
  uint32_t heads, streams, tokens, channels;
  size_t token_stride = 0;
  RansRows layout;
  RansOrder order;
  std::vector<RansScale> scales;
  std::vector<uint32_t> element_of_lane, lane_of_element;
  std::vector<RansPick> lane_picks, element_picks;
  std::unique_ptr<std::byte[], Free> scratch;
};

struct AlignedRows {
  explicit AlignedRows(size_t count) : size(count), data(new(std::align_val_t{64}) uint16_t[count]) {
    std::fill_n(data.get(), count, uint16_t{0xbeef});
  }
  struct Free {
    void operator()(uint16_t* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
  };
  bool operator==(const AlignedRows& other) const {
    return std::equal(data.get(), data.get() + size, other.data.get());
  }
  size_t size;
  std::unique_ptr<uint16_t[], Free> data;
};

struct EncodedRows {
  uint32_t uncodable = 0;
  std::vector<Bytes> coded;
  bool operator==(const EncodedRows&) const = default;
};
EncodedRows EncodeRows(Isa isa, const RansShape& shape, const RowSet& set, AlignedRows& memory) {
  const auto rows = set.Rows(memory.data.get());
  std::vector<Bytes> buffers(set.streams, Bytes(RansMaxStreamBytes(shape)));
  const uint16_t* const* in[kRansMaxStreams];
  std::byte* ends[kRansMaxStreams];
  size_t sizes[kRansMaxStreams];
  for (uint32_t v = 0; v < set.streams; ++v) {
    in[v] = rows[v].data();
    ends[v] = buffers[v].data() + buffers[v].size();
  }
  EncodedRows out;
  out.uncodable = Rans(isa).encode_rows(shape, set.layout, set.streams, in, ends, sizes);
  for (uint32_t v = 0; v < set.streams; ++v) {
    const bool coded = (out.uncodable >> v & 1) == 0;
    out.coded.emplace_back(coded ? Bytes(ends[v] - sizes[v], ends[v]) : Bytes());
  }
  return out;
}

uint32_t DecodeRows(Isa isa, const RansShape& shape, const RowSet& set, const std::vector<Bytes>& coded,
                    AlignedRows& memory) {
  const auto rows = set.Rows(memory.data.get());
  std::span<const std::byte> in[kRansMaxStreams];
  uint16_t* const* out[kRansMaxStreams];
  for (uint32_t v = 0; v < set.streams; ++v) {
    in[v] = coded[v];
    out[v] = rows[v].data();
  }
  return Rans(isa).decode_rows(shape, set.layout, set.streams, in, out);
}

// The arithmetic of the specification, one value at a time.
int16_t LevelOf(uint16_t x, const RansScale& scale, uint32_t lane, RansRung rung) {
  const float centred = tensor::Bf16ToFloat(x) - scale.mean[RansScale::index(lane)];
  const float scaled = centred * scale.inverse_step[RansScale::index(lane)];
  const double rounded = std::nearbyint(static_cast<double>(scaled));
  return static_cast<int16_t>(
      std::clamp(rounded, static_cast<double>(rung.min_level()), static_cast<double>(rung.max_level())));
}
uint16_t ValueOf(int16_t level, const RansScale& scale, uint32_t lane) {
  const float product = static_cast<float>(level) * scale.step[RansScale::index(lane)];
  const float sum = product + scale.mean[RansScale::index(lane)];
  if (std::fabs(sum) < std::numeric_limits<float>::min()) return std::signbit(sum) ? 0x8000 : 0;
  return tensor::FloatToBf16(sum);
}

void FillRows(base::Rng& rng, const RansShape& shape, const RowSet& set, AlignedRows& memory) {
  const bool wild = rng.Below(4) == 0;
  for (uint32_t v = 0; v < set.streams; ++v) {
    for (uint32_t t = 0; t < set.tokens; ++t) {
      for (uint32_t lane = 0; lane < set.channels; ++lane) {
        const uint32_t i = RansScale::index(lane % kRansLanes);
        const RansScale& scale = set.ScaleOf(lane);
        const double level = rng.Normal() * Sigma(shape.rungs[lane / kRansLanes]);
        uint16_t x = tensor::FloatToBf16(static_cast<float>(level) * scale.step[i] + scale.mean[i]);
        if (wild) x = static_cast<uint16_t>(rng.Below(kRansMagnitudeLimit) | (rng.Next() & 0x8000));
        memory.data[set.Offset(v, t, set.element_of_lane[lane])] = x;
      }
    }
  }
}

std::vector<std::vector<int16_t>> LevelsOfRows(const RansShape& shape, const RowSet& set,
                                               const AlignedRows& in) {
  std::vector<std::vector<int16_t>> levels(set.streams, std::vector<int16_t>(shape.steps() * kRansLanes));
  for (uint32_t v = 0; v < set.streams; ++v) {
    for (uint32_t t = 0; t < set.tokens; ++t) {
      for (uint32_t lane = 0; lane < set.channels; ++lane) {
        levels[v][size_t{t} * shape.groups() * kRansLanes + lane] =
            LevelOf(in.data[set.Offset(v, t, set.element_of_lane[lane])], set.ScaleOf(lane),
                    lane % kRansLanes, shape.rungs[lane / kRansLanes]);
      }
    }
  }
  return levels;
}

AlignedRows ValuesOfLevels(const RansShape& shape, const RowSet& set,
                           const std::vector<std::vector<int16_t>>& levels) {
  AlignedRows out(set.elements());
  for (uint32_t v = 0; v < set.streams; ++v) {
    for (uint32_t t = 0; t < set.tokens; ++t) {
      for (uint32_t lane = 0; lane < set.channels; ++lane) {
        const int16_t level = levels[v][size_t{t} * shape.groups() * kRansLanes + lane];
        out.data[set.Offset(v, t, set.element_of_lane[lane])] =
            ValueOf(level, set.ScaleOf(lane), lane % kRansLanes);
      }
    }
  }
  return out;
}

struct RowCase {
  uint32_t heads, head_dim;
};
constexpr RowCase kRowCases[] = {{1, 32},  {2, 64}, {8, 128}, {3, 96}, {2, 80},
                                 {4, 112}, {5, 7},  {1, 1},   {1, 200}};

TEST(RansDiff, RowsFollowTheDefinitionOnEveryIsa) {
  base::Rng rng(15);
  for (int round = 0; round < 120; ++round) {
    const RowCase& at = kRowCases[rng.Below(std::size(kRowCases))];
    const uint32_t channels = at.heads * at.head_dim;
    const Plan plan(static_cast<uint32_t>(1 + rng.Below(17)), channels,
                    RandomRungs(rng, (channels + 31) / 32));
    RowSet set(rng, plan.shape, at.heads, static_cast<uint32_t>(1 + rng.Below(8)), rng.Below(2) == 0);
    const uint64_t ordering = rng.Below(3);
    if (ordering > 0) set.Permute(rng, ordering == 1 ? at.head_dim : channels);
    AlignedRows in(set.elements());
    FillRows(rng, plan.shape, set, in);
    const auto levels = LevelsOfRows(plan.shape, set, in);
    const std::vector<Bytes> expected = EncodeLevels(Isa::kScalar, plan.shape, levels);
    const AlignedRows values = ValuesOfLevels(plan.shape, set, levels);
    for (const Isa isa : AvailableIsas()) {
      const EncodedRows coded = EncodeRows(isa, plan.shape, set, in);
      ASSERT_EQ(coded.uncodable, 0u) << Name(isa);
      ASSERT_EQ(coded.coded, expected) << Name(isa) << " round " << round << " head_dim " << at.head_dim;
      for (const bool streaming : {false, true}) {
        set.layout.streaming_stores = streaming;
        AlignedRows out(set.elements());
        ASSERT_EQ(DecodeRows(isa, plan.shape, set, expected, out), 0u) << Name(isa);
        ASSERT_TRUE(out == values) << Name(isa) << " round " << round << " head_dim " << at.head_dim;
      }
    }
  }
}

// Sums that are subnormal, overflow the clamp or meet a step of 0 must not depend on the instruction set.
TEST(RansDiff, ExtremeScalesAgreeOnEveryIsa) {
  base::Rng rng(16);
  const Plan plan(8, 128, {RansRung::Of(3, 0), RansRung::Of(12, 0), RansRung::Of(9, 2), RansRung::Of(16, 4)});
  RowSet set(rng, plan.shape, 1, 4, true);
  const float extremes[] = {0.0f,        0x1p-149f, 0x1p-130f,      0x1p-126f,
                            0x1.8p-127f, 1.0f,      0x1.fffffep90f, 0x1p117f};
  for (RansScale& scale : set.scales) {
    for (uint32_t lane = 0; lane < kRansLanes; ++lane) {
      const float mean = extremes[rng.Below(std::size(extremes))] * (rng.Below(2) == 0 ? 1.0f : -1.0f);
      scale.Set(lane, extremes[rng.Below(std::size(extremes))], extremes[rng.Below(std::size(extremes))],
                mean);
    }
  }
  AlignedRows in(set.elements());
  for (size_t i = 0; i < in.size; ++i) {
    in.data[i] = static_cast<uint16_t>(rng.Below(kRansMagnitudeLimit) | (rng.Next() & 0x8000));
  }
  const auto levels = LevelsOfRows(plan.shape, set, in);
  const AlignedRows values = ValuesOfLevels(plan.shape, set, levels);
  for (const Isa isa : AvailableIsas()) {
    const EncodedRows coded = EncodeRows(isa, plan.shape, set, in);
    ASSERT_EQ(coded.uncodable, 0u);
    ASSERT_EQ(coded.coded, EncodeLevels(Isa::kScalar, plan.shape, levels)) << Name(isa);
    AlignedRows out(set.elements());
    ASSERT_EQ(DecodeRows(isa, plan.shape, set, coded.coded, out), 0u);
    for (uint32_t v = 0; v < set.streams; ++v) {
      for (uint32_t t = 0; t < set.tokens; ++t) {
        for (uint32_t c = 0; c < set.channels; ++c) {
          ASSERT_EQ(out.data[set.Offset(v, t, c)], values.data[set.Offset(v, t, c)])
              << Name(isa) << " channel " << c;
        }
      }
    }
  }
}

TEST(RansUnit, ValuesWithoutALevelAreReportedPerStream) {
  base::Rng rng(17);
  const uint16_t bad[] = {0x7fc0, 0xffc1, 0x7f80, 0xff80, 0x7e80, 0xfe80};  // NaN, infinities, +-2^126
  for (const uint32_t head_dim : {64u, 80u}) {
    const uint32_t channels = 2 * head_dim;
    const Plan plan(5, channels, std::vector<RansRung>((channels + 31) / 32, RansRung::Of(8, 0)));
    RowSet set(rng, plan.shape, 2, 7, false);
    AlignedRows in(set.elements());
    FillRows(rng, plan.shape, set, in);
    const EncodedRows clean = EncodeRows(Isa::kScalar, plan.shape, set, in);
    for (const uint16_t pattern : bad) {
      uint16_t& victim = in.data[set.Offset(4, static_cast<uint32_t>(rng.Below(5)),
                                            static_cast<uint32_t>(rng.Below(channels)))];
      const uint16_t before = victim;
      victim = pattern;
      for (const Isa isa : AvailableIsas()) {
        const EncodedRows coded = EncodeRows(isa, plan.shape, set, in);
        EXPECT_EQ(coded.uncodable, 1u << 4) << Name(isa);
        for (uint32_t v = 0; v < 7; ++v) {
          if (v == 4) continue;
          EXPECT_EQ(coded.coded[v], clean.coded[v]) << Name(isa);
        }
      }
      victim = before;
    }
  }
}

TEST(RansUnit, OrdersThatAreNoPermutationsAreRefused) {
  std::vector<uint32_t> inverse(4);
  EXPECT_TRUE(InvertRansOrder(std::vector<uint32_t>{2, 0, 3, 1}, inverse));
  EXPECT_EQ(inverse, (std::vector<uint32_t>{1, 3, 0, 2}));
  EXPECT_FALSE(InvertRansOrder(std::vector<uint32_t>{2, 0, 2, 1}, inverse));
  EXPECT_FALSE(InvertRansOrder(std::vector<uint32_t>{2, 0, 4, 1}, inverse));
}

// --- Hostile bytes. Buffers are exactly as long as the streams: ASan sees any read outside. ---

// All instruction sets agree on the verdict, alone and in a lockstep with sound streams, which stay sound.
bool Rejected(const Plan& plan, const Bytes& sound, const Bytes& suspect) {
  const uint32_t corrupt = DecodeLevels(Isa::kScalar, plan.shape, {suspect}).corrupt;
  for (const Isa isa : AvailableIsas()) {
    EXPECT_EQ(DecodeLevels(isa, plan.shape, {suspect}).corrupt, corrupt) << Name(isa);
    EXPECT_EQ(DecodeLevels(isa, plan.shape, {sound, suspect, sound}).corrupt, corrupt << 1) << Name(isa);
  }
  return corrupt != 0;
}

TEST(RansSafety, CutAndPaddedStreamsAreRejected) {
  base::Rng rng(18);
  for (int round = 0; round < 20; ++round) {
    const auto plan = RandomPlan(rng);
    const Bytes sound = EncodeLevels(Isa::kScalar, plan->shape, {RandomLevels(rng, plan->shape)})[0];
    for (int cut = 0; cut < 12; ++cut) {
      const auto length = static_cast<ptrdiff_t>(cut == 0 ? 0 : rng.Below(sound.size()));
      EXPECT_TRUE(Rejected(*plan, sound, Bytes(sound.begin(), sound.begin() + length)))
          << "cut to " << length;
    }
    for (const size_t extra : {1u, 2u, 31u, 64u}) {
      Bytes longer = sound;
      longer.insert(longer.begin() + kRansStateBytes, extra, std::byte{0x5a});
      EXPECT_TRUE(Rejected(*plan, sound, longer)) << extra << " bytes more";
    }
  }
}

TEST(RansSafety, FlippedBitsAreNoticedNearlyAlways) {
  base::Rng rng(19);
  int flips = 0;
  int missed = 0;
  for (int round = 0; round < 40; ++round) {
    const auto channels = static_cast<uint32_t>(32 * (1 + rng.Below(4)));
    const Plan plan(
        static_cast<uint32_t>(16 + rng.Below(49)), channels,
        std::vector<RansRung>(channels / 32, RansRung::Of(static_cast<uint32_t>(rng.Below(14)), 0)));
    const Bytes sound = EncodeLevels(Isa::kScalar, plan.shape, {RandomLevels(rng, plan.shape)})[0];
    for (int i = 0; i < 50; ++i, ++flips) {
      Bytes flipped = sound;
      flipped[rng.Below(flipped.size())] ^= static_cast<std::byte>(1u << rng.Below(8));
      missed += Rejected(plan, sound, flipped) ? 0 : 1;
    }
  }
  RecordProperty("flips", flips);
  RecordProperty("missed", missed);
  EXPECT_LT(missed, flips / 50) << missed << " of " << flips;
}

TEST(RansSafety, NoiseIsRejectedOrRoundTrips) {
  base::Rng rng(20);
  for (int round = 0; round < 400; ++round) {
    const auto plan = RandomPlan(rng);
    Bytes noise(rng.Below(RansMaxStreamBytes(plan->shape) + 64));
    for (std::byte& b : noise) b = static_cast<std::byte>(rng.Next());
    const Bytes sound = EncodeLevels(Isa::kScalar, plan->shape, {RandomLevels(rng, plan->shape)})[0];
    if (Rejected(*plan, sound, noise)) continue;
    // What a decoder accepts is what an encoder writes: streams are unique.
    const auto levels = DecodeLevels(Isa::kScalar, plan->shape, {noise}).levels;
    EXPECT_EQ(EncodeLevels(Isa::kScalar, plan->shape, levels)[0], noise);
  }
}

TEST(RansSafety, CorruptRowsStayInsideTheirRows) {
  base::Rng rng(22);
  for (int round = 0; round < 100; ++round) {
    const RowCase& at = kRowCases[rng.Below(std::size(kRowCases))];
    const uint32_t channels = at.heads * at.head_dim;
    const Plan plan(static_cast<uint32_t>(1 + rng.Below(9)), channels,
                    RandomRungs(rng, (channels + 31) / 32));
    RowSet set(rng, plan.shape, at.heads, 3, rng.Below(2) == 0);
    if (rng.Below(2) == 0) set.Permute(rng, at.head_dim);
    AlignedRows in(set.elements());
    FillRows(rng, plan.shape, set, in);
    std::vector<Bytes> coded = EncodeRows(Isa::kScalar, plan.shape, set, in).coded;
    AlignedRows sound(set.elements());
    ASSERT_EQ(DecodeRows(Isa::kScalar, plan.shape, set, coded, sound), 0u);
    coded[1].resize(rng.Below(coded[1].size()));
    for (std::byte& b : coded[1]) b ^= static_cast<std::byte>(rng.Below(64) == 0 ? rng.Next() : 0);
    for (const Isa isa : AvailableIsas()) {
      set.layout.streaming_stores = rng.Below(2) == 0;
      AlignedRows out(set.elements());
      ASSERT_EQ(DecodeRows(isa, plan.shape, set, coded, out), 2u) << Name(isa);
      for (uint32_t t = 0; t < set.tokens; ++t) {
        for (uint32_t c = 0; c < channels; ++c)
          out.data[set.Offset(1, t, c)] = sound.data[set.Offset(1, t, c)];
      }
      ASSERT_TRUE(out == sound) << Name(isa) << " wrote beside the rows of the corrupt stream";
    }
  }
}

TEST(RansProperty, RawFormRoundTripsAndIsUnique) {
  base::Rng rng(21);
  for (int round = 0; round < 100; ++round) {
    const auto plan = RandomPlan(rng);
    const std::vector<int16_t> levels = RandomLevels(rng, plan->shape);
    Bytes raw(RansRawBytes(plan->shape));
    EncodeRansRaw(plan->shape, levels.data(), raw.data());
    std::vector<int16_t> decoded(levels.size());
    ASSERT_TRUE(DecodeRansRaw(plan->shape, raw, decoded.data()));
    ASSERT_EQ(decoded, levels);
    raw[rng.Below(raw.size())] ^= static_cast<std::byte>(1 + rng.Below(255));
    if (DecodeRansRaw(plan->shape, raw, decoded.data())) {
      Bytes again(raw.size());
      EncodeRansRaw(plan->shape, decoded.data(), again.data());
      EXPECT_EQ(again, raw);
    }
    EXPECT_FALSE(DecodeRansRaw(plan->shape, std::span(raw).first(raw.size() - 1), decoded.data()));
  }
}

TEST(RansUnit, RawFormByHand) {
  // Class 9 has 9 symbols, 4 bits; one more is bypassed. Levels -5, 0, 2 lie 4, 9, 11 above the lowest.
  const Plan plan(1, 3, {RansRung::Of(9, 1)});
  std::vector<int16_t> levels(kRansLanes);
  levels[0] = -5;
  levels[2] = 2;
  Bytes raw(RansRawBytes(plan.shape));
  ASSERT_EQ(raw.size(), 20u);
  EncodeRansRaw(plan.shape, levels.data(), raw.data());
  const uint8_t planes[] = {0b100, 0b001, 0b110, 0b000, 0b110};  // symbols 2, 4, 5, then the low bits 0, 1, 1
  for (size_t word = 0; word < 5; ++word) {
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(static_cast<uint8_t>(raw[4 * word + i]), i == 0 ? planes[word] : 0) << word;
    }
  }
}

TEST(RansSafety, DeadBypassBitsMustBeZero) {
  const Plan plan(2, 3, {RansRung::Of(9, 2)});
  const Bytes sound = EncodeLevels(Isa::kScalar, plan.shape, {std::vector<int16_t>(64)})[0];
  for (const size_t word : {1u, 2u, 3u, 4u}) {
    Bytes other = sound;
    other[other.size() - 4 * word] ^= std::byte{0x08};
    EXPECT_TRUE(Rejected(plan, sound, other));
    other = sound;
    other[other.size() - 4 * word] ^= std::byte{0x04};
    EXPECT_FALSE(Rejected(plan, sound, other));
  }
}

}  // namespace
}  // namespace kvplane::kernel
