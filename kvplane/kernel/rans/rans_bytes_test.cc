#include "kvplane/kernel/rans/rans_bytes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

using Bytes = std::vector<std::byte>;

// Levels of several streams as bytes and as what the definition takes.
struct Streams {
  Streams(base::Rng& rng, uint32_t count, double stretch) {
    const auto groups = static_cast<uint32_t>(4 * (1 + rng.Below(3)));
    rungs.resize(groups);
    for (RansRung& rung : rungs) {
      do {
        rung = RansLadderRung(static_cast<uint32_t>(rng.Below(kRansLadder)));
      } while (!RansFitsByte(rung));
    }
    shape = {static_cast<uint32_t>(1 + rng.Below(40)), groups * kRansLanes, rungs.data()};
    for (uint32_t v = 0; v < count; ++v) {
      levels.emplace_back(shape.steps() * kRansLanes);
      for (size_t i = 0; i < levels[v].size(); ++i) {
        const RansRung rung = rungs[i / kRansLanes % groups];
        const double sigma = 0.25 * std::exp2(rung.rans_class() / 4.0 + rung.bypass());
        const double level = std::round(rng.Normal() * sigma * stretch);
        levels[v][i] = static_cast<int8_t>(std::clamp(level, -128.0, 127.0));
      }
    }
  }

  std::vector<RansRung> rungs;
  RansShape shape;
  std::vector<std::vector<int8_t>> levels;
};

std::vector<Bytes> DefinitionOf(const Streams& streams) {
  std::vector<Bytes> out;
  for (const std::vector<int8_t>& levels : streams.levels) {
    const std::vector<int16_t> wide(levels.begin(), levels.end());
    Bytes buffer(RansMaxStreamBytes(streams.shape));
    const int16_t* in = wide.data();
    std::byte* end = buffer.data() + buffer.size();
    size_t size = 0;
    Rans(Isa::kScalar).encode_levels(streams.shape, 1, &in, &end, &size);
    out.emplace_back(end - size, end);
  }
  return out;
}

std::vector<Bytes> Encode(const RansByteKernels& kernels, const Streams& streams) {
  const auto count = static_cast<uint32_t>(streams.levels.size());
  std::vector<Bytes> buffers(count, Bytes(RansMaxStreamBytes(streams.shape)));
  const int8_t* in[kRansMaxStreams];
  std::byte* ends[kRansMaxStreams];
  size_t sizes[kRansMaxStreams];
  for (uint32_t v = 0; v < count; ++v) {
    in[v] = streams.levels[v].data();
    ends[v] = buffers[v].data() + buffers[v].size();
  }
  kernels.encode(streams.shape, count, in, ends, sizes);
  std::vector<Bytes> out;
  for (uint32_t v = 0; v < count; ++v) out.emplace_back(ends[v] - sizes[v], ends[v]);
  return out;
}

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

// What levels become, element by element: lanes of a window in any order.
struct Layout {
  Layout(base::Rng& rng, const RansShape& shape, bool streaming)
      : lane_of_element(shape.channels),
        lane_of_window(shape.channels),
        mean(shape.channels),
        step(shape.channels),
        pick(shape.channels) {
    constexpr uint32_t kHeadDims[] = {32, 64, 96, 128, 192};
    do {
      rows.head_dim = kHeadDims[rng.Below(std::size(kHeadDims))];
    } while (shape.channels % rows.head_dim != 0);
    rows.heads = shape.channels / rows.head_dim;
    // Rows of whole vectors go around the caches; others cannot.
    rows.head_stride = rows.head_dim + 32 * rng.Below(2) + rng.Below(2);
    rows.streaming_stores = streaming;
    const bool tiny = rng.Below(4) == 0;
    for (uint32_t e = 0; e < shape.channels; ++e) {
      lane_of_element[e] = e;
      std::swap(lane_of_element[e], lane_of_element[e - rng.Below(e % kRansByteWindow + 1)]);
      mean[e] = tiny ? 0.0f : static_cast<float>(rng.Normal());
      step[e] = tiny ? std::ldexp(1.0f, -126 - static_cast<int>(rng.Below(10)))
                     : static_cast<float>(std::exp2(rng.Normal()));
    }
    for (uint32_t e = 0; e < shape.channels; ++e) {
      lane_of_window[e] = static_cast<uint8_t>(lane_of_element[e] % kRansByteWindow);
      pick[e] = RansBytePick(lane_of_window[e]);
    }
    rows.mean = mean.data();
    rows.step = step.data();
    rows.lane_of_element = lane_of_window.data();
    rows.pick = pick.data();
  }
  size_t row_size() const { return rows.heads * rows.head_stride; }
  uint16_t ValueOf(int16_t level, uint32_t element) {
    const float scaled = static_cast<float>(level) * step[element];
    const float value = scaled + mean[element];
    return tensor::FloatToBf16(std::fabs(value) < 0x1p-126f ? std::copysign(0.0f, value) : value);
  }

  RansByteRows rows;
  std::vector<uint32_t> lane_of_element;
  AlignedArray<uint8_t> lane_of_window;
  AlignedArray<float> mean, step;
  AlignedArray<uint32_t> pick;
};

