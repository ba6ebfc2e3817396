// What stands before and after the merges in tokenizer.json: normalizers, pre-tokenizers, added tokens.
//
// Components (others are refused by name in tokenizer_json.cc):
//   normalizers     Prepend, Replace, NFC, Sequence
//   pre-tokenizers  Split, ByteLevel, Digits, Metaspace, Sequence
// Meanings follow the file format of Hugging Face's `tokenizers` library.
//
// Thread safety: const methods are safe from many threads.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/model/split_regex.h"

namespace kvplane::model {

struct NormalizerStep {
  enum class Kind { kPrepend, kReplace, kNfc };
  Kind kind;
  std::vector<SplitRegex> pattern;  // kReplace: one; otherwise none
  std::string content;              // kPrepend, kReplace
  bool unless_present = false;      // kPrepend: not to a text that begins with it
  bool first_only = false;          // kPrepend: only to the text before the first added token
};

// Runs `text` through all steps. `first` = nothing stands before it in the whole text. A text may grow
// eightfold and a little (kResourceExhausted beyond).
base::Status Normalize(const std::vector<NormalizerStep>& steps, std::string_view text, bool first,
                       std::string* out);

// What becomes of the matches when a text is split at a pattern.
enum class SplitBehavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext };

struct SplitStep {
  SplitRegex pattern;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // the pattern describes the words instead of what separates them
};

// Splits `text` by each step in turn; `pieces` view into `text` and cover it in order (but for kRemoved).
base::Status PreTokenize(const std::vector<SplitStep>& steps, std::string_view text,
                         std::vector<std::string_view>* pieces);

// GPT-2's pattern, which "ByteLevel" with use_regex stands for.
extern const std::string_view kGpt2Pattern;

// Finds the tokens that are recognised in raw text before anything else: a byte trie, longest match.
class AddedTokens {
 public:
  struct Token {
    int32_t id = 0;
    std::string content;
    bool special = false;
    bool lstrip = false;  // swallows white space before it
    bool rstrip = false;  // and after it
  };
  struct Match {
    ByteRange range;  // with swallowed white space
    int32_t id = 0;
  };

  // `token.content` is not empty. A repeated content replaces the earlier one.
  void Add(Token token);
  // First match that begins at or after `offset`; special tokens only with `parse_special`.
  bool Find(std::string_view text, size_t offset, bool parse_special, Match* match) const;
  const std::vector<Token>& tokens() const { return tokens_; }

 private:
  const Token* LongestAt(std::string_view text, size_t offset, bool parse_special) const;

  std::vector<Token> tokens_;
  absl::flat_hash_map<uint64_t, uint32_t> edges_;  // node << 8 | byte -> node
  std::vector<int32_t> token_at_{-1};              // by node: index into tokens_ or -1; node 0 is the root
  std::array<bool, 256> begins_{};                 // bytes that some token begins with
};

}  // namespace kvplane::model
