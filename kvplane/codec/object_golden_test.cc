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

std::string TestData(std::string_view file) {
  return fmt::format("{}/kvplane/codec/testdata/{}", KVPLANE_SOURCE_DIR, file);
}
std::string GoldenPath(std::string_view name) { return TestData(fmt::format("object_v1_{}.kvpo", name)); }
std::string ProfilePath() { return TestData("profile_v1_synthetic.kvpf"); }

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
std::shared_ptr<const ModelProfile> GoldenProfile() {
  const auto profile = ModelProfile::Parse(ReadFile(ProfilePath()));
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
  for (const auto& golden : kGolden) {
    if (!ReadFile(GoldenPath(golden.name)).empty()) continue;
    WriteFile(GoldenPath(golden.name), WriteObject(GoldenInfo(golden.strategy), GoldenProfile()));
  }
}

}  // namespace
}  // namespace kvplane::codec
