#include "apps/cli/commands/cmd_profile_fit.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>

#include "apps/cli/exit_code.h"
#include "apps/cli/profile_file.h"
#include "apps/cli/prompt_source.h"
#include "apps/cli/quality/quality_inputs.h"
#include "apps/cli/quality/task_questions.h"
#include "kvplane/base/clock.h"
#include "kvplane/base/rng.h"
#include "kvplane/profile/profile_fit.h"

namespace kvplane::cli {
namespace {

constexpr uint32_t kMaxPrompts = 10'000;
constexpr uint32_t kMaxProbes = 1'000;
// Of a probe: enough for a few answers' worth, little enough that most of a prompt is its prefix.
constexpr uint32_t kScoredTokens = 64;
constexpr uint32_t kMinTokens = 2 * kScoredTokens + 2;

base::Status ValidateArgs(const ProfileFitArgs& args) {
  if (args.text.empty() || args.out.empty()) return base::InvalidArgument("--text and --out are needed");
  if (args.prompts == 0 || args.prompts > kMaxPrompts) {
    return base::InvalidArgument("--prompts {} is outside 1..{}", args.prompts, kMaxPrompts);
  }
  if (args.tokens < kMinTokens || args.tokens > args.runtime.step_tokens) {
    return base::InvalidArgument("--tokens {} is outside {}..{}", args.tokens, kMinTokens,
                                 args.runtime.step_tokens);
  }
  if (args.task_share > 100) {
    return base::InvalidArgument("--task-share {} is above 100 percent", args.task_share);
  }
  if (args.probes < 2 || args.probes > kMaxProbes) {
    return base::InvalidArgument("--probes {} is outside 2..{}", args.probes, kMaxProbes);
  }
  return base::Status::Ok();
}

// Questions with their answers, one after the other, as a document.
std::string TaskText(std::span<const std::string> words, size_t bytes, uint64_t seed) {
  // Another stream than any that bench quality draws its questions from.
  constexpr uint64_t kStream = 0x66697420'7461736bULL;
  base::Rng rng(seed ^ kStream);
  constexpr uint32_t kEntries[] = {2, 4, 8, 16, 24};
  // Registers twice: they are the first thing that damaged KV loses.
  constexpr TaskKind kKinds[] = {TaskKind::kFacts, TaskKind::kRegisters, TaskKind::kRegisters,
                                 TaskKind::kCopying};
  std::string text;
  while (text.size() < bytes) {
    TaskSpec spec;
    spec.kind = kKinds[rng.Below(std::size(kKinds))];
    spec.entries = kEntries[rng.Below(std::size(kEntries))];
    const TaskQuestion question = MakeTaskQuestion(spec, words, rng);
    text += question.prompt + question.answer + "\n\n";
  }
  return text;
}

base::Result<std::vector<std::vector<int32_t>>> CutPrompts(const model::Tokenizer& tokenizer,
                                                           std::string_view text, uint32_t prompts,
                                                           uint32_t tokens) {
  // A window has one more token than its prefix and what is scored.
  auto windows = CutTextWindows(tokenizer, text, {prompts, tokens - 2, 1});
  if (!windows.ok()) {
    return windows.status().Annotate("give more --text, or ask for fewer --prompts or --tokens");
  }
  std::vector<std::vector<int32_t>> cut;
  for (profile::ScoredSequence& window : *windows) cut.push_back(std::move(window.tokens));
  return cut;
}

base::Result<std::vector<std::vector<int32_t>>> ReadPrompts(const ProfileFitArgs& args,
                                                            const model::Tokenizer& tokenizer) {
  std::string text;
  for (const std::string& file : args.text) {
    KVPLANE_ASSIGN_OR_RETURN(const std::string part, ReadPromptText(file));
    text += part;
  }
  const uint32_t tasks = args.prompts * args.task_share / 100;
  std::vector<std::vector<int32_t>> prompts;
  if (tasks < args.prompts) {
    KVPLANE_ASSIGN_OR_RETURN(prompts, CutPrompts(tokenizer, text, args.prompts - tasks, args.tokens));
  }
  if (tasks == 0) return prompts;
  const std::filesystem::path words_file = args.words.empty()
                                               ? std::filesystem::path(args.runtime.model) / "task_words.txt"
                                               : std::filesystem::path(args.words);
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<std::string> words, ReadTaskWords(words_file));
  // A token has at most a few bytes; what is left over is not cut.
  constexpr size_t kBytesPerToken = 6;
  const std::string task_text = TaskText(words, size_t{tasks} * args.tokens * kBytesPerToken, args.seed);
  KVPLANE_ASSIGN_OR_RETURN(std::vector<std::vector<int32_t>> task_prompts,
                           CutPrompts(tokenizer, task_text, tasks, args.tokens));
  // Evenly among the others: the fit takes the first --probes of them as probes.
  std::vector<std::vector<int32_t>> mixed;
  for (size_t i = 0; i < args.prompts; ++i) {
    const bool task = (i + 1) * tasks / args.prompts > i * tasks / args.prompts;
    auto& from = task ? task_prompts : prompts;
    mixed.push_back(std::move(from.back()));
    from.pop_back();
  }
  return mixed;
}

profile::FitOptions OptionsOf(const ProfileFitArgs& args, const model::Model& model) {
  profile::FitOptions options;
  options.capture.step_tokens = args.runtime.step_tokens;
  options.capture.seed = args.seed;
  options.probe.sequences = args.probes;
  options.probe.scored_tokens = kScoredTokens;
  options.probe.prefix_tokens = args.tokens - kScoredTokens - 1;
  options.probe.step_tokens = args.runtime.step_tokens;
  options.probe.seed = args.seed;
  options.max_rank = args.max_rank;
  std::vector<std::string> names;
  for (const std::string& file : args.text) names.push_back(std::filesystem::path(file).filename().string());
  options.note = fmt::format("{} prompts of {} tokens, {} % of them tasks, seed {}, {} matmul, text {}",
                             args.prompts, args.tokens, args.task_share, args.seed,
                             model::Name(model.compute()), fmt::join(names, " "));
  options.note.resize(std::min(options.note.size(), codec::kMaxProfileNoteBytes));
  for (char& c : options.note) c = c >= 0x20 && c <= 0x7e ? c : '?';
  return options;
}

void Print(const profile::ProfileFit& fit, std::span<const uint16_t> head_rank) {
  fmt::print(stderr, "\n{:>5} {:>4} {:>10} {:>13} {:>13} {:>13}  {}\n", "layer", "side", "deviation",
             "sensitivity", "b/val uniform", "b/val model", "head ranks");
  const size_t heads = head_rank.size() / fit.rows.size();
  double sums[2] = {0, 0};
  for (size_t layer = 0; layer < fit.rows.size(); ++layer) {
    for (size_t side = 0; side < 2; ++side) {
      const profile::FitRow& row = fit.rows[layer][side];
      fmt::print(stderr, "{:>5} {:>4} {:>10.4f} {:>13.6f} {:>13.3f} {:>13.3f}", layer, side == 0 ? "K" : "V",
                 row.deviation, row.sensitivity, row.uniform_bits, row.weighted_bits);
      if (side == 0) fmt::print(stderr, "  {}", fmt::join(head_rank.subspan(layer * heads, heads), " "));
      fmt::print(stderr, "\n");
      sums[0] += row.uniform_bits;
      sums[1] += row.weighted_bits;
    }
  }
  const double sides = 2 * static_cast<double>(fit.rows.size());
  fmt::print(stderr, "{:>5} {:>4} {:>10} {:>13} {:>13.3f} {:>13.3f}\n", "mean", "", "", "", sums[0] / sides,
             sums[1] / sides);
  fmt::print(
      stderr,
      "b/val: predicted for pca(layer, attention) | ecsq(snr={:.0f}); sensitivity: nats per squared error "
      "of an attention lane\n",
      profile::kPredictedSnrDb);
}

base::Status RunFit(const ProfileFitArgs& args) {
  KVPLANE_RETURN_IF_ERROR(ValidateArgs(args));
  const base::TimePoint start = base::Clock::System().Now();
  KVPLANE_ASSIGN_OR_RETURN(const std::unique_ptr<NodeRuntime> runtime, NodeRuntime::Create(args.runtime));
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<std::vector<int32_t>> prompts,
                           ReadPrompts(args, runtime->tokenizer()));
  KVPLANE_ASSIGN_OR_RETURN(const profile::ProfileFit fit,
                           profile::FitProfile(runtime->model(), runtime->pool(), args.runtime.model, prompts,
                                               OptionsOf(args, runtime->model())));
  KVPLANE_RETURN_IF_ERROR(WriteProfileFile(*fit.profile, args.out));
  Print(fit, fit.profile->data().head_rank);
  fmt::print(stderr, "{}: {} bytes, id {}, fitted on {} tokens in {:.1f} s\n", args.out,
             fit.profile->bytes().size(), fit.profile->id().ToHex(), fit.tokens,
             base::ToSeconds(base::Clock::System().Now() - start));
  return base::Status::Ok();
}

}  // namespace

int CmdProfileFit(const ProfileFitArgs& args) {
  const base::Status status = RunFit(args);
  if (!status.ok()) fmt::print(stderr, "kvplane profile fit: {}\n", status.ToString());
  return ExitCodeFor(status.code());
}

}  // namespace kvplane::cli
