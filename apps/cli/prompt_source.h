// PromptSource: prompts of a wanted length cut from real text files, reproducibly.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/base/status.h"
#include "kvplane/model/tokenizer.h"

namespace kvplane::cli {

struct Prompt {
  std::string text;
  uint32_t tokens = 0;  // as the model's tokenizer counts it, with the beginning-of-sequence token
};

// The text of one file, or of every *.txt of a folder in name order, each ending in a line break; at most
// 64 MB in all. kNotFound when there is none.
base::Result<std::string> ReadPromptText(const std::filesystem::path& file_or_folder);

class PromptSource {
 public:
  // Reads as ReadPromptText().
  static base::Result<PromptSource> Load(const std::filesystem::path& file_or_folder);

  // A stretch of text, starting at a line's beginning chosen by `rng`, of `tokens` tokens give or take a
  // word's worth (cut at a space; at most `tokens`). Requires tokens >= 8; kResourceExhausted when no file is
  // long enough.
  base::Result<Prompt> Cut(const model::Tokenizer& tokenizer, uint32_t tokens, base::Rng& rng) const;

  // `count` prompts with lengths spread geometrically over [min_tokens, max_tokens] in shuffled order.
  base::Result<std::vector<Prompt>> Spread(const model::Tokenizer& tokenizer, uint32_t count,
                                           uint32_t min_tokens, uint32_t max_tokens, base::Rng& rng) const;

 private:
  std::string text_;                 // all files, each ending in a line break
  std::vector<size_t> line_starts_;  // of non-empty lines
};

}  // namespace kvplane::cli
