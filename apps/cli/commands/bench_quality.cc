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
#include "apps/cli/quality/task_questions.h"
#include "kvplane/base/clock.h"
#include "kvplane/profile/kv_recoder.h"
#include "kvplane/profile/paired_run.h"

namespace kvplane::cli {
namespace {

constexpr uint32_t kMaxWindows = 10'000;
constexpr uint32_t kMaxQuestions = 100'000;  // of one task: a standard error of 0.15 points

struct NamedScores {
  std::string task;  // "facts-8"
  profile::PairedScores scores;
};

// Every run of the benchmark: scores[0] is the uncompressed run, scores[1 + i] strategy i.
struct Measured {
  std::vector<std::string> names;  // [1 + strategies]
  profile::PairedScores text;      // empty: not asked for
  std::vector<NamedScores> tasks;
  profile::PairedScores all_tasks;
};

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

// Splits at the commas outside parentheses: strategies have commas of their own.
void AppendSplit(const std::string& list, std::vector<std::string>& names) {
  int depth = 0;
  std::string name;
  for (const char c : list) {
    if (c == '(') ++depth;
    if (c == ')') --depth;
    if (c == ',' && depth == 0) {
      names.push_back(std::exchange(name, {}));
    } else {
      name += c;
    }
  }
  names.push_back(name);
}

using Treatments = std::vector<std::unique_ptr<const profile::KvTreatment>>;

base::Result<Treatments> MakeTreatments(const BenchQualityArgs& args, std::vector<std::string>& names) {
  names = {"uncompressed"};
  if (args.strategies.empty()) {
    for (const codec::Preset& preset : codec::Presets()) {
      // Without a profile: what can run without one.
      if (!args.profile.empty() || !codec::Strategy::Parse(preset.text)->needs_profile()) {
        names.emplace_back(preset.name);
      }
    }
  }
  for (const std::string& list : args.strategies) AppendSplit(list, names);
  std::shared_ptr<const codec::ModelProfile> model_profile;
  if (!args.profile.empty()) {
    KVPLANE_ASSIGN_OR_RETURN(model_profile, ReadProfileFile(args.profile));
  }
  Treatments treatments;
  for (const std::string& name : std::span(names).subspan(1)) {
    KVPLANE_ASSIGN_OR_RETURN(codec::Strategy strategy, codec::Strategy::Parse(name));
    if (strategy.needs_profile() && model_profile == nullptr) {
      return base::InvalidArgument("'{}' takes a profile: --profile FILE (kvplane profile fit makes one)",
                                   name);
    }
    treatments.push_back(std::make_unique<profile::StrategyTreatment>(std::move(strategy), model_profile));
  }
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
                          Measured& measured) {
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

// Sizes depend on the prefix length: they are the text's where there is text.
CodedSize SizeOf(const Measured& measured, size_t run) {
  return MeasureSize(measured.text.empty() ? measured.all_tasks[run] : measured.text[run]);
}

void PrintText(const Measured& measured) {
  fmt::print(stderr, "\n{:<14} {:>7} {:>7} {:>17} {:>15} {:>17} {:>17}\n", "text", "b/val", "ratio",
             "KL, nats", "top-1", "perplexity %", "exp(-added loss)");
  for (size_t i = 0; i < measured.names.size(); ++i) {
    const CodedSize size = SizeOf(measured, i);
    const TextQuality quality = MeasureText(measured.text[0], measured.text[i]);
    fmt::print(stderr,
               "{:<14} {:>7.3f} {:>7.2f} {:>9.5f} ±{:>6.5f} {:>7.4f} ±{:>6.4f} {:>+9.2f} ±{:>6.2f} {:>9.4f} "
               "±{:>6.4f}\n",
               measured.names[i], size.bits_per_value, size.ratio, quality.kl.mean, quality.kl.standard_error,
               quality.top1.mean, quality.top1.standard_error, quality.ppl_change.mean,
               quality.ppl_change.standard_error, quality.exp_minus_added_loss.mean,
               quality.exp_minus_added_loss.standard_error);
  }
}

void PrintTasks(const Measured& measured) {
  fmt::print(stderr, "\n{:<14}", "answers, %");
  for (const NamedScores& task : measured.tasks) fmt::print(stderr, " {:>12}", task.task);
  fmt::print(stderr, " {:>6} {:>18}\n", "all", "of uncompressed");
  for (size_t i = 0; i < measured.names.size(); ++i) {
    fmt::print(stderr, "{:<14}", measured.names[i]);
    for (const NamedScores& task : measured.tasks) {
      fmt::print(stderr, " {:>12.1f}", 100 * MeasureTask(task.scores[0], task.scores[i]).accuracy.mean);
    }
    const TaskQuality all = MeasureTask(measured.all_tasks[0], measured.all_tasks[i]);
    fmt::print(stderr, " {:>6.1f} {:>10.2f} ±{:>6.2f}\n", 100 * all.accuracy.mean, all.relative_accuracy.mean,
               all.relative_accuracy.standard_error);
  }
}

void AddTo(BenchReport& report, const BenchCase& where, std::string_view metric, std::string_view unit,
           const Estimate& estimate) {
  if (estimate.n == 0) return;
  report.AddEstimate(where, metric, unit, estimate.n, estimate.mean, estimate.standard_error);
}

void AddSize(BenchReport& report, const BenchCase& where, std::span<const profile::SequenceScore> judged) {
  const CodedSize size = MeasureSize(judged);
  report.AddEstimate(where, "ratio", "1", 1, size.ratio, 0);
  report.AddEstimate(where, "bits_per_value", "bit", 1, size.bits_per_value, 0);
}

void AddTask(BenchReport& report, const BenchCase& where, const profile::PairedScores& scores, size_t run) {
  AddSize(report, where, scores[run]);
  const TaskQuality quality = MeasureTask(scores[0], scores[run]);
  AddTo(report, where, "task_accuracy", "1", quality.accuracy);
  AddTo(report, where, "relative_task_accuracy", "%", quality.relative_accuracy);
}

BenchReport MakeReport(const BenchQualityArgs& args, const Measured& measured) {
  BenchReport report("quality", args.command);
  for (size_t i = 0; i < measured.names.size(); ++i) {
    const std::string& strategy = measured.names[i];
    if (!measured.text.empty()) {
      const BenchCase where = {{"strategy", strategy},
                               {"text", args.text},
                               {"prefix_tokens", int64_t{args.prefix_tokens}},
                               {"scored_tokens", int64_t{args.scored_tokens}}};
      AddSize(report, where, measured.text[i]);
      const TextQuality quality = MeasureText(measured.text[0], measured.text[i]);
      AddTo(report, where, "kl", "nat", quality.kl);
      AddTo(report, where, "top1", "1", quality.top1);
      AddTo(report, where, "ppl_change", "%", quality.ppl_change);
      AddTo(report, where, "exp_minus_added_loss", "1", quality.exp_minus_added_loss);
    }
    const auto seed = static_cast<int64_t>(args.seed);
    for (const NamedScores& task : measured.tasks) {
      AddTask(report, {{"strategy", strategy}, {"task", task.task}, {"seed", seed}}, task.scores, i);
    }
    if (!measured.tasks.empty()) {
      AddTask(report, {{"strategy", strategy}, {"task", "all"}, {"seed", seed}}, measured.all_tasks, i);
    }
  }
  return report;
}

base::Status RunBench(const BenchQualityArgs& args) {
  KVPLANE_RETURN_IF_ERROR(ValidateArgs(args));
  Measured measured;
  KVPLANE_ASSIGN_OR_RETURN(const Treatments owned, MakeTreatments(args, measured.names));
  std::vector<const profile::KvTreatment*> treatments;
  for (const auto& treatment : owned) treatments.push_back(treatment.get());
  KVPLANE_ASSIGN_OR_RETURN(const std::unique_ptr<NodeRuntime> runtime, NodeRuntime::Create(args.runtime));
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
    fmt::print(stderr, "\ntext: {} windows of {}, prefix {}, {} tokens scored behind it; perplexity {:.2f}",
               args.windows, args.text, args.prefix_tokens, args.scored_tokens, Perplexity(measured.text[0]));
    PrintText(measured);
  }
  if (args.questions > 0) PrintTasks(measured);
  return args.json.empty() ? base::Status::Ok() : MakeReport(args, measured).WriteJson(args.json);
}

}  // namespace

int CmdBenchQuality(const BenchQualityArgs& args) {
  const base::Status status = RunBench(args);
  if (!status.ok()) fmt::print(stderr, "kvplane bench quality: {}\n", status.ToString());
  return ExitCodeFor(status.code());
}

}  // namespace kvplane::cli
