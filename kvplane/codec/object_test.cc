#include "kvplane/codec/object.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kvplane/base/endian.h"
#include "kvplane/base/rng.h"
#include "kvplane/codec/object_layout.h"
#include "kvplane/codec/paged_kv.h"
#include "kvplane/codec/testing/synthetic_profile.h"
#include "kvplane/kernel/checksum/checksum.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::codec {
namespace {

using ::testing::HasSubstr;
using testing::PagedLayer;

ObjectInfo MakeInfo(std::string_view strategy, uint32_t layers, uint32_t heads, uint32_t dim,
                    uint32_t tokens) {
  ObjectInfo info;
  info.geometry = {.layers = layers, .kv_heads = heads, .head_dim = dim};
  info.tokens = tokens;
  info.strategy = *Strategy::Parse(strategy);
  for (size_t i = 0; i < 32; ++i) info.identity.model_fingerprint[i] = static_cast<std::byte>(i);
  info.identity.rope[3] = std::byte{7};
  return info;
}

std::vector<PagedLayer> MakeLayers(const ObjectInfo& info, uint32_t block_tokens) {
  std::vector<PagedLayer> layers;
  for (uint32_t i = 0; i < info.geometry.layers; ++i)
    layers.emplace_back(info.geometry, info.tokens, block_tokens);
  return layers;
}

std::vector<PagedLayer> RandomLayers(const ObjectInfo& info, uint32_t block_tokens, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<PagedLayer> layers = MakeLayers(info, block_tokens);
  for (PagedLayer& layer : layers) layer.FillNormal(rng, info.geometry);
  return layers;
}

std::vector<std::byte> Write(const ObjectInfo& info, const std::vector<PagedLayer>& layers,
                             std::shared_ptr<const ModelProfile> profile = nullptr) {
  Workspace workspace;
  auto writer = ObjectWriter::Create(info, std::move(profile));
  KVPLANE_CHECK(writer.ok());
  for (const PagedLayer& layer : layers) KVPLANE_CHECK(writer->AppendLayer(layer.pages(), workspace).ok());
  return *writer->Finish();
}

base::Status Read(std::span<const std::byte> object, std::vector<PagedLayer>& out) {
  Workspace workspace;
  auto reader = ObjectReader::Open(object);
  if (!reader.ok()) return reader.status();
  std::vector<tensor::LayerPages> pages;
  for (const PagedLayer& layer : out) pages.push_back(layer.pages());
  return reader->DecodeAll(object, workspace, pages);
}

// Rewrites the CRCs of header and prefix after a test has patched a field.
void FixPrefixCrcs(std::vector<std::byte>& object) {
  const auto prefix_bytes = base::LoadLe<uint32_t>(object.data() + layout::kAtPrefixBytes);
  base::StoreLe(object.data() + layout::kAtHeaderCrc,
                kernel::Crc32c(std::span(object).first(layout::kAtHeaderCrc)));
  const size_t crc_at = prefix_bytes - layout::kCrcBytes;
  base::StoreLe(object.data() + crc_at,
                kernel::Crc32c(std::span(object).subspan(kObjectHeaderBytes, crc_at - kObjectHeaderBytes)));
}

TEST(ObjectUnit, KeepsWhatItWasTold) {
  ObjectInfo info = MakeInfo("k: affine|pack; v: store", 3, 4, 16, 130);
  info.head_group = 2;
  info.first_token = 256;
  info.quality[1] = 9;
  const auto object = Write(info, RandomLayers(info, 16, 1));
  const auto reader = ObjectReader::Open(object);
  ASSERT_TRUE(reader.ok()) << reader.status().ToString();
  EXPECT_EQ(reader->info().geometry, info.geometry);
  EXPECT_EQ(reader->info().first_token, 256u);
  EXPECT_EQ(reader->info().tokens, 130u);
  EXPECT_EQ(reader->info().head_group, 2u);
  EXPECT_EQ(reader->info().quality[1], 9);
  EXPECT_EQ(reader->info().identity, info.identity);
  EXPECT_EQ(reader->info().strategy, info.strategy);
  EXPECT_EQ(reader->info().tiles_per_layer(), 2u * 2 * 3);
  EXPECT_EQ(reader->object_bytes(), object.size());
  EXPECT_EQ(*ObjectReader::PrefixBytes(std::span(object).first(kObjectHeaderBytes)), reader->prefix_bytes());
  EXPECT_TRUE(reader->VerifyChecksums(object).ok());
}

TEST(ObjectUnit, ARangedReaderNeedsOnlyPrefixAndSection) {
  const ObjectInfo info = MakeInfo("int8", 4, 2, 32, 100);
  const auto object = Write(info, RandomLayers(info, 16, 2));
  auto whole = MakeLayers(info, 16);
  ASSERT_TRUE(Read(object, whole).ok());

  const size_t prefix = *ObjectReader::PrefixBytes(std::span(object).first(kObjectHeaderBytes));
  const std::vector<std::byte> head(object.begin(), object.begin() + static_cast<ptrdiff_t>(prefix));
  const auto reader = ObjectReader::Open(head);
  ASSERT_TRUE(reader.ok());
  const auto range = reader->layer_range(2);
  const std::vector<std::byte> section(object.begin() + static_cast<ptrdiff_t>(range.offset),
                                       object.begin() + static_cast<ptrdiff_t>(range.offset + range.bytes));
  auto one = MakeLayers(info, 16);
  Workspace workspace;
  ASSERT_TRUE(reader->DecodeLayer(2, section, workspace, one[2].pages()).ok());
  EXPECT_EQ(one[2].memory(), whole[2].memory());
  // A whole section in the wrong place is refused: of another layer, or of another model's object.
  EXPECT_EQ(reader->DecodeLayer(1, section, workspace, one[1].pages()).code(), base::StatusCode::kCorrupt);
  ObjectInfo other = info;
  other.identity.model_fingerprint[0] = std::byte{9};
  const auto other_reader = ObjectReader::Open(Write(other, RandomLayers(info, 16, 2)));
  EXPECT_EQ(other_reader->DecodeLayer(2, section, workspace, one[2].pages()).code(),
            base::StatusCode::kCorrupt);
}

TEST(ObjectUnit, CodedTilesMoveWithoutRecoding) {
  ObjectInfo info = MakeInfo("int4", 2, 4, 16, 70);
  info.head_group = 1;
  const auto object = Write(info, RandomLayers(info, 16, 3));
  const auto reader = ObjectReader::Open(object);
  auto writer = ObjectWriter::Create(info);
  for (uint32_t layer = 0; layer < 2; ++layer) {
    const auto range = reader->layer_range(layer);
    const auto section = reader->OpenLayer(layer, std::span(object).subspan(range.offset, range.bytes));
    std::vector<std::span<const std::byte>> tiles;
    for (size_t i = 0; i < section->tiles(); ++i) tiles.push_back(*section->Tile(i));
    ASSERT_TRUE(writer->AppendCodedLayer(tiles).ok());
    EXPECT_FALSE(writer->AppendCodedLayer(std::span(tiles).first(1)).ok());
  }
  EXPECT_EQ(*writer->Finish(), object);
}

TEST(ObjectUnit, WriterRefusesMisuse) {
  const ObjectInfo info = MakeInfo("off", 2, 1, 8, 10);
  auto layers = RandomLayers(info, 16, 4);
  Workspace workspace;
  auto writer = ObjectWriter::Create(info);
  EXPECT_FALSE(writer->Finish().ok());
  EXPECT_FALSE(writer->AppendLayer({{}, layers[0].pages().format}, workspace).ok());
  EXPECT_TRUE(writer->AppendLayer(layers[0].pages(), workspace).ok());
  EXPECT_TRUE(writer->AppendLayer(layers[1].pages(), workspace).ok());
  EXPECT_FALSE(writer->AppendLayer(layers[1].pages(), workspace).ok());
  EXPECT_TRUE(writer->Finish().ok());
  EXPECT_EQ(writer->Finish().status().code(), base::StatusCode::kFailedPrecondition);

  ObjectInfo bad = info;
  bad.tokens = 0;
  EXPECT_FALSE(ObjectWriter::Create(bad).ok());
  bad = info;
  bad.head_group = 3;
  EXPECT_FALSE(ObjectWriter::Create(bad).ok());
  bad = info;
  bad.geometry.layers = kMaxObjectLayers + 1;
  EXPECT_FALSE(ObjectWriter::Create(bad).ok());
}

TEST(ObjectUnit, StrictReaderRefusesLossy) {
  const ObjectInfo lossy = MakeInfo("int8", 1, 1, 8, 64);
  const auto refused = ObjectReader::Open(Write(lossy, RandomLayers(lossy, 16, 5)), {.accept_lossy = false});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), base::StatusCode::kFailedPrecondition);
  const ObjectInfo exact = MakeInfo("off", 1, 1, 8, 64);
  EXPECT_TRUE(ObjectReader::Open(Write(exact, RandomLayers(exact, 16, 5)), {.accept_lossy = false}).ok());
}

