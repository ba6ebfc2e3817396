#include "kvplane/model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kvplane/base/rng.h"
#include "kvplane/model/weights.h"

namespace kvplane::model {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class SafetensorsTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) /
              ("safetensors_test_" + std::to_string(::getpid()) + "_" +
               testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static std::string File(const std::string& header, size_t data_bytes, uint64_t claimed = UINT64_MAX) {
    const uint64_t length = claimed == UINT64_MAX ? header.size() : claimed;
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, 8);
    return bytes + header + std::string(data_bytes, '\x01');
  }
  void Write(const std::string& bytes, const std::string& name = "model.safetensors") {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
  }
  std::string Opened(const std::string& bytes) {
    Write(bytes);
    return Safetensors::Open(folder_).status().ToString();
  }

  std::filesystem::path folder_;
};

constexpr const char* kTwo =
    R"({"__metadata__": {"format": "pt"}, "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]}})";

using SafetensorsUnit = SafetensorsTest;
using SafetensorsSafety = SafetensorsTest;

TEST_F(SafetensorsUnit, ReadsWhatWasWritten) {
  ASSERT_EQ(Opened(File(kTwo, 20)), "ok");
  const auto files = Safetensors::Open(folder_);
  ASSERT_EQ(files->tensors().size(), 2u);
  const StoredTensor* a = files->Find("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->dtype, tensor::DType::kBf16);
  EXPECT_EQ(a->shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(a->bytes.size(), 12u);
  EXPECT_EQ(files->Find("c"), nullptr);
}

TEST_F(SafetensorsUnit, ReadsShards) {
  Write(File(R"({"a": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]}})", 8), "one.safetensors");
  Write(File(R"({"b": {"dtype": "F16", "shape": [0, 4], "data_offsets": [0, 0]}})", 0), "two.safetensors");
  Write(R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})",
        "model.safetensors.index.json");
  const auto files = Safetensors::Open(folder_);
  ASSERT_TRUE(files.ok()) << files.status().ToString();
  EXPECT_FALSE(files->Find("a")->dtype.has_value());
  EXPECT_EQ(files->Find("b")->dtype, tensor::DType::kF16);
}

TEST_F(SafetensorsSafety, RefusesBadFiles) {
  EXPECT_THAT(Opened(""), HasSubstr("corrupt"));
  EXPECT_THAT(Opened("1234567"), HasSubstr("corrupt"));
  EXPECT_THAT(Opened(File(kTwo, 20, std::strlen(kTwo) + 21)), HasSubstr("a header of"));
  EXPECT_THAT(Opened(File(kTwo, 20, kMaxSafetensorsHeaderBytes + 1)), HasSubstr("the limit is"));
  EXPECT_THAT(Opened(File(kTwo, 20, UINT64_MAX - 1)), HasSubstr("the limit is"));
  EXPECT_THAT(Opened(File(kTwo, 20, std::strlen(kTwo) - 1)), HasSubstr("not a JSON object"));
  EXPECT_THAT(Opened(File("[1, 2]", 20)), HasSubstr("not a JSON object"));
  EXPECT_THAT(Opened(File("\xff\xff", 0)), HasSubstr("not a JSON object"));
  EXPECT_THAT(Opened(File(std::string(100000, '['), 0)), HasSubstr("nested too deep"));
  EXPECT_THAT(Opened(File(kTwo, 19)), HasSubstr("tensor 'b': bytes [12, 20) lie outside"));
  EXPECT_THAT(Opened(File(kTwo, 21)), HasSubstr("1 unused bytes at the end"));
}

