#include "kvplane/model/tokenizer_json.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "kvplane/model/json_file.h"
#include "kvplane/model/tokenizer_json_builder.h"
#include "kvplane/model/utf8.h"

namespace kvplane::model {
namespace {

using nlohmann::json;

// The largest vocabulary in use has 262,144 tokens; ids size arrays, so a hostile one is bounded.
constexpr int64_t kMaxVocab = int64_t{1} << 22;
constexpr size_t kMaxAddedTokenBytes = 1024;
// The decoder's replacements multiply: thirty times a -> aa make a gigabyte of a letter. Real ones replace a
// character by another.
constexpr size_t kMaxDecodeGrowth = 8;
constexpr size_t kDecodeSlackBytes = 64;

// GPT-2's table: printable bytes stand for themselves, the others for U+0100 and up, in order.
std::array<char32_t, 256> ByteLevelAlphabet() {
  std::array<char32_t, 256> alphabet{};
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
    alphabet[byte] = printable ? byte : next++;
  }
  return alphabet;
}

// The bytes a byte-level token stands for, or nothing when a character is not in the alphabet.
std::optional<std::string> FromByteLevel(std::string_view name) {
  static const auto bytes = [] {
    absl::flat_hash_map<char32_t, char> map;
    const auto alphabet = ByteLevelAlphabet();
    for (size_t byte = 0; byte < alphabet.size(); ++byte) {
      map.emplace(alphabet[byte], static_cast<char>(static_cast<uint8_t>(byte)));
    }
    return map;
  }();
  std::string out;
  for (size_t i = 0; i < name.size();) {
    const Utf8Step step = NextUtf8(name, i);
    const auto found = bytes.find(step.code_point);
    if (!step.valid || found == bytes.end()) return std::nullopt;
    out.push_back(found->second);
    i += step.length;
  }
  return out;
}

std::optional<char> FromByteToken(std::string_view name) {  // "<0x0A>"
  if (name.size() != 6 || !name.starts_with("<0x") || name[5] != '>') return std::nullopt;
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  };
  const int high = digit(name[3]);
  const int low = digit(name[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<char>(static_cast<uint8_t>(high * 16 + low));
}

}  // namespace

base::Result<int32_t> TokenizerJsonBuilder::ToId(const json& value, std::string_view where) {
  if (!value.is_number_integer()) return base::Corrupt("{} is not an integer", where);
  const auto id = value.get<int64_t>();
  if (id < 0 || id >= kMaxVocab) return base::Corrupt("{}: id {} is outside 0..{}", where, id, kMaxVocab - 1);
  return static_cast<int32_t>(id);
}

base::Status TokenizerJsonBuilder::SetName(int32_t id, const std::string& name, std::string_view where) {
  const auto index = static_cast<size_t>(id);
  if (name.empty()) return base::Corrupt("{}: token {} is empty", where, id);
  if (index >= parts_.names.size()) {
    parts_.names.resize(index + 1);
    parts_.special.resize(index + 1);
    in_model_.resize(index + 1);
  }
  std::string& slot = parts_.names[index];
  if (!slot.empty() && slot != name)
    return base::Corrupt("{}: '{}' and '{}' share id {}", where, slot, name, id);
  const auto [entry, inserted] = id_of_.try_emplace(name, id);
  if (!inserted && entry->second != id) {
    return base::Corrupt("{}: '{}' has ids {} and {}", where, name, entry->second, id);
  }
  slot = name;
  return base::Status::Ok();
}

base::Status TokenizerJsonBuilder::ReadVocab(const json& vocab, std::string_view where) {
  if (!vocab.is_object()) return base::Corrupt("{} is not an object", where);
  if (vocab.empty()) return base::Corrupt("{} is empty", where);
  id_of_.reserve(vocab.size());
  for (const auto& [name, value] : vocab.items()) {
    KVPLANE_ASSIGN_OR_RETURN(const int32_t id, ToId(value, where));
    KVPLANE_RETURN_IF_ERROR(SetName(id, name, where));
    in_model_[static_cast<size_t>(id)] = true;
  }
  return base::Status::Ok();
}

base::Status TokenizerJsonBuilder::AddMerge(std::string_view left, std::string_view right) {
  const auto left_id = id_of_.find(std::string(left));
  const auto right_id = id_of_.find(std::string(right));
  if (left_id == id_of_.end() || right_id == id_of_.end()) {
    return base::Corrupt("merge {} ('{}' '{}') names a token that is not in the vocabulary", merges_.size(),
                         left, right);
  }
  merges_.emplace_back(left_id->second, right_id->second);
  return base::Status::Ok();
}

base::Status TokenizerJsonBuilder::ReadMerges(const json& merges) {
  merges_.reserve(merges.size());
  for (const json& merge : merges) {
    if (merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space == std::string::npos)
        return base::Corrupt("merge {} ('{}') has no space", merges_.size(), text);
      KVPLANE_RETURN_IF_ERROR(
          AddMerge(std::string_view(text).substr(0, space), std::string_view(text).substr(space + 1)));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      KVPLANE_RETURN_IF_ERROR(
          AddMerge(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>()));
    } else {
      return base::Corrupt("merge {} is neither a string nor a pair of strings", merges_.size());
    }
  }
  return base::Status::Ok();
}

