// SplitRegex: the pre-tokenizer's regular expressions, on PCRE2 with its just-in-time compiler.
//
// Patterns in tokenizer.json are written for Oniguruma. Two differences matter and are settled here:
// PCRE2's \s also matches U+180E under UCP, so \s becomes \p{White_Space} and \S \P{White_Space}; set
// intersection "&&" inside a class, which PCRE2 would misread, is refused.
// Matching is bounded (kMatchLimit), so a hostile pattern ends in a Status.
//
// Thread safety: const methods are safe from many threads; each caller brings its own MatchState.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "kvplane/base/status.h"

namespace kvplane::model {

struct ByteRange {
  size_t begin = 0;
  size_t end = 0;
};

class SplitRegex {
 public:
  // Working memory of one thread's matching; cheap to create, reused within one Encode call.
  class MatchState {
   public:
    MatchState();
    ~MatchState();
    MatchState(const MatchState&) = delete;
    MatchState& operator=(const MatchState&) = delete;

   private:
    friend class SplitRegex;
    struct Impl;
    std::unique_ptr<Impl> impl_;
  };

  static base::Result<SplitRegex> CreateRegex(std::string_view pattern);
  static base::Result<SplitRegex> CreateLiteral(std::string_view text);

  SplitRegex(SplitRegex&&) noexcept;
  SplitRegex& operator=(SplitRegex&&) noexcept;
  ~SplitRegex();

  // First non-empty match that begins at or after `offset`. Without one `found` is false.
  // `text` must be valid UTF-8 and `offset` a character boundary.
  base::Status Find(std::string_view text, size_t offset, MatchState* state, bool* found,
                    ByteRange* match) const;

 private:
  struct Impl;
  explicit SplitRegex(std::unique_ptr<Impl> impl);
  static base::Result<SplitRegex> Compile(std::string_view pattern, uint32_t flags);

  std::unique_ptr<Impl> impl_;
};

}  // namespace kvplane::model
