// What a tokenizer file says, collected field by field and turned into a Tokenizer at the end.
//
// Private to tokenizer_json.cc (vocabulary, merges, added tokens) and tokenizer_json_pipeline.cc
// (normalizer, pre-tokenizer, decoder, post-processor).
//
// Thread safety: none; one builder reads one file.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/model/bpe_tokenizer.h"

namespace kvplane::model {

// Collects what the file says; Build() turns it into a tokenizer.
class TokenizerJsonBuilder {
 public:
  base::Status ReadFile(const nlohmann::json& file);
  // `where` names the object in error messages.
  base::Status ReadVocab(const nlohmann::json& vocab, std::string_view where);
  // merges.txt: one "left right" per line.
  base::Status ReadMergesText(std::string_view text);
  // GPT-2's pre-tokenizer, decoder and special token, which its files do not spell out.
  base::Status UseGpt2();
  // Last; the builder is used up.
  base::Result<std::unique_ptr<Tokenizer>> Build();

 private:
  struct Replacement {
    std::string pattern;
    std::string content;
  };

  static base::Result<int32_t> ToId(const nlohmann::json& value, std::string_view where);
  base::Status ReadModel(const nlohmann::json& model);
  base::Status ReadMerges(const nlohmann::json& merges);
  base::Status AddMerge(std::string_view left, std::string_view right);
  base::Status ReadAddedTokens(const nlohmann::json& list);
  base::Status ReadAddedToken(const nlohmann::json& item);
  base::Status SetName(int32_t id, const std::string& name, std::string_view where);
  base::Status ReadNormalizer(const nlohmann::json& node, int depth);
  base::Status AddReplace(const nlohmann::json& node);
  base::Status ReadPreTokenizer(const nlohmann::json& node, int depth);
  base::Status ReadByteLevel(const nlohmann::json& node);
  base::Status ReadMetaspace(const nlohmann::json& node);
  base::Status ReadSplit(const nlohmann::json& node);
  base::Status AddSplit(std::string_view pattern, SplitBehavior behavior);
  base::Status ReadDecoder(const nlohmann::json& node, int depth);
  base::Status ReadStrip(const nlohmann::json& node);
  base::Status ReadDecodeReplace(const nlohmann::json& node);
  base::Status ReadMetaspaceDecoder(const nlohmann::json& node);
  base::Status ReadPostProcessor(const nlohmann::json& node, int depth);
  base::Status ReadTemplate(const nlohmann::json& node);
  base::Status ReadTemplateItem(const nlohmann::json& item, const nlohmann::json& node, bool* seen_text);
  base::Status CheckDecoder() const;
  base::Result<std::string> PieceOf(const std::string& name) const;

  BpeTokenizerParts parts_;
  BpeOptions options_;
  std::vector<bool> in_model_;  // by id: an entry of model.vocab
  absl::flat_hash_map<std::string, int32_t> id_of_;
  std::vector<std::pair<int32_t, int32_t>> merges_;
  std::vector<Replacement> decode_replacements_;
  bool decodes_byte_level_ = false;
  bool decodes_byte_tokens_ = false;
  bool fused_ = false;
};

}  // namespace kvplane::model
