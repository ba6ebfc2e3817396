#include "kvplane/model/detokenizer.h"

#include <algorithm>
#include <utility>

#include "kvplane/model/utf8.h"

namespace kvplane::model {

Detokenizer::Detokenizer(const Tokenizer& tokenizer, DetokenizerOptions options)
    : tokenizer_(&tokenizer),
      options_(options),
      strip_content_(tokenizer.leading_strip().content),
      strip_left_(options.at_text_start ? tokenizer.leading_strip().count : 0) {}

std::string Detokenizer::Push(int32_t id) {
  if (options_.skip_special && tokenizer_->IsSpecial(id)) return {};
  std::string_view piece = tokenizer_->IdToPiece(id);
  while (strip_left_ > 0 && !piece.empty()) {
    if (piece.front() == strip_content_) {
      piece.remove_prefix(1);
      --strip_left_;
    } else {
      strip_left_ = 0;
    }
  }
  held_ += piece;
  const size_t certain = held_.size() - IncompleteUtf8Suffix(held_);
  std::string text;
  AppendRepairedUtf8(std::string_view(held_).substr(0, certain), &text);
  held_.erase(0, certain);
  return text;
}

std::string Detokenizer::Flush() {
  std::string text;
  AppendRepairedUtf8(held_, &text);
  held_.clear();
  return text;
}

base::Result<StopMatcher> StopMatcher::Create(std::span<const std::string> stops) {
  if (stops.size() > kMaxStopStrings) {
    return base::InvalidArgument("stop: {} strings, the limit is {}", stops.size(), kMaxStopStrings);
  }
  StopMatcher matcher;
  for (const std::string& stop : stops) {
    if (stop.empty()) return base::InvalidArgument("stop: an empty string");
    if (stop.size() > kMaxStopBytes) {
      return base::InvalidArgument("stop: a string of {} bytes, the limit is {}", stop.size(), kMaxStopBytes);
    }
    if (FindInvalidUtf8(stop)) return base::InvalidArgument("stop: a string that is not UTF-8");
    Pattern pattern{.text = stop, .failure = std::vector<size_t>(stop.size() + 1, 0), .matched = 0};
    for (size_t i = 1, border = 0; i < stop.size(); ++i) {
      while (border > 0 && stop[i] != stop[border]) border = pattern.failure[border];
      if (stop[i] == stop[border]) ++border;
      pattern.failure[i + 1] = border;
    }
    matcher.patterns_.push_back(std::move(pattern));
  }
  return matcher;
}

StopMatcher::Output StopMatcher::Push(std::string_view text) {
  if (stopped_) return {.text = {}, .stopped = true};
  for (const char c : text) {
    held_.push_back(c);
    size_t hit = 0;
    for (Pattern& pattern : patterns_) {
      size_t& matched = pattern.matched;
      while (matched > 0 && pattern.text[matched] != c) matched = pattern.failure[matched];
      if (pattern.text[matched] == c) ++matched;
      if (matched == pattern.text.size()) hit = std::max(hit, matched);
    }
    if (hit == 0) continue;
    stopped_ = true;
    held_.resize(held_.size() - hit);
    return {.text = std::exchange(held_, {}), .stopped = true};
  }
  size_t uncertain = 0;
  for (const Pattern& pattern : patterns_) uncertain = std::max(uncertain, pattern.matched);
  Output output{.text = held_.substr(0, held_.size() - uncertain), .stopped = false};
  held_.erase(0, output.text.size());
  return output;
}

std::string StopMatcher::Flush() { return std::exchange(held_, {}); }

}  // namespace kvplane::model
