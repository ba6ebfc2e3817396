#include "apps/cli/quality/quality_inputs.h"

#include <algorithm>

namespace kvplane::cli {
namespace {

// No tokenizer in use makes fewer than one token of 16 bytes of prose on average.
constexpr size_t kMaxBytesPerToken = 16;

bool InsideCharacter(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

}  // namespace

base::Result<std::vector<profile::ScoredSequence>> CutTextWindows(const model::Tokenizer& tokenizer,
                                                                  std::string_view text,
                                                                  const TextWindowSpec& spec) {
  const size_t tokens = size_t{spec.prefix} + spec.scored + 1;
  std::vector<profile::ScoredSequence> windows;
  for (size_t i = 0; i < spec.windows; ++i) {
    const size_t end = (i + 1) * text.size() / spec.windows;
    size_t start = i * text.size() / spec.windows;
    if (i > 0) start = std::min(text.find('\n', start), end);
    start = std::min(text.find_first_not_of('\n', start), end);
    size_t stop = std::min(end, start + tokens * kMaxBytesPerToken);
    while (stop > start && stop < text.size() && InsideCharacter(text[stop])) --stop;
    KVPLANE_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                             tokenizer.Encode(text.substr(start, stop - start), true));
    if (ids.size() < tokens) {
      return base::ResourceExhausted("{} bytes of text are too short for {} windows of {} tokens",
                                     text.size(), spec.windows, tokens);
    }
    ids.resize(tokens);
    windows.push_back({std::move(ids), spec.prefix});
  }
  return windows;
}

base::Result<profile::ScoredSequence> EncodeQuestion(const model::Tokenizer& tokenizer,
                                                     const TaskQuestion& question) {
  profile::ScoredSequence sequence;
  KVPLANE_ASSIGN_OR_RETURN(sequence.tokens, tokenizer.Encode(question.prompt, true));
  if (sequence.tokens.size() < 2) return base::InvalidArgument("a prompt of one token leaves no prefix");
  sequence.prefix = static_cast<uint32_t>(sequence.tokens.size()) - 1;
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer.Encode(question.answer, false));
  sequence.tokens.insert(sequence.tokens.end(), ids.begin(), ids.end());
  return sequence;
}

base::Result<std::vector<profile::ScoredSequence>> MakeTaskSequences(const model::Tokenizer& tokenizer,
                                                                     const TaskSpec& spec,
                                                                     std::span<const std::string> words,
                                                                     uint32_t count, uint64_t seed) {
  // One stream per kind: more questions of one kind leave the others as they are.
  base::Rng rng(seed * 1000 + static_cast<uint64_t>(spec.kind) * 100 + spec.entries);
  std::vector<profile::ScoredSequence> sequences;
  for (uint32_t i = 0; i < count; ++i) {
    KVPLANE_ASSIGN_OR_RETURN(sequences.emplace_back(),
                             EncodeQuestion(tokenizer, MakeTaskQuestion(spec, words, rng)));
  }
  return sequences;
}

}  // namespace kvplane::cli
