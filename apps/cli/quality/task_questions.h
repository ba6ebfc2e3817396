// Questions whose answers stand in the prompt: facts, registers and copying, in the formats of
// models/demo/README.md.
//
// The demo model reads the answer out of its KV cache, so damage to the cache shows in it. Everything is
// drawn from the caller's Rng: the same seed gives the same questions.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/base/status.h"

namespace kvplane::cli {

enum class TaskKind : uint8_t { kFacts, kRegisters, kCopying };

struct TaskSpec {
  TaskKind kind = TaskKind::kFacts;
  uint32_t entries = 2;  // facts, lines or words; 1..kMaxTaskEntries

  std::string Name() const;  // "facts-8", "registers-24", "copying-5"
};

constexpr uint32_t kMaxTaskEntries = 64;  // what fits a context of 2,048 tokens

// What the benchmark asks: facts and registers of 2, 8 and 24 entries, copying of 8 words.
std::span<const TaskSpec> StandardTasks();

struct TaskQuestion {
  std::string prompt;
  // As it follows the prompt: it begins with a space where the prompt does not end with white space.
  std::string answer;
};

// Keys are distinct, values have 3 to 5 digits and differ; a fact's wording is one of three, drawn for each.
// Requires at least kMaxTaskEntries distinct `words` of at least one byte.
TaskQuestion MakeTaskQuestion(const TaskSpec& spec, std::span<const std::string> words, base::Rng& rng);

// One word per line. kNotFound: no such file; kCorrupt: fewer than kMaxTaskEntries distinct words.
base::Result<std::vector<std::string>> ReadTaskWords(const std::filesystem::path& path);

}  // namespace kvplane::cli