TEST(ObjectUnit, RefusesTheFutureByName) {
  const ObjectInfo info = MakeInfo("int4", 1, 1, 16, 64);
  const auto object = Write(info, RandomLayers(info, 16, 6));
  const auto patched = [&](size_t at, uint8_t value) {
    auto copy = object;
    copy[at] = static_cast<std::byte>(value);
    FixPrefixCrcs(copy);
    const auto reader = ObjectReader::Open(copy);
    return reader.ok() ? base::Status::Ok() : reader.status();
  };
  EXPECT_THAT(patched(layout::kAtMajor, 2).ToString(), HasSubstr("unimplemented: object: major version 2"));
  EXPECT_THAT(patched(layout::kAtFlags, 3).ToString(), HasSubstr("unknown critical flags 0x0002"));
  EXPECT_TRUE(patched(layout::kAtMinor, 9).ok());
  EXPECT_EQ(ObjectReader::Open(object)->minor_version(), kObjectMinor);
  auto later = object;
  later[layout::kAtMinor] = std::byte{9};
  FixPrefixCrcs(later);
  EXPECT_EQ(ObjectReader::Open(later)->minor_version(), 9);
  EXPECT_TRUE(patched(layout::kAtFlags + 1, 0x80).ok());
  EXPECT_THAT(patched(layout::kAtTileTokens, 32).ToString(), HasSubstr("tiles of 32 tokens"));
  EXPECT_THAT(patched(layout::kAtDType, 1).ToString(), HasSubstr("bf16"));
  EXPECT_THAT(patched(layout::kAtFlags, 0).ToString(), HasSubstr("lossy flag"));
  EXPECT_THAT(patched(layout::kAtStrategyText, 'b').ToString(), HasSubstr("unknown stage 'bffine'"));
  EXPECT_THAT(patched(layout::kAtStrategyId, 0).ToString(), HasSubstr("strategy id"));
  EXPECT_THAT(patched(layout::kAtHeadGroup, 0).ToString(), HasSubstr("head group"));
  EXPECT_THAT(patched(layout::kAtLayers, 2).ToString(), HasSubstr("contradicts"));
  EXPECT_THAT(patched(layout::kAtObjectBytes, 1).ToString(), HasSubstr("corrupt"));
  EXPECT_THAT(patched(layout::kAtTokens + 3, 0xff).ToString(), HasSubstr("tokens"));
  EXPECT_THAT(patched(layout::kAtTokens + 2, 0xff).ToString(), HasSubstr("impossible"));
}

