#include "apps/cli/commands/bench_codec.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <memory>
#include <span>
#include <thread>
#include <utility>

#include "apps/cli/bench_report.h"
#include "apps/cli/codec_bench/codec_arena.h"
#include "apps/cli/codec_bench/codec_figures.h"
#include "apps/cli/codec_bench/codec_race.h"
#include "apps/cli/codec_bench/contestant.h"
#include "apps/cli/codec_bench/distortion.h"
#include "apps/cli/codec_bench/generator_profile.h"
#include "apps/cli/codec_bench/kernel_bars.h"
#include "apps/cli/codec_bench/kv_capture.h"
#include "apps/cli/codec_bench/synthetic_kv.h"
#include "apps/cli/exit_code.h"
#include "apps/cli/npy_file.h"
#include "apps/cli/profile_file.h"
#include "apps/cli/prompt_source.h"
#include "apps/cli/quality/quality_inputs.h"
#include "apps/cli/quality_flag.h"
#include "apps/cli/strategy_list.h"
#include "kvplane/base/units.h"
#include "kvplane/codec/profile_match.h"

namespace kvplane::cli {
namespace {

constexpr uint32_t kMaxRepeats = 1000;
constexpr uint32_t kMaxThreads = 1024;
constexpr uint32_t kMaxQueries = 4096;
constexpr uint32_t kMaxTokens = 1 << 20;
constexpr uint32_t kModelTokens = 16384;
constexpr uint64_t kKernelSeed = 1;

struct Input {
  std::string name;  // for people and the report
  std::vector<PagedKv> sequences;
  std::vector<SampledQueries> queries;  // [sequences]; empty: none
  std::shared_ptr<const codec::ModelProfile> profile;
  std::array<std::byte, 32> model_fingerprint{};  // zero: not of a model
};

base::Status ValidateArgs(const BenchCodecArgs& args) {
  const int sources = (args.model.empty() ? 0 : 1) + (args.kv.empty() ? 0 : 1) + (args.synthetic ? 1 : 0);
  if (sources > 1) return base::InvalidArgument("--model, --kv and --synthetic exclude each other");
  if (args.repeats > kMaxRepeats || args.threads > kMaxThreads || args.queries > kMaxQueries ||
      args.tokens > kMaxTokens) {
    return base::InvalidArgument("--repeats, --threads, --queries and --tokens: at most {}, {}, {} and {}",
                                 kMaxRepeats, kMaxThreads, kMaxQueries, kMaxTokens);
  }
  if (args.kernels && args.repeats == 0) return base::InvalidArgument("--kernels: --repeats at least 1");
  if (!(args.slice_s > 0 && args.slice_s <= 10))
    return base::InvalidArgument("--slice-s: above 0, at most 10");
  return base::Status::Ok();
}

base::Result<Input> CaptureFromModel(const BenchCodecArgs& args) {
  RuntimeArgs runtime_args;
  runtime_args.model = args.model;
  runtime_args.threads = args.threads;
  KVPLANE_ASSIGN_OR_RETURN(const std::unique_ptr<NodeRuntime> runtime, NodeRuntime::Create(runtime_args));
  model::Model& model = runtime->model();
  KVPLANE_ASSIGN_OR_RETURN(const std::string text, ReadPromptText(args.text));
  const uint32_t tokens = args.tokens == 0 ? kModelTokens : args.tokens;
  const uint32_t length = std::max(std::min(tokens, model.config().max_context), 2u);
  const uint32_t count = std::max(tokens / length, 1u);
  KVPLANE_ASSIGN_OR_RETURN(const auto windows,
                           CutTextWindows(runtime->tokenizer(), text, {count, length - 2, 1}));
  Input input;
  input.name = fmt::format("{} on {}", args.model, args.text);
  input.model_fingerprint = model.fingerprint();
  for (const auto& window : windows) {
    KVPLANE_ASSIGN_OR_RETURN(CapturedKv captured,
                             CaptureKv(model, window.tokens, runtime_args.step_tokens, args.queries));
    input.sequences.push_back(std::move(captured.kv));
    if (captured.queries.heads > 0) input.queries.push_back(std::move(captured.queries));
  }
  return input;
}

base::Result<Input> LoadInput(const BenchCodecArgs& args, base::ThreadPool& pool) {
  if (!args.model.empty()) return CaptureFromModel(args);
  Input input;
  if (!args.kv.empty()) {
    KVPLANE_ASSIGN_OR_RETURN(RawKv raw, ReadNpy(args.kv));
    input.name = args.kv;
    input.sequences.push_back(PagedKv::Copy(raw));
    return input;
  }
  KVPLANE_ASSIGN_OR_RETURN(SyntheticSpec spec, ParseSyntheticSpec(args.synthetic.value_or("")));
  if (args.tokens != 0) spec.tokens = args.tokens;
  KVPLANE_RETURN_IF_ERROR(spec.Validate());
  input.name = args.synthetic.value_or("").empty() ? "synthetic" : "synthetic " + *args.synthetic;
  input.sequences.push_back(SyntheticKv(spec, pool));
  if (args.profile.empty()) {
    KVPLANE_ASSIGN_OR_RETURN(input.profile, FitGeneratorProfile(spec, pool));
  }
  return input;
}

// Contestants and what is known of them, in the same order: yardsticks first.
struct Field {
  std::vector<std::unique_ptr<Contestant>> contestants;
  std::vector<CodecFigures> figures;
};

void AddContestant(std::unique_ptr<Contestant> contestant, StrategyFamily family, Field& field) {
  CodecFigures figures;
  figures.label = contestant->name();
  figures.family = family;
  figures.two_way = contestant->two_way();
  figures.strategy = contestant->strategy() != nullptr;
  field.figures.push_back(std::move(figures));
  field.contestants.push_back(std::move(contestant));
}

base::Result<Field> MakeField(const BenchCodecArgs& args, std::span<const NamedStrategy> strategies,
                              const std::shared_ptr<const codec::ModelProfile>& profile, CodecArena& arena,
                              size_t workers) {
  Field field;
  AddContestant(MakeMemcpyContestant(arena), StrategyFamily::kLossless, field);
  AddContestant(MakeCrcContestant(arena), StrategyFamily::kLossless, field);
  AddContestant(MakeZstdContestant(arena, workers), StrategyFamily::kLossless, field);
  AddContestant(MakeLz4Contestant(arena, workers), StrategyFamily::kLossless, field);
  std::string left_out;
  for (const NamedStrategy& named : strategies) {
    if (named.strategy.needs_profile() && profile == nullptr && args.strategies.empty()) {
      left_out += " " + named.label;
      continue;
    }
    base::Result<std::unique_ptr<Contestant>> contestant =
        MakeStrategyContestant(arena, workers, named.label, named.strategy, profile);
    if (!contestant.ok()) return contestant.status().Annotate(named.label);
    AddContestant(*std::move(contestant), named.family, field);
    if (named.numbered) fmt::print(stderr, "{}\n", named.Explanation());
  }
  if (!left_out.empty()) fmt::print(stderr, "left out, for want of --profile:{}\n", left_out);
  return field;
}

// One pass over everything: sizes and errors.
base::Status MeasureErrors(const Input& input, CodecArena& arena, CodecRace& race, base::ThreadPool& pool,
                           Field& field) {
  std::vector<AttentionJudge> judges;
  for (size_t s = 0; s < input.queries.size(); ++s)
    judges.emplace_back(arena.inputs()[s], input.queries[s], pool);
  for (size_t i = 0; i < field.contestants.size(); ++i) {
    CodecFigures& figures = field.figures[i];
    if (const base::Status status = race.WarmUp(*field.contestants[i]); !status.ok()) {
      return status.Annotate(figures.label);
    }
    figures.raw_bytes = arena.raw_bytes();
    figures.coded_bytes = field.contestants[i]->coded_bytes();
    if (!figures.two_way) continue;
    for (size_t s = 0; s < arena.inputs().size(); ++s) {
      figures.error.Add(CompareValues(arena.inputs()[s], arena.outputs()[s], pool));
      if (!judges.empty() && figures.strategy)
        figures.attention.Add(judges[s].Judge(arena.outputs()[s], pool));
    }
  }
  return base::Status::Ok();
}

base::Status MeasureSpeed(const BenchCodecArgs& args, CodecRace& race, size_t workers, Field& field) {
  std::vector<RaceResult> results(field.contestants.size());
  for (uint32_t round = 0; round < args.repeats; ++round) {
    KVPLANE_RETURN_IF_ERROR(race.Round(field.contestants, workers > 1, results));
  }
  for (size_t i = 0; i < results.size(); ++i) field.figures[i].speed = std::move(results[i]);
  return base::Status::Ok();
}

std::string DescribeInput(const std::string& name, const CodecArena& arena) {
  uint64_t tokens = 0;
  for (const PagedKv& kv : arena.inputs()) tokens += kv.tokens();
  return fmt::format("{}: {} layers, {} KV heads of {}, {} tokens in {} sequence{}, {} of bf16", name,
                     arena.geometry().layers, arena.geometry().kv_heads, arena.geometry().head_dim, tokens,
                     arena.inputs().size(), arena.inputs().size() == 1 ? "" : "s",
                     base::FormatBytes(static_cast<double>(arena.raw_bytes())));
}

base::Status WriteResults(const BenchCodecArgs& args, const std::string& input, uint64_t raw_bytes,
                          const std::string& subtitle, size_t workers,
                          std::span<const CodecFigures> figures) {
  if (!args.json.empty()) {
    BenchReport report("codec", args.command);
    const BenchCase where = {{"input", input}, {"raw_bytes", static_cast<int64_t>(raw_bytes)}};
    for (const CodecFigures& one : figures) AddCodecRows(report, where, one, workers);
    KVPLANE_RETURN_IF_ERROR(report.WriteJson(args.json));
  }
  return args.svg.empty() ? base::Status::Ok() : CodecPlot(figures, subtitle).WriteSvg(args.svg);
}

base::Status BenchKernels(const BenchCodecArgs& args) {
  const MachineInfo machine = ThisMachine();
  const CpuFamily family = CpuFamilyOf(machine.cpu);
  fmt::print(stderr, "{}\n", Describe(machine));
  const auto figures =
      MeasureKernels(CodecKernelCases(kKernelSeed), CodecKernelRatios(), args.repeats, args.slice_s);
  fmt::print(stderr, "median of {} rounds\n\n{}", args.repeats, KernelTable(figures, family));
  if (args.json.empty()) return base::Status::Ok();
  BenchReport report("codec_kernels", args.command);
  AddKernelRows(report, figures, family);
  return report.WriteJson(args.json);
}

base::Status Bench(const BenchCodecArgs& args) {
  KVPLANE_RETURN_IF_ERROR(ValidateArgs(args));
  if (args.kernels) return BenchKernels(args);
  // What can be wrong with the command line is said before anything is generated or captured.
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<NamedStrategy> strategies, ReadStrategyLists(args.strategies));
  KVPLANE_ASSIGN_OR_RETURN(const auto quality, ReadQuality(args.quality));
  const bool brings_profile = args.model.empty() && args.kv.empty();
  for (const NamedStrategy& named : strategies) {
    if (args.strategies.empty() || brings_profile || !args.profile.empty()) break;
    if (!named.strategy.needs_profile()) continue;
    return base::InvalidArgument("'{}' takes a profile: --profile FILE (kvplane profile fit makes one)",
                                 named.label);
  }
  std::shared_ptr<const codec::ModelProfile> profile;
  if (!args.profile.empty()) {
    KVPLANE_ASSIGN_OR_RETURN(profile, ReadProfileFile(args.profile));
  }
  const size_t workers = args.threads == 0 ? std::max(std::thread::hardware_concurrency(), 1u) : args.threads;
  base::ThreadPool pool(workers);
  KVPLANE_ASSIGN_OR_RETURN(Input input, LoadInput(args, pool));
  CodecArena arena(std::move(input.sequences), quality);
  if (profile != nullptr) {
    KVPLANE_RETURN_IF_ERROR(codec::CheckProfileMatches(*profile, arena.geometry(), input.model_fingerprint)
                                .Annotate(args.profile));
    input.profile = std::move(profile);
  }
  const std::string described = DescribeInput(input.name, arena);
  fmt::print(stderr, "{}\n{}\n", Describe(ThisMachine()), described);
  KVPLANE_ASSIGN_OR_RETURN(Field field, MakeField(args, strategies, input.profile, arena, workers));
  CodecRace race(arena, pool, args.slice_s);
  KVPLANE_RETURN_IF_ERROR(MeasureErrors(input, arena, race, pool, field));
  KVPLANE_RETURN_IF_ERROR(MeasureSpeed(args, race, workers, field));
  fmt::print(stderr, "speed: median of {} rounds; CPU: by the thread's CPU time; {}\n\n{}", args.repeats,
             DescribeCores(field.figures, workers), CodecTable(field.figures));
  return WriteResults(args, input.name, arena.raw_bytes(), described, workers, field.figures);
}

}  // namespace

int CmdBenchCodec(const BenchCodecArgs& args) {
  const base::Status status = Bench(args);
  if (!status.ok()) fmt::print(stderr, "kvplane bench codec: {}\n", status.ToString());
  return ExitCodeFor(status.code());
}

}  // namespace kvplane::cli
