// Detokenizer and StopMatcher: what a stream may show, token by token.
//
// A token may end in the middle of a UTF-8 character, and a stop string may lie across tokens; both hold
// text back until it is certain. The pieces that come out, put together, are exactly Tokenizer::Decode of
// all ids (Detokenizer) and the text up to the first stop string (StopMatcher), however it was cut.
//
// Thread safety: none; one of each per stream. The tokenizer must outlive its detokenizers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/model/tokenizer.h"

namespace kvplane::model {

struct DetokenizerOptions {
  bool skip_special = true;
  // The ids open a text, so the decoder's leading strip applies, as in Decode(). False: they continue a
  // prompt, whose last word the first space separates.
  bool at_text_start = true;
};

class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer, DetokenizerOptions options = {});

  // Text that became certain with this token; often empty for a byte token. Always UTF-8.
  std::string Push(int32_t id);
  // The end: bytes that never became a character, as U+FFFD. The state is empty afterwards.
  std::string Flush();

 private:
  const Tokenizer* tokenizer_;
  DetokenizerOptions options_;
  char strip_content_;
  size_t strip_left_;
  std::string held_;  // at most three bytes: the beginning of a character
};

// At most this many stop strings of at most this many bytes each (OpenAI allows four).
inline constexpr size_t kMaxStopStrings = 64;
inline constexpr size_t kMaxStopBytes = 1024;

// Knuth, Morris and Pratt's automaton per stop string, one byte at a time, so cost is
// O(bytes x stop strings) and the answer does not depend on how the text was cut.
class StopMatcher {
 public:
  // kInvalidArgument: an empty stop string, one that is not UTF-8, too many or too long.
  static base::Result<StopMatcher> Create(std::span<const std::string> stops);

  struct Output {
    std::string text;      // safe to show
    bool stopped = false;  // a stop string was completed; it and what follows are dropped
  };

  // After a stop string was hit, further text is dropped. If two end at the same byte, the longer counts.
  Output Push(std::string_view text);
  // The end without a stop string: what was held back.
  std::string Flush();
  bool stopped() const { return stopped_; }

 private:
  struct Pattern {
    std::string text;
    std::vector<size_t> failure;  // by length matched: longest proper border
    size_t matched = 0;
  };

  StopMatcher() = default;

  std::vector<Pattern> patterns_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace kvplane::model