// Whoever lacks the profile verifies and forwards, and takes no memory for values that the bytes do not back.
TEST(ObjectSafety, ClaimsAreBoundedWithoutTheProfile) {
  const ObjectInfo info = MakeInfo("c11", 2, 2, 16, 100);
  const auto profile = testing::SyntheticProfile({.geometry = info.geometry});
  const auto object = Write(info, RandomLayers(info, 16, 13), profile);
  const auto reader = ObjectReader::Open(object);
  ASSERT_TRUE(reader.ok()) << reader.status().ToString();
  EXPECT_TRUE(reader->VerifyChecksums(object).ok());
  EXPECT_EQ(reader->CheckDecodable().code(), base::StatusCode::kFailedPrecondition);
  EXPECT_THAT(reader->CheckDecodable().ToString(), HasSubstr(profile->id().ToHex()));
  Workspace workspace;
  EXPECT_EQ(reader->DecodeAll(object, workspace, {}), reader->CheckDecodable());
  EXPECT_EQ(reader->DecodeLayer(0, {}, workspace, {}), reader->CheckDecodable());

  // 1,024 heads where there are 2: 134 MB a tile, of some hundred bytes.
  auto lying = object;
  base::StoreLe<uint16_t>(lying.data() + layout::kAtKvHeads, 1024);
  base::StoreLe<uint16_t>(lying.data() + layout::kAtHeadGroup, 1024);
  FixPrefixCrcs(lying);
  EXPECT_THAT(ObjectReader::Open(lying).status().ToString(), HasSubstr("impossible"));

  ProfileSet profiles;
  profiles.Add(profile);
  EXPECT_TRUE(ObjectReader::Open(object, {.profiles = &profiles})->CheckDecodable().ok());
}