base::Status TokenizerJsonBuilder::ReadMergesText(std::string_view text) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    const bool header = begin == 0 && line.starts_with("#version");
    begin = end + 1;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || header) continue;
    const size_t space = line.find(' ');
    if (space == std::string_view::npos)
      return base::Corrupt("merge {} ('{}') has no space", merges_.size(), line);
    KVPLANE_RETURN_IF_ERROR(AddMerge(line.substr(0, space), line.substr(space + 1)));
  }
  return base::Status::Ok();
}

base::Status TokenizerJsonBuilder::ReadModel(const json& model) {
  if (const json* type = FindField(model, "type"); type != nullptr && *type != "BPE") {
    return base::Unimplemented("model.type {} (only BPE)",
                               type->dump(-1, ' ', true, json::error_handler_t::replace));
  }
  if (const json* dropout = FindField(model, "dropout"); dropout != nullptr && *dropout != 0.0) {
    return base::Unimplemented("model.dropout");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (const json* affix = FindField(model, key); affix != nullptr && *affix != "") {
      return base::Unimplemented("model.{}", key);
    }
  }
  KVPLANE_ASSIGN_OR_RETURN(options_.byte_fallback, BoolField(model, "byte_fallback", false, "model"));
  KVPLANE_ASSIGN_OR_RETURN(options_.fuse_unk, BoolField(model, "fuse_unk", false, "model"));
  KVPLANE_ASSIGN_OR_RETURN(options_.ignore_merges, BoolField(model, "ignore_merges", false, "model"));
  const json* vocab = FindField(model, "vocab");
  if (vocab == nullptr) return base::Corrupt("model.vocab is missing");
  KVPLANE_RETURN_IF_ERROR(ReadVocab(*vocab, "model.vocab"));
  KVPLANE_ASSIGN_OR_RETURN(const json* merges, ListField(model, "merges", "model"));
  KVPLANE_RETURN_IF_ERROR(ReadMerges(*merges));
  if (FindField(model, "unk_token") != nullptr) {
    KVPLANE_ASSIGN_OR_RETURN(const std::string unk, StringField(model, "unk_token", "model"));
    const auto found = id_of_.find(unk);
    if (found == id_of_.end()) return base::Corrupt("model.unk_token '{}' is not in the vocabulary", unk);
    options_.unk_id = found->second;
  }
  return base::Status::Ok();
}

base::Status TokenizerJsonBuilder::ReadAddedToken(const json& item) {
  constexpr std::string_view kWhere = "added_tokens[]";
  AddedTokens::Token token;
  KVPLANE_ASSIGN_OR_RETURN(token.content, StringField(item, "content", kWhere));
  const json* id = FindField(item, "id");
  if (id == nullptr) return base::Corrupt("{}.id is missing", kWhere);
  KVPLANE_ASSIGN_OR_RETURN(token.id, ToId(*id, kWhere));
  if (token.content.size() > kMaxAddedTokenBytes) {
    return base::ResourceExhausted("{}: token {} has {} bytes, the limit is {}", kWhere, token.id,
                                   token.content.size(), kMaxAddedTokenBytes);
  }
  KVPLANE_ASSIGN_OR_RETURN(token.special, BoolField(item, "special", false, kWhere));
  KVPLANE_ASSIGN_OR_RETURN(token.lstrip, BoolField(item, "lstrip", false, kWhere));
  KVPLANE_ASSIGN_OR_RETURN(token.rstrip, BoolField(item, "rstrip", false, kWhere));
  KVPLANE_ASSIGN_OR_RETURN(const bool single_word, BoolField(item, "single_word", false, kWhere));
  if (single_word) return base::Unimplemented("{}: single_word of '{}'", kWhere, token.content);
  KVPLANE_RETURN_IF_ERROR(SetName(token.id, token.content, kWhere));
  parts_.special[static_cast<size_t>(token.id)] = token.special;
  parts_.added.Add(std::move(token));
  return base::Status::Ok();
}

base::Status TokenizerJsonBuilder::ReadAddedTokens(const json& list) {
  for (const json& item : list) KVPLANE_RETURN_IF_ERROR(ReadAddedToken(item));
  return base::Status::Ok();
}

base::Status TokenizerJsonBuilder::ReadFile(const json& file) {
  const json* model = FindField(file, "model");
  if (model == nullptr || !model->is_object()) return base::Corrupt("model is not an object");
  KVPLANE_RETURN_IF_ERROR(ReadModel(*model));
  if (FindField(file, "added_tokens") != nullptr) {
    KVPLANE_ASSIGN_OR_RETURN(const json* added, ListField(file, "added_tokens", "the file"));
    KVPLANE_RETURN_IF_ERROR(ReadAddedTokens(*added));
  }
  if (const json* node = FindField(file, "normalizer")) KVPLANE_RETURN_IF_ERROR(ReadNormalizer(*node, 0));
  if (const json* node = FindField(file, "pre_tokenizer"))
    KVPLANE_RETURN_IF_ERROR(ReadPreTokenizer(*node, 0));
  if (const json* node = FindField(file, "post_processor"))
    KVPLANE_RETURN_IF_ERROR(ReadPostProcessor(*node, 0));
  const json* decoder = FindField(file, "decoder");
  if (decoder == nullptr) return base::Unimplemented("a file without a decoder");
  KVPLANE_RETURN_IF_ERROR(ReadDecoder(*decoder, 0));
  return CheckDecoder();
}