// The rows of some streams, what lies between heads marked.
struct Rows {
  static constexpr uint16_t kGuard = 0x5a5a;
  Rows(const Layout& layout, uint32_t streams, uint32_t tokens)
      : size(size_t{streams} * tokens * layout.row_size()), values(size), rows(streams) {
    std::fill_n(values.data(), size, kGuard);
    uint16_t* row = values.data();
    for (std::vector<uint16_t*>& stream : rows) {
      for (uint32_t t = 0; t < tokens; ++t, row += layout.row_size()) stream.push_back(row);
    }
  }
  size_t size;
  AlignedArray<uint16_t> values;
  std::vector<std::vector<uint16_t*>> rows;  // [streams][tokens]
};

uint32_t Decode(const RansByteKernels& kernels, const RansShape& shape, const Layout& layout,
                const std::vector<Bytes>& coded, Rows& out) {
  std::span<const std::byte> in[kRansMaxStreams];
  uint16_t* const* rows[kRansMaxStreams];
  for (size_t v = 0; v < coded.size(); ++v) {
    in[v] = coded[v];
    rows[v] = out.rows[v].data();
  }
  return kernels.decode(shape, layout.rows, static_cast<uint32_t>(coded.size()), in, rows);
}

// What the definition of streams and of values makes of them.
void DecodeByDefinition(const RansShape& shape, Layout& layout, const std::vector<Bytes>& coded, Rows& out) {
  std::vector<int16_t> levels(shape.steps() * kRansLanes);
  for (size_t v = 0; v < coded.size(); ++v) {
    const std::span<const std::byte> in = coded[v];
    int16_t* const to = levels.data();
    ASSERT_EQ(Rans(Isa::kScalar).decode_levels(shape, 1, &in, &to), 0u);
    for (uint32_t t = 0; t < shape.tokens; ++t) {
      for (uint32_t e = 0; e < shape.channels; ++e) {
        const int16_t level = levels[size_t{t} * shape.channels + layout.lane_of_element[e]];
        const size_t at = e / layout.rows.head_dim * layout.rows.head_stride + e % layout.rows.head_dim;
        out.rows[v][t][at] = layout.ValueOf(level, e);
      }
    }
  }
}

TEST(RansBytesUnit, WhichRungsFit) {
  EXPECT_TRUE(RansFitsByte(RansRung::Of(16, 0)));
  EXPECT_TRUE(RansFitsByte(RansRung::Of(16, 3)));   // 15 * 8 + 3
  EXPECT_TRUE(RansFitsByte(RansRung::Of(12, 4)));   // 7 * 16 + 7
  EXPECT_FALSE(RansFitsByte(RansRung::Of(13, 4)));  // 9 * 16 + 7
  EXPECT_FALSE(RansFitsByte(RansRung::Of(3, 1)));   // no rung of the ladder
  for (const uint32_t k : {0u, 14u, 28u}) EXPECT_TRUE(RansFitsByte(RansLadderRung(k)));
  EXPECT_FALSE(RansFitsByte(RansLadderRung(29)));
}

TEST(RansBytesDiff, StreamsAndValuesAreThoseOfTheDefinition) {
  base::Rng rng(11);
  for (const Isa isa : AvailableIsas()) {
    const RansByteKernels* kernels = RansBytes(isa);
    if (kernels == nullptr) continue;
    for (int round = 0; round < 300; ++round) {
      // Stretched levels take every symbol and are clamped.
      const auto count = static_cast<uint32_t>(1 + rng.Below(kRansMaxStreams));
      const Streams streams(rng, count, 1 + round % 3 * 4);
      const std::vector<Bytes> coded = Encode(*kernels, streams);
      ASSERT_EQ(coded, DefinitionOf(streams)) << Name(isa) << " round " << round;
      Layout layout(rng, streams.shape, round % 2 == 0);
      Rows decoded(layout, count, streams.shape.tokens);
      Rows expected(layout, count, streams.shape.tokens);
      ASSERT_EQ(Decode(*kernels, streams.shape, layout, coded, decoded), 0u);
      DecodeByDefinition(streams.shape, layout, coded, expected);
      ASSERT_TRUE(
          std::equal(decoded.values.data(), decoded.values.data() + decoded.size, expected.values.data()))
          << Name(isa) << " round " << round;
    }
  }
}

TEST(RansBytesSafety, CutPaddedAndNoisyStreamsAreRejected) {
  base::Rng rng(12);
  for (const Isa isa : AvailableIsas()) {
    const RansByteKernels* kernels = RansBytes(isa);
    if (kernels == nullptr) continue;
    for (int round = 0; round < 100; ++round) {
      const Streams streams(rng, 4, 1);
      std::vector<Bytes> coded = Encode(*kernels, streams);
      const Layout layout(rng, streams.shape, false);
      Rows decoded(layout, 4, streams.shape.tokens);
      const auto hurt = static_cast<uint32_t>(rng.Below(4));
      Bytes& stream = coded[hurt];
      switch (round % 3) {
        case 0:
          // Memory of just that size, so that a sanitizer sees reads beyond it.
          stream = Bytes(stream.begin(), stream.end() - 1 - static_cast<ptrdiff_t>(rng.Below(stream.size())));
          break;
        case 1:
          stream.push_back(std::byte{0});
          break;
        default:
          for (std::byte& byte : stream) byte = static_cast<std::byte>(rng.Below(256));
          break;
      }
      EXPECT_EQ(Decode(*kernels, streams.shape, layout, coded, decoded), 1u << hurt)
          << Name(isa) << ' ' << round;
    }
  }
}

}  // namespace
}  // namespace kvplane::kernel