// An id names one profile: an object of another geometry that names it was made by nobody.
TEST(ObjectSafety, AProfileOfAnotherGeometryIsRefused) {
  const ObjectInfo info = MakeInfo("c11", 2, 2, 16, 100);
  const auto object =
      Write(info, RandomLayers(info, 16, 14), testing::SyntheticProfile({.geometry = info.geometry}));
  for (const tensor::KvGeometry geometry : {tensor::KvGeometry{.layers = 1, .kv_heads = 2, .head_dim = 16},
                                            {.layers = 2, .kv_heads = 4, .head_dim = 16},
                                            {.layers = 2, .kv_heads = 2, .head_dim = 32}}) {
    const auto other = testing::SyntheticProfile({.geometry = geometry});
    auto lying = object;
    std::copy(other->id().bytes.begin(), other->id().bytes.end(), lying.begin() + layout::kAtProfile);
    FixPrefixCrcs(lying);
    EXPECT_TRUE(ObjectReader::Open(lying).ok());  // who does not have it cannot know
    ProfileSet profiles;
    profiles.Add(other);
    const auto refused = ObjectReader::Open(lying, {.profiles = &profiles});
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.status().code(), base::StatusCode::kCorrupt);
    EXPECT_THAT(refused.status().message(), HasSubstr(other->id().ToHex()));
  }
}

// Makes the last tile of a one-layer object `bytes` long, all checksums right.
void StretchLastTile(std::vector<std::byte>& object, size_t bytes) {
  const auto reader = ObjectReader::Open(object);
  const size_t tiles = reader->info().tiles_per_layer();
  const size_t section_at = reader->layer_range(0).offset;
  const size_t entry_at = section_at + (tiles - 1) * layout::kIndexEntryBytes;
  object.resize(object.size() - base::LoadLe<uint32_t>(object.data() + entry_at) + bytes);
  base::StoreLe(object.data() + entry_at, static_cast<uint32_t>(bytes));
  base::StoreLe(object.data() + entry_at + 4, TileCrc(std::span(object).last(bytes)));
  const std::span<const std::byte> all(object);
  base::StoreLe(object.data() + entry_at + layout::kIndexEntryBytes,
                layout::IndexCrc(all.subspan(kObjectHeaderBytes, layout::kIdentityBytes), 0,
                                 all.subspan(section_at, tiles * layout::kIndexEntryBytes)));
  base::StoreLe<uint64_t>(object.data() + section_at - layout::kCrcBytes - 8, object.size() - section_at);
  base::StoreLe<uint64_t>(object.data() + layout::kAtObjectBytes, object.size());
  FixPrefixCrcs(object);
}

