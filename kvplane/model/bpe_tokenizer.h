// BpeTokenizer: the Tokenizer of tokenizer.json and of vocab.json with merges.txt.
//
// text -> added tokens cut out -> normalizer -> pre-tokenizer -> BPE per word -> prefix and suffix ids.
//
// Thread safety: const methods are safe from many threads.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/model/bpe.h"
#include "kvplane/model/text_pipeline.h"
#include "kvplane/model/tokenizer.h"

namespace kvplane::model {

// Everything a file defines. All vectors by id have one entry per id; holes are empty strings.
struct BpeTokenizerParts {
  std::vector<std::string> names;   // by id, as the file spells them
  std::vector<std::string> pieces;  // by id, raw bytes as they appear in decoded text
  std::vector<bool> special;        // by id
  AddedTokens added;
  std::vector<NormalizerStep> normalizer;
  std::vector<SplitStep> pre_tokenizer;
  std::vector<int32_t> prefix_ids;  // around a text when special tokens are asked for
  std::vector<int32_t> suffix_ids;
  LeadingStrip leading_strip;
};

class BpeTokenizer final : public Tokenizer {
 public:
  BpeTokenizer(BpeTokenizerParts parts, BpeModel model);

  std::string_view IdToPiece(int32_t id) const override;
  std::optional<int32_t> TokenToId(std::string_view token) const override;
  bool IsSpecial(int32_t id) const override;
  int32_t vocab_size() const override { return static_cast<int32_t>(parts_.names.size()); }
  LeadingStrip leading_strip() const override { return parts_.leading_strip; }

 protected:
  base::Status EncodeText(std::string_view text, bool add_special_tokens, bool parse_special,
                          std::vector<int32_t>* ids) const override;

 private:
  base::Status EncodeSegment(std::string_view text, bool first, std::vector<int32_t>* ids) const;
  bool Holds(int32_t id) const { return id >= 0 && id < vocab_size(); }

  const BpeTokenizerParts parts_;
  const BpeModel model_;
  absl::flat_hash_map<std::string_view, int32_t, StringViewHash> id_of_name_;
};

}  // namespace kvplane::model
