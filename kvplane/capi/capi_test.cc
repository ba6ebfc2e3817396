// The C interface against the library it stands on, and against callers that get it wrong.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/capi/kvplane.h"
#include "kvplane/codec/object.h"
#include "kvplane/codec/testing/synthetic_profile.h"

namespace kvplane::capi {
namespace {

constexpr const char* kProfiled = "heads(ratio=50) | levels(m=16,low=2,group=8) | pack";
constexpr tensor::KvGeometry kGeometry{.layers = 3, .kv_heads = 2, .head_dim = 16};
constexpr uint32_t kTokens = 100;

kvp_layout Layout(uint32_t tokens = kTokens) {
  kvp_layout layout{};
  layout.struct_bytes = sizeof layout;
  layout.layers = kGeometry.layers;
  layout.tokens = tokens;
  layout.kv_heads = kGeometry.kv_heads;
  layout.head_dim = kGeometry.head_dim;
  return layout;
}

kvp_encode_options Options(const char* strategy, const kvp_profile* profile = nullptr) {
  kvp_encode_options options{};
  options.struct_bytes = sizeof options;
  options.strategy = strategy;
  options.profile = profile;
  return options;
}

uint64_t ElementsOf(const kvp_layout& layout) {
  uint64_t elements = 0;
  EXPECT_EQ(kvp_layout_elements(&layout, &elements, nullptr), KVP_OK);
  return elements;
}

std::vector<uint16_t> RandomKv(const kvp_layout& layout) {
  std::vector<uint16_t> kv(ElementsOf(layout), uint16_t{0x7fff});
  base::Rng rng(4);
  for (uint16_t& value : kv) value = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
  return kv;
}

std::vector<uint8_t> Encode(const kvp_layout& layout, const std::vector<uint16_t>& kv,
                            const kvp_encode_options& options) {
  kvp_message message;
  size_t bytes = 0;
  EXPECT_EQ(kvp_encode(&layout, nullptr, 0, &options, nullptr, 0, &bytes, &message), KVP_OK) << message.text;
  std::vector<uint8_t> object(bytes);
  EXPECT_EQ(
      kvp_encode(&layout, kv.data(), kv.size(), &options, object.data(), object.size(), &bytes, &message),
      KVP_OK)
      << message.text;
  EXPECT_LE(bytes, object.size());
  object.resize(bytes);
  return object;
}

struct ProfileHandle {
  explicit ProfileHandle(uint64_t seed = 1)
      : model(codec::testing::SyntheticProfile({.geometry = kGeometry, .seed = seed})) {
    EXPECT_EQ(kvp_profile_parse(model->bytes().data(), model->bytes().size(), &handle, nullptr), KVP_OK);
  }
  ~ProfileHandle() { kvp_profile_free(handle); }
  ProfileHandle(const ProfileHandle&) = delete;