base::Status TokenizerJsonBuilder::CheckDecoder() const {
  if (decodes_byte_level_ != options_.byte_level) {
    return base::Unimplemented("ByteLevel in only one of pre_tokenizer and decoder");
  }
  if (decodes_byte_level_ && (!decode_replacements_.empty() || parts_.leading_strip.count > 0)) {
    return base::Unimplemented("decoder ByteLevel together with Replace, Metaspace or Strip");
  }
  return base::Status::Ok();
}

base::Status TokenizerJsonBuilder::UseGpt2() {
  constexpr std::string_view kEndOfText = "<|endoftext|>";
  options_.byte_level = true;
  decodes_byte_level_ = true;
  if (const auto found = id_of_.find(std::string(kEndOfText)); found != id_of_.end()) {
    parts_.special[static_cast<size_t>(found->second)] = true;
    parts_.added.Add({.id = found->second, .content = std::string(kEndOfText), .special = true});
  }
  return AddSplit(kGpt2Pattern, SplitBehavior::kIsolated);
}

base::Result<std::string> TokenizerJsonBuilder::PieceOf(const std::string& name) const {
  if (options_.byte_level) return FromByteLevel(name).value_or(name);
  if (const auto byte = FromByteToken(name); byte && decodes_byte_tokens_) return std::string(1, *byte);
  const size_t limit = name.size() * kMaxDecodeGrowth + kDecodeSlackBytes;
  std::string piece = name;
  for (const Replacement& replacement : decode_replacements_) {
    std::string replaced;
    size_t begin = 0;
    for (size_t at = piece.find(replacement.pattern); at != std::string::npos;
         at = piece.find(replacement.pattern, begin)) {
      replaced.append(piece, begin, at - begin).append(replacement.content);
      begin = at + replacement.pattern.size();
      if (replaced.size() > limit) {
        return base::Corrupt("the decoder makes more than {} bytes of a token of {}", limit, name.size());
      }
    }
    piece = std::move(replaced.append(piece, begin));
  }
  return piece;
}

base::Result<std::unique_ptr<Tokenizer>> TokenizerJsonBuilder::Build() {
  const size_t count = parts_.names.size();
  std::vector<std::string> tokens(count);
  std::vector<bool> unreachable(count);
  parts_.pieces.resize(count);
  for (size_t id = 0; id < count; ++id) {
    const std::string& name = parts_.names[id];
    KVPLANE_ASSIGN_OR_RETURN(parts_.pieces[id], PieceOf(name));
    const std::optional<std::string> bytes = options_.byte_level ? FromByteLevel(name) : name;
    unreachable[id] = !in_model_[id] || !bytes;
    if (bytes) tokens[id] = *bytes;
  }
  if (options_.byte_level) {  // added tokens are plain text, not written in the byte alphabet
    for (const AddedTokens::Token& token : parts_.added.tokens()) {
      parts_.pieces[static_cast<size_t>(token.id)] = token.content;
    }
  }
  KVPLANE_ASSIGN_OR_RETURN(BpeModel model,
                           BpeModel::Create(std::move(tokens), unreachable, merges_, options_));
  return std::unique_ptr<Tokenizer>(std::make_unique<BpeTokenizer>(std::move(parts_), std::move(model)));
}

base::Result<std::unique_ptr<Tokenizer>> ParseTokenizerJson(std::string_view bytes) {
  KVPLANE_ASSIGN_OR_RETURN(const json file, ParseJsonObject(bytes, "tokenizer.json"));
  TokenizerJsonBuilder builder;
  base::Status status = builder.ReadFile(file);
  if (!status.ok()) return status.Annotate("tokenizer.json");
  auto tokenizer = builder.Build();
  if (!tokenizer.ok()) return tokenizer.status().Annotate("tokenizer.json");
  return tokenizer;
}

base::Result<std::unique_ptr<Tokenizer>> ParseGpt2Files(std::string_view vocab_json,
                                                        std::string_view merges_txt) {
  KVPLANE_ASSIGN_OR_RETURN(const json vocab, ParseJsonObject(vocab_json, "vocab.json"));
  TokenizerJsonBuilder builder;
  KVPLANE_RETURN_IF_ERROR(builder.ReadVocab(vocab, "vocab.json"));
  base::Status merges = builder.ReadMergesText(merges_txt);
  if (!merges.ok()) return merges.Annotate("merges.txt");
  KVPLANE_RETURN_IF_ERROR(builder.UseGpt2());
  return builder.Build();
}

}  // namespace kvplane::model
