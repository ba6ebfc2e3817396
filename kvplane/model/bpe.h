// BpeModel: byte-pair encoding of one word by ranked merges.
//
// Algorithm: Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units"
// (2016): start from single symbols, apply the merge with the lowest rank (leftmost on a tie) until none
// applies. Short words scan an array; long ones use a heap over a linked list, O(n log n), because a
// SentencePiece-style vocabulary sees the whole text as one word.
//
// Two shortcuts, both exact: a word that is a token and encodes to itself is answered by one lookup
// (decided for each token at Create), and where no merge joins "x" with "▁y" the text is cut before
// every "▁" that follows another character.
//
// Thread safety: const methods are safe from many threads.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvplane/base/status.h"

namespace kvplane::model {

struct StringViewHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};

struct BpeOptions {
  bool byte_level = false;     // symbols are bytes; otherwise characters
  bool byte_fallback = false;  // characters without a token become their bytes' "<0xNN>" tokens
  bool fuse_unk = false;       // a run of unknown characters is one unknown token
  bool ignore_merges = false;  // a word that is a token is that token, whatever the merges say
  int32_t unk_id = -1;         // -1: none
};

class BpeModel {
 public:
  BpeModel(BpeModel&&) = default;  // not copyable: the maps view the token bytes
  BpeModel& operator=(BpeModel&&) = default;

  // tokens[id] = raw bytes of token id; entries in `unreachable` have an id but never come out of text.
  // `merges` = pairs of ids in rank order; the joined bytes must be a token (kCorrupt otherwise).
  static base::Result<BpeModel> Create(std::vector<std::string> tokens, const std::vector<bool>& unreachable,
                                       std::span<const std::pair<int32_t, int32_t>> merges,
                                       const BpeOptions& options);

  // Appends the tokens of one pre-tokenized word, UTF-8. Fails when a symbol has no token and there is
  // no unknown token either.
  base::Status Encode(std::string_view word, std::vector<int32_t>* ids) const;

 private:
  struct Merge {
    uint32_t rank;
    int32_t id;
  };

  BpeModel() = default;
  base::Status IndexTokens(const std::vector<bool>& unreachable);
  base::Status IndexMerges(std::span<const std::pair<int32_t, int32_t>> merges);
  void FindSelfEncodingTokens(const std::vector<bool>& unreachable);
  const Merge* FindMerge(int32_t left, int32_t right) const;
  base::Status EncodeWord(std::string_view word, std::vector<int32_t>* ids) const;
  base::Status AppendSymbols(std::string_view word, std::vector<int32_t>* symbols) const;
  base::Status AppendUnknown(std::string_view character, std::vector<int32_t>* symbols) const;
  void MergeShort(std::vector<int32_t>* symbols) const;
  void MergeLong(std::vector<int32_t>* symbols) const;

  BpeOptions options_;
  std::vector<std::string> tokens_;  // by id; the keys of the maps below point into it
  absl::flat_hash_map<std::string_view, int32_t, StringViewHash> id_of_;
  absl::flat_hash_map<std::string_view, int32_t, StringViewHash> direct_;  // encodes to itself
  absl::flat_hash_map<uint64_t, Merge> merges_;                            // key: left << 32 | right
  std::array<int32_t, 256> byte_ids_;  // token of a byte: byte_level symbol or "<0xNN>"; -1: none
  bool cut_before_space_ = false;
};

}  // namespace kvplane::model
