#include "kvplane/model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "kvplane/model/rope_table.h"

namespace kvplane::model {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

json Base() {
  return json::parse(R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "torch_dtype": "bfloat16",
    "bos_token_id": 1, "eos_token_id": [2, 3]})");
}

ModelConfig Parsed(const json& root) {
  const auto config = ParseModelConfig(root.dump(), "config.json");
  EXPECT_TRUE(config.ok()) << config.status().ToString();
  return config.ok() ? *config : ModelConfig{};
}

base::Status Refused(const json& root) { return ParseModelConfig(root.dump(), "config.json").status(); }

TEST(ModelConfigUnit, ReadsLlama) {
  const ModelConfig config = Parsed(Base());
  EXPECT_EQ(config.architecture, Architecture::kLlama);
  EXPECT_EQ(config.head_dim, 16u);  // hidden / heads where it is absent
  EXPECT_EQ(config.kv_heads, 2u);
  EXPECT_EQ(config.rope.theta, 500000.0);
  EXPECT_EQ(config.rope.type, RopeType::kDefault);
  EXPECT_FALSE(config.tied_embeddings);
  EXPECT_EQ(config.bos_token, 1);
  EXPECT_THAT(config.eos_tokens, ElementsAre(2, 3));
  EXPECT_THAT(config.windows, ElementsAre(0u, 0u));
  EXPECT_EQ(config.kv_geometry(), (tensor::KvGeometry{2, 2, 16, tensor::DType::kBf16}));
}

TEST(ModelConfigUnit, BothSpellingsOfRopeAndDTypeAgree) {
  json four = Base();
  four["rope_scaling"] = {{"rope_type", "llama3"},
                          {"factor", 8.0},
                          {"low_freq_factor", 1.0},
                          {"high_freq_factor", 4.0},
                          {"original_max_position_embeddings", 128}};
  json five = Base();
  five.erase("rope_theta");
  five.erase("torch_dtype");
  five["dtype"] = "bfloat16";
  five["rope_parameters"] = four["rope_scaling"];
  five["rope_parameters"]["rope_theta"] = 500000.0;
  EXPECT_EQ(Parsed(four).Canonical(), Parsed(five).Canonical());
  EXPECT_EQ(Parsed(four).rope.type, RopeType::kLlama3);
  json old = Base();
  old["rope_scaling"] = {{"type", "linear"}, {"factor", 4}};
  EXPECT_EQ(Parsed(old).rope.type, RopeType::kLinear);
  old["rope_scaling"] = nullptr;
  EXPECT_EQ(Parsed(old).rope.type, RopeType::kDefault);
}

TEST(ModelConfigUnit, ArchitecturesDiffer) {
  json root = Base();
  root["architectures"] = {"Qwen2ForCausalLM"};
  EXPECT_TRUE(Parsed(root).qkv_bias);
  EXPECT_FALSE(Parsed(root).output_bias);
  root["architectures"] = {"Qwen3ForCausalLM"};
  EXPECT_TRUE(Parsed(root).qk_norm);
  root["sliding_window"] = 32;
  EXPECT_THAT(Parsed(root).windows, ElementsAre(0u, 0u));  // use_sliding_window is false
  root["use_sliding_window"] = true;
  root["max_window_layers"] = 1;
  EXPECT_THAT(Parsed(root).windows, ElementsAre(0u, 32u));
  root["layer_types"] = {"sliding_attention", "full_attention"};
  EXPECT_THAT(Parsed(root).windows, ElementsAre(32u, 0u));
  root["architectures"] = {"MistralForCausalLM"};
  root.erase("layer_types");
  EXPECT_THAT(Parsed(root).windows, ElementsAre(32u, 32u));
  root["sliding_window"] = nullptr;
  EXPECT_THAT(Parsed(root).windows, ElementsAre(0u, 0u));
}

