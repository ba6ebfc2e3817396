#include "kvplane/codec/tile_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/codec/paged_kv.h"

namespace kvplane::codec {
namespace {

using ::testing::HasSubstr;

std::shared_ptr<const TileCodec> CodecOf(std::string_view chain) {
  const auto side = SideStrategy::Parse(chain, tensor::Side::kKey);
  KVPLANE_CHECK(side.ok());
  return *TileCodec::Create(*side, tensor::Side::kKey);
}

constexpr std::string_view kLossless[] = {"store",         "exponent",      "exponent(mode=rans)",
                                          "zstd(level=1)", "zstd(level=9)", "lz4"};
constexpr std::string_view kNarrow[] = {"int8(scale=token_head) | pack",
                                        "int8(scale=head) | pack",
                                        "fp8(format=e4m3,scale=token_head) | pack",
                                        "fp8(format=e4m3,scale=head) | pack",
                                        "fp8(format=e4m3,scale=one) | pack",
                                        "fp8(format=e5m2,scale=one) | pack",
                                        "fp8(format=e5m2,scale=head) | pack"};

std::string RandomChain(base::Rng& rng) {
  if (rng.Below(3) == 0) return std::string(kLossless[rng.Below(std::size(kLossless))]);
  if (rng.Below(3) == 0) return std::string(kNarrow[rng.Below(std::size(kNarrow))]);
  constexpr uint32_t kBits[] = {2, 4, 8};
  return fmt::format("affine(bits={},group={},axis={}) | pack", kBits[rng.Below(3)], 8 * (1 + rng.Below(16)),
                     rng.Below(2) == 0 ? "channel" : "token");
}

// The bytes in an allocation of exactly their size, so that ASan sees a read past them.
std::unique_ptr<std::byte[]> Exact(std::span<const std::byte> bytes) {
  auto copy = std::make_unique<std::byte[]>(bytes.size());
  std::copy(bytes.begin(), bytes.end(), copy.get());
  return copy;
}

std::vector<std::byte> Encode(const TileCodec& codec, const tensor::ConstTileView& view) {
  Workspace workspace;
  std::vector<std::byte> out(codec.MaxEncodedBytes(ShapeOf(view)));
  const auto bytes = codec.Encode(view, workspace, out);
  KVPLANE_CHECK(bytes.ok());
  out.resize(*bytes);
  return out;
}

TEST(TileCodecUnit, FourBitTileByHand) {
  // 8 tokens, one head, 8 channels; value of (token t, channel c) is t. Zero 0, scale RN_up(7 / 15).
  std::vector<uint16_t> values;
  for (int t = 0; t < 8; ++t) values.insert(values.end(), 8, tensor::FloatToBf16(static_cast<float>(t)));
  const auto codec = CodecOf("affine(bits=4,group=8,axis=channel) | pack");
  const auto view = tensor::ConstTileView::Contiguous(values.data(), 8, 1, 8);
  const std::vector<std::byte> coded = Encode(*codec, view);
  ASSERT_EQ(coded.size(), 1 + 8 * 2 + 8 * 2 + 8 * 4u);
  EXPECT_EQ(coded[0], std::byte{1});
  for (size_t i = 1; i < 17; ++i) EXPECT_EQ(coded[i], std::byte{0});
  EXPECT_EQ(coded[17], std::byte{0xef});  // 0x3eef = 0.466796875
  EXPECT_EQ(coded[18], std::byte{0x3e});
  const uint8_t rows[] = {0x00, 0x22, 0x44, 0x66, 0x99, 0xbb, 0xdd, 0xff};
  for (size_t t = 0; t < 8; ++t) {
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(coded[33 + 4 * t + i], static_cast<std::byte>(rows[t]));
  }
}

TEST(TileCodecUnit, StoreKeepsEveryPattern) {
  std::vector<uint16_t> values(65536);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint16_t>(i);
  std::vector<uint16_t> back(values.size());
  const auto view = tensor::ConstTileView::Contiguous(values.data(), 64, 8, 128);
  const auto codec = CodecOf("store");
  const std::vector<std::byte> coded = Encode(*codec, view);
  EXPECT_EQ(coded.size(), 1 + 2 * values.size());
  Workspace workspace;
  EXPECT_TRUE(codec->Decode(coded, workspace, tensor::TileView::Contiguous(back.data(), 64, 8, 128)).ok());
  EXPECT_EQ(back, values);
}

// Every pattern; normal values with some zeros, infinities and NaN among them; constants; odd shapes.
TEST(TileCodecProperty, LosslessStagesKeepEveryTile) {
  base::Rng rng(26);
  for (int round = 0; round < 400; ++round) {
    const auto codec = CodecOf(kLossless[rng.Below(std::size(kLossless))]);
    EXPECT_FALSE(codec->lossy());
    const auto tokens = static_cast<uint32_t>(1 + rng.Below(64));
    const auto heads = static_cast<uint32_t>(1 + rng.Below(3));
    const auto dim = static_cast<uint32_t>(1 + rng.Below(140));
    const uint64_t odd_percent = rng.Below(2) * rng.Below(101);
    const bool constant = rng.Below(8) == 0;
    std::vector<uint16_t> values(size_t{tokens} * heads * dim), back(values.size(), 0xbeef);
    for (uint16_t& v : values) {
      const bool odd = rng.Below(100) < odd_percent;
      v = odd ? static_cast<uint16_t>(rng.Next()) : tensor::FloatToBf16(static_cast<float>(rng.Normal()));
      if (constant) v = values[0];
    }
    const auto view = tensor::ConstTileView::Contiguous(values.data(), tokens, heads, dim);
    const std::vector<std::byte> coded = Encode(*codec, view);
    ASSERT_GE(coded.size(), codec->MinEncodedBytes(ShapeOf(view)));
    ASSERT_GE(16 * coded.size(), 2 * values.size());
    Workspace workspace;
    const auto exact = Exact(coded);
    const auto out = tensor::TileView::Contiguous(back.data(), tokens, heads, dim);
    ASSERT_TRUE(codec->Decode({exact.get(), coded.size()}, workspace, out).ok());
    ASSERT_EQ(back, values) << codec->strategy().ToString();
  }
}

TEST(TileCodecUnit, ExponentsTakeFourBits) {
  base::Rng rng(27);
  std::vector<uint16_t> values(64 * 4 * 128);
  for (uint16_t& v : values) v = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
  values[5] = 0x7fc1;
  values[6] = 0;
  const auto view = tensor::ConstTileView::Contiguous(values.data(), 64, 4, 128);
  const std::vector<std::byte> coded = Encode(*CodecOf("exponent"), view);
  const size_t least = 1 + 4 + values.size() * 3 / 2;
  EXPECT_EQ(coded[0], std::byte{1});
  EXPECT_GE(coded.size(), least + 2);
  EXPECT_LT(coded.size(), least + values.size() / 1000);
}

// spec.md's example with its NaN replaced by 1.0 and repeated, so that it is smaller than raw.
TEST(TileCodecUnit, ExponentTileByHand) {
  std::vector<uint16_t> values = {0x3f80, 0xc000, 0x3900, 0x3880, 0x3f80, 0x3f80};
  const auto view = tensor::ConstTileView::Contiguous(values.data(), 1, 1, 6);
  const std::vector<std::byte> coded = Encode(*CodecOf("exponent"), view);
  const uint8_t expected[] = {1, 114, 0x00, 0x80, 0x00, 0x00, 0x00, 0x00, 0xed, 0xf0, 0xdd, 113};
  ASSERT_EQ(coded.size(), std::size(expected));
  for (size_t i = 0; i < coded.size(); ++i) EXPECT_EQ(coded[i], static_cast<std::byte>(expected[i])) << i;
}

TEST(TileCodecUnit, Int8TileByHand) {
  std::vector<uint16_t> values = {0x42fe, 0xbf80, 0x3f00, 0x427e};  // 127, -1, 0.5, 63.5
  const auto view = tensor::ConstTileView::Contiguous(values.data(), 1, 1, 4);
  const std::vector<std::byte> coded = Encode(*CodecOf("int8 | pack"), view);
  const uint8_t expected[] = {1, 0x80, 0x3f, 0x7f, 0xff, 0x00, 0x40};
  ASSERT_EQ(coded.size(), std::size(expected));
  for (size_t i = 0; i < coded.size(); ++i) EXPECT_EQ(coded[i], static_cast<std::byte>(expected[i])) << i;
}

TEST(TileCodecUnit, UnscaledFp8KeepsLargerValuesRaw) {
  const auto codec = CodecOf("fp8(format=e4m3,scale=one) | pack");
  std::vector<uint16_t> values(64, 0x43e0);  // 448
  EXPECT_EQ(Encode(*codec, tensor::ConstTileView::Contiguous(values.data(), 1, 1, 64)).size(), 65u);
  values[9] = 0xc3e1;
  EXPECT_EQ(Encode(*codec, tensor::ConstTileView::Contiguous(values.data(), 1, 1, 64)).size(), 129u);
}

TEST(TileCodecSafety, CodesWithoutAValueAreRefused) {
  const std::vector<uint16_t> zeros(64);
  for (const auto& [chain, code] : {std::pair{"int8(scale=head) | pack", 0x80},
                                    {"fp8 | pack", 0x7f},
                                    {"fp8 | pack", 0xff},
                                    {"fp8(format=e5m2) | pack", 0x7c}}) {
    const auto codec = CodecOf(chain);
    auto coded = Encode(*codec, tensor::ConstTileView::Contiguous(zeros.data(), 1, 1, 64));
    std::vector<uint16_t> out(64, 0xbeef);
    Workspace workspace;
    const auto view = tensor::TileView::Contiguous(out.data(), 1, 1, 64);
    coded.back() = static_cast<std::byte>(code);
    EXPECT_EQ(codec->Decode(coded, workspace, view).code(), base::StatusCode::kCorrupt) << chain;
    EXPECT_EQ(out[0], 0xbeef);
    coded.back() = static_cast<std::byte>(code - 1);
    EXPECT_TRUE(codec->Decode(coded, workspace, view).ok()) << chain;
  }
}

TEST(TileCodecSafety, CompressedPlanesAreBoundedByTheTile) {
  // A frame of more, and of fewer, bytes than the tile's planes.
  const std::vector<uint16_t> zeros(64 * 64);
  for (const std::string_view chain : {"zstd", "lz4"}) {
    const auto codec = CodecOf(chain);
    const auto coded = Encode(*codec, tensor::ConstTileView::Contiguous(zeros.data(), 64, 1, 64));
    EXPECT_EQ(coded.size(), 1 + 64 * 64 / 8u);  // the least: 1/16 of raw
    std::vector<uint16_t> out(64 * 65, 0xbeef);
    Workspace workspace;
    for (const uint32_t tokens : {63u, 64u}) {
      const auto view = tensor::TileView::Contiguous(out.data(), tokens, 1, tokens == 64 ? 65 : 64);
      auto padded = coded;
      padded.resize(codec->MinEncodedBytes(ShapeOf(view)));
      const base::Status status = codec->Decode(padded, workspace, view);
      EXPECT_EQ(status.code(), base::StatusCode::kCorrupt);
      EXPECT_TRUE(std::all_of(out.begin(), out.end(), [](uint16_t v) { return v == 0xbeef; }));
    }
  }
}

TEST(TileCodecUnit, TilesItCannotHoldAreRawAndExact) {
  const uint16_t bad[] = {0x7f80, 0xff80, 0x7fc1, 0xff81, 0x7f7f, 0x7e80};
  base::Rng rng(21);
  for (const uint16_t pattern : bad) {
    std::vector<uint16_t> values(64 * 2 * 16), back(values.size());
    for (uint16_t& v : values) v = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
    values[rng.Below(values.size())] = pattern;
    const auto view = tensor::ConstTileView::Contiguous(values.data(), 64, 2, 16);
    const auto codec = CodecOf("affine | pack");
    const std::vector<std::byte> coded = Encode(*codec, view);
    EXPECT_EQ(coded[0], std::byte{0});
    EXPECT_EQ(coded.size(), codec->MaxEncodedBytes(ShapeOf(view)));
    Workspace workspace;
    EXPECT_TRUE(codec->Decode(coded, workspace, tensor::TileView::Contiguous(back.data(), 64, 2, 16)).ok());
    EXPECT_EQ(back, values);
  }
}

TEST(TileCodecUnit, ConstantAndZeroTilesAreExact) {
  for (const float value : {0.0f, 1.0f, -7.25f, 0x1p-130f, -0x1p125f}) {
    for (const std::string_view chain :
         {"affine(bits=2,axis=channel)|pack", "affine(bits=8,axis=token)|pack"}) {
      std::vector<uint16_t> values(32 * 8, tensor::FloatToBf16(value)), back(values.size());
      const auto codec = CodecOf(chain);
      const auto coded = Encode(*codec, tensor::ConstTileView::Contiguous(values.data(), 32, 1, 8));
      EXPECT_EQ(coded[0], std::byte{1});
      Workspace workspace;
      EXPECT_TRUE(codec->Decode(coded, workspace, tensor::TileView::Contiguous(back.data(), 32, 1, 8)).ok());
      EXPECT_EQ(back, values) << value;
    }
  }
}

TEST(TileCodecUnit, RefusesIllegalShapesAndShortBuffers) {
  std::vector<uint16_t> values(65 * 8);
  const auto codec = CodecOf("affine | pack");
  Workspace workspace;
  std::vector<std::byte> out(4096);
  EXPECT_FALSE(codec->Encode(tensor::ConstTileView::Contiguous(values.data(), 0, 1, 8), workspace, out).ok());
  EXPECT_FALSE(
      codec->Encode(tensor::ConstTileView::Contiguous(values.data(), 65, 1, 8), workspace, out).ok());
  const auto view = tensor::ConstTileView::Contiguous(values.data(), 8, 1, 8);
  EXPECT_FALSE(codec->Encode(view, workspace, std::span(out).first(128)).ok());
  EXPECT_TRUE(codec->Encode(view, workspace, std::span(out).first(129)).ok());
}

TEST(TileCodecUnit, WorkspaceGrowsAndKeepsItsAlignment) {
  Workspace workspace;
  const auto small = workspace.Scratch(10);
  EXPECT_EQ(small.size(), 10u);
  const auto large = workspace.Scratch(100'000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(large.data()) % 64, 0u);
  EXPECT_EQ(workspace.Scratch(50'000).data(), large.data());
}

TEST(TileCodecUnit, WireStrategyIsCheckedAndNamesWhatIsWrong) {
  const auto wire = [](std::string_view text) {
    return TileCodec::FromWire(std::as_bytes(std::span(text.data(), text.size())), tensor::Side::kKey);
  };
  EXPECT_TRUE(wire("store").ok());
  EXPECT_EQ((*wire("affine(bits=4,group=64,axis=token) | pack"))->strategy().ToString(),
            "affine(bits=4,group=64,axis=token) | pack");
  const auto refused = wire("affine | pack");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), base::StatusCode::kCorrupt);
  EXPECT_THAT(refused.status().message(), HasSubstr("canonical"));
  EXPECT_FALSE(wire("").ok());
  EXPECT_FALSE(wire(std::string(kMaxStrategyTextBytes + 1, 'a')).ok());
}

struct TileCase {
  tensor::KvGeometry geometry;
  uint32_t tokens, first_token, block_tokens;
  tensor::Side side;
};

TileCase RandomTileCase(base::Rng& rng) {
  TileCase s;
  s.geometry.layers = 1;
  s.geometry.kv_heads = static_cast<uint32_t>(1 + rng.Below(8));
  s.geometry.head_dim = static_cast<uint32_t>(8 * (1 + rng.Below(16)));
  s.tokens = static_cast<uint32_t>(1 + rng.Below(64));
  s.first_token = static_cast<uint32_t>(rng.Below(40));
  s.block_tokens = static_cast<uint32_t>(1 + rng.Below(40));
  s.side = rng.Below(2) == 0 ? tensor::Side::kKey : tensor::Side::kValue;
  return s;
}

// Encoding from pages and decoding into pages of another block size; outside the tile nothing changes.
TEST(TileCodecProperty, PagesOfAnyFormatAgreeWithContiguousMemory) {
  base::Rng rng(22);
  for (int round = 0; round < 300; ++round) {
    const TileCase s = RandomTileCase(rng);
    const auto codec = CodecOf(RandomChain(rng));
    testing::PagedLayer in(s.geometry, s.first_token + s.tokens, s.block_tokens);
    in.FillNormal(rng, s.geometry);
    const uint32_t heads = s.geometry.kv_heads;
    const uint32_t dim = s.geometry.head_dim;
    const auto view = tensor::MakeTileView(in.pages(), s.side, s.first_token, s.tokens, 0, heads, dim);
    const std::vector<std::byte> coded = Encode(*codec, tensor::AsConst(view));

    std::vector<uint16_t> flat;
    for (uint32_t t = 0; t < s.tokens; ++t) {
      for (uint32_t h = 0; h < heads; ++h) {
        const uint32_t token = s.first_token + t;
        const uint16_t* row = in.pages().pages[token / s.block_tokens] +
                              in.pages().format.offset(s.side, token % s.block_tokens, h);
        flat.insert(flat.end(), row, row + dim);
      }
    }
    ASSERT_EQ(Encode(*codec, tensor::ConstTileView::Contiguous(flat.data(), s.tokens, heads, dim)), coded);

    testing::PagedLayer out(s.geometry, s.first_token + s.tokens, s.block_tokens + 3);
    std::vector<uint16_t> flat_out(flat.size());
    Workspace workspace;
    const auto exact = Exact(coded);
    const std::span<const std::byte> exact_bytes(exact.get(), coded.size());
    ASSERT_TRUE(
        codec
            ->Decode(exact_bytes, workspace,
                     tensor::MakeTileView(out.pages(), s.side, s.first_token, s.tokens, 0, heads, dim))
            .ok());
    ASSERT_TRUE(codec
                    ->Decode(exact_bytes, workspace,
                             tensor::TileView::Contiguous(flat_out.data(), s.tokens, heads, dim))
                    .ok());
    size_t at = 0;
    for (uint32_t t = 0; t < s.tokens; ++t) {
      for (uint32_t h = 0; h < heads; ++h, at += dim) {
        const uint32_t token = s.first_token + t;
        uint16_t* row = out.pages().pages[token / (s.block_tokens + 3)] +
                        out.pages().format.offset(s.side, token % (s.block_tokens + 3), h);
        ASSERT_TRUE(std::equal(row, row + dim, flat_out.begin() + static_cast<ptrdiff_t>(at)));
        std::fill_n(row, dim, uint16_t{0xbeef});
      }
    }
    for (const uint16_t v : out.memory()) ASSERT_EQ(v, 0xbeef);
  }
}

// More bits, less error: SNR of Gaussian values at group 64 within a decibel of the uniform quantiser's.
TEST(TileCodecProperty, SignalToNoiseGrowsWithBits) {
  base::Rng rng(23);
  std::vector<uint16_t> values(64 * 4 * 64), back(values.size());
  for (uint16_t& v : values) v = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
  const struct {
    std::string_view chain;
    double low, high;
  } kCases[] = {{"affine(bits=2,group=64,axis=channel)|pack", 6, 9},
                {"affine(bits=4,group=64,axis=channel)|pack", 20, 23},
                {"affine(bits=4,group=64,axis=token)|pack", 20, 23},
                {"affine(bits=8,group=64,axis=token)|pack", 43, 47},
                {"int8|pack", 43, 46},
                {"int8(scale=head)|pack", 40, 44},
                {"fp8(format=e4m3,scale=one)|pack", 30, 33},
                {"fp8(format=e4m3,scale=token_head)|pack", 30, 33},
                {"fp8(format=e5m2,scale=head)|pack", 24, 27}};
  for (const auto& c : kCases) {
    const auto codec = CodecOf(c.chain);
    const auto coded = Encode(*codec, tensor::ConstTileView::Contiguous(values.data(), 64, 4, 64));
    Workspace workspace;
    ASSERT_TRUE(codec->Decode(coded, workspace, tensor::TileView::Contiguous(back.data(), 64, 4, 64)).ok());
    double signal = 0, noise = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const double x = tensor::Bf16ToFloat(values[i]);
      const double e = x - tensor::Bf16ToFloat(back[i]);
      signal += x * x;
      noise += e * e;
    }
    const double snr_db = 10 * std::log10(signal / noise);
    EXPECT_GT(snr_db, c.low) << c.chain;
    EXPECT_LT(snr_db, c.high) << c.chain;
  }
}

TEST(TileCodecProperty, NeverExpandsAndKeepsItsLength) {
  base::Rng rng(24);
  for (int round = 0; round < 300; ++round) {
    const TileCase s = RandomTileCase(rng);
    const auto codec = CodecOf(RandomChain(rng));
    std::vector<uint16_t> values(size_t{s.tokens} * s.geometry.kv_heads * s.geometry.head_dim);
    for (uint16_t& v : values) v = static_cast<uint16_t>(rng.Next());
    const auto view =
        tensor::ConstTileView::Contiguous(values.data(), s.tokens, s.geometry.kv_heads, s.geometry.head_dim);
    EXPECT_LE(Encode(*codec, view).size(), 1 + 2 * values.size());
  }
}

// Whatever the bytes, Decode() stays inside them; what packs and windows delivers all or nothing.
TEST(TileCodecSafety, HostileTilesAreRefusedOrDecodeToFiniteValues) {
  base::Rng rng(25);
  for (int round = 0; round < 20'000; ++round) {
    const auto codec = CodecOf(RandomChain(rng));
    const auto tokens = static_cast<uint32_t>(1 + rng.Below(12));
    const auto heads = static_cast<uint32_t>(1 + rng.Below(2));
    const auto dim = static_cast<uint32_t>(8 * (1 + rng.Below(5)));
    std::vector<uint16_t> values(size_t{tokens} * heads * dim);
    for (uint16_t& v : values) v = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
    std::vector<std::byte> coded =
        Encode(*codec, tensor::ConstTileView::Contiguous(values.data(), tokens, heads, dim));
    if (rng.Below(3) == 0) coded.resize(rng.Below(coded.size() + 8));
    for (uint64_t n = rng.Below(6); n > 0 && !coded.empty(); --n) {
      coded[rng.Below(coded.size())] = static_cast<std::byte>(rng.Next());
    }
    std::vector<uint16_t> out(values.size(), 0xbeef);
    Workspace workspace;
    const auto exact = Exact(coded);
    const base::Status status = codec->Decode({exact.get(), coded.size()}, workspace,
                                              tensor::TileView::Contiguous(out.data(), tokens, heads, dim));
    if (!status.ok()) {
      ASSERT_EQ(status.code(), base::StatusCode::kCorrupt);
      if (codec->strategy().ToString() == "exponent(mode=rans)") continue;
      ASSERT_TRUE(std::all_of(out.begin(), out.end(), [](uint16_t v) { return v == 0xbeef; }));
    } else if (coded[0] == std::byte{1} && codec->lossy()) {
      ASSERT_TRUE(std::all_of(out.begin(), out.end(), [](uint16_t v) { return (v & 0x7fff) < 0x7f80; }));
    }
  }
}

}  // namespace
}  // namespace kvplane::codec
