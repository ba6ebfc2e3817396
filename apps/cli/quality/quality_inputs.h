// Token sequences for profile::PairedRun, out of running text and out of task questions.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "apps/cli/quality/task_questions.h"
#include "kvplane/base/status.h"
#include "kvplane/model/tokenizer.h"
#include "kvplane/profile/paired_run.h"

namespace kvplane::cli {

struct TextWindowSpec {
  uint32_t windows = 0;
  uint32_t prefix = 0;  // tokens that are recoded, with the beginning-of-sequence token
  uint32_t scored = 0;  // predictions behind it
};

// Windows spread evenly over `text`, each from the beginning of a line; they do not overlap, so that their
// scores are independent samples. kResourceExhausted: the text is too short for so many.
base::Result<std::vector<profile::ScoredSequence>> CutTextWindows(const model::Tokenizer& tokenizer,
                                                                  std::string_view text,
                                                                  const TextWindowSpec& spec);

// Prompt and answer. The whole prompt but its last token is recoded; the last token is fed again behind it,
// because the answer's first token must be predicted from the recoded cache too. The answer is encoded by
// itself, with its leading space: those are the tokens the demo model was taught to write (golden.json; a
// SentencePiece tokenizer puts one more space before it).
base::Result<profile::ScoredSequence> EncodeQuestion(const model::Tokenizer& tokenizer,
                                                     const TaskQuestion& question);

// `count` questions of one kind, from a stream of random numbers of their own.
base::Result<std::vector<profile::ScoredSequence>> MakeTaskSequences(const model::Tokenizer& tokenizer,
                                                                     const TaskSpec& spec,
                                                                     std::span<const std::string> words,
                                                                     uint32_t count, uint64_t seed);

}  // namespace kvplane::cli
