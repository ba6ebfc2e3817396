#include "kvplane/model/bpe.h"

#include <algorithm>
#include <limits>
#include <queue>

#include "kvplane/model/utf8.h"

namespace kvplane::model {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581, SentencePiece's visible space
// Below this many symbols the array scan beats the heap.
constexpr size_t kShortWordSymbols = 48;
constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();

uint64_t PairKey(int32_t left, int32_t right) {
  return (uint64_t{static_cast<uint32_t>(left)} << 32) | static_cast<uint32_t>(right);
}

}  // namespace

base::Result<BpeModel> BpeModel::Create(std::vector<std::string> tokens, const std::vector<bool>& unreachable,
                                        std::span<const std::pair<int32_t, int32_t>> merges,
                                        const BpeOptions& options) {
  BpeModel model;
  model.options_ = options;
  model.tokens_ = std::move(tokens);
  KVPLANE_RETURN_IF_ERROR(model.IndexTokens(unreachable));
  KVPLANE_RETURN_IF_ERROR(model.IndexMerges(merges));
  model.FindSelfEncodingTokens(unreachable);
  return model;
}

base::Status BpeModel::IndexTokens(const std::vector<bool>& unreachable) {
  id_of_.reserve(tokens_.size());
  for (size_t id = 0; id < tokens_.size(); ++id) {
    if (unreachable[id] || tokens_[id].empty()) continue;
    const auto [entry, inserted] = id_of_.try_emplace(tokens_[id], static_cast<int32_t>(id));
    if (!inserted) return base::Corrupt("tokens {} and {} have the same text", entry->second, id);
  }
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    const std::string name = options_.byte_level
                                 ? std::string(1, static_cast<char>(static_cast<uint8_t>(byte)))
                                 : fmt::format("<0x{:02X}>", byte);
    const auto found = id_of_.find(name);
    byte_ids_[byte] = found == id_of_.end() ? -1 : found->second;
  }
  return base::Status::Ok();
}

base::Status BpeModel::IndexMerges(std::span<const std::pair<int32_t, int32_t>> merges) {
  merges_.reserve(merges.size());
  cut_before_space_ = !options_.byte_level && id_of_.contains(kSpaceMark);
  std::string joined;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto [left, right] = merges[rank];
    const std::string& left_text = tokens_[static_cast<size_t>(left)];
    const std::string& right_text = tokens_[static_cast<size_t>(right)];
    joined.assign(left_text).append(right_text);
    const auto found = id_of_.find(std::string_view(joined));
    if (found == id_of_.end()) {
      return base::Corrupt("merge {} joins tokens {} and {} to a text that is no token", rank, left, right);
    }
    merges_.insert_or_assign(PairKey(left, right), Merge{static_cast<uint32_t>(rank), found->second});
    if (right_text.starts_with(kSpaceMark) && !left_text.ends_with(kSpaceMark)) cut_before_space_ = false;
  }
  return base::Status::Ok();
}

void BpeModel::FindSelfEncodingTokens(const std::vector<bool>& unreachable) {
  std::vector<int32_t> ids;
  for (size_t id = 0; id < tokens_.size(); ++id) {
    const std::string& token = tokens_[id];
    if (unreachable[id] || token.empty()) continue;
    bool self = options_.ignore_merges;
    // Where the text is cut, Encode() never asks for a word with a "▁" behind another character.
    if (!self && (options_.byte_level || !FindInvalidUtf8(token))) {
      ids.clear();
      self = EncodeWord(token, &ids).ok() && ids.size() == 1 && ids[0] == static_cast<int32_t>(id);
    }
    if (self) direct_.emplace(token, static_cast<int32_t>(id));
  }
}

