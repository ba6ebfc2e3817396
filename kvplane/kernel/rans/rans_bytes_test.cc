#include "kvplane/kernel/rans/rans_bytes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kvplane/base/rng.h"

namespace kvplane::kernel {
namespace {

using Bytes = std::vector<std::byte>;

// Levels of several streams as bytes and as what the definition takes.
struct Streams {
  Streams(base::Rng& rng, uint32_t count, double stretch) {
    const auto groups = static_cast<uint32_t>(1 + rng.Below(6));
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

uint32_t Decode(const RansByteKernels& kernels, const RansShape& shape, const std::vector<Bytes>& coded,
                std::vector<std::vector<int8_t>>& levels) {
  std::span<const std::byte> in[kRansMaxStreams];
  int8_t* out[kRansMaxStreams];
  levels.assign(coded.size(), std::vector<int8_t>(shape.steps() * kRansLanes));
  for (size_t v = 0; v < coded.size(); ++v) {
    in[v] = coded[v];
    out[v] = levels[v].data();
  }
  return kernels.decode(shape, static_cast<uint32_t>(coded.size()), in, out);
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

TEST(RansBytesDiff, StreamsAreThoseOfTheDefinition) {
  base::Rng rng(11);
  for (const Isa isa : AvailableIsas()) {
    const RansByteKernels* kernels = RansBytes(isa);
    if (kernels == nullptr) continue;
    for (int round = 0; round < 300; ++round) {
      // Stretched levels take every symbol and are clamped.
      const Streams streams(rng, static_cast<uint32_t>(1 + rng.Below(kRansMaxStreams)), 1 + round % 3 * 4);
      const std::vector<Bytes> coded = Encode(*kernels, streams);
      ASSERT_EQ(coded, DefinitionOf(streams)) << Name(isa) << " round " << round;
      std::vector<std::vector<int8_t>> decoded;
      ASSERT_EQ(Decode(*kernels, streams.shape, coded, decoded), 0u);
      for (size_t v = 0; v < decoded.size(); ++v) {
        for (size_t i = 0; i < decoded[v].size(); ++i) {
          const RansRung rung = streams.rungs[i / kRansLanes % streams.shape.groups()];
          ASSERT_EQ(decoded[v][i],
                    std::clamp<int32_t>(streams.levels[v][i], rung.min_level(), rung.max_level()));
        }
      }
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
      std::vector<std::vector<int8_t>> decoded;
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
      EXPECT_EQ(Decode(*kernels, streams.shape, coded, decoded), 1u << hurt) << Name(isa) << ' ' << round;
    }
  }
}

}  // namespace
}  // namespace kvplane::kernel
