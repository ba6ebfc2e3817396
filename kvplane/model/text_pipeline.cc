#include "kvplane/model/text_pipeline.h"

#include <algorithm>

#include "kvplane/model/unicode_nfc.h"
#include "kvplane/model/utf8.h"

namespace kvplane::model {

// As published with GPT-2 (Radford et al., 2019): contractions, letters, digits, the rest, spaces.
const std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

// "▁" for " " triples a text; a hostile Replace must not do more than a little above that.
constexpr size_t kMaxGrowth = 8;
constexpr size_t kGrowthSlack = size_t{64} << 10;

base::Status ReplaceAll(const SplitRegex& pattern, std::string_view content, size_t limit,
                        std::string* text) {
  SplitRegex::MatchState state;
  std::string out;
  size_t offset = 0;
  while (true) {
    bool found = false;
    ByteRange match;
    KVPLANE_RETURN_IF_ERROR(pattern.Find(*text, offset, &state, &found, &match));
    out.append(*text, offset, (found ? match.begin : text->size()) - offset);
    if (!found) break;
    out += content;
    offset = match.end;
    if (out.size() > limit)
      return base::ResourceExhausted("the normalizer grows the text beyond {} bytes", limit);
  }
  *text = std::move(out);
  return base::Status::Ok();
}

struct Section {
  ByteRange range;
  bool is_match;
};

// Matches and the text between them, in order.
base::Status FindSections(const SplitStep& step, std::string_view text, SplitRegex::MatchState* state,
                          std::vector<Section>* sections) {
  size_t offset = 0;
  while (offset < text.size()) {
    bool found = false;
    ByteRange match;
    KVPLANE_RETURN_IF_ERROR(step.pattern.Find(text, offset, state, &found, &match));
    const size_t gap_end = found ? match.begin : text.size();
    if (gap_end > offset) sections->push_back({{offset, gap_end}, step.invert});
    if (!found) break;
    sections->push_back({match, !step.invert});
    offset = match.end;
  }
  return base::Status::Ok();
}

void ApplyBehavior(SplitBehavior behavior, const std::vector<Section>& sections, std::string_view text,
                   std::vector<std::string_view>* pieces) {
  std::vector<ByteRange> ranges;
  bool previous_is_match = false;
  for (const Section& section : sections) {
    const bool joins_previous =
        !ranges.empty() &&
        ((behavior == SplitBehavior::kMergedWithPrevious && section.is_match && !previous_is_match) ||
         (behavior == SplitBehavior::kMergedWithNext && !section.is_match && previous_is_match));
    if (joins_previous) {
      ranges.back().end = section.range.end;
    } else if (behavior != SplitBehavior::kRemoved || !section.is_match) {
      ranges.push_back(section.range);
    }
    previous_is_match = section.is_match;
  }
  for (const ByteRange& range : ranges) pieces->push_back(text.substr(range.begin, range.end - range.begin));
}

size_t SkipWhiteSpace(std::string_view text, size_t offset) {
  while (offset < text.size()) {
    const Utf8Step step = NextUtf8(text, offset);
    if (!IsWhiteSpace(step.code_point)) break;
    offset += step.length;
  }
  return offset;
}

size_t SkipWhiteSpaceBack(std::string_view text, size_t floor, size_t offset) {
  while (offset > floor) {
    size_t start = offset - 1;
    while (start > floor && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
    if (!IsWhiteSpace(NextUtf8(text, start).code_point)) break;
    offset = start;
  }
  return offset;
}

}  // namespace

base::Status Normalize(const std::vector<NormalizerStep>& steps, std::string_view text, bool first,
                       std::string* out) {
  std::string current(text);
  const size_t limit = text.size() * kMaxGrowth + kGrowthSlack;
  for (const NormalizerStep& step : steps) {
    switch (step.kind) {
      case NormalizerStep::Kind::kPrepend:
        if (current.empty() || (step.first_only && !first)) break;
        if (step.unless_present && current.starts_with(step.content)) break;
        current.insert(0, step.content);
        break;
      case NormalizerStep::Kind::kReplace:
        KVPLANE_RETURN_IF_ERROR(ReplaceAll(step.pattern.front(), step.content, limit, &current));
        break;
      case NormalizerStep::Kind::kNfc:
        current = ToNfc(std::move(current));
        break;
    }
    if (current.size() > limit)
      return base::ResourceExhausted("the normalizer grows the text beyond {} bytes", limit);
  }
  *out = std::move(current);
  return base::Status::Ok();
}

base::Status PreTokenize(const std::vector<SplitStep>& steps, std::string_view text,
                         std::vector<std::string_view>* pieces) {
  pieces->assign(text.empty() ? 0 : 1, text);
  std::vector<std::string_view> next;
  std::vector<Section> sections;
  SplitRegex::MatchState state;
  for (const SplitStep& step : steps) {
    next.clear();
    for (const std::string_view piece : *pieces) {
      sections.clear();
      KVPLANE_RETURN_IF_ERROR(FindSections(step, piece, &state, &sections));
      ApplyBehavior(step.behavior, sections, piece, &next);
    }
    pieces->swap(next);
  }
  return base::Status::Ok();
}

void AddedTokens::Add(Token token) {
  uint32_t node = 0;
  for (const char c : token.content) {
    const uint64_t edge = (uint64_t{node} << 8) | static_cast<uint8_t>(c);
    const auto [entry, inserted] = edges_.try_emplace(edge, static_cast<uint32_t>(token_at_.size()));
    if (inserted) token_at_.push_back(-1);
    node = entry->second;
  }
  begins_[static_cast<uint8_t>(token.content.front())] = true;
  token_at_[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(std::move(token));
}

const AddedTokens::Token* AddedTokens::LongestAt(std::string_view text, size_t offset,
                                                 bool parse_special) const {
  const Token* best = nullptr;
  uint32_t node = 0;
  for (size_t i = offset; i < text.size(); ++i) {
    const auto edge = edges_.find((uint64_t{node} << 8) | static_cast<uint8_t>(text[i]));
    if (edge == edges_.end()) break;
    node = edge->second;
    if (token_at_[node] < 0) continue;
    const Token& token = tokens_[static_cast<size_t>(token_at_[node])];
    if (parse_special || !token.special) best = &token;
  }
  return best;
}

bool AddedTokens::Find(std::string_view text, size_t offset, bool parse_special, Match* match) const {
  if (tokens_.empty()) return false;
  for (size_t i = offset; i < text.size(); ++i) {
    if (!begins_[static_cast<uint8_t>(text[i])]) continue;
    const Token* token = LongestAt(text, i, parse_special);
    if (token == nullptr) continue;
    const size_t end = i + token->content.size();
    match->id = token->id;
    match->range.begin = token->lstrip ? SkipWhiteSpaceBack(text, offset, i) : i;
    match->range.end = token->rstrip ? SkipWhiteSpace(text, end) : end;
    return true;
  }
  return false;
}

}  // namespace kvplane::model
