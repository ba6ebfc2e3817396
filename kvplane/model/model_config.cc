#include "kvplane/model/model_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "kvplane/model/json_file.h"

namespace kvplane::model {
namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = 1 << 20;  // real ones are below 10 kB

struct ArchitectureRow {
  Architecture id;
  std::string_view name;
  std::string_view model_type;
};
constexpr std::array<ArchitectureRow, 4> kArchitectures = {{
    {Architecture::kLlama, "LlamaForCausalLM", "llama"},
    {Architecture::kMistral, "MistralForCausalLM", "mistral"},
    {Architecture::kQwen2, "Qwen2ForCausalLM", "qwen2"},
    {Architecture::kQwen3, "Qwen3ForCausalLM", "qwen3"},
}};

// Typed reads from one JSON object; the first error sticks and later reads return their fallback, so that a
// parser may check status() once.
class Fields {
 public:
  Fields(const json& object, std::string_view where) : object_(object), where_(where) {}

  bool Has(std::string_view key) const { return FindField(object_, key) != nullptr; }
  const base::Status& status() const { return status_; }

  uint32_t Unsigned(std::string_view key, std::optional<uint32_t> fallback, uint32_t low, uint32_t high) {
    const json* field = FindField(object_, key);
    if (field == nullptr) return Fallback(key, fallback);
    if (!field->is_number_integer() || *field < low || *field > high) {
      Fail(base::InvalidArgument("{} in {} is {}, not a whole number in [{}, {}]", key, where_, field->dump(),
                                 low, high));
      return low;
    }
    return field->get<uint32_t>();
  }

  double Number(std::string_view key, std::optional<double> fallback, double low, double high) {
    const json* field = FindField(object_, key);
    if (field == nullptr) return Fallback(key, fallback);
    if (!field->is_number() || !(field->get<double>() >= low) || !(field->get<double>() <= high)) {
      Fail(base::InvalidArgument("{} in {} is {}, not a number in [{}, {}]", key, where_, field->dump(), low,
                                 high));
      return low;
    }
    return field->get<double>();
  }

  bool Flag(std::string_view key, bool fallback) {
    const json* field = FindField(object_, key);
    if (field == nullptr) return fallback;
    if (!field->is_boolean()) Fail(base::InvalidArgument("{} in {} is not true or false", key, where_));
    return field->is_boolean() ? field->get<bool>() : fallback;
  }

  std::string Text(std::string_view key, std::string_view fallback) {
    const json* field = FindField(object_, key);
    if (field == nullptr) return std::string(fallback);
    if (!field->is_string()) Fail(base::InvalidArgument("{} in {} is not a string", key, where_));
    return field->is_string() ? field->get<std::string>() : std::string(fallback);
  }

