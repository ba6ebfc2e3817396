#include "kvplane/model/tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>

#include "kvplane/model/detokenizer.h"
#include "kvplane/model/json_file.h"
#include "kvplane/model/sentencepiece_tokenizer.h"
#include "kvplane/model/tokenizer_json.h"
#include "kvplane/model/utf8.h"

namespace kvplane::model {
namespace {

using nlohmann::json;

bool Exists(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

// An optional file of the folder: an empty object when it is not there.
base::Result<json> ReadOptional(const std::filesystem::path& path) {
  if (!Exists(path)) return json::object();
  return ReadJsonObject(path);
}

base::Result<std::unique_ptr<Tokenizer>> LoadSentencePiece(const std::filesystem::path& path,
                                                           const json& config) {
  SentencePieceOptions options;
  KVPLANE_ASSIGN_OR_RETURN(options.add_bos,
                           BoolField(config, "add_bos_token", true, "tokenizer_config.json"));
  KVPLANE_ASSIGN_OR_RETURN(options.add_eos,
                           BoolField(config, "add_eos_token", false, "tokenizer_config.json"));
  KVPLANE_ASSIGN_OR_RETURN(const std::string bytes, ReadTextFile(path));
  auto tokenizer = ParseSentencePieceModel(bytes, options);
  if (!tokenizer.ok()) return tokenizer.status().Annotate(path.string());
  return tokenizer;
}

base::Result<std::unique_ptr<Tokenizer>> LoadGpt2(const std::filesystem::path& folder, const json& config) {
  if (FindField(config, "tokenizer_class") != nullptr) {
    KVPLANE_ASSIGN_OR_RETURN(const std::string name,
                             StringField(config, "tokenizer_class", "tokenizer_config.json"));
    if (name != "GPT2Tokenizer" && name != "GPT2TokenizerFast") {
      return base::Unimplemented("{}: vocab.json and merges.txt of a {} (add its tokenizer.json)",
                                 folder.string(), name);
    }
  }
  KVPLANE_ASSIGN_OR_RETURN(const std::string vocab, ReadTextFile(folder / "vocab.json"));
  KVPLANE_ASSIGN_OR_RETURN(const std::string merges, ReadTextFile(folder / "merges.txt"));
  auto tokenizer = ParseGpt2Files(vocab, merges);
  if (!tokenizer.ok()) return tokenizer.status().Annotate(folder.string());
  return tokenizer;
}

base::Result<std::unique_ptr<Tokenizer>> LoadAny(const std::filesystem::path& folder) {
  if (Exists(folder / "tokenizer.json")) {
    KVPLANE_ASSIGN_OR_RETURN(const std::string bytes, ReadTextFile(folder / "tokenizer.json"));
    auto tokenizer = ParseTokenizerJson(bytes);
    if (!tokenizer.ok()) return tokenizer.status().Annotate(folder.string());
    return tokenizer;
  }
  KVPLANE_ASSIGN_OR_RETURN(const json config, ReadOptional(folder / "tokenizer_config.json"));
  if (Exists(folder / "tokenizer.model")) return LoadSentencePiece(folder / "tokenizer.model", config);
  if (Exists(folder / "vocab.json") && Exists(folder / "merges.txt")) return LoadGpt2(folder, config);
  return base::NotFound("{}: no tokenizer.json, tokenizer.model or vocab.json with merges.txt",
                        folder.string());
}

// "<s>" or {"content": "<s>", ...}, both in use; the id, or nothing when the field is absent.
base::Result<std::optional<int32_t>> NamedToken(const Tokenizer& tokenizer, const json& config,
                                                std::string_view key) {
  const json* value = FindField(config, key);
  if (value == nullptr) return std::optional<int32_t>();
  if (value->is_object()) value = FindField(*value, "content");
  if (value == nullptr || !value->is_string())
    return base::Corrupt("tokenizer_config.json: {} is not a token", key);
  const auto& name = value->get_ref<const std::string&>();
  const std::optional<int32_t> id = tokenizer.TokenToId(name);
  if (!id) return base::Corrupt("tokenizer_config.json: {} '{}' is not in the vocabulary", key, name);
  return id;
}

// An id or a list of ids under `key`, appended; nothing when absent.
base::Status AppendIds(const json& config, std::string_view key, std::string_view file,
                       std::vector<int32_t>* ids) {
  const json* value = FindField(config, key);
  if (value == nullptr) return base::Status::Ok();
  const json list = value->is_array() ? *value : json::array({*value});
  for (const json& item : list) {
    const bool valid =
        item.is_number_integer() && item.get<int64_t>() >= 0 && item.get<int64_t>() <= INT32_MAX;
    if (!valid) return base::Corrupt("{}: {} is not a token id or a list of them", file, key);
    ids->push_back(item.get<int32_t>());
  }
  return base::Status::Ok();
}

}  // namespace

base::Result<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::filesystem::path& model_folder) {
  KVPLANE_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, LoadAny(model_folder));
  KVPLANE_RETURN_IF_ERROR(tokenizer->ReadSpecialIds(model_folder));
  return tokenizer;
}

