// Objects of version 1.0, kept in testdata: they must decode to the same values for ever. That today's
// encoder still makes the same bytes is checked too, where the format leaves the encoder no choice (rungs of
// `ecsq`) and neither a library nor the rounding of an instruction set has a say in them.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/codec/object.h"
#include "kvplane/codec/paged_kv.h"
#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/testing/strategy_trial.h"
#include "kvplane/codec/testing/synthetic_profile.h"
#include "kvplane/kernel/checksum/checksum.h"
#include "kvplane/kernel/testing/scoped_isa.h"

namespace kvplane::codec {
namespace {

using testing::PagedLayer;

constexpr tensor::KvGeometry kGeometry{.layers = 1, .kv_heads = 2, .head_dim = 16};

constexpr struct {
  std::string_view name;
  std::string_view strategy;
  uint32_t values_crc;     // CRC32C of the decoded pages, 16-token blocks
  bool same_bytes = true;  // the encoder's bytes are pinned too
  // Of `pca`, whose sums may be rounded differently: signal to noise instead of the CRC, in dB.
  double least_snr = 0;
} kGolden[] = {
    {"off", "off", 0x160e8aa9},
    {"lossless", "lossless", 0x160e8aa9},
    {"lossless_max", "lossless-max", 0x160e8aa9},
    {"zstd", "zstd(level=1)", 0x160e8aa9, false},
    {"lz4", "lz4", 0x160e8aa9, false},
    {"fp8", "fp8", 0xb7f5d557},
    {"fp8_e5m2", "fp8(format=e5m2,scale=token_head) | pack", 0xc3658fc2},
    {"int8_token_head", "int8(scale=token_head) | pack", 0xf558c004},
    {"int8", "int8", 0xb3b29db3},
    {"int4", "int4", 0x14ada860},
    {"int2", "int2", 0xe99b4391},
    {"nvfp4", "nvfp4", 0xc49c95fc},
    {"mxfp4", "mxfp4", 0xb05d3792},
    {"protect", "protect(sinks=4,recent=3) | int8(head) | pack", 0xea3553a9},
    {"levels", "k: levels(m=6) | rans(stream); v: levels(m=12,axis=tensor) | rans(stream)", 0x15ecadf2},
    {"layers", "layers(first,ratio=100) | levels(m=8,low=5) | pack", 0x701ceeed},
    {"heads", "heads(ratio=50) | levels(m=24,low=4) | rans(stream)", 0x387aed81},
    {"bitplane", "levels(m=10) | bitplane_rle", 0xf19a9678},
    {"cachegen", "cachegen", 0x9792eafd},
    {"cachegen_delta", "cachegen-delta", 0x0c726fb0},
    {"turboquant_4", "turboquant-4", 0x433dd088},
    {"centre_block", "centre(block) | affine(bits=4,group=16,axis=token) | pack", 0x4382b151},
    {"unrope", "k: unrope | affine(bits=8) | pack; v: centre(static) | affine(bits=4) | pack", 0x177ada48},
    {"symbols_zstd", "levels(m=12) | zstd(level=1)", 0x34bbef5c, false},
    {"symbols_lz4", "levels(m=200) | lz4", 0xeec2cb69, false},
    {"c11", "c11", 0x5beaa666, false},
    {"ecsq_tile", "ecsq(snr=21,scale=tile) | rans(class)", 0x55869219, false},
    {"ecsq_bands", "heads(ratio=50) | ecsq(snr=18,low=6,weight=model) | rans(class)", 0x6530d230, false},
    {"ternary", "centre(static) | ternary(layers=2,snr=24) | rans(class)", 0x751feb87, false},
    {"c15", "c15", 0, false, 8},
    {"pca_head",
     "k: unrope | centre(static) | pca(head) | levels | pack; v: pca(head,attention) | levels | pack", 0,
     false, 8},
    {"pca_layer",
     "k: pca(layer) | levels | rans(stream); v: centre(static) | pca(layer,attention) | levels | pack", 0,
     false, 8},
};

// Made through the C interface: several layers and head groups, from a later position on, at qualities of
// their own. profile_v1_uneven.kvpf, of channels only, has in layer 0 the last half of 128 lanes idle, so
// that they are left out, in layer 1 every fifth, in layer 2 all beside steps of 2^20, so that next to
// nothing is coded and tiles are padded, in layer 3 deviations and steps of 2^-20, which no tile fits.
constexpr tensor::KvGeometry kUnevenGeometry{.layers = 4, .kv_heads = 8, .head_dim = 16};
struct UnevenFile {
  std::string_view name;
  std::string_view strategy;
  uint32_t head_group;
  uint32_t first_token;
  uint8_t quality[2];
  std::string_view methods;  // of the first tiles of each layer, keys and values
  uint32_t values_crc;       // CRC32C of [layers, 2, tokens, kv_heads, head_dim]
};
constexpr UnevenFile kUneven[] = {
    {"uneven", "centre(static) | ecsq(snr=21) | rans(class)", 8, 0, {0, 0}, "11 11 22 33", 0x1db74458},
    {"uneven_centred",
     "centre(static) | ecsq(snr=15,weight=model) | rans(class)",
     4,
     192,
     {152, 100},
     "11 11 22 33",
     0x86eaca4d},
    {"uneven_ternary",
     "k: centre(static) | ternary(layers=1,snr=21) | rans(class); v: ternary(layers=3,snr=24) | rans(class)",
     8,
     64,
     {0, 120},
     "13 13 22 33",
     0x2522742d},
    {"uneven_c11", "c11", 2, 4096, {140, 0}, "11 13 00 33", 0x384a75cf},
    {"tile_bands",
     "heads(ratio=50) | ecsq(snr=30,low=20,scale=tile) | rans(class)",
     4,
     192,
     {0, 90},
     "11 11 11 11",
     0x88193cf6},
};

// The way of levels that fit a byte: whole windows, a lane each (profile_v1_window.kvpf).
constexpr struct {
  std::string_view name;
  std::string_view strategy;
  uint32_t values_crc;  // CRC32C of [2, tokens, kv_heads, head_dim]
} kWindow = {"window_c11", "c11", 0xd93e952a};

std::string TestData(std::string_view file) {
  return fmt::format("{}/kvplane/codec/testdata/{}", KVPLANE_SOURCE_DIR, file);
}
std::string GoldenPath(std::string_view name) { return TestData(fmt::format("object_v1_{}.kvpo", name)); }
std::string ProfilePath() { return TestData("profile_v1_synthetic.kvpf"); }
std::string WindowProfilePath() { return TestData("profile_v1_window.kvpf"); }
std::string UnevenProfilePath() { return TestData("profile_v1_uneven.kvpf"); }

std::vector<std::byte> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

void WriteFile(const std::string& path, std::span<const std::byte> bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(file.good()) << path;
}

ObjectInfo GoldenInfo(std::string_view strategy) {
  ObjectInfo info;
  info.geometry = kGeometry;
  info.tokens = 70;
  info.strategy = *Strategy::Parse(strategy);
  for (size_t i = 0; i < 32; ++i) info.identity.model_fingerprint[i] = static_cast<std::byte>(i);
  info.identity.rope[3] = std::byte{7};
  return info;
}

PagedLayer GoldenLayer(const ObjectInfo& info) {
  base::Rng rng(1234);
  PagedLayer layer(info.geometry, info.tokens, 16);
  layer.FillNormal(rng, info.geometry);
  return layer;
}

std::vector<std::byte> WriteObject(const ObjectInfo& info, std::shared_ptr<const ModelProfile> profile) {
  Workspace workspace;
  const PagedLayer layer = GoldenLayer(info);
  auto writer = ObjectWriter::Create(info, std::move(profile));
  KVPLANE_CHECK(writer.ok());
  KVPLANE_CHECK(writer->AppendLayer(layer.pages(), workspace).ok());
  return *writer->Finish();
}

// The profile as a file: one made today might differ in a last digit, and with it in its id.
std::shared_ptr<const ModelProfile> GoldenProfile(const std::string& path = ProfilePath()) {
  const auto profile = ModelProfile::Parse(ReadFile(path));
  KVPLANE_CHECK(profile.ok());
  return *profile;
}

TEST(ObjectGoldenUnit, FilesDecodeForEver) {
  ProfileSet profiles;
  profiles.Add(GoldenProfile());
  for (const auto& golden : kGolden) {
    const std::vector<std::byte> object = ReadFile(GoldenPath(golden.name));
    ASSERT_FALSE(object.empty()) << GoldenPath(golden.name);
    const ObjectInfo info = GoldenInfo(golden.strategy);
    PagedLayer decoded(info.geometry, info.tokens, 16);
    Workspace workspace;
    const auto reader = ObjectReader::Open(object, {.profiles = &profiles});
    ASSERT_TRUE(reader.ok()) << golden.name << ": " << reader.status().ToString();
    EXPECT_EQ(reader->info().strategy, info.strategy) << golden.name;
    const std::vector<tensor::LayerPages> pages = {decoded.pages()};
    const base::Status status = reader->DecodeAll(object, workspace, pages);
    ASSERT_TRUE(status.ok()) << golden.name << ": " << status.ToString();
    if (golden.least_snr > 0) {
      const auto error = testing::ErrorOf(GoldenLayer(info).memory(), decoded.memory());
      EXPECT_GE(error.snr_db, golden.least_snr) << golden.name;
    } else {
      const uint32_t crc = kernel::Crc32c(std::as_bytes(std::span(decoded.memory())));
      EXPECT_EQ(crc, golden.values_crc) << golden.name << fmt::format(" {:#010x}", crc);
    }
    if (golden.same_bytes) {
      EXPECT_EQ(WriteObject(info, GoldenProfile()), object) << golden.name;
    }
  }
}

ObjectInfo UnevenInfo(const UnevenFile& golden) {
  ObjectInfo info = GoldenInfo(golden.strategy);
  info.geometry = kUnevenGeometry;
  info.head_group = golden.head_group;
  info.first_token = golden.first_token;
  std::copy(std::begin(golden.quality), std::end(golden.quality), info.quality);
  return info;
}

// "12 11 ..": the methods of the first tiles of each layer, keys and values.
std::string MethodsOf(const ObjectReader& reader, std::span<const std::byte> object) {
  std::string methods;
  for (uint32_t layer = 0; layer < reader.info().geometry.layers; ++layer) {
    const auto range = reader.layer_range(layer);
    const auto section = reader.OpenLayer(layer, object.subspan(range.offset, range.bytes));
    KVPLANE_CHECK(section.ok());
    if (layer > 0) methods += ' ';
    for (const size_t tile : {size_t{0}, section->tiles() / 2}) {
      methods += static_cast<char>('0' + static_cast<int>((*section->Tile(tile))[0]));
    }
  }
  return methods;
}

// [layers, 2, tokens, kv_heads, head_dim], into memory that no value is taken from.
std::vector<uint16_t> DecodeTokenMajor(const ObjectReader& reader, std::span<const std::byte> object) {
  const ObjectInfo& info = reader.info();
  const size_t token = size_t{info.geometry.kv_heads} * info.geometry.head_dim;
  const size_t side = info.tokens * token;
  std::vector<uint16_t> values(info.geometry.layers * 2 * side, uint16_t{0xbeef});
  const tensor::PageFormat format = {.block_tokens = info.tokens,
                                     .side_stride = side,
                                     .head_stride = info.geometry.head_dim,
                                     .token_stride = token,
                                     .page_elements = 2 * side};
  Workspace workspace;
  for (uint32_t layer = 0; layer < info.geometry.layers; ++layer) {
    const auto range = reader.layer_range(layer);
    uint16_t* page = values.data() + layer * 2 * side;
    const base::Status status = reader.DecodeLayer(layer, object.subspan(range.offset, range.bytes),
                                                   workspace, {std::span(&page, 1), format});
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
  return values;
}

TEST(ObjectGoldenUnit, UnevenFilesDecodeForEver) {
  ProfileSet profiles;
  profiles.Add(GoldenProfile(UnevenProfilePath()));
  for (const auto& golden : kUneven) {
    const std::vector<std::byte> object = ReadFile(GoldenPath(golden.name));
    ASSERT_FALSE(object.empty()) << GoldenPath(golden.name);
    const ObjectInfo info = UnevenInfo(golden);
    const auto reader = ObjectReader::Open(object, {.profiles = &profiles});
    ASSERT_TRUE(reader.ok()) << golden.name << ": " << reader.status().ToString();
    EXPECT_EQ(reader->info().strategy, info.strategy) << golden.name;
    EXPECT_EQ(reader->info().first_token, golden.first_token) << golden.name;
    EXPECT_EQ(reader->info().head_group, golden.head_group) << golden.name;
    EXPECT_TRUE(std::ranges::equal(reader->info().quality, golden.quality)) << golden.name;
    EXPECT_EQ(MethodsOf(*reader, object), golden.methods) << golden.name;
    for (const kernel::Isa isa : kernel::AvailableIsas()) {
      const kernel::testing::ScopedIsa scope(isa);
      const std::vector<uint16_t> values = DecodeTokenMajor(*reader, object);
      const uint32_t crc = kernel::Crc32c(std::as_bytes(std::span(values)));
      EXPECT_EQ(crc, golden.values_crc) << golden.name << ", " << Name(isa) << fmt::format(" {:#010x}", crc);
    }
  }
}

ObjectInfo WindowInfo() {
  ObjectInfo info = GoldenInfo(kWindow.strategy);
  info.geometry = {.layers = 1, .kv_heads = 4, .head_dim = 64};
  return info;
}

TEST(ObjectGoldenUnit, WindowFileDecodesForEver) {
  ProfileSet profiles;
  profiles.Add(GoldenProfile(WindowProfilePath()));
  const std::vector<std::byte> object = ReadFile(GoldenPath(kWindow.name));
  ASSERT_FALSE(object.empty());
  const auto reader = ObjectReader::Open(object, {.profiles = &profiles});
  ASSERT_TRUE(reader.ok()) << reader.status().ToString();
  EXPECT_EQ(MethodsOf(*reader, object), "11");
  std::vector<std::byte> coded;
  for (const kernel::Isa isa : kernel::AvailableIsas()) {
    const kernel::testing::ScopedIsa scope(isa);
    const std::vector<uint16_t> values = DecodeTokenMajor(*reader, object);
    const uint32_t crc = kernel::Crc32c(std::as_bytes(std::span(values)));
    EXPECT_EQ(crc, kWindow.values_crc) << Name(isa) << fmt::format(" {:#010x}", crc);
    // Rungs are the encoder's choice, but every instruction set's is the same.
    const std::vector<std::byte> again = WriteObject(WindowInfo(), profiles.all().front());
    if (coded.empty()) coded = again;
    EXPECT_EQ(again, coded) << Name(isa);
  }
}

// Every stage that can change what is decoded stands in a golden object.
TEST(ObjectGoldenUnit, EveryStageHasAFile) {
  for (const StageDescriptor& stage : Stages()) {
    const bool has_file = std::any_of(std::begin(kGolden), std::end(kGolden), [&](const auto& golden) {
      const Strategy strategy = *Strategy::Parse(golden.strategy);
      return FindCall(strategy.side(tensor::Side::kKey).stages(), stage.id) != nullptr ||
             FindCall(strategy.side(tensor::Side::kValue).stages(), stage.id) != nullptr;
    });
    EXPECT_TRUE(has_file) << stage.name;
  }
}

// The generator, for files that are not there yet: --gtest_also_run_disabled_tests
// --gtest_filter='*WriteMissingFiles'. It never replaces one.
TEST(ObjectGoldenUnit, DISABLED_WriteMissingFiles) {
  if (ReadFile(ProfilePath()).empty()) {
    const auto profile = ModelProfile::Create(testing::SyntheticProfileData({.geometry = kGeometry}));
    ASSERT_TRUE(profile.ok());
    WriteFile(ProfilePath(), (*profile)->bytes());
  }
  if (ReadFile(GoldenPath(kWindow.name)).empty()) {
    const auto profile = ModelProfile::Create(testing::WindowProfileData());
    ASSERT_TRUE(profile.ok());
    WriteFile(WindowProfilePath(), (*profile)->bytes());
    WriteFile(GoldenPath(kWindow.name), WriteObject(WindowInfo(), *profile));
  }
  for (const auto& golden : kGolden) {
    if (!ReadFile(GoldenPath(golden.name)).empty()) continue;
    WriteFile(GoldenPath(golden.name), WriteObject(GoldenInfo(golden.strategy), GoldenProfile()));
  }
}

}  // namespace
}  // namespace kvplane::codec