const BpeModel::Merge* BpeModel::FindMerge(int32_t left, int32_t right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

base::Status BpeModel::Encode(std::string_view word, std::vector<int32_t>* ids) const {
  if (!cut_before_space_) {
    const auto found = direct_.find(word);
    if (found == direct_.end()) return EncodeWord(word, ids);
    ids->push_back(found->second);
    return base::Status::Ok();
  }
  size_t begin = 0;
  while (begin < word.size()) {
    size_t end = begin;
    while (word.substr(end).starts_with(kSpaceMark)) end += kSpaceMark.size();
    end = std::min(word.find(kSpaceMark, end), word.size());
    const std::string_view piece = word.substr(begin, end - begin);
    if (const auto found = direct_.find(piece); found != direct_.end()) {
      ids->push_back(found->second);
    } else {
      KVPLANE_RETURN_IF_ERROR(EncodeWord(piece, ids));
    }
    begin = end;
  }
  return base::Status::Ok();
}

base::Status BpeModel::EncodeWord(std::string_view word, std::vector<int32_t>* ids) const {
  std::vector<int32_t> symbols;
  symbols.reserve(word.size());
  KVPLANE_RETURN_IF_ERROR(AppendSymbols(word, &symbols));
  if (symbols.size() <= kShortWordSymbols) {
    MergeShort(&symbols);
  } else {
    MergeLong(&symbols);
  }
  ids->insert(ids->end(), symbols.begin(), symbols.end());
  return base::Status::Ok();
}

base::Status BpeModel::AppendSymbols(std::string_view word, std::vector<int32_t>* symbols) const {
  if (options_.byte_level) {
    for (size_t i = 0; i < word.size(); ++i) {
      const int32_t id = byte_ids_[static_cast<uint8_t>(word[i])];
      if (id >= 0) {
        symbols->push_back(id);
      } else {
        KVPLANE_RETURN_IF_ERROR(AppendUnknown(word.substr(i, 1), symbols));
      }
    }
    return base::Status::Ok();
  }
  for (size_t i = 0; i < word.size();) {
    const std::string_view character = word.substr(i, NextUtf8(word, i).length);
    i += character.size();
    if (const auto found = id_of_.find(character); found != id_of_.end()) {
      symbols->push_back(found->second);
      continue;
    }
    const bool has_bytes = options_.byte_fallback &&
                           std::all_of(character.begin(), character.end(),
                                       [this](char c) { return byte_ids_[static_cast<uint8_t>(c)] >= 0; });
    if (!has_bytes) {
      KVPLANE_RETURN_IF_ERROR(AppendUnknown(character, symbols));
      continue;
    }
    for (const char c : character) symbols->push_back(byte_ids_[static_cast<uint8_t>(c)]);
  }
  return base::Status::Ok();
}

base::Status BpeModel::AppendUnknown(std::string_view character, std::vector<int32_t>* symbols) const {
  if (options_.unk_id < 0) {
    return base::InvalidArgument("the vocabulary has no token for '{}' and no unknown token", character);
  }
  const bool fused = options_.fuse_unk && !symbols->empty() && symbols->back() == options_.unk_id;
  if (!fused) symbols->push_back(options_.unk_id);
  return base::Status::Ok();
}

void BpeModel::MergeShort(std::vector<int32_t>* symbols) const {
  std::vector<int32_t>& ids = *symbols;
  if (ids.size() < 2) return;
  std::array<Merge, kShortWordSymbols> merge_at;  // of symbols i and i + 1
  const auto look_up = [&](size_t i) {
    const Merge* merge = FindMerge(ids[i], ids[i + 1]);
    merge_at[i] = merge == nullptr ? Merge{kNoRank, -1} : *merge;
  };
  size_t pairs = ids.size() - 1;
  for (size_t i = 0; i < pairs; ++i) look_up(i);
  while (pairs > 0) {
    size_t best = 0;
    for (size_t i = 1; i < pairs; ++i) {
      if (merge_at[i].rank < merge_at[best].rank) best = i;
    }
    if (merge_at[best].rank == kNoRank) break;
    ids[best] = merge_at[best].id;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(best) + 1);
    for (size_t i = best; i + 1 < pairs; ++i) merge_at[i] = merge_at[i + 1];
    --pairs;
    if (best < pairs) look_up(best);
    if (best > 0) look_up(best - 1);
  }
}

void BpeModel::MergeLong(std::vector<int32_t>* symbols) const {
  constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
  struct Link {
    uint32_t prev;
    uint32_t next;
  };
  struct Candidate {
    uint32_t rank;
    uint32_t position;
    int32_t left;
    int32_t right;
    bool operator<(const Candidate& other) const {  // priority_queue pops the largest
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  std::vector<int32_t>& ids = *symbols;
  const auto count = static_cast<uint32_t>(ids.size());
  std::vector<Link> links(count);
  for (uint32_t i = 0; i < count; ++i) links[i] = {i == 0 ? kNone : i - 1, i + 1 < count ? i + 1 : kNone};
  std::vector<Candidate> initial;
  initial.reserve(count);
  for (uint32_t i = 0; i + 1 < count; ++i) {
    if (const Merge* merge = FindMerge(ids[i], ids[i + 1])) {
      initial.push_back({merge->rank, i, ids[i], ids[i + 1]});
    }
  }
  std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(initial));
  const auto push = [&](uint32_t left, uint32_t right) {
    if (left == kNone || right == kNone) return;
    if (const Merge* merge = FindMerge(ids[left], ids[right])) {
      queue.push({merge->rank, left, ids[left], ids[right]});
    }
  };
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    const uint32_t right = links[top.position].next;
    // A neighbour merged away since: the entry is stale (a dead symbol has id -1).
    if (right == kNone || ids[top.position] != top.left || ids[right] != top.right) continue;
    ids[top.position] = FindMerge(top.left, top.right)->id;
    ids[right] = -1;
    const uint32_t after = links[right].next;
    links[top.position].next = after;
    if (after != kNone) links[after].prev = top.position;
    push(links[top.position].prev, top.position);
    push(top.position, after);
  }
  std::erase(ids, -1);
}

}  // namespace kvplane::model