base::Status Tokenizer::ReadSpecialIds(const std::filesystem::path& model_folder) {
  KVPLANE_ASSIGN_OR_RETURN(const json tokenizer_config, ReadOptional(model_folder / "tokenizer_config.json"));
  KVPLANE_ASSIGN_OR_RETURN(const json generation_config,
                           ReadOptional(model_folder / "generation_config.json"));
  KVPLANE_ASSIGN_OR_RETURN(const json config, ReadOptional(model_folder / "config.json"));

  KVPLANE_ASSIGN_OR_RETURN(bos_id_, NamedToken(*this, tokenizer_config, "bos_token"));
  std::vector<int32_t> bos;
  KVPLANE_RETURN_IF_ERROR(AppendIds(generation_config, "bos_token_id", "generation_config.json", &bos));
  KVPLANE_RETURN_IF_ERROR(AppendIds(config, "bos_token_id", "config.json", &bos));
  // "bos_token": null means that there is none, whatever the other files say (Qwen2.5).
  if (!bos_id_ && !bos.empty() && !tokenizer_config.contains("bos_token")) bos_id_ = bos.front();

  KVPLANE_RETURN_IF_ERROR(AppendIds(generation_config, "eos_token_id", "generation_config.json", &eos_ids_));
  if (eos_ids_.empty()) KVPLANE_RETURN_IF_ERROR(AppendIds(config, "eos_token_id", "config.json", &eos_ids_));
  KVPLANE_ASSIGN_OR_RETURN(const auto eos, NamedToken(*this, tokenizer_config, "eos_token"));
  if (eos) eos_ids_.push_back(*eos);
  std::sort(eos_ids_.begin(), eos_ids_.end());
  eos_ids_.erase(std::unique(eos_ids_.begin(), eos_ids_.end()), eos_ids_.end());
  return base::Status::Ok();
}

base::Result<std::vector<int32_t>> Tokenizer::Encode(std::string_view text, bool add_special_tokens,
                                                     bool parse_special) const {
  if (text.size() > kMaxTextBytes) {
    return base::ResourceExhausted("a text of {} bytes, the limit is {}", text.size(), kMaxTextBytes);
  }
  if (const auto offset = FindInvalidUtf8(text)) {
    return base::InvalidArgument("the text is not UTF-8 at byte {}", *offset);
  }
  std::vector<int32_t> ids;
  KVPLANE_RETURN_IF_ERROR(EncodeText(text, add_special_tokens, parse_special, &ids));
  return ids;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  Detokenizer detokenizer(*this, {.skip_special = skip_special});
  std::string text;
  for (const int32_t id : ids) text += detokenizer.Push(id);
  return text += detokenizer.Flush();
}

}  // namespace kvplane::model