  void Fail(base::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

 private:
  template <typename T>
  T Fallback(std::string_view key, const std::optional<T>& fallback) {
    if (!fallback) Fail(base::InvalidArgument("{} is missing in {}", key, where_));
    return fallback.value_or(T{});
  }

  const json& object_;
  std::string where_;
  base::Status status_;
};

base::Result<Architecture> ReadArchitecture(const json& root, std::string_view origin) {
  std::string name;
  if (const json* list = FindField(root, "architectures"); list != nullptr) {
    if (!list->is_array() || list->size() != 1 || !list->front().is_string()) {
      return base::InvalidArgument("architectures in {} is not a list of one name", origin);
    }
    name = list->front().get<std::string>();
  } else if (const json* type = FindField(root, "model_type"); type != nullptr && type->is_string()) {
    name = type->get<std::string>();
  } else {
    return base::InvalidArgument("architectures is missing in {}", origin);
  }
  for (const ArchitectureRow& row : kArchitectures) {
    if (name == row.name || name == row.model_type) return row.id;
  }
  return base::Unimplemented(
      "unsupported architecture '{}' in {}: Llama, Mistral, Qwen2 and Qwen3 are supported", name, origin);
}

// Magnitude that YaRN gives attention at `factor` (Peng et al., "YaRN", 2023, section 3.4).
double YarnMagnitude(double factor, double scale) {
  return factor <= 1.0 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0;
}

double YarnAttentionFactor(Fields& fields, double factor) {
  if (fields.Has("attention_factor")) return fields.Number("attention_factor", 1.0, 1e-3, 1e3);
  if (fields.Has("mscale") && fields.Has("mscale_all_dim")) {
    return YarnMagnitude(factor, fields.Number("mscale", 1.0, 0, 1e3)) /
           YarnMagnitude(factor, fields.Number("mscale_all_dim", 1.0, 0, 1e3));
  }
  return YarnMagnitude(factor, 1.0);
}

// `section` is rope_scaling (transformers 4) or rope_parameters (transformers 5).
base::Status ReadRopeSection(const json& section, std::string_view key, std::string_view origin,
                             uint32_t max_context, RopeConfig* rope) {
  if (!section.is_object()) return base::InvalidArgument("{} in {} is not an object", key, origin);
  Fields fields(section, fmt::format("{} of {}", key, origin));
  const std::string type = fields.Text("rope_type", fields.Text("type", "default"));
  if (fields.Has("partial_rotary_factor") && fields.Number("partial_rotary_factor", 1.0, 0, 1) != 1.0) {
    return base::Unimplemented("unsupported {}.partial_rotary_factor in {}", key, origin);
  }
  rope->theta = fields.Number("rope_theta", rope->theta, 1.0, 1e12);
  if (type == "default") return fields.status();
  rope->factor = fields.Number("factor", std::nullopt, 1.0, 1e6);
  if (type == "linear") {
    rope->type = RopeType::kLinear;
    return fields.status();
  }
  if (type == "llama3") {
    rope->type = RopeType::kLlama3;
    rope->low_freq_factor = fields.Number("low_freq_factor", std::nullopt, 1e-3, 1e6);
    rope->high_freq_factor = fields.Number("high_freq_factor", std::nullopt, 1e-3, 1e6);
    rope->original_context =
        fields.Unsigned("original_max_position_embeddings", std::nullopt, 1, kMaxPositions);
    if (fields.status().ok() && rope->high_freq_factor <= rope->low_freq_factor) {
      return base::InvalidArgument("{}.high_freq_factor is not above low_freq_factor in {}", key, origin);
    }
    return fields.status();
  }
  if (type == "yarn") {
    rope->type = RopeType::kYarn;
    rope->beta_fast = fields.Number("beta_fast", 32.0, 1e-3, 1e6);
    rope->beta_slow = fields.Number("beta_slow", 1.0, 1e-3, 1e6);
    rope->truncate = fields.Flag("truncate", true);
    rope->original_context =
        fields.Unsigned("original_max_position_embeddings", max_context, 1, kMaxPositions);
    rope->attention_factor = YarnAttentionFactor(fields, rope->factor);
    return fields.status();
  }
  return base::Unimplemented("unsupported {}.type '{}' in {}", key, type, origin);
}

base::Status ReadRope(const json& root, std::string_view origin, Fields& fields, ModelConfig* config) {
  config->rope.theta = fields.Number("rope_theta", 10000.0, 1.0, 1e12);
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    if (const json* section = FindField(root, key); section != nullptr) {
      KVPLANE_RETURN_IF_ERROR(ReadRopeSection(*section, key, origin, config->max_context, &config->rope));
    }
  }
  return base::Status::Ok();
}

// Which layers look back only `sliding_window` keys. Llama has no such setting; transformers ignores it
// there.
base::Status ReadWindows(const json& root, std::string_view origin, Fields& fields, ModelConfig* config) {
  config->windows.assign(config->layers, 0);
  if (config->architecture == Architecture::kLlama || !fields.Has("sliding_window"))
    return base::Status::Ok();
  const bool qwen = config->architecture != Architecture::kMistral;
  if (qwen && !fields.Flag("use_sliding_window", false)) return base::Status::Ok();
  const uint32_t window = fields.Unsigned("sliding_window", std::nullopt, 1, kMaxPositions);
  const uint32_t first = qwen ? fields.Unsigned("max_window_layers", 28, 0, kMaxLayers) : 0;
  for (uint32_t layer = first; layer < config->layers; ++layer) config->windows[layer] = window;
  const json* types = FindField(root, "layer_types");
  if (types == nullptr) return base::Status::Ok();
  if (!types->is_array() || types->size() != config->layers) {
    return base::InvalidArgument("layer_types in {} is not a list of {} names", origin, config->layers);
  }
  for (uint32_t layer = 0; layer < config->layers; ++layer) {
    const json& type = (*types)[layer];
    if (type == "sliding_attention") {
      config->windows[layer] = window;
    } else if (type == "full_attention") {
      config->windows[layer] = 0;
    } else {
      return base::Unimplemented("unsupported layer_types entry {} in {}", type.dump(), origin);
    }
  }
  return base::Status::Ok();
}

base::Status ReadTokenIds(const json& root, std::string_view origin, ModelConfig* config) {
  const auto valid = [&](const json& id) { return id.is_number_integer() && id >= 0 && id < config->vocab; };
  if (const json* bos = FindField(root, "bos_token_id"); bos != nullptr) {
    if (!valid(*bos)) return base::InvalidArgument("bos_token_id in {} is not a token id", origin);
    config->bos_token = bos->get<int32_t>();
  }
  const json* eos = FindField(root, "eos_token_id");
  if (eos == nullptr) return base::Status::Ok();
  const json list = eos->is_array() ? *eos : json::array({*eos});
  for (const json& id : list) {
    if (!valid(id))
      return base::InvalidArgument("eos_token_id in {} is not a token id or a list of them", origin);
    config->eos_tokens.push_back(id.get<int32_t>());
  }
  return base::Status::Ok();
}

void ReadBiases(Fields& fields, ModelConfig* config) {
  const bool attention_bias = fields.Flag("attention_bias", false);
  switch (config->architecture) {
    case Architecture::kLlama:
      config->qkv_bias = attention_bias;
      config->output_bias = attention_bias;
      config->mlp_bias = fields.Flag("mlp_bias", false);
      break;
    case Architecture::kMistral:
      break;
    case Architecture::kQwen2:
      config->qkv_bias = true;
      break;
    case Architecture::kQwen3:
      config->qkv_bias = attention_bias;
      config->output_bias = attention_bias;
      config->qk_norm = true;
      break;
  }
}

void ReadShape(Fields& fields, ModelConfig* config) {
  config->layers = fields.Unsigned("num_hidden_layers", std::nullopt, 1, kMaxLayers);
  config->hidden = fields.Unsigned("hidden_size", std::nullopt, 1, kMaxHidden);
  config->intermediate = fields.Unsigned("intermediate_size", std::nullopt, 1, kMaxIntermediate);
  config->heads = fields.Unsigned("num_attention_heads", std::nullopt, 1, kMaxHeads);
  config->kv_heads = fields.Unsigned("num_key_value_heads", config->heads, 1, kMaxHeads);
  config->head_dim = fields.Unsigned("head_dim", config->hidden / std::max(config->heads, 1u), 1, 1024);
  config->vocab = fields.Unsigned("vocab_size", std::nullopt, 1, kMaxVocab);
  config->max_context = fields.Unsigned("max_position_embeddings", std::nullopt, 1, kMaxPositions);
  config->norm_epsilon = static_cast<float>(fields.Number("rms_norm_eps", 1e-6, 0, 1));
  config->tied_embeddings = fields.Flag("tie_word_embeddings", false);
}

base::Status CheckShape(const ModelConfig& config, std::string_view origin) {
  if (config.heads % config.kv_heads != 0) {
    return base::InvalidArgument("num_key_value_heads {} does not divide num_attention_heads {} in {}",
                                 config.kv_heads, config.heads, origin);
  }
  if (config.head_dim % 8 != 0) {
    return base::Unimplemented("unsupported head_dim {} in {}: it is not a multiple of 8", config.head_dim,
                               origin);
  }
  return base::Status::Ok();
}

}  // namespace