TEST(ModelConfigSafety, RefusesByName) {
  const auto refused = [](const char* patch) {
    json root = Base();
    root.merge_patch(json::parse(patch));
    return Refused(root).ToString();
  };
  EXPECT_EQ(refused(R"({"rope_scaling": {"type": "longrope", "factor": 2}})"),
            "unimplemented: unsupported rope_scaling.type 'longrope' in config.json");
  EXPECT_THAT(refused(R"({"architectures": ["GemmaForCausalLM"]})"), HasSubstr("'GemmaForCausalLM'"));
  EXPECT_THAT(refused(R"({"hidden_act": "gelu"})"), HasSubstr("hidden_act 'gelu'"));
  EXPECT_THAT(refused(R"({"quantization_config": {}})"), HasSubstr("quantization_config"));
  EXPECT_THAT(refused(R"({"head_dim": 20})"), HasSubstr("head_dim 20"));
  EXPECT_THAT(refused(R"({"num_key_value_heads": 3})"), HasSubstr("num_key_value_heads 3"));
  EXPECT_THAT(refused(R"({"vocab_size": null})"), HasSubstr("vocab_size is missing"));
  EXPECT_THAT(refused(R"({"vocab_size": -5})"), HasSubstr("vocab_size"));
  EXPECT_THAT(refused(R"({"num_hidden_layers": 1000000})"), HasSubstr("num_hidden_layers"));
  EXPECT_THAT(refused(R"({"hidden_size": "64"})"), HasSubstr("hidden_size"));
  EXPECT_THAT(refused(R"({"hidden_size": 64.5})"), HasSubstr("hidden_size"));
  EXPECT_THAT(refused(R"({"rms_norm_eps": -1})"), HasSubstr("rms_norm_eps"));
  EXPECT_THAT(refused(R"({"tie_word_embeddings": 1})"), HasSubstr("tie_word_embeddings"));
  EXPECT_THAT(refused(R"({"torch_dtype": "int8"})"), HasSubstr("dtype 'int8'"));
  EXPECT_THAT(refused(R"({"eos_token_id": 100})"), HasSubstr("eos_token_id"));
  EXPECT_THAT(refused(R"({"rope_scaling": {"type": "linear"}})"), HasSubstr("factor is missing"));
  EXPECT_THAT(refused(R"({"rope_scaling": "linear"})"), HasSubstr("rope_scaling"));
  EXPECT_THAT(refused(R"({"rope_parameters": {"partial_rotary_factor": 0.5}})"),
              HasSubstr("partial_rotary_factor"));
}

TEST(ModelConfigSafety, RefusesWhatIsNotAConfig) {
  for (const char* text : {"", "{", "[]", "null", "42", "{\"architectures\": {}}", "\xff\xfe"}) {
    EXPECT_FALSE(ParseModelConfig(text, "config.json").ok()) << text;
  }
}

TEST(RopeTableUnit, DefaultFrequencies) {
  RopeConfig config;
  config.theta = 10000.0;
  const auto frequencies = RopeFrequencies(config, 8);
  ASSERT_EQ(frequencies.size(), 4u);
  EXPECT_FLOAT_EQ(frequencies[0], 1.0f);
  EXPECT_FLOAT_EQ(frequencies[1], 0.1f);
  EXPECT_FLOAT_EQ(frequencies[2], 0.01f);
  EXPECT_FLOAT_EQ(frequencies[3], 0.001f);
  config.type = RopeType::kLinear;
  config.factor = 4.0;
  EXPECT_FLOAT_EQ(RopeFrequencies(config, 8)[0], 0.25f);
}

TEST(RopeTableUnit, Llama3KeepsShortAndStretchesLongWavelengths) {
  RopeConfig config;
  config.type = RopeType::kLlama3;
  config.factor = 8.0;
  config.original_context = 100;              // wavelengths below 25 stay, above 100 are stretched
  const auto f = RopeFrequencies(config, 8);  // wavelengths 6.28, 62.8, 628, 6283
  EXPECT_FLOAT_EQ(f[0], 1.0f);
  EXPECT_NEAR(f[1], 0.0297535f, 1e-7f);  // keep = (100 / 62.83 - 1) / 3 = 0.197183
  EXPECT_FLOAT_EQ(f[2], 0.00125f);
  EXPECT_FLOAT_EQ(f[3], 0.000125f);
}

TEST(RopeTableUnit, YarnRampsAndScales) {
  json root = Base();
  root["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 4096}};
  root["rope_theta"] = 10000.0;
  root["head_dim"] = 128;
  const RopeConfig config = Parsed(root).rope;
  EXPECT_NEAR(config.attention_factor, 0.1 * std::log(4.0) + 1.0, 1e-12);
  const auto f = RopeFrequencies(config, 128);
  RopeConfig plain;
  const auto unscaled = RopeFrequencies(plain, 128);
  // 32 rotations over 4,096 tokens fall at index 20.9, one at 45.03: kept up to 20, divided by 4 from 46 on.
  EXPECT_FLOAT_EQ(f[20], unscaled[20]);
  EXPECT_FLOAT_EQ(f[46], unscaled[46] / 4);
  EXPECT_FLOAT_EQ(f[33], unscaled[33] * (0.5f + 0.5f / 4));
  RopeTable table(config, 128);
  table.Reserve(2);
  table.Reserve(10);
  EXPECT_FLOAT_EQ(table.cos(0)[0], static_cast<float>(config.attention_factor));
  EXPECT_FLOAT_EQ(table.sin(9)[0], static_cast<float>(config.attention_factor) * std::sin(9.0f));
}

}  // namespace
}  // namespace kvplane::model
