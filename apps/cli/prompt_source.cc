#include "apps/cli/prompt_source.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <system_error>
#include <utility>

namespace kvplane::cli {
namespace {

constexpr uintmax_t kMaxTextBytes = 64 << 20;
// No tokenizer in use makes fewer than one token of 16 bytes of prose on average.
constexpr size_t kMaxBytesPerToken = 16;

base::Result<uint32_t> CountTokens(const model::Tokenizer& tokenizer, const std::string& text) {
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer.Encode(text, true));
  return static_cast<uint32_t>(ids.size());
}

}  // namespace

base::Result<std::string> ReadPromptText(const std::filesystem::path& file_or_folder) {
  std::error_code error;
  std::vector<std::filesystem::path> paths;
  if (std::filesystem::is_regular_file(file_or_folder, error)) {
    paths.push_back(file_or_folder);
  } else {
    for (const auto& entry : std::filesystem::directory_iterator(file_or_folder, error)) {
      if (entry.path().extension() == ".txt") paths.push_back(entry.path());
    }
    if (error) return base::NotFound("{}: {}", file_or_folder.string(), error.message());
  }
  std::sort(paths.begin(), paths.end());
  std::string all;
  for (const auto& path : paths) {
    const uintmax_t bytes = std::filesystem::file_size(path, error);
    if (error) return base::NotFound("{}: {}", path.string(), error.message());
    if (bytes > kMaxTextBytes - std::min<uintmax_t>(all.size(), kMaxTextBytes)) {
      return base::ResourceExhausted("{}: more than {} bytes of text", file_or_folder.string(),
                                     kMaxTextBytes);
    }
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    all += text.str() + "\n";
  }
  if (all.find_first_not_of('\n') == std::string::npos) {
    return base::NotFound("{}: no text in any *.txt file", file_or_folder.string());
  }
  return all;
}

base::Result<PromptSource> PromptSource::Load(const std::filesystem::path& file_or_folder) {
  PromptSource source;
  KVPLANE_ASSIGN_OR_RETURN(source.text_, ReadPromptText(file_or_folder));
  for (size_t at = 0; at < source.text_.size();) {
    const size_t end = source.text_.find('\n', at);
    if (end > at) source.line_starts_.push_back(at);
    at = end + 1;
  }
  return source;
}

base::Result<Prompt> PromptSource::Cut(const model::Tokenizer& tokenizer, uint32_t tokens,
                                       base::Rng& rng) const {
  constexpr int kTries = 32;
  for (int attempt = 0; attempt < kTries; ++attempt) {
    const size_t start = line_starts_[rng.Below(line_starts_.size())];
    const size_t limit = std::min(text_.size() - start, size_t{tokens} * kMaxBytesPerToken);
    // Bisect over the cut position: token counts grow with length, up to merges at the cut.
    size_t low = 0, high = limit;
    Prompt best;
    while (low + 1 < high) {
      const size_t middle = low + (high - low) / 2;
      const size_t space = text_.rfind(' ', start + middle);
      if (space == std::string::npos || space <= start + low) {
        low = middle;
        continue;
      }
      std::string text = text_.substr(start, space - start);
      KVPLANE_ASSIGN_OR_RETURN(const uint32_t count, CountTokens(tokenizer, text));
      if (count <= tokens) {
        if (count > best.tokens) best = {std::move(text), count};
        low = middle;
      } else {
        high = middle;
      }
    }
    if (best.tokens + best.tokens / 16 + 8 >= tokens) return best;
  }
  return base::ResourceExhausted("the prompt text has no stretch of {} tokens", tokens);
}

base::Result<std::vector<Prompt>> PromptSource::Spread(const model::Tokenizer& tokenizer, uint32_t count,
                                                       uint32_t min_tokens, uint32_t max_tokens,
                                                       base::Rng& rng) const {
  std::vector<Prompt> prompts;
  for (uint32_t i = 0; i < count; ++i) {
    const double share = count == 1 ? 1.0 : static_cast<double>(i) / (count - 1);
    const double tokens = min_tokens * std::pow(static_cast<double>(max_tokens) / min_tokens, share);
    KVPLANE_ASSIGN_OR_RETURN(Prompt prompt, Cut(tokenizer, static_cast<uint32_t>(std::lround(tokens)), rng));
    prompts.push_back(std::move(prompt));
  }
  for (size_t i = prompts.size(); i > 1; --i) std::swap(prompts[i - 1], prompts[rng.Below(i)]);
  return prompts;
}

}  // namespace kvplane::cli
