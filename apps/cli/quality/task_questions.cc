#include "apps/cli/quality/task_questions.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <set>
#include <string_view>

namespace kvplane::cli {
namespace {

constexpr std::array<TaskSpec, 7> kStandardTasks = {{{TaskKind::kFacts, 2},
                                                     {TaskKind::kFacts, 8},
                                                     {TaskKind::kFacts, 24},
                                                     {TaskKind::kRegisters, 2},
                                                     {TaskKind::kRegisters, 8},
                                                     {TaskKind::kRegisters, 24},
                                                     {TaskKind::kCopying, 8}}};
constexpr uint32_t kMinDigits = 3;
constexpr uint32_t kMaxDigits = 5;
constexpr size_t kWordings = 3;

std::string Capitalised(std::string word) {
  if (word[0] >= 'a' && word[0] <= 'z') word[0] = static_cast<char>(word[0] - 'a' + 'A');
  return word;
}

std::string Statement(size_t wording, const std::string& key, const std::string& value) {
  switch (wording) {
    case 0:
      return fmt::format("The code for {} is {}.", key, value);
    case 1:
      return fmt::format("The price of {} is {} pounds.", key, value);
    default:
      return fmt::format("{} lives in room {}.", Capitalised(key), value);
  }
}

std::string Question(size_t wording, const std::string& key) {
  switch (wording) {
    case 0:
      return fmt::format("What is the code for {}?", key);
    case 1:
      return fmt::format("What is the price of {}?", key);
    default:
      return fmt::format("In which room does {} live?", Capitalised(key));
  }
}

// `count` different strings from `draw`.
template <typename Draw>
std::vector<std::string> Distinct(uint32_t count, const Draw& draw) {
  std::vector<std::string> drawn;
  while (drawn.size() < count) {
    std::string next = draw();
    if (std::find(drawn.begin(), drawn.end(), next) == drawn.end()) drawn.push_back(std::move(next));
  }
  return drawn;
}

std::vector<std::string> DrawWords(uint32_t count, std::span<const std::string> words, base::Rng& rng) {
  return Distinct(count, [&] { return words[rng.Below(words.size())]; });
}

std::vector<std::string> DrawValues(uint32_t count, base::Rng& rng) {
  return Distinct(count, [&] {
    const uint64_t digits = kMinDigits + rng.Below(kMaxDigits - kMinDigits + 1);
    std::string value(1, static_cast<char>('1' + rng.Below(9)));
    while (value.size() < digits) value += static_cast<char>('0' + rng.Below(10));
    return value;
  });
}

TaskQuestion Facts(uint32_t count, std::span<const std::string> words, base::Rng& rng) {
  const auto keys = DrawWords(count, words, rng);
  const auto values = DrawValues(count, rng);
  std::vector<size_t> wordings;
  TaskQuestion question;
  for (uint32_t i = 0; i < count; ++i) {
    wordings.push_back(rng.Below(kWordings));
    if (i > 0) question.prompt += ' ';
    question.prompt += Statement(wordings[i], keys[i], values[i]);
  }
  const size_t asked = rng.Below(count);
  question.prompt += fmt::format("\nQuestion: {}\nAnswer:", Question(wordings[asked], keys[asked]));
  question.answer = fmt::format(" {}", Statement(wordings[asked], keys[asked], values[asked]));
  return question;
}

TaskQuestion Registers(uint32_t count, std::span<const std::string> words, base::Rng& rng) {
  const auto names = Distinct(count, [&] {
    const auto pair = DrawWords(2, words, rng);
    return fmt::format("{}-{}", pair[0], pair[1]);
  });
  const auto values = DrawValues(count, rng);
  std::vector<std::string> lines;
  TaskQuestion question;
  for (uint32_t i = 0; i < count; ++i) {
    lines.push_back(fmt::format("line {}: REGISTER_CONTENT is <{}>", names[i], values[i]));
    question.prompt += lines.back() + "\n";
  }
  const size_t asked = rng.Below(count);
  question.prompt += fmt::format("What is the REGISTER_CONTENT in line {}?\n", names[asked]);
  question.answer = lines[asked];
  return question;
}

TaskQuestion Copying(uint32_t count, std::span<const std::string> words, base::Rng& rng) {
  const auto drawn = DrawWords(count, words, rng);
  TaskQuestion question;
  question.answer = fmt::format("{}", fmt::join(drawn, " "));
  question.prompt = fmt::format("Repeat after me: {}\n", question.answer);
  return question;
}

}  // namespace

std::string TaskSpec::Name() const {
  constexpr std::string_view kNames[] = {"facts", "registers", "copying"};
  return fmt::format("{}-{}", kNames[static_cast<size_t>(kind)], entries);
}

std::span<const TaskSpec> StandardTasks() { return kStandardTasks; }

TaskQuestion MakeTaskQuestion(const TaskSpec& spec, std::span<const std::string> words, base::Rng& rng) {
  switch (spec.kind) {
    case TaskKind::kFacts:
      return Facts(spec.entries, words, rng);
    case TaskKind::kRegisters:
      return Registers(spec.entries, words, rng);
    case TaskKind::kCopying:
      break;
  }
  return Copying(spec.entries, words, rng);
}

base::Result<std::vector<std::string>> ReadTaskWords(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) return base::NotFound("{}: no task words", path.string());
  std::set<std::string> seen;
  std::vector<std::string> words;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && seen.insert(line).second) words.push_back(line);
  }
  if (words.size() < kMaxTaskEntries) {
    return base::Corrupt("{}: {} words, at least {} are needed", path.string(), words.size(),
                         kMaxTaskEntries);
  }
  return words;
}

}  // namespace kvplane::cli