std::string_view Name(Architecture architecture) {
  for (const ArchitectureRow& row : kArchitectures) {
    if (row.id == architecture) return row.name;
  }
  return "unknown";
}

std::string_view Name(RopeType type) {
  switch (type) {
    case RopeType::kDefault:
      return "default";
    case RopeType::kLinear:
      return "linear";
    case RopeType::kLlama3:
      return "llama3";
    case RopeType::kYarn:
      return "yarn";
  }
  return "unknown";
}

std::string ModelConfig::Canonical() const {
  std::string out = fmt::format(
      "architecture={}\nlayers={}\nhidden={}\nintermediate={}\nheads={}\nkv_heads={}\nhead_dim={}\nvocab={}\n"
      "norm_epsilon={}\ntied_embeddings={}\nqkv_bias={}\noutput_bias={}\nmlp_bias={}\nqk_norm={}\n",
      Name(architecture), layers, hidden, intermediate, heads, kv_heads, head_dim, vocab, norm_epsilon,
      tied_embeddings, qkv_bias, output_bias, mlp_bias, qk_norm);
  out += fmt::format(
      "rope={} theta={} factor={} low={} high={} fast={} slow={} attention={} truncate={} "
      "original={}\nwindows=",
      Name(rope.type), rope.theta, rope.factor, rope.low_freq_factor, rope.high_freq_factor, rope.beta_fast,
      rope.beta_slow, rope.attention_factor, rope.truncate, rope.original_context);
  for (const uint32_t window : windows) out += fmt::format("{},", window);
  return out + "\n";
}