  std::shared_ptr<const codec::ModelProfile> model;
  kvp_profile* handle = nullptr;
};

TEST(CapiDiff, ObjectsAreThoseOfTheLibrary) {
  const kvp_layout layout = Layout();
  std::vector<uint16_t> kv = RandomKv(layout);
  const ProfileHandle profile;
  for (const char* strategy : {"off", "int4", "lossless", kProfiled}) {
    kvp_encode_options options = Options(strategy, profile.handle);
    options.first_token = 64;
    options.head_group = 1;
    options.rope[3] = 9;
    const std::vector<uint8_t> object = Encode(layout, kv, options);

    codec::ObjectInfo info;
    info.geometry = kGeometry;
    info.tokens = kTokens;
    info.first_token = 64;
    info.head_group = 1;
    info.identity.rope[3] = std::byte{9};
    info.strategy = *codec::Strategy::Parse(strategy);
    codec::ObjectWriter writer = *codec::ObjectWriter::Create(info, profile.model);
    codec::Workspace workspace;
    const size_t side = size_t{kTokens} * 32;
    const tensor::PageFormat format{kTokens, side, 16, 32, 2 * side};
    for (uint32_t layer = 0; layer < kGeometry.layers; ++layer) {
      uint16_t* page = kv.data() + layer * format.page_elements;
      ASSERT_TRUE(writer.AppendLayer({std::span(&page, 1), format}, workspace).ok());
    }
    const std::vector<std::byte> expected = *writer.Finish();
    ASSERT_EQ(object.size(), expected.size()) << strategy;
    EXPECT_EQ(std::memcmp(object.data(), expected.data(), expected.size()), 0) << strategy;
  }
}

// Whatever the order of the dimensions in memory, the values are the same and gaps stay as they are.
TEST(CapiProperty, StridesReachTheSameValues) {
  const kvp_layout plain = Layout();
  const std::vector<uint16_t> kv = RandomKv(plain);
  kvp_layout gaps = plain;  // [side][layer][head][token], rows of 24
  gaps.token_stride = 24;
  gaps.head_stride = kTokens * gaps.token_stride + 8;
  gaps.layer_stride = 2 * gaps.head_stride;
  gaps.side_stride = 3 * gaps.layer_stride + 1;
  std::vector<uint16_t> spread(ElementsOf(gaps), uint16_t{0x1234});
  const std::vector<uint8_t> object = Encode(plain, kv, Options("int8"));
  kvp_message message;
  ASSERT_EQ(kvp_decode(object.data(), object.size(), nullptr, &gaps, spread.data(), spread.size(), &message),
            KVP_OK)
      << message.text;
  std::vector<uint16_t> back(kv.size());
  ASSERT_EQ(kvp_decode(object.data(), object.size(), nullptr, &plain, back.data(), back.size(), nullptr),
            KVP_OK);
  size_t at = 0;
  for (uint64_t l = 0; l < 3; ++l) {
    for (uint64_t s = 0; s < 2; ++s) {
      for (uint64_t t = 0; t < kTokens; ++t) {
        for (uint64_t h = 0; h < 2; ++h) {
          for (uint64_t c = 0; c < 16; ++c, ++at) {
            uint16_t& value = spread[l * gaps.layer_stride + s * gaps.side_stride + t * gaps.token_stride +
                                     h * gaps.head_stride + c];
            ASSERT_EQ(value, back[at]);
            value = 0x1234;
          }
        }
      }
    }
  }
  EXPECT_TRUE(std::all_of(spread.begin(), spread.end(), [](uint16_t value) { return value == 0x1234; }));
}

TEST(CapiUnit, InfoTellsWhatTheObjectHoldsFromItsPrefixAlone) {
  const kvp_layout layout = Layout();
  const ProfileHandle profile;
  const std::vector<uint8_t> object = Encode(layout, RandomKv(layout), Options(kProfiled, profile.handle));
  kvp_object info{};
  info.struct_bytes = sizeof info;
  EXPECT_EQ(kvp_object_info(object.data(), 64, &info, nullptr), KVP_BUFFER_TOO_SMALL);
  ASSERT_GT(info.prefix_bytes, 64u);
  ASSERT_EQ(kvp_object_info(object.data(), info.prefix_bytes, &info, nullptr), KVP_OK);
  EXPECT_EQ(info.layers, 3u);
  EXPECT_EQ(info.tokens, kTokens);
  EXPECT_EQ(info.lossy, 1u);
  EXPECT_EQ(info.needs_profile, 1u);
  EXPECT_EQ(info.object_bytes, object.size());
  EXPECT_EQ(info.raw_bytes, 3u * 2 * kTokens * 32 * 2);
  EXPECT_STREQ(info.key_strategy, "heads(ratio=50) | levels(m=16,low=2,axis=channel,group=8) | pack");
  uint8_t id[16];
  ASSERT_EQ(kvp_profile_id(profile.handle, id, nullptr), KVP_OK);
  EXPECT_EQ(std::memcmp(info.profile, id, 16), 0);
}

TEST(CapiUnit, ProfilesComeFromFilesAndAreFoundById) {
  const kvp_layout layout = Layout();
  const std::vector<uint16_t> kv = RandomKv(layout);
  const ProfileHandle right(1);
  const ProfileHandle wrong(2);
  const std::string path = ::testing::TempDir() + "capi_test_profile";
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(right.model->bytes().data()),
             static_cast<std::streamsize>(right.model->bytes().size()));
  kvp_profile* loaded = nullptr;
  kvp_message message;
  ASSERT_EQ(kvp_profile_load(path.c_str(), &loaded, &message), KVP_OK) << message.text;
  const std::vector<uint8_t> object = Encode(layout, kv, Options(kProfiled, loaded));
  kvp_profile_free(loaded);
  std::vector<uint16_t> back(kv.size());
  const auto decode = [&](std::vector<const kvp_profile*> profiles) {
    kvp_decode_options options{};
    options.struct_bytes = sizeof options;
    options.profiles = profiles.data();
    options.profile_count = profiles.size();
    return kvp_decode(object.data(), object.size(), &options, &layout, back.data(), back.size(), &message);
  };
  EXPECT_EQ(decode({}), KVP_FAILED_PRECONDITION);
  EXPECT_NE(std::string(message.text).find(right.model->id().ToHex()), std::string::npos) << message.text;
  EXPECT_EQ(decode({wrong.handle}), KVP_FAILED_PRECONDITION);
  EXPECT_EQ(decode({wrong.handle, right.handle}), KVP_OK) << message.text;
  EXPECT_STREQ(message.text, "");
  EXPECT_EQ(kvp_profile_load((path + ".none").c_str(), &loaded, nullptr), KVP_NOT_FOUND);
}

TEST(CapiUnit, EstimatesAreExactWhereAllTilesAreCoded) {
  const kvp_layout layout = Layout();
  const std::vector<uint16_t> kv = RandomKv(layout);
  const kvp_encode_options options = Options("lossless");
  kvp_estimate_result result{};
  result.struct_bytes = sizeof result;
  ASSERT_EQ(kvp_estimate(&layout, kv.data(), kv.size(), &options, 1000, &result, nullptr), KVP_OK);
  EXPECT_EQ(result.tiles_sampled, result.tiles);
  EXPECT_NEAR(result.object_bytes, static_cast<double>(Encode(layout, kv, options).size()), 1e-3);
  EXPECT_EQ(result.object_bytes_error, 0);
}

TEST(CapiSafety, WrongCallsAreToldSo) {
  const kvp_layout layout = Layout();
  const std::vector<uint16_t> kv = RandomKv(layout);
  std::vector<uint8_t> object(1 << 20);
  size_t bytes = 0;
  kvp_message message;
  const auto encode = [&](const kvp_layout* with, const kvp_encode_options& options, uint64_t elements,
                          size_t capacity) {
    return kvp_encode(with, kv.data(), elements, &options, object.data(), capacity, &bytes, &message);
  };
  EXPECT_EQ(encode(nullptr, Options("int4"), kv.size(), object.size()), KVP_INVALID_ARGUMENT);
  EXPECT_EQ(encode(&layout, Options("int4"), kv.size() - 1, object.size()), KVP_INVALID_ARGUMENT);
  EXPECT_EQ(encode(&layout, Options("int5"), kv.size(), object.size()), KVP_INVALID_ARGUMENT);
  EXPECT_NE(message.text[0], '\0');
  EXPECT_EQ(encode(&layout, Options(kProfiled), kv.size(), object.size()), KVP_FAILED_PRECONDITION);
  EXPECT_NE(std::string(message.text).find("L4"), std::string::npos) << message.text;
  EXPECT_EQ(encode(&layout, Options("int4"), kv.size(), 100), KVP_BUFFER_TOO_SMALL);
  EXPECT_GT(bytes, 100u);
  EXPECT_EQ(encode(&layout, Options("int4"), kv.size(), bytes), KVP_OK);
  const std::string endless(1 << 16, 'x');
  EXPECT_EQ(encode(&layout, Options(endless.c_str()), kv.size(), object.size()), KVP_INVALID_ARGUMENT);
  kvp_encode_options unsized = Options("int4");
  unsized.struct_bytes = 0;
  EXPECT_EQ(encode(&layout, unsized, kv.size(), object.size()), KVP_INVALID_ARGUMENT);
  kvp_layout huge = layout;
  huge.layer_stride = huge.side_stride = huge.token_stride = huge.head_stride = UINT64_MAX / 4;
  EXPECT_EQ(encode(&huge, Options("int4"), kv.size(), object.size()), KVP_INVALID_ARGUMENT);
  kvp_layout empty = layout;
  empty.tokens = 0;
  EXPECT_EQ(encode(&empty, Options("int4"), kv.size(), object.size()), KVP_INVALID_ARGUMENT);
  kvp_layout half = layout;
  half.token_stride = 32;
  EXPECT_EQ(encode(&half, Options("int4"), kv.size(), object.size()), KVP_INVALID_ARGUMENT);
  const ProfileHandle profile;
  kvp_layout foreign = Layout();
  foreign.layers = 2;
  EXPECT_EQ(encode(&foreign, Options(kProfiled, profile.handle), kv.size(), object.size()),
            KVP_FAILED_PRECONDITION);
  EXPECT_EQ(kvp_profile_parse("nonsense", 8, nullptr, &message), KVP_INVALID_ARGUMENT);
  kvp_profile* none = nullptr;
  EXPECT_EQ(kvp_profile_parse("nonsense", 8, &none, &message), KVP_CORRUPT);
  EXPECT_EQ(none, nullptr);
  kvp_profile_free(nullptr);
}

// What is reserved today may mean something tomorrow; elements that overlap come back as whatever was last.
TEST(CapiSafety, ReservedFieldsAndOverlapsAreRefused) {
  uint64_t elements = 0;
  kvp_message message;
  const auto refused = [&](const kvp_layout& layout) {
    return kvp_layout_elements(&layout, &elements, &message) == KVP_INVALID_ARGUMENT;
  };
  kvp_layout layout = Layout();
  layout.reserved = 1;
  EXPECT_TRUE(refused(layout));
  EXPECT_NE(std::string(message.text).find("reserved"), std::string::npos) << message.text;

  layout = Layout();
  layout.layer_stride = layout.side_stride = layout.token_stride = layout.head_stride = 1;
  EXPECT_TRUE(refused(layout));
  EXPECT_NE(std::string(message.text).find("overlap"), std::string::npos) << message.text;
  layout = Layout();
  layout.head_stride = layout.head_dim;
  layout.token_stride = uint64_t{layout.kv_heads} * layout.head_dim;
  layout.side_stride = layout.tokens * layout.token_stride;
  layout.layer_stride = 2 * layout.side_stride;
  EXPECT_FALSE(refused(layout)) << message.text;
  layout.side_stride -= 1;  // the last token's last element is the other side's first
  EXPECT_TRUE(refused(layout));

  const std::vector<uint16_t> kv = RandomKv(Layout());
  layout = Layout();
  size_t bytes = 0;
  for (const size_t at : {size_t{0}, size_t{1}}) {
    kvp_encode_options options = Options("int4");
    options.reserved[at] = 9;
    EXPECT_EQ(kvp_encode(&layout, kv.data(), kv.size(), &options, nullptr, 0, &bytes, &message),
              KVP_INVALID_ARGUMENT);
  }
}

// Structs may grow: those of the first version stay welcome, with exactly what they had.
TEST(CapiUnit, TheFirstVersionOfEveryStructStaysWelcome) {
  EXPECT_EQ(offsetof(kvp_layout, head_stride) + 8, 56u);
  EXPECT_EQ(offsetof(kvp_encode_options, rope) + 16, 112u);
  EXPECT_EQ(offsetof(kvp_decode_options, profile_count) + sizeof(size_t), 24u);
  EXPECT_EQ(offsetof(kvp_estimate_result, decode_cpu_s) + 8, 72u);
  kvp_layout layout = Layout();
  uint64_t elements = 0;
  for (const uint32_t bytes : {55u, 56u}) {
    layout.struct_bytes = bytes;
    EXPECT_EQ(kvp_layout_elements(&layout, &elements, nullptr), bytes < 56 ? KVP_INVALID_ARGUMENT : KVP_OK);
  }
}

TEST(CapiSafety, LossyObjectsAndForeignShapesAreRefusedWhenDecoding) {
  const kvp_layout layout = Layout();
  const std::vector<uint16_t> kv = RandomKv(layout);
  const std::vector<uint8_t> object = Encode(layout, kv, Options("int4"));
  std::vector<uint16_t> back(kv.size(), uint16_t{0x1234});
  kvp_decode_options strict{};
  strict.struct_bytes = sizeof strict;
  strict.strict = 1;
  EXPECT_EQ(kvp_decode(object.data(), object.size(), &strict, &layout, back.data(), back.size(), nullptr),
            KVP_FAILED_PRECONDITION);
  const kvp_layout shorter = Layout(kTokens - 1);
  EXPECT_EQ(kvp_decode(object.data(), object.size(), nullptr, &shorter, back.data(), back.size(), nullptr),
            KVP_INVALID_ARGUMENT);
  EXPECT_EQ(kvp_decode(object.data(), object.size() - 1, nullptr, &layout, back.data(), back.size(), nullptr),
            KVP_CORRUPT);
  EXPECT_EQ(kvp_decode(nullptr, 0, nullptr, &layout, back.data(), back.size(), nullptr),
            KVP_INVALID_ARGUMENT);
  EXPECT_TRUE(std::all_of(back.begin(), back.end(), [](uint16_t value) { return value == 0x1234; }));
}

// No byte of an object may be changed unnoticed, and none makes the library misbehave.
TEST(CapiSafety, ChangedObjectsAreCorrupt) {
  const kvp_layout layout = Layout();
  const std::vector<uint16_t> kv = RandomKv(layout);
  std::vector<uint8_t> object = Encode(layout, kv, Options("int4"));
  std::vector<uint16_t> back(kv.size());
  base::Rng rng(8);
  for (int i = 0; i < 2000; ++i) {
    const size_t at = rng.Below(4) == 0 ? rng.Below(object.size()) : rng.Below(400);
    const uint8_t was = object[at];
    object[at] ^= static_cast<uint8_t>(1u << rng.Below(8));
    kvp_message message;
    EXPECT_NE(kvp_decode(object.data(), object.size(), nullptr, &layout, back.data(), back.size(), &message),
              KVP_OK)
        << at;
    EXPECT_NE(message.text[0], '\0');
    object[at] = was;
  }
}

TEST(CapiSafety, OneProfileServesManyThreads) {
  const kvp_layout layout = Layout();
  const std::vector<uint16_t> kv = RandomKv(layout);
  const ProfileHandle profile;
  const std::vector<uint8_t> expected = Encode(layout, kv, Options(kProfiled, profile.handle));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 10; ++k) {
        EXPECT_EQ(Encode(layout, kv, Options(kProfiled, profile.handle)), expected);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(CapiUnit, CodesHaveMeaningsAndVersionsAreTold) {
  EXPECT_EQ(kvp_abi_version(), uint32_t{KVP_ABI_VERSION});
  EXPECT_STREQ(kvp_version(), "0.1.0");
  EXPECT_STREQ(kvp_strerror(KVP_OK), "success");
  EXPECT_STREQ(kvp_strerror(KVP_BUFFER_TOO_SMALL), "the buffer is too small");
  EXPECT_STREQ(kvp_strerror(-5), "unknown code");
}

}  // namespace
}  // namespace kvplane::capi
