#include "apps/cli/commands/bench_quality.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <span>
#include <utility>

#include "apps/cli/bench_report.h"
#include "apps/cli/exit_code.h"
#include "apps/cli/profile_file.h"
#include "apps/cli/prompt_source.h"
#include "apps/cli/quality/quality_estimates.h"
#include "apps/cli/quality/quality_inputs.h"
#include "apps/cli/quality/quality_report.h"
#include "apps/cli/quality/task_questions.h"
#include "apps/cli/strategy_list.h"
#include "kvplane/base/clock.h"
#include "kvplane/codec/profile_match.h"
#include "kvplane/profile/kv_recoder.h"
#include "kvplane/profile/paired_run.h"

namespace kvplane::cli {
namespace {

constexpr uint32_t kMaxWindows = 10'000;
constexpr uint32_t kMaxQuestions = 100'000;  // of one task: a standard error of 0.15 points

base::Status ValidateArgs(const BenchQualityArgs& args) {
  if (args.windows > kMaxWindows || args.questions > kMaxQuestions) {
    return base::InvalidArgument("--windows and --questions: at most {} and {}", kMaxWindows, kMaxQuestions);
  }
  if (args.windows == 0 && args.questions == 0) {
    return base::InvalidArgument("--windows 0 and --questions 0 leave nothing to measure");
  }
  if (args.prefix_tokens == 0 || args.scored_tokens == 0) {
    return base::InvalidArgument("--prefix-tokens and --scored-tokens must not be zero");
  }
  return base::Status::Ok();
}

using Treatments = std::vector<std::unique_ptr<const profile::KvTreatment>>;

base::Result<Treatments> MakeTreatments(const BenchQualityArgs& args,
                                        const std::shared_ptr<const codec::ModelProfile>& model_profile,
                                        std::vector<QualityRun>& runs) {
  runs = {{"uncompressed", StrategyFamily::kLossless}};
  Treatments treatments;
  KVPLANE_ASSIGN_OR_RETURN(std::vector<NamedStrategy> strategies, ReadStrategyLists(args.strategies));
  std::string left_out;
  for (NamedStrategy& named : strategies) {
    if (named.strategy.needs_profile() && model_profile == nullptr) {
      if (!args.strategies.empty()) {
        return base::InvalidArgument("'{}' takes a profile: --profile FILE (kvplane profile fit makes one)",
                                     named.label);
      }
      left_out += " " + named.label;
      continue;
    }
    if (named.numbered) fmt::print(stderr, "{}\n", named.Explanation());
    runs.push_back({named.label, named.family});
    treatments.push_back(
        std::make_unique<profile::StrategyTreatment>(std::move(named.strategy), model_profile));
  }
  if (!left_out.empty()) fmt::print(stderr, "left out, for want of --profile:{}\n", left_out);
  return treatments;
}

base::Result<profile::PairedScores> RunTimed(const std::string& what, profile::PairedRun& run,
                                             std::span<const profile::ScoredSequence> sequences,
                                             std::span<const profile::KvTreatment* const> treatments) {
  const base::TimePoint start = base::Clock::System().Now();
  base::Result<profile::PairedScores> scores = run.Run(sequences, treatments);
  if (!scores.ok()) return scores.status().Annotate(what);
  fmt::print(stderr, "{}: {} sequences in {:.1f} s\n", what, sequences.size(),
             base::ToSeconds(base::Clock::System().Now() - start));
  return scores;
}

base::Status MeasureTasks(const BenchQualityArgs& args, const model::Tokenizer& tokenizer,
                          profile::PairedRun& run, std::span<const profile::KvTreatment* const> treatments,
                          QualityScores& measured) {
  const std::string path = args.words.empty() ? args.runtime.model + "/task_words.txt" : args.words;
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<std::string> words, ReadTaskWords(path));
  measured.all_tasks.resize(1 + treatments.size());
  for (const TaskSpec& spec : StandardTasks()) {
    KVPLANE_ASSIGN_OR_RETURN(const std::vector<profile::ScoredSequence> questions,
                             MakeTaskSequences(tokenizer, spec, words, args.questions, args.seed));
    KVPLANE_ASSIGN_OR_RETURN(profile::PairedScores scores, RunTimed(spec.Name(), run, questions, treatments));
    for (size_t i = 0; i < scores.size(); ++i) {
      measured.all_tasks[i].insert(measured.all_tasks[i].end(), scores[i].begin(), scores[i].end());
    }
    measured.tasks.push_back({spec.Name(), std::move(scores)});
  }
  return base::Status::Ok();
}

base::Status WriteResults(const BenchQualityArgs& args, const QualityScores& scores) {
  if (!args.json.empty()) {
    BenchReport report("quality", args.command);
    const BenchCase text_case = {{"text", args.text},
                                 {"prefix_tokens", int64_t{args.prefix_tokens}},
                                 {"scored_tokens", int64_t{args.scored_tokens}}};
    AddQualityRows(report, text_case, {{"seed", static_cast<int64_t>(args.seed)}}, scores);
    KVPLANE_RETURN_IF_ERROR(report.WriteJson(args.json));
  }
  if (args.svg.empty()) return base::Status::Ok();
  const std::string subtitle =
      fmt::format("{}: {} windows of {} with a compressed prefix of {} tokens, {} questions of each task",
                  args.runtime.model, args.windows, args.text, args.prefix_tokens, args.questions);
  return QualityPlot(scores, subtitle).WriteSvg(args.svg);
}

base::Status RunBench(const BenchQualityArgs& args) {
  KVPLANE_RETURN_IF_ERROR(ValidateArgs(args));
  std::shared_ptr<const codec::ModelProfile> model_profile;
  if (!args.profile.empty()) {
    KVPLANE_ASSIGN_OR_RETURN(model_profile, ReadProfileFile(args.profile));
  }
  QualityScores measured;
  KVPLANE_ASSIGN_OR_RETURN(const Treatments owned, MakeTreatments(args, model_profile, measured.runs));
  std::vector<const profile::KvTreatment*> treatments;
  for (const auto& treatment : owned) treatments.push_back(treatment.get());
  KVPLANE_ASSIGN_OR_RETURN(const std::unique_ptr<NodeRuntime> runtime, NodeRuntime::Create(args.runtime));
  if (model_profile != nullptr) {
    KVPLANE_RETURN_IF_ERROR(codec::CheckProfileMatches(*model_profile, runtime->model().kv_geometry(),
                                                       runtime->model().fingerprint())
                                .Annotate(args.profile));
  }
  profile::PairedRun run(runtime->model(), runtime->pool(), args.runtime.step_tokens);
  fmt::print(stderr, "{}\nmatmul in {}, {} threads\n", Describe(ThisMachine()),
             model::Name(runtime->model().compute()), runtime->threads());
  if (args.windows > 0) {
    KVPLANE_ASSIGN_OR_RETURN(const std::string text, ReadPromptText(args.text));
    const TextWindowSpec spec = {args.windows, args.prefix_tokens, args.scored_tokens};
    KVPLANE_ASSIGN_OR_RETURN(const std::vector<profile::ScoredSequence> windows,
                             CutTextWindows(runtime->tokenizer(), text, spec));
    KVPLANE_ASSIGN_OR_RETURN(measured.text, RunTimed("text", run, windows, treatments));
  }
  if (args.questions > 0) {
    KVPLANE_RETURN_IF_ERROR(MeasureTasks(args, runtime->tokenizer(), run, treatments, measured));
  }
  if (args.windows > 0) {
    fmt::print(stderr, "\ntext: {} windows of {}, prefix {}, {} tokens scored behind it; perplexity {:.2f}\n",
               args.windows, args.text, args.prefix_tokens, args.scored_tokens, Perplexity(measured.text[0]));
  }
  fmt::print(stderr, "\n{}", QualityTable(measured));
  if (args.questions > 0) fmt::print(stderr, "\n{}", TaskTable(measured));
  return WriteResults(args, measured);
}

}  // namespace

int CmdBenchQuality(const BenchQualityArgs& args) {
  const base::Status status = RunBench(args);
  if (!status.ok()) fmt::print(stderr, "kvplane bench quality: {}\n", status.ToString());
  return ExitCodeFor(status.code());
}

}  // namespace kvplane::cli