TEST(ObjectSafety, NoTileIsLongerThanRaw) {
  const ObjectInfo info = MakeInfo("int4", 1, 2, 16, 70);
  auto object = Write(info, RandomLayers(info, 16, 15));
  constexpr size_t kMost = 1 + 6 * 2 * 16 * 2;  // of the last tile, which has 6 tokens
  StretchLastTile(object, kMost);
  const auto reader = ObjectReader::Open(object);
  ASSERT_TRUE(reader.ok()) << reader.status().ToString();
  EXPECT_TRUE(reader->VerifyChecksums(object).ok());
  StretchLastTile(object, kMost + 1);
  const auto longer = ObjectReader::Open(object);
  ASSERT_TRUE(longer.ok()) << longer.status().ToString();
  const base::Status refused = longer->VerifyChecksums(object);
  EXPECT_EQ(refused.code(), base::StatusCode::kCorrupt);
  EXPECT_THAT(refused.message(), HasSubstr("claims 386 bytes; raw it has 385"));
}

// What a container adds depends on the shape alone, so its share grows as values take fewer bits: on the demo
// model 1.6 % for `compact` and 2.1 % for `tight` (docs/strategies.md, "What an object adds").
TEST(ObjectProperty, OverheadAt256TokensIsBelowOnePercentFromTwoBitsAValueAndThreeBelow) {
  constexpr struct {
    std::string_view strategy;
    double most;  // of the payload, in the demo model's shape
  } kCases[] = {{"off", 0.01},  {"int8", 0.01},    {"int4", 0.01},
                {"int2", 0.01}, {"compact", 0.02}, {"tight", 0.03}};
  constexpr uint32_t kLayers = 8;
  const auto profile =
      testing::SyntheticProfile({.geometry = {.layers = kLayers, .kv_heads = 2, .head_dim = 64}});
  for (const auto& [strategy, most] : kCases) {
    const ObjectInfo info = MakeInfo(strategy, kLayers, 2, 64, 256);
    const auto object = Write(info, RandomLayers(info, 16, 7), profile);
    const auto reader = ObjectReader::Open(object);
    size_t payload = 0;
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      const auto range = reader->layer_range(layer);
      const auto section = reader->OpenLayer(layer, std::span(object).subspan(range.offset, range.bytes));
      for (size_t i = 0; i < section->tiles(); ++i) payload += section->Tile(i)->size() - 1;
    }
    const size_t overhead = object.size() - payload;
    EXPECT_EQ(overhead, OverheadBytes(info) + kLayers * info.tiles_per_layer()) << strategy;
    EXPECT_LT(static_cast<double>(overhead), most * static_cast<double>(payload))
        << strategy << ": " << overhead << " of " << payload;
  }
}

// Root mean square of the difference, all values.
double RmsError(const std::vector<PagedLayer>& a, const std::vector<PagedLayer>& b, const ObjectInfo& info) {
  double sum = 0;
  size_t count = 0;
  for (size_t layer = 0; layer < a.size(); ++layer) {
    for (const tensor::Side side : tensor::kSides) {
      for (uint32_t token = 0; token < info.tokens; ++token) {
        for (uint32_t head = 0; head < info.geometry.kv_heads; ++head) {
          const auto row = [&](const PagedLayer& of) {
            const tensor::LayerPages pages = of.pages();
            const uint32_t block = pages.format.block_tokens;
            return pages.pages[token / block] + pages.format.offset(side, token % block, head);
          };
          for (uint32_t c = 0; c < info.geometry.head_dim; ++c, ++count) {
            const double d = tensor::Bf16ToFloat(row(a[layer])[c]) - tensor::Bf16ToFloat(row(b[layer])[c]);
            sum += d * d;
          }
        }
      }
    }
  }
  return std::sqrt(sum / static_cast<double>(count));
}

