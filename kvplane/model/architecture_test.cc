// Random-weight miniatures of every architecture against a plain transformer in double.
//
// The reference below is written from the architectures' definitions, token by token, with none of the
// kernels; it rounds K and V to bf16 as the cache does, so that what is left is f32 rounding (and rare bf16
// flips of K or V).
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/model/kv_pages_testing.h"
#include "kvplane/model/model.h"
#include "kvplane/model/rope_table.h"

namespace kvplane::model {
namespace {

using nlohmann::json;
using Row = std::vector<double>;

struct Miniature {
  const char* name;
  const char* config;  // merged over kCommon
  bool stored_f32;
};

constexpr const char* kCommon =
    R"({"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "vocab_size": 97, "max_position_embeddings": 256, "rms_norm_eps": 1e-5})";

const Miniature kMiniatures[] = {
    {"Llama2", R"({"architectures": ["LlamaForCausalLM"], "head_dim": 16, "num_key_value_heads": 6})", false},
    {"Llama3",
     R"({"architectures": ["LlamaForCausalLM"], "head_dim": 24, "attention_bias": true, "mlp_bias": true,
       "rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
                        "original_max_position_embeddings": 32}})",
     true},
    {"Mistral", R"({"architectures": ["MistralForCausalLM"], "head_dim": 40, "sliding_window": 9})", false},
    {"Qwen2", R"({"architectures": ["Qwen2ForCausalLM"], "head_dim": 8, "tie_word_embeddings": true,
       "rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 64}})",
     true},
    {"Qwen3", R"({"architectures": ["Qwen3ForCausalLM"], "head_dim": 32, "num_key_value_heads": 1,
       "rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 1000000}, "dtype": "bfloat16"})",
     false},
};

// A checkpoint in a folder of its own, and its values.
class Checkpoint {
 public:
  explicit Checkpoint(const Miniature& miniature)
      : folder_(std::filesystem::path(testing::TempDir()) /
                ("architecture_test_" + std::to_string(::getpid()) + "_" + miniature.name)) {
    json root = json::parse(kCommon);
    root.merge_patch(json::parse(miniature.config));
    config_ = *ParseModelConfig(root.dump(), miniature.name);
    std::filesystem::create_directories(folder_);
    std::ofstream(folder_ / "config.json") << root.dump();
    MakeTensors();
    WriteTensors(miniature.stored_f32);
  }
  ~Checkpoint() { std::filesystem::remove_all(folder_); }

  const std::filesystem::path& folder() const { return folder_; }
  const ModelConfig& config() const { return config_; }
  const Row& operator[](const std::string& name) const { return values_.at(name); }
  bool Has(const std::string& name) const { return values_.contains(name); }

 private:
  void Make(const std::string& name, std::vector<uint64_t> shape, double spread, double mean = 0) {
    size_t count = 1;
    for (const uint64_t size : shape) count *= size;
    Row& values = values_[name];
    for (size_t i = 0; i < count; ++i) {
      const auto x = static_cast<float>(mean + spread * rng_.Normal());
      values.push_back(double{tensor::Bf16ToFloat(tensor::FloatToBf16(x))});  // exact in every stored type
    }
    shapes_[name] = std::move(shape);
  }
  void MakeLinear(const std::string& name, uint64_t n, uint64_t k, bool bias) {
    Make(name + ".weight", {n, k}, 1.0 / std::sqrt(static_cast<double>(k)));
    if (bias) Make(name + ".bias", {n}, 0.2);
  }
  void MakeTensors() {
    const ModelConfig& c = config_;
    Make("model.embed_tokens.weight", {c.vocab, c.hidden}, 1.0);
    Make("model.norm.weight", {c.hidden}, 0.2, 1.0);
    if (!c.tied_embeddings) Make("lm_head.weight", {c.vocab, c.hidden}, 0.3);
    for (uint32_t layer = 0; layer < c.layers; ++layer) {
      const std::string p = "model.layers." + std::to_string(layer) + ".";
      Make(p + "input_layernorm.weight", {c.hidden}, 0.2, 1.0);
      Make(p + "post_attention_layernorm.weight", {c.hidden}, 0.2, 1.0);
      MakeLinear(p + "self_attn.q_proj", c.query_width(), c.hidden, c.qkv_bias);
      MakeLinear(p + "self_attn.k_proj", c.kv_width(), c.hidden, c.qkv_bias);
      MakeLinear(p + "self_attn.v_proj", c.kv_width(), c.hidden, c.qkv_bias);
      MakeLinear(p + "self_attn.o_proj", c.hidden, c.query_width(), c.output_bias);
      MakeLinear(p + "mlp.gate_proj", c.intermediate, c.hidden, c.mlp_bias);
      MakeLinear(p + "mlp.up_proj", c.intermediate, c.hidden, c.mlp_bias);
      MakeLinear(p + "mlp.down_proj", c.hidden, c.intermediate, c.mlp_bias);
      if (!c.qk_norm) continue;
      Make(p + "self_attn.q_norm.weight", {c.head_dim}, 0.2, 1.0);
      Make(p + "self_attn.k_norm.weight", {c.head_dim}, 0.2, 1.0);
    }
  }
  void WriteTensors(bool f32) {
    json header = json::object();
    std::string data;
    for (const auto& [name, values] : values_) {
      const size_t begin = data.size();
      for (const double value : values) {
        const auto bits = std::bit_cast<uint32_t>(static_cast<float>(value));
        const auto high = static_cast<uint16_t>(bits >> 16);
        data.append(f32 ? reinterpret_cast<const char*>(&bits) : reinterpret_cast<const char*>(&high),
                    f32 ? 4 : 2);
      }
      header[name] = {
          {"dtype", f32 ? "F32" : "BF16"}, {"shape", shapes_[name]}, {"data_offsets", {begin, data.size()}}};
    }
    const std::string text = header.dump();
    const uint64_t length = text.size();
    std::ofstream out(folder_ / "model.safetensors", std::ios::binary);
    out.write(reinterpret_cast<const char*>(&length), 8);
    out << text << data;
  }

