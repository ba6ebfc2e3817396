#include "kvplane/model/weights.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "kvplane/base/check.h"

namespace kvplane::model {
namespace {

struct ExpectedTensor {
  std::string name;
  std::vector<uint64_t> shape;
};

std::string LayerName(uint32_t layer, std::string_view rest) {
  return fmt::format("model.layers.{}.{}", layer, rest);
}

void ExpectLinear(uint32_t layer, std::string_view name, uint32_t n, uint32_t k, bool bias,
                  std::vector<ExpectedTensor>* out) {
  out->push_back({LayerName(layer, fmt::format("{}.weight", name)), {n, k}});
  if (bias) out->push_back({LayerName(layer, fmt::format("{}.bias", name)), {n}});
}

void ExpectLayer(const ModelConfig& c, uint32_t layer, std::vector<ExpectedTensor>* out) {
  out->push_back({LayerName(layer, "input_layernorm.weight"), {c.hidden}});
  out->push_back({LayerName(layer, "post_attention_layernorm.weight"), {c.hidden}});
  ExpectLinear(layer, "self_attn.q_proj", c.query_width(), c.hidden, c.qkv_bias, out);
  ExpectLinear(layer, "self_attn.k_proj", c.kv_width(), c.hidden, c.qkv_bias, out);
  ExpectLinear(layer, "self_attn.v_proj", c.kv_width(), c.hidden, c.qkv_bias, out);
  ExpectLinear(layer, "self_attn.o_proj", c.hidden, c.query_width(), c.output_bias, out);
  if (c.qk_norm) {
    out->push_back({LayerName(layer, "self_attn.q_norm.weight"), {c.head_dim}});
    out->push_back({LayerName(layer, "self_attn.k_norm.weight"), {c.head_dim}});
  }
  ExpectLinear(layer, "mlp.gate_proj", c.intermediate, c.hidden, c.mlp_bias, out);
  ExpectLinear(layer, "mlp.up_proj", c.intermediate, c.hidden, c.mlp_bias, out);
  ExpectLinear(layer, "mlp.down_proj", c.hidden, c.intermediate, c.mlp_bias, out);
}

// In a fixed order: the fingerprint hashes them in it.
std::vector<ExpectedTensor> Expected(const ModelConfig& config) {
  std::vector<ExpectedTensor> out;
  out.push_back({"model.embed_tokens.weight", {config.vocab, config.hidden}});
  for (uint32_t layer = 0; layer < config.layers; ++layer) ExpectLayer(config, layer, &out);
  out.push_back({"model.norm.weight", {config.hidden}});
  if (!config.tied_embeddings) out.push_back({"lm_head.weight", {config.vocab, config.hidden}});
  return out;
}

// What old checkpoints store besides the weights: derived tables, and the head of tied embeddings.
bool MayBeIgnored(std::string_view name, const ModelConfig& config) {
  return name.ends_with(".rotary_emb.inv_freq") || (config.tied_embeddings && name == "lm_head.weight");
}

const StoredTensor& Get(const Safetensors& files, std::string_view name) {
  const StoredTensor* tensor = files.Find(name);
  KVPLANE_CHECK(tensor != nullptr && tensor->dtype.has_value());
  return *tensor;
}

float ValueAt(const std::byte* bytes, tensor::DType dtype, size_t index) {
  if (dtype == tensor::DType::kF32) {
    float value;
    std::memcpy(&value, bytes + index * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, bytes + index * 2, 2);
  return dtype == tensor::DType::kBf16 ? tensor::Bf16ToFloat(bits) : tensor::F16ToFloat(bits);
}

void AppendVector(const Safetensors& files, std::string_view name, std::vector<float>* out) {
  const StoredTensor& tensor = Get(files, name);
  for (size_t i = 0; i < tensor.shape[0]; ++i) out->push_back(ValueAt(tensor.bytes.data(), *tensor.dtype, i));
}

std::vector<float> Vector(const Safetensors& files, const std::string& name) {
  std::vector<float> out;
  AppendVector(files, name, &out);
  return out;
}

WeightRows Matrix(const Safetensors& files, std::string_view name) {
  const StoredTensor& tensor = Get(files, name);
  return {tensor.bytes.data(), *tensor.dtype, static_cast<uint32_t>(tensor.shape[0]),
          static_cast<uint32_t>(tensor.shape[1])};
}

// The matrices of the named projections of a layer, one below the other, and their biases where there are.
struct Projection {
  PackedMatrix weights;
  std::vector<float> bias;
};
base::Result<Projection> Project(const Safetensors& files, uint32_t layer,
                                 std::span<const std::string_view> names, bool bias, Matmul& matmul) {
  Projection out;
  std::vector<WeightRows> parts;
  for (const std::string_view name : names) {
    parts.push_back(Matrix(files, LayerName(layer, fmt::format("{}.weight", name))));
    if (bias) AppendVector(files, LayerName(layer, fmt::format("{}.bias", name)), &out.bias);
  }
  KVPLANE_ASSIGN_OR_RETURN(out.weights, matmul.Pack(parts));
  return out;
}

base::Result<LayerWeights> LoadLayer(const Safetensors& files, const ModelConfig& config, uint32_t layer,
                                     Matmul& matmul) {
  constexpr std::string_view kQkv[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};
  constexpr std::string_view kOutput[] = {"self_attn.o_proj"};
  constexpr std::string_view kGateUp[] = {"mlp.gate_proj", "mlp.up_proj"};
  constexpr std::string_view kDown[] = {"mlp.down_proj"};
  KVPLANE_ASSIGN_OR_RETURN(Projection qkv, Project(files, layer, kQkv, config.qkv_bias, matmul));
  KVPLANE_ASSIGN_OR_RETURN(Projection output, Project(files, layer, kOutput, config.output_bias, matmul));
  KVPLANE_ASSIGN_OR_RETURN(Projection gate_up, Project(files, layer, kGateUp, config.mlp_bias, matmul));
  KVPLANE_ASSIGN_OR_RETURN(Projection down, Project(files, layer, kDown, config.mlp_bias, matmul));
  LayerWeights out;
  out.input_norm = Vector(files, LayerName(layer, "input_layernorm.weight"));
  out.post_norm = Vector(files, LayerName(layer, "post_attention_layernorm.weight"));
  out.qkv = std::move(qkv.weights);
  out.qkv_bias = std::move(qkv.bias);
  out.output = std::move(output.weights);
  out.output_bias = std::move(output.bias);
  out.gate_up = std::move(gate_up.weights);
  out.gate_up_bias = std::move(gate_up.bias);
  out.down = std::move(down.weights);
  out.down_bias = std::move(down.bias);
  if (config.qk_norm) {
    out.q_norm = Vector(files, LayerName(layer, "self_attn.q_norm.weight"));
    out.k_norm = Vector(files, LayerName(layer, "self_attn.k_norm.weight"));
  }
  return out;
}

base::Result<std::array<std::byte, 32>> Fingerprint(const Safetensors& files, const ModelConfig& config) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> hash(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  bool ok = hash != nullptr && EVP_DigestInit_ex(hash.get(), EVP_sha256(), nullptr) == 1;
  const std::string canonical = config.Canonical();
  ok = ok && EVP_DigestUpdate(hash.get(), canonical.data(), canonical.size()) == 1;
  for (const ExpectedTensor& expected : Expected(config)) {
    const StoredTensor& tensor = Get(files, expected.name);
    const std::string title =
        fmt::format("{} {} [{}]\n", expected.name, tensor.dtype_name, fmt::join(tensor.shape, ","));
    ok = ok && EVP_DigestUpdate(hash.get(), title.data(), title.size()) == 1;
    ok = ok && EVP_DigestUpdate(hash.get(), tensor.bytes.data(), tensor.bytes.size()) == 1;
  }
  std::array<std::byte, 32> digest{};
  unsigned size = 0;
  ok = ok && EVP_DigestFinal_ex(hash.get(), reinterpret_cast<unsigned char*>(digest.data()), &size) == 1;
  if (!ok || size != digest.size()) return base::Internal("SHA-256 of the weights failed");
  return digest;
}

}  // namespace

void Weights::Embed(int32_t token, std::span<float> to) const {
  const size_t first = static_cast<size_t>(token) * to.size();
  for (size_t i = 0; i < to.size(); ++i) to[i] = ValueAt(embedding.data(), embedding_dtype, first + i);
}

base::Status CheckWeights(const Safetensors& files, const ModelConfig& config) {
  size_t known = 0;
  for (const ExpectedTensor& expected : Expected(config)) {
    const StoredTensor* tensor = files.Find(expected.name);
    if (tensor == nullptr) {
      const std::string file =
          files.tensors().empty() ? "the model folder" : files.tensors().begin()->second.file;
      return base::Corrupt("tensor '{}' is missing in {}", expected.name, file);
    }
    if (tensor->shape != expected.shape) {
      return base::Corrupt("{}: tensor '{}' has shape [{}], config.json asks for [{}]", tensor->file,
                           expected.name, fmt::join(tensor->shape, ", "), fmt::join(expected.shape, ", "));
    }
    if (!tensor->dtype) {
      return base::Unimplemented("{}: unsupported dtype {} of tensor '{}'", tensor->file, tensor->dtype_name,
                                 expected.name);
    }
    ++known;
  }
  for (const auto& [name, tensor] : files.tensors()) {
    if (MayBeIgnored(name, config)) ++known;
  }
  if (known == files.tensors().size()) return base::Status::Ok();
  std::vector<ExpectedTensor> expected = Expected(config);
  for (const auto& [name, tensor] : files.tensors()) {
    const auto same = [&](const ExpectedTensor& e) { return e.name == name; };
    if (!MayBeIgnored(name, config) && std::none_of(expected.begin(), expected.end(), same)) {
      return base::Unimplemented("{}: unknown tensor '{}' in a {}", tensor.file, name,
                                 Name(config.architecture));
    }
  }
  return base::Status::Ok();
}

bool StoredAsBf16(const Safetensors& files, const ModelConfig& config) {
  for (const ExpectedTensor& expected : Expected(config)) {
    if (expected.shape.size() == 2 && Get(files, expected.name).dtype != tensor::DType::kBf16) return false;
  }
  return true;
}

std::vector<float> ReadOutputProjection(const Safetensors& files, const ModelConfig& config, uint32_t layer) {
  const WeightRows matrix = Matrix(files, LayerName(layer, "self_attn.o_proj.weight"));
  std::vector<float> values(size_t{config.hidden} * config.query_width());
  for (size_t i = 0; i < values.size(); ++i) values[i] = ValueAt(matrix.bytes, matrix.dtype, i);
  return values;
}

base::Result<Weights> LoadWeights(const Safetensors& files, const ModelConfig& config, Matmul& matmul) {
  Weights weights;
  const StoredTensor& embedding = Get(files, "model.embed_tokens.weight");
  weights.embedding_dtype = *embedding.dtype;
  weights.embedding.assign(embedding.bytes.begin(), embedding.bytes.end());
  for (uint32_t layer = 0; layer < config.layers; ++layer) {
    KVPLANE_ASSIGN_OR_RETURN(LayerWeights loaded, LoadLayer(files, config, layer, matmul));
    weights.layers.push_back(std::move(loaded));
  }
  weights.final_norm = Vector(files, "model.norm.weight");
  const WeightRows head =
      Matrix(files, config.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
  KVPLANE_ASSIGN_OR_RETURN(weights.lm_head, matmul.Pack(std::span(&head, 1)));
  KVPLANE_ASSIGN_OR_RETURN(weights.fingerprint, Fingerprint(files, config));
  return weights;
}

}  // namespace kvplane::model