base::Result<ModelConfig> ParseModelConfig(std::string_view text, std::string_view origin) {
  KVPLANE_ASSIGN_OR_RETURN(const json root, ParseJsonObject(text, origin));
  ModelConfig config;
  KVPLANE_ASSIGN_OR_RETURN(config.architecture, ReadArchitecture(root, origin));
  if (FindField(root, "quantization_config") != nullptr) {
    return base::Unimplemented(
        "unsupported quantization_config in {}: bf16, f16 and f32 weights are supported", origin);
  }
  Fields fields(root, origin);
  if (const std::string act = fields.Text("hidden_act", "silu"); act != "silu") {
    return base::Unimplemented("unsupported hidden_act '{}' in {}", act, origin);
  }
  ReadShape(fields, &config);
  ReadBiases(fields, &config);
  KVPLANE_RETURN_IF_ERROR(fields.status());
  KVPLANE_RETURN_IF_ERROR(CheckShape(config, origin));
  KVPLANE_RETURN_IF_ERROR(ReadRope(root, origin, fields, &config));
  KVPLANE_RETURN_IF_ERROR(ReadWindows(root, origin, fields, &config));
  KVPLANE_RETURN_IF_ERROR(ReadTokenIds(root, origin, &config));
  const std::string dtype = fields.Text("dtype", fields.Text("torch_dtype", "bfloat16"));
  KVPLANE_RETURN_IF_ERROR(fields.status());
  const base::Result<tensor::DType> stored = tensor::ParseDType(dtype);
  if (!stored.ok()) return base::Unimplemented("unsupported dtype '{}' in {}", dtype, origin);
  config.stored_dtype = *stored;
  return config;
}

base::Result<ModelConfig> LoadModelConfig(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "config.json";
  KVPLANE_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxConfigBytes));
  return ParseModelConfig(text, path.string());
}

}  // namespace kvplane::model