TEST(ObjectProperty, RoundTripsAnyGeometry) {
  // Values have deviation 1 (about 12 on some channels of keys): one taken for another is wrong by 1.4.
  constexpr struct {
    std::string_view strategy;
    double most_error;
  } kStrategies[] = {{"off", 0},    {"lossless", 0}, {"fp8", 0.25},   {"int8", 0.1},        {"int4", 0.25},
                     {"int2", 0.9}, {"nvfp4", 0.8},  {"kivi-2", 0.8}, {"turboquant-4", 0.8}};
  base::Rng rng(8);
  for (int round = 0; round < 60; ++round) {
    const auto heads = static_cast<uint32_t>(1 + rng.Below(6));
    const auto& [strategy, most_error] = kStrategies[rng.Below(std::size(kStrategies))];
    ObjectInfo info =
        MakeInfo(strategy, static_cast<uint32_t>(1 + rng.Below(4)), heads,
                 static_cast<uint32_t>(8 * (1 + rng.Below(8))), static_cast<uint32_t>(1 + rng.Below(200)));
    if (heads % 2 == 0) info.head_group = heads / 2;
    const auto layers = RandomLayers(info, static_cast<uint32_t>(1 + rng.Below(70)), rng.Next());
    const auto object = Write(info, layers);
    // Decoded values encode to an object that decodes to the same: what is read is what was written.
    auto decoded = MakeLayers(info, 16);
    ASSERT_TRUE(Read(object, decoded).ok());
    EXPECT_LE(RmsError(layers, decoded, info), most_error) << strategy << " round " << round;
    if (info.strategy.lossy()) continue;
    auto again = Write(info, decoded);
    ASSERT_EQ(again, object);
  }
}

// Every bit of an object is covered: a change is an error, at the latest when its tile is read.
TEST(ObjectSafety, MutatedObjectsAreRefusedOrDecodeToTheSame) {
  base::Rng rng(9);
  for (const std::string_view preset : {"off", "lossless", "int8", "int4", "zstd", "lz4"}) {
    const ObjectInfo info = MakeInfo(preset, 2, 2, 16, 70);
    const auto object = Write(info, RandomLayers(info, 16, 10));
    auto expected = MakeLayers(info, 16);
    ASSERT_TRUE(Read(object, expected).ok());
    size_t refused = 0;
    for (int round = 0; round < 8'000; ++round) {
      std::vector<std::byte> mutated = object;
      const uint64_t kind = rng.Below(4);
      if (kind == 0) mutated.resize(rng.Below(mutated.size()));
      if (kind == 1) mutated.insert(mutated.end(), 1 + rng.Below(9), std::byte{0});
      for (uint64_t n = kind >= 2 ? 1 + rng.Below(4) : 0; n > 0; --n) {
        // Half of the hits in the prefix, where the structure is.
        const size_t limit = rng.Below(2) == 0 ? std::min<size_t>(mutated.size(), 320) : mutated.size();
        mutated[rng.Below(limit)] = static_cast<std::byte>(rng.Next());
      }
      mutated.shrink_to_fit();
      auto out = MakeLayers(info, 16);
      const base::Status status = Read(mutated, out);
      if (!status.ok()) {
        ++refused;
      } else {
        for (size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i].memory(), expected[i].memory());
      }
    }
    EXPECT_GT(refused, 7'000u) << preset;
  }
}

// The same with checksums made good, so that every check behind them is reached.
TEST(ObjectSafety, LyingObjectsWithGoodChecksumsAreHarmless) {
  base::Rng rng(11);
  const ObjectInfo info = MakeInfo("int4", 2, 2, 16, 70);
  const auto object = Write(info, RandomLayers(info, 16, 12));
  for (int round = 0; round < 12'000; ++round) {
    std::vector<std::byte> mutated = object;
    for (uint64_t n = 1 + rng.Below(3); n > 0; --n) {
      mutated[rng.Below(round % 2 == 0 ? 64 : 420)] = static_cast<std::byte>(rng.Next());
    }
    const auto prefix_bytes = base::LoadLe<uint32_t>(mutated.data() + layout::kAtPrefixBytes);
    if (prefix_bytes < layout::kAtStrategyText + layout::kCrcBytes || prefix_bytes > mutated.size()) continue;
    FixPrefixCrcs(mutated);
    const auto reader = ObjectReader::Open(mutated);
    if (!reader.ok()) continue;
    // The claims are bounded by the bytes that are there, so these pages are small.
    std::vector<PagedLayer> out = MakeLayers(reader->info(), 16);
    const base::Status status = Read(mutated, out);
    ASSERT_TRUE(status.ok() || status.code() == base::StatusCode::kCorrupt) << status.ToString();
  }
}

}  // namespace
}  // namespace kvplane::codec
