#include "kvplane/codec/rans/rans_stage.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/codec/rans/stream_code.h"
#include "kvplane/codec/rans/table_choice.h"
#include "kvplane/codec/testing/plane_trial.h"
#include "kvplane/codec/testing/strategy_trial.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::codec {
namespace {

using ::testing::HasSubstr;
using testing::KeyCodecOf;
using testing::PlaneOfSymbols;
using Bytes = std::vector<std::byte>;

// Two bands of alphabets, symbols bell-shaped, uniform or constant, heads alike or not.
std::unique_ptr<PlaneOfSymbols> RandomPlane(base::Rng& rng) {
  const auto tokens = static_cast<uint32_t>(1 + rng.Below(64));
  const auto heads = static_cast<uint32_t>(1 + rng.Below(6));
  const auto head_dim =
      static_cast<uint32_t>(rng.Below(2) == 0 ? 32 * (1 + rng.Below(4)) : 1 + rng.Below(130));
  const auto high = static_cast<uint32_t>(2 + rng.Below(31));
  const auto low = static_cast<uint32_t>(2 + rng.Below(high - 1));
  std::vector<uint32_t> alphabets(heads);
  for (uint32_t& a : alphabets) a = rng.Below(2) == 0 ? high : low;
  auto plane = std::make_unique<PlaneOfSymbols>(TileShape{tokens, heads, head_dim}, std::move(alphabets));
  const uint64_t kind = rng.Below(4);
  uint8_t* to = plane->symbols.data();
  for (uint32_t h = 0; h < heads; ++h) {
    const uint32_t alphabet = plane->alphabets[h];
    const double spread = alphabet / (3.0 + 9.0 * rng.Uniform());
    const auto constant = static_cast<uint8_t>(rng.Below(alphabet));
    for (size_t i = 0; i < plane->view.head_values(); ++i) {
      const double bell = std::round(rng.Normal() * spread + alphabet / 2.3);
      *to++ = kind == 0   ? constant
              : kind == 1 ? static_cast<uint8_t>(rng.Below(alphabet))
                          : static_cast<uint8_t>(std::clamp(bell, 0.0, alphabet - 1.0));
    }
  }
  return plane;
}

// The most a plane may take: raw, and the two counts.
size_t MostBytes(const PlaneOfSymbols& plane) { return 2 + plane.packed_bytes(); }
size_t Room(const PlaneOfSymbols& plane) { return 2 * MostBytes(plane) + 2000; }

Bytes Encode(const PlaneOfSymbols& plane) { return testing::EncodePlane(StreamCode(), plane, Room(plane)); }
base::Status Decode(const PlaneOfSymbols& plane, const Bytes& coded, std::vector<uint8_t>* symbols) {
  return testing::DecodePlane(StreamCode(), plane, coded, symbols);
}

TEST(RansStreamDiff, PlanesComeBackAndEveryIsaWritesTheSame) {
  base::Rng rng(80);
  for (int round = 0; round < 600; ++round) {
    const auto plane = RandomPlane(rng);
    const Bytes coded = Encode(*plane);
    ASSERT_GE(coded.size(), StreamCode().LeastBytes(plane->view.shape));
    const base::Status status = testing::CheckOnEveryIsa(StreamCode(), *plane, coded, Room(*plane));
    ASSERT_TRUE(status.ok()) << status.message();
  }
}

// Raw and the frame: a table that does not pay is not there.
TEST(RansStreamProperty, ExpansionIsBounded) {
  base::Rng rng(81);
  for (int round = 0; round < 300; ++round) {
    const auto plane = RandomPlane(rng);
    const size_t heads = plane->alphabets.size();
    // Streams are compared with raw one by one; what their tables take is not in that.
    ASSERT_LE(Encode(*plane).size(), MostBytes(*plane) + heads * 24 + 8 * 4);
  }
}

double EntropyBytes(const PlaneOfSymbols& plane) {
  double bits = 0;
  for (size_t h = 0; h < plane.alphabets.size(); ++h) {
    std::array<double, 32> counts{};
    const size_t n = plane.view.head_values();
    for (size_t i = 0; i < n; ++i) ++counts[plane.symbols[h * n + i]];
    for (const double c : counts) {
      if (c > 0) bits -= c * std::log2(c / static_cast<double>(n));
    }
  }
  return bits / 8;
}

// Within 1 % of the entropy of the heads' histograms, and 1 % for streams, at 65,536 values and more.
TEST(RansStreamProperty, SizeIsNearTheEntropy) {
  base::Rng rng(82);
  for (const uint32_t alphabet : {4u, 7u, 16u, 24u}) {
    for (const uint32_t heads : {8u, 16u}) {
      PlaneOfSymbols plane({64, heads, 128}, std::vector<uint32_t>(heads, alphabet));
      for (size_t i = 0; i < plane.symbols.size(); ++i) {
        const double spread = alphabet / (i < plane.symbols.size() / 2 ? 4.0 : 9.0);
        const double bell = std::round(rng.Normal() * spread + alphabet / 2.3);
        plane.symbols[i] = static_cast<uint8_t>(std::clamp(bell, 0.0, alphabet - 1.0));
      }
      EXPECT_LT(static_cast<double>(Encode(plane).size()), 1.02 * EntropyBytes(plane)) << alphabet;
    }
  }
}

TEST(RansStreamUnit, HeadsShareTablesWhereThatIsCheaper) {
  std::array<SymbolCounts, 5> counts{};
  std::array<uint32_t, 5> alphabets = {8, 8, 8, 8, 4};
  for (const size_t h : {0u, 1u, 3u}) counts[h] = {1000, 500, 200, 50};
  counts[2] = {0, 0, 0, 10, 700, 900, 700, 10};
  counts[4] = {1000, 500, 200, 50};  // the same, but another alphabet
  const TableChoice choice = ChooseTables(counts, alphabets);
  EXPECT_EQ(choice.tables, 3u);
  EXPECT_EQ(choice.table_of_head[0], 0);
  EXPECT_EQ(choice.table_of_head[1], 0);
  EXPECT_EQ(choice.table_of_head[2], 1);
  EXPECT_EQ(choice.table_of_head[3], 0);
  EXPECT_EQ(choice.table_of_head[4], 2);
  EXPECT_EQ(choice.counts[0][0], 3000u);
  std::vector<SymbolCounts> many(40);
  std::vector<uint32_t> all_different(40);
  for (uint32_t h = 0; h < 40; ++h) {
    many[h][h % 16] = 100;
    all_different[h] = 2 + h % 16;
  }
  EXPECT_EQ(ChooseTables(many, all_different).tables, 0u);  // more alphabets than tables
}

TEST(RansStreamUnit, ManyAlphabetsAreRaw) {
  base::Rng rng(83);
  std::vector<uint32_t> alphabets;
  for (uint32_t h = 0; h < 20; ++h) alphabets.push_back(2 + h);
  PlaneOfSymbols plane({4, 20, 40}, alphabets);
  for (size_t i = 0; i < plane.symbols.size(); ++i) {
    plane.symbols[i] = static_cast<uint8_t>(rng.Below(alphabets[i / 160]));
  }
  const Bytes coded = Encode(plane);
  EXPECT_EQ(coded.size(), MostBytes(plane));
  EXPECT_EQ(coded[0], std::byte{0});
  EXPECT_EQ(coded[1], std::byte{1});
  std::vector<uint8_t> symbols;
  EXPECT_TRUE(Decode(plane, coded, &symbols).ok());
  EXPECT_EQ(symbols, plane.symbols);
}

TEST(RansStreamUnit, StreamsByPayload) {
  base::Rng rng(84);
  const auto streams = [&](uint32_t heads, uint32_t head_dim) {
    PlaneOfSymbols plane({64, heads, head_dim}, std::vector<uint32_t>(heads, 16));
    for (uint8_t& s : plane.symbols) {
      s = static_cast<uint8_t>(std::clamp(std::round(rng.Normal() * 3 + 8), 0.0, 15.0));
    }
    return (static_cast<uint32_t>(Encode(plane)[0]) & 7u) + 1;
  };
  EXPECT_EQ(streams(2, 64), 1u);
  EXPECT_EQ(streams(2, 128), 1u);
  EXPECT_EQ(streams(4, 128), 2u);
  EXPECT_EQ(streams(8, 128), 4u);
  EXPECT_EQ(streams(16, 128), 8u);
}

// No damage is taken for symbols beyond their alphabets, none reads outside (ASan), cuts are always noticed.
TEST(RansStreamSafety, DamagedPlanes) {
  base::Rng rng(85);
  for (int round = 0; round < 3000; ++round) {
    const auto plane = RandomPlane(rng);
    Bytes coded = Encode(*plane);
    const uint64_t kind = rng.Below(4);
    if (kind == 0) {
      coded.resize(rng.Below(coded.size()));
    } else if (kind == 1) {
      const size_t header = std::min<size_t>(coded.size(), 40);
      coded[rng.Below(header)] = static_cast<std::byte>(rng.Below(256));
    } else if (kind == 2) {
      coded[rng.Below(coded.size())] ^= static_cast<std::byte>(1u << rng.Below(8));
    } else {
      coded.insert(coded.end(), 1 + rng.Below(80), static_cast<std::byte>(rng.Below(256)));
    }
    coded.shrink_to_fit();
    std::vector<uint8_t> symbols;
    const base::Status status = Decode(*plane, coded, &symbols);
    if (kind == 0 || kind == 3) {
      ASSERT_FALSE(status.ok());
    }
    if (!status.ok()) continue;
    ASSERT_TRUE(testing::WithinAlphabets(*plane, symbols));
  }
}

TEST(RansStreamSafety, ImpossibleFrames) {
  PlaneOfSymbols plane({2, 1, 640}, {8});
  for (size_t i = 0; i < plane.symbols.size(); ++i) plane.symbols[i] = i % 7 == 0 ? 5 : 1;
  const Bytes good = Encode(plane);
  std::vector<uint8_t> symbols;
  ASSERT_TRUE(Decode(plane, good, &symbols).ok());
  const auto refused = [&](size_t at, int value) {
    Bytes bad = good;
    bad[at] = static_cast<std::byte>(value);
    return !Decode(plane, bad, &symbols).ok();
  };
  ASSERT_EQ(good[0], std::byte{0x08});  // one stream, one table
  EXPECT_TRUE(refused(0, 0x0a));        // three streams of two tokens
  EXPECT_TRUE(refused(0, 0x80));        // sixteen tables
  EXPECT_TRUE(refused(0, 0x00));        // no table, not raw
  EXPECT_TRUE(refused(1, 0x01));        // raw, but a table
  EXPECT_TRUE(refused(1, 0x02));        // a raw stream that is not there
  EXPECT_TRUE(refused(2, 0x1f));        // a table of 32 symbols where there are 8
  for (const size_t bytes : {0u, 1u, 2u, 3u}) {
    EXPECT_FALSE(
        Decode(plane, Bytes(good.begin(), good.begin() + static_cast<ptrdiff_t>(bytes)), &symbols).ok());
  }
}

TEST(RansStageUnit, Legality) {
  const auto reason = [](std::string_view chain) {
    return std::string(KeyCodecOf(chain).status().message());
  };
  EXPECT_TRUE(KeyCodecOf("levels(m=32) | rans(stream)").ok());
  EXPECT_TRUE(KeyCodecOf("layers(last) | levels(m=12,low=3) | rans(table=stream)").ok());
  EXPECT_TRUE(KeyCodecOf("affine(bits=4) | rans(table=stream)").ok());
  EXPECT_THAT(reason("levels(m=33) | rans(stream)"), HasSubstr("at most 32 symbols, 'levels' makes 33"));
  EXPECT_THAT(reason("int8 | rans(stream)"), HasSubstr("L1: 'rans' takes alphabets of at most 32"));
  EXPECT_THAT(reason("levels | rans"), HasSubstr("use rans(table=stream)"));
  EXPECT_THAT(reason("rans(stream)"), HasSubstr("L1: 'rans' takes symbols"));
  EXPECT_THAT(reason("ecsq | rans(stream)"), HasSubstr("rans(table=class)"));
}

// Behind a quantiser rans gives what pack gives, in fewer bytes.
TEST(RansStageProperty, GivesTheValuesOfPack) {
  base::Rng rng(86);
  Workspace workspace;
  for (int round = 0; round < 60; ++round) {
    const auto tokens = static_cast<uint32_t>(1 + rng.Below(64));
    const auto heads = static_cast<uint32_t>(1 + rng.Below(4));
    const auto dim = static_cast<uint32_t>(1 + rng.Below(140));
    const auto levels = 2 + rng.Below(31);
    const auto rans = *KeyCodecOf(fmt::format("levels(m={}) | rans(stream)", levels));
    const auto pack = *KeyCodecOf(fmt::format("levels(m={}) | pack", levels));
    std::vector<uint16_t> values(size_t{tokens} * heads * dim), a(values.size()), b(values.size());
    for (uint16_t& v : values) v = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
    const auto view = tensor::ConstTileView::Contiguous(values.data(), tokens, heads, dim);
    const auto code = [&](const TileCodec& codec, std::vector<uint16_t>& back) {
      Bytes out(codec.MaxEncodedBytes(ShapeOf(view)));
      out.resize(*codec.Encode(view, workspace, out));
      EXPECT_GE(out.size(), codec.MinEncodedBytes(ShapeOf(view)));
      const auto to = tensor::TileView::Contiguous(back.data(), tokens, heads, dim);
      EXPECT_TRUE(codec.Decode(out, workspace, to).ok());
      return out;
    };
    const Bytes by_rans = code(*rans, a);
    const Bytes by_pack = code(*pack, b);
    if (by_rans[0] == by_pack[0]) {
      ASSERT_EQ(a, b);
    }
    if (values.size() > 20000 && levels != 2) {
      ASSERT_LT(by_rans.size(), by_pack.size());
    }
  }
}

}  // namespace
}  // namespace kvplane::codec