TEST_F(SafetensorsSafety, RefusesBadEntries) {
  const auto entry = [&](const std::string& text, size_t data = 8) {
    return Opened(File(R"({"x": )" + text + "}", data));
  };
  EXPECT_THAT(entry("1"), HasSubstr("tensor 'x'.dtype"));
  EXPECT_THAT(entry(R"({"dtype": "Q4", "shape": [2], "data_offsets": [0, 8]})"), HasSubstr("'Q4'"));
  EXPECT_THAT(entry(R"({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]})"),
              HasSubstr("8 bytes for F32 [3]"));
  EXPECT_THAT(entry(R"({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]})"), HasSubstr("shape"));
  EXPECT_THAT(entry(R"({"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]})"), HasSubstr("shape"));
  EXPECT_THAT(entry(R"({"dtype": "F32", "shape": [1,1,1,1,1,1,1,1,2], "data_offsets": [0, 8]})"),
              HasSubstr("shape"));
  EXPECT_THAT(entry(R"({"dtype": "F32", "shape": [9223372036854775808, 4], "data_offsets": [0, 8]})"),
              HasSubstr("overflows"));
  EXPECT_THAT(entry(R"({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]})"), HasSubstr("outside"));
  EXPECT_THAT(entry(R"({"dtype": "F32", "shape": [2], "data_offsets": [18446744073709551608, 8]})"),
              HasSubstr("outside"));
  EXPECT_THAT(entry(R"({"dtype": "F32", "shape": [2], "data_offsets": [0]})"), HasSubstr("data_offsets"));
  EXPECT_THAT(entry(R"({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]})"),
              HasSubstr("unused bytes before"));
}

TEST_F(SafetensorsSafety, RefusesOverlapsAndDoubles) {
  EXPECT_THAT(Opened(File(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                              "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}})",
                          12)),
              HasSubstr("'b' overlaps"));
  EXPECT_THAT(Opened(File(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                              "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})",
                          4)),
              HasSubstr("'a' is listed twice"));
}

TEST_F(SafetensorsSafety, RefusesBadIndexes) {
  Write(File(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})", 4), "one.safetensors");
  Write(File(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})", 4), "again.safetensors");
  const auto opened = [&](const std::string& index) {
    Write(index, "model.safetensors.index.json");
    return Safetensors::Open(folder_).status().ToString();
  };
  EXPECT_EQ(opened(R"({"weight_map": {"a": "one.safetensors"}})"), "ok");
  EXPECT_THAT(opened("{"), HasSubstr("corrupt"));
  EXPECT_THAT(opened("{}"), HasSubstr("weight_map"));
  EXPECT_THAT(opened(R"({"weight_map": {"a": 5}})"), HasSubstr("tensor 'a'"));
  EXPECT_THAT(opened(R"({"weight_map": {"a": "../one.safetensors"}})"), HasSubstr("not a file name"));
  EXPECT_THAT(opened(R"({"weight_map": {"a": "/etc/passwd"}})"), HasSubstr("not a file name"));
  EXPECT_THAT(opened(R"({"weight_map": {"a": "missing.safetensors"}})"), HasSubstr("not found"));
  EXPECT_THAT(opened(R"({"weight_map": {"b": "one.safetensors"}})"), HasSubstr("tensor 'b' is not in"));
  EXPECT_THAT(opened(R"({"weight_map": {"a": "one.safetensors", "c": "again.safetensors"}})"),
              HasSubstr("in another file too"));
}

TEST_F(SafetensorsSafety, NeitherFileIsNotFound) {
  EXPECT_EQ(Safetensors::Open(folder_).status().code(), base::StatusCode::kNotFound);
}

// Random damage to a valid file ends in a Status or in tensors that lie inside the file.
TEST_F(SafetensorsSafety, SurvivesRandomDamage) {
  base::Rng rng(11);
  const std::string good = File(kTwo, 20);
  size_t accepted = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string bytes = good;
    for (uint64_t edits = 1 + rng.Below(4); edits > 0; --edits) {
      bytes[rng.Below(bytes.size())] = static_cast<char>(rng.Below(256));
    }
    if (rng.Below(4) == 0) bytes.resize(rng.Below(bytes.size()));
    Write(bytes);
    const auto files = Safetensors::Open(folder_);
    if (!files.ok()) continue;
    ++accepted;
    unsigned sum = 0;
    for (const auto& [name, tensor] : files->tensors()) {
      for (const std::byte byte : tensor.bytes) sum += static_cast<unsigned>(byte);
    }
    EXPECT_GT(sum, 0u);
  }
  EXPECT_GT(accepted, 0u);  // damage to the data itself goes unseen here
  EXPECT_LT(accepted, 2000u);
}

