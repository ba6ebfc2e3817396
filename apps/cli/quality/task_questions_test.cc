#include "apps/cli/quality/task_questions.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace kvplane::cli {
namespace {

std::vector<std::string> Words() {
  const auto words = ReadTaskWords(KVPLANE_SOURCE_DIR "/models/demo/task_words.txt");
  return words.ok() ? *words : std::vector<std::string>();
}

TEST(TaskQuestionsUnit, FormatsAreThoseOfTheModelsReadme) {
  const auto words = Words();
  ASSERT_FALSE(words.empty());
  base::Rng rng(7);
  const TaskQuestion facts = MakeTaskQuestion({TaskKind::kFacts, 3}, words, rng);
  EXPECT_EQ(facts.prompt,
            "The code for parties is 558. The code for doesn is 491. The code for please is 3933.\n"
            "Question: What is the code for parties?\n"
            "Answer:");
  EXPECT_EQ(facts.answer, " The code for parties is 558.");
  const TaskQuestion other = MakeTaskQuestion({TaskKind::kFacts, 3}, words, rng);
  EXPECT_EQ(other.prompt,
            "The code for ruin is 741. Legs lives in room 9166. The price of wrote is 7999 pounds.\n"
            "Question: In which room does Legs live?\n"
            "Answer:");
  EXPECT_EQ(other.answer, " Legs lives in room 9166.");
  const TaskQuestion registers = MakeTaskQuestion({TaskKind::kRegisters, 2}, words, rng);
  EXPECT_EQ(registers.prompt,
            "line painted-travel: REGISTER_CONTENT is <749>\n"
            "line burning-majesty: REGISTER_CONTENT is <682>\n"
            "What is the REGISTER_CONTENT in line burning-majesty?\n");
  EXPECT_EQ(registers.answer, "line burning-majesty: REGISTER_CONTENT is <682>");
  const TaskQuestion copying = MakeTaskQuestion({TaskKind::kCopying, 5}, words, rng);
  EXPECT_EQ(copying.prompt, "Repeat after me: problem creature profound bound weak\n");
  EXPECT_EQ(copying.answer, "problem creature profound bound weak");
}

TEST(TaskQuestionsUnit, Names) {
  std::string names;
  for (const TaskSpec& spec : StandardTasks()) names += spec.Name() + " ";
  EXPECT_EQ(names, "facts-2 facts-8 facts-24 registers-2 registers-8 registers-24 copying-8 ");
}

TEST(TaskQuestionsProperty, OneSeedOneQuestion) {
  const auto words = Words();
  ASSERT_FALSE(words.empty());
  for (const TaskSpec& spec : StandardTasks()) {
    base::Rng first(11), second(11), third(12);
    const TaskQuestion question = MakeTaskQuestion(spec, words, first);
    EXPECT_EQ(question.prompt, MakeTaskQuestion(spec, words, second).prompt);
    EXPECT_NE(question.prompt, MakeTaskQuestion(spec, words, third).prompt);
  }
}

// The answer must stand in the prompt, once: a question with two right answers measures nothing.
TEST(TaskQuestionsProperty, TheAnswerStandsInThePromptOnce) {
  const auto words = Words();
  ASSERT_FALSE(words.empty());
  base::Rng rng(3);
  for (const TaskSpec& spec : StandardTasks()) {
    for (int i = 0; i < 200; ++i) {
      const TaskQuestion question = MakeTaskQuestion(spec, words, rng);
      std::string answer = question.answer;
      if (answer.starts_with(' ')) answer.erase(0, 1);
      const size_t at = question.prompt.find(answer);
      ASSERT_NE(at, std::string::npos) << question.prompt;
      EXPECT_EQ(question.prompt.find(answer, at + 1), std::string::npos) << question.prompt;
    }
  }
}

TEST(TaskQuestionsProperty, RegistersHaveDistinctLinesAndValues) {
  const auto words = Words();
  ASSERT_FALSE(words.empty());
  base::Rng rng(5);
  for (int i = 0; i < 50; ++i) {
    std::istringstream prompt(MakeTaskQuestion({TaskKind::kRegisters, 24}, words, rng).prompt);
    std::set<std::string> names, values;
    for (std::string line; std::getline(prompt, line);) {
      const size_t open = line.find('<');
      if (!line.starts_with("line ") || open == std::string::npos) continue;
      names.insert(line.substr(0, line.find(':')));
      values.insert(line.substr(open));
      EXPECT_GE(line.size() - open, 5U) << line;
      EXPECT_LE(line.size() - open, 7U) << line;
    }
    EXPECT_EQ(names.size(), 24U);
    EXPECT_EQ(values.size(), 24U);
  }
}

TEST(TaskQuestionsSafety, WordFilesThatCannotServe) {
  EXPECT_EQ(ReadTaskWords("/nonexistent/words").status().code(), base::StatusCode::kNotFound);
  const std::string path = ::testing::TempDir() + "few_task_words.txt";
  std::ofstream(path) << "one\ntwo\ntwo\n\n";
  EXPECT_EQ(ReadTaskWords(path).status().code(), base::StatusCode::kCorrupt);
}

}  // namespace
}  // namespace kvplane::cli