  std::filesystem::path folder_;
  ModelConfig config_;
  base::Rng rng_{2024};
  std::map<std::string, Row> values_;
  std::map<std::string, std::vector<uint64_t>> shapes_;
};

class Reference {
 public:
  explicit Reference(const Checkpoint& checkpoint)
      : c_(checkpoint.config()), w_(checkpoint), k_(c_.layers), v_(c_.layers) {}

  // Logits of the next token of the sequence.
  Row Step(int32_t token) {
    Row x(c_.hidden);
    for (uint32_t i = 0; i < c_.hidden; ++i) {
      x[i] = w_["model.embed_tokens.weight"][static_cast<size_t>(token) * c_.hidden + i];
    }
    for (uint32_t layer = 0; layer < c_.layers; ++layer) {
      const std::string p = "model.layers." + std::to_string(layer) + ".";
      Add(x, Linear(p + "self_attn.o_proj", Attend(layer, p, Norm(x, p + "input_layernorm.weight"))));
      const Row h = Norm(x, p + "post_attention_layernorm.weight");
      Row gate = Linear(p + "mlp.gate_proj", h);
      const Row up = Linear(p + "mlp.up_proj", h);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      Add(x, Linear(p + "mlp.down_proj", gate));
    }
    ++position_;
    return Product(c_.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight",
                   Norm(x, "model.norm.weight"));
  }