class WeightsSafety : public SafetensorsTest {
 protected:
  // A one-layer checkpoint of zeros as `edit` changes it; the status of checking it.
  template <typename Edit>
  std::string Checked(const Edit& edit) {
    std::map<std::string, std::vector<uint64_t>> shapes = {
        {"model.embed_tokens.weight", {16, 8}},
        {"model.norm.weight", {8}},
        {"lm_head.weight", {16, 8}},
        {"model.layers.0.input_layernorm.weight", {8}},
        {"model.layers.0.post_attention_layernorm.weight", {8}},
        {"model.layers.0.self_attn.q_proj.weight", {16, 8}},
        {"model.layers.0.self_attn.k_proj.weight", {8, 8}},
        {"model.layers.0.self_attn.v_proj.weight", {8, 8}},
        {"model.layers.0.self_attn.o_proj.weight", {8, 16}},
        {"model.layers.0.mlp.gate_proj.weight", {24, 8}},
        {"model.layers.0.mlp.up_proj.weight", {24, 8}},
        {"model.layers.0.mlp.down_proj.weight", {8, 24}}};
    dtype_ = "BF16";
    edit(shapes);
    json header = json::object();
    uint64_t at = 0;
    for (const auto& [name, shape] : shapes) {
      uint64_t bytes = dtype_ == "BF16" ? 2 : 1;
      for (const uint64_t size : shape) bytes *= size;
      header[name] = {{"dtype", dtype_}, {"shape", shape}, {"data_offsets", {at, at + bytes}}};
      at += bytes;
    }
    Write(File(header.dump(), at));
    ModelConfig config;
    config.layers = 1;
    config.hidden = 8;
    config.intermediate = 24;
    config.heads = 2;
    config.kv_heads = 1;
    config.head_dim = 8;
    config.vocab = 16;
    const auto files = Safetensors::Open(folder_);
    EXPECT_TRUE(files.ok()) << files.status().ToString();
    return CheckWeights(*files, config).ToString();
  }
  std::string dtype_;
};

TEST_F(WeightsSafety, NamesWhatDoesNotFit) {
  EXPECT_EQ(Checked([](auto&) {}), "ok");
  EXPECT_THAT(Checked([](auto& s) { s.erase("model.layers.0.self_attn.k_proj.weight"); }),
              HasSubstr("tensor 'model.layers.0.self_attn.k_proj.weight' is missing"));
  EXPECT_THAT(Checked([](auto& s) { s["model.norm.weight"] = {9}; }),
              HasSubstr("'model.norm.weight' has shape [9], config.json asks for [8]"));
  EXPECT_THAT(Checked([](auto& s) { s["model.layers.0.mlp.up_proj.weight"] = {8, 24}; }),
              HasSubstr("up_proj"));
  EXPECT_THAT(Checked([](auto& s) { s["model.layers.1.input_layernorm.weight"] = {8}; }),
              HasSubstr("unknown tensor 'model.layers.1.input_layernorm.weight'"));
  EXPECT_THAT(Checked([](auto& s) { s["model.layers.0.self_attn.q_proj.bias"] = {16}; }),
              HasSubstr("q_proj.bias"));
  EXPECT_EQ(Checked([](auto& s) { s["model.layers.0.self_attn.rotary_emb.inv_freq"] = {4}; }), "ok");
  EXPECT_THAT(Checked([this](auto&) { dtype_ = "F8_E4M3"; }), HasSubstr("unsupported dtype F8_E4M3"));
}

}  // namespace
}  // namespace kvplane::model