 private:
  static void Add(Row& x, const Row& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  Row Product(const std::string& name, const Row& x) const {
    const Row& w = w_[name];
    Row y(w.size() / x.size());
    for (size_t n = 0; n < y.size(); ++n) {
      for (size_t i = 0; i < x.size(); ++i) y[n] += w[n * x.size() + i] * x[i];
    }
    return y;
  }
  Row Linear(const std::string& name, const Row& x) const {
    Row y = Product(name + ".weight", x);
    if (w_.Has(name + ".bias")) Add(y, w_[name + ".bias"]);
    return y;
  }
  Row Norm(const Row& x, const std::string& name) const {
    double squares = 0;
    for (const double value : x) squares += value * value;
    const double scale = 1 / std::sqrt(squares / static_cast<double>(x.size()) + double{c_.norm_epsilon});
    Row y;
    for (size_t i = 0; i < x.size(); ++i) y.push_back(x[i] * scale * w_[name][i]);
    return y;
  }
  Row Head(const Row& all, uint32_t head) const {
    const auto first = all.begin() + static_cast<ptrdiff_t>(head * c_.head_dim);
    return {first, first + static_cast<ptrdiff_t>(c_.head_dim)};
  }
  Row Rotated(const Row& x) const {
    const auto frequencies = RopeFrequencies(c_.rope, c_.head_dim);
    const size_t half = x.size() / 2;
    Row y(x.size());
    for (size_t i = 0; i < half; ++i) {
      const double angle = double{static_cast<float>(position_) * frequencies[i]};
      const double c = std::cos(angle) * c_.rope.attention_factor;
      const double s = std::sin(angle) * c_.rope.attention_factor;
      y[i] = x[i] * c - x[i + half] * s;
      y[i + half] = x[i + half] * c + x[i] * s;
    }
    return y;
  }
  static Row Rounded(Row x) {
    for (double& value : x)
      value = double{tensor::Bf16ToFloat(tensor::FloatToBf16(static_cast<float>(value)))};
    return x;
  }

  Row Attend(uint32_t layer, const std::string& p, const Row& x) {
    const Row q = Linear(p + "self_attn.q_proj", x);
    const Row k = Linear(p + "self_attn.k_proj", x);
    const Row v = Linear(p + "self_attn.v_proj", x);
    for (uint32_t head = 0; head < c_.kv_heads; ++head) {
      const Row key = c_.qk_norm ? Norm(Head(k, head), p + "self_attn.k_norm.weight") : Head(k, head);
      k_[layer].push_back(Rounded(Rotated(key)));
      v_[layer].push_back(Rounded(Head(v, head)));
    }
    Row out;
    for (uint32_t head = 0; head < c_.heads; ++head) {
      const Row query = c_.qk_norm ? Norm(Head(q, head), p + "self_attn.q_norm.weight") : Head(q, head);
      const Row result = AttendHead(layer, head / (c_.heads / c_.kv_heads), Rotated(query));
      out.insert(out.end(), result.begin(), result.end());
    }
    return out;
  }
  Row AttendHead(uint32_t layer, uint32_t kv_head, const Row& q) const {
    const uint32_t window = c_.windows[layer];
    const uint32_t begin = window == 0 || position_ + 1 < window ? 0 : position_ + 1 - window;
    Row out(q.size());
    double sum = 0;
    for (uint32_t t = begin; t <= position_; ++t) {
      const Row& k = k_[layer][size_t{t} * c_.kv_heads + kv_head];
      double dot = 0;
      for (size_t i = 0; i < q.size(); ++i) dot += q[i] * k[i];
      const double p = std::exp(dot / std::sqrt(static_cast<double>(q.size())));
      sum += p;
      for (size_t i = 0; i < q.size(); ++i) out[i] += p * v_[layer][size_t{t} * c_.kv_heads + kv_head][i];
    }
    for (double& value : out) value /= sum;
    return out;
  }

  const ModelConfig& c_;
  const Checkpoint& w_;
  std::vector<std::vector<Row>> k_, v_;  // [layers][position * kv_heads + head]
  uint32_t position_ = 0;
};

class ArchitectureDiff : public testing::TestWithParam<Miniature> {};

TEST_P(ArchitectureDiff, LogitsAgreeWithDoubles) {
  const Checkpoint checkpoint(GetParam());
  base::ThreadPool pool(2);
  base::Rng rng(5);
  std::vector<int32_t> tokens(75);
  for (int32_t& token : tokens) token = static_cast<int32_t>(rng.Below(97));
  Reference reference(checkpoint);
  Row expected;
  for (const int32_t token : tokens) {
    const Row logits = reference.Step(token);
    expected.insert(expected.end(), logits.begin(), logits.end());
  }
  // Logits are of order 3. f32: bf16 flips of single K and V elements. bf16: every GEMM input has 8 bits.
  for (const auto& [type, bound] :
       {std::pair(ComputeType::kF32, 0.02), std::pair(ComputeType::kAuto, 0.15)}) {
    auto model = Model::Load(checkpoint.folder(), {.compute = type}, pool);
    ASSERT_TRUE(model.ok()) << model.status().ToString();
    if (GetParam().stored_f32) {
      EXPECT_EQ((*model)->compute(), ComputeType::kF32);
    }
    KvPages pages((*model)->kv_geometry(), 75);
    std::vector<float> all;
    for (const auto& [first, count] : {std::pair(0u, 30u), std::pair(30u, 1u), std::pair(31u, 44u)}) {
      SequenceInput input;
      input.tokens = std::span(tokens).subspan(first, count);
      input.first_position = first;
      input.layers = pages.layers();
      input.all_logits = true;
      std::vector<float> logits;
      const base::Status status = (*model)->Forward(std::span(&input, 1), nullptr, logits);
      ASSERT_TRUE(status.ok()) << status.ToString();
      all.insert(all.end(), logits.begin(), logits.end());
    }
    ASSERT_EQ(all.size(), expected.size());
    double worst = 0, squares = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      const double error = std::abs(double{all[i]} - expected[i]);
      if (!(error <= worst)) worst = error;
      squares += error * error;
    }
    EXPECT_LT(worst, bound) << Name(type);
    RecordProperty(std::string("worst_") + std::string(Name(type)), std::to_string(worst));
    RecordProperty(std::string("rms_") + std::string(Name(type)),
                   std::to_string(std::sqrt(squares / static_cast<double>(all.size()))));
  }
}

INSTANTIATE_TEST_SUITE_P(Miniatures, ArchitectureDiff, testing::ValuesIn(kMiniatures),
                         [](const auto& miniature) { return std::string(miniature.param.name); });

}  // namespace
}  // namespace kvplane::model
