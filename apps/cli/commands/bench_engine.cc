#include "apps/cli/commands/bench_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <span>
#include <utility>

#include "apps/cli/bench_report.h"
#include "apps/cli/exit_code.h"
#include "apps/cli/gemm_yardstick.h"
#include "kvplane/base/rng.h"
#include "kvplane/base/units.h"
#include "kvplane/profile/sequence_kv.h"
#include "kvplane/stats/quantile.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::cli {
namespace {

struct Measured {
  std::vector<double> tokens_per_s;
  std::vector<double> gemm_share;           // of the workers' time
  std::vector<double> yardstick_s;          // oneDNN alone, the same products
  std::vector<double> over_yardstick;       // time of the whole pass / oneDNN alone
  std::vector<double> gemm_over_yardstick;  // time in our matrix products / oneDNN alone
};

double SecondsSince(base::TimePoint start) { return base::ToSeconds(base::Clock::System().Now() - start); }

std::vector<int32_t> RandomTokens(uint32_t count, int32_t vocab, base::Rng& rng) {
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(rng.Below(static_cast<uint64_t>(vocab)));
  return tokens;
}

// One prompt in chunks; seconds.
base::Result<double> PrefillOnce(model::Model& model, std::span<const int32_t> prompt, uint32_t chunk,
                                 const profile::SequenceKv& kv, std::vector<float>& logits) {
  const base::TimePoint start = base::Clock::System().Now();
  for (size_t at = 0; at < prompt.size(); at += chunk) {
    const size_t count = std::min<size_t>(chunk, prompt.size() - at);
    model::SequenceInput input;
    input.tokens = prompt.subspan(at, count);
    input.first_position = static_cast<uint32_t>(at);
    input.layers = kv.layers();
    input.no_logits = at + count < prompt.size();
    KVPLANE_RETURN_IF_ERROR(model.Forward({&input, 1}, nullptr, logits));
  }
  return SecondsSince(start);
}

void Record(double seconds, double tokens, const model::Model::Counters& counters, size_t threads,
            double yardstick_s, Measured& measured) {
  measured.tokens_per_s.push_back(tokens / seconds);
  measured.gemm_share.push_back(counters.gemm_s / (seconds * static_cast<double>(threads)));
  measured.yardstick_s.push_back(yardstick_s);
  measured.over_yardstick.push_back(seconds / yardstick_s);
  measured.gemm_over_yardstick.push_back(counters.gemm_s / static_cast<double>(threads) / yardstick_s);
}

base::Result<Measured> MeasurePrefill(const BenchEngineArgs& args, NodeRuntime& runtime, size_t threads) {
  model::Model& model = runtime.model();
  base::Rng rng(1);
  const auto prompt = RandomTokens(args.prompt_tokens, runtime.tokenizer().vocab_size(), rng);
  const profile::SequenceKv kv(model.kv_geometry(), args.runtime.block_tokens, args.prompt_tokens);
  std::vector<float> logits;
  KVPLANE_ASSIGN_OR_RETURN(GemmYardstick yardstick,
                           GemmYardstick::Create(model.gemm_shapes(), args.chunk_tokens, 1, model.compute(),
                                                 static_cast<int>(threads)));
  KVPLANE_RETURN_IF_ERROR(PrefillOnce(model, prompt, args.chunk_tokens, kv, logits).status());
  Measured measured;
  const double chunks = static_cast<double>(args.prompt_tokens) / args.chunk_tokens;
  for (uint32_t i = 0; i < args.repeats; ++i) {
    model.ResetCounters();
    KVPLANE_ASSIGN_OR_RETURN(const double seconds, PrefillOnce(model, prompt, args.chunk_tokens, kv, logits));
    Record(seconds, args.prompt_tokens, model.counters(), threads, yardstick.Run().seconds * chunks,
           measured);
  }
  return measured;
}

base::Result<Measured> MeasureDecode(const BenchEngineArgs& args, NodeRuntime& runtime, uint32_t batch,
                                     size_t threads) {
  model::Model& model = runtime.model();
  base::Rng rng(batch);
  const int32_t vocab = runtime.tokenizer().vocab_size();
  const uint32_t capacity = args.context_tokens + args.decode_steps;
  std::vector<profile::SequenceKv> kvs;
  std::vector<float> logits;
  for (uint32_t i = 0; i < batch; ++i) {
    kvs.emplace_back(model.kv_geometry(), args.runtime.block_tokens, capacity);
    const auto prompt = RandomTokens(args.context_tokens, vocab, rng);
    KVPLANE_RETURN_IF_ERROR(PrefillOnce(model, prompt, args.chunk_tokens, kvs.back(), logits).status());
  }
  KVPLANE_ASSIGN_OR_RETURN(
      GemmYardstick yardstick,
      GemmYardstick::Create(model.gemm_shapes(), batch, batch, model.compute(), static_cast<int>(threads)));
  const auto tokens = RandomTokens(batch, vocab, rng);
  std::vector<model::SequenceInput> inputs(batch);
  Measured measured;
  for (uint32_t repeat = 0; repeat <= args.repeats; ++repeat) {  // the first warms up
    model.ResetCounters();
    double yardstick_s = 0;
    const base::TimePoint start = base::Clock::System().Now();
    for (uint32_t step = 0; step < args.decode_steps; ++step) {
      for (uint32_t i = 0; i < batch; ++i) {
        inputs[i].tokens = std::span(tokens).subspan(i, 1);
        inputs[i].first_position = args.context_tokens + step;
        inputs[i].layers = kvs[i].layers();
      }
      KVPLANE_RETURN_IF_ERROR(model.Forward(inputs, nullptr, logits));
    }
    const double seconds = SecondsSince(start);
    for (uint32_t step = 0; step < args.decode_steps; ++step) yardstick_s += yardstick.Run().seconds;
    if (repeat == 0) continue;
    Record(seconds, static_cast<double>(batch) * args.decode_steps, model.counters(), threads, yardstick_s,
           measured);
  }
  return measured;
}

void Report(const std::string& phase, uint32_t batch, const Measured& measured, BenchReport& report) {
  const auto median = [](const std::vector<double>& values) { return stats::Quantile(values, 0.5); };
  fmt::print(stderr, "{:<8} {:>6} {:>5} {:>12.0f} {:>11.1f}% {:>15.3f} {:>13.2f} {:>14.2f}\n", phase, batch,
             measured.tokens_per_s.size(), median(measured.tokens_per_s), median(measured.gemm_share) * 100,
             median(measured.yardstick_s) * 1e3, median(measured.gemm_over_yardstick),
             median(measured.over_yardstick));
  const BenchCase where = {{"phase", phase}, {"batch", int64_t{batch}}};
  report.AddSample(where, "tokens_per_s", "1/s", measured.tokens_per_s);
  report.AddSample(where, "gemm_share", "1", measured.gemm_share);
  report.AddSample(where, "onednn_s", "s", measured.yardstick_s);
  report.AddSample(where, "time_over_onednn", "1", measured.over_yardstick);
}

base::Status ValidateArgs(const BenchEngineArgs& args, const model::Model& model) {
  if (args.repeats == 0 || args.decode_steps == 0 || args.chunk_tokens == 0 || args.batches.empty()) {
    return base::InvalidArgument(
        "--repeats, --decode-steps, --chunk-tokens and --batches must not be zero or empty");
  }
  const uint32_t limit = model.config().max_context;
  if (args.prompt_tokens == 0 || args.prompt_tokens > limit || args.context_tokens == 0 ||
      args.context_tokens + args.decode_steps > limit) {
    return base::InvalidArgument("prompt and context must lie within the model's {} tokens", limit);
  }
  const uint32_t widest = *std::max_element(args.batches.begin(), args.batches.end());
  if (std::max(widest, args.chunk_tokens) > args.runtime.step_tokens + args.runtime.max_running) {
    return base::InvalidArgument("--chunk-tokens and --batches must not exceed --step-tokens");
  }
  return base::Status::Ok();
}

base::Status RunBench(const BenchEngineArgs& args) {
  KVPLANE_ASSIGN_OR_RETURN(const std::unique_ptr<NodeRuntime> runtime, NodeRuntime::Create(args.runtime));
  KVPLANE_RETURN_IF_ERROR(ValidateArgs(args, runtime->model()));
  const size_t threads = runtime->threads();
  BenchReport report("engine", args.command);
  fmt::print(stderr,
             "{}\nmatmul in {}, {} threads, prompt {} in chunks of {}, decode against {} tokens of KV\n",
             Describe(ThisMachine()), model::Name(runtime->model().compute()), threads, args.prompt_tokens,
             args.chunk_tokens, args.context_tokens);
  fmt::print(stderr, "{:<8} {:>6} {:>5} {:>12} {:>12} {:>15} {:>13} {:>14}\n", "phase", "batch", "n",
             "tokens/s", "GEMM share", "oneDNN alone ms", "GEMM / oneDNN", "pass / oneDNN");
  KVPLANE_ASSIGN_OR_RETURN(const Measured prefill, MeasurePrefill(args, *runtime, threads));
  Report("prefill", 1, prefill, report);
  for (const uint32_t batch : args.batches) {
    if (batch == 0) return base::InvalidArgument("--batches: 0 is no batch");
    KVPLANE_ASSIGN_OR_RETURN(const Measured decode, MeasureDecode(args, *runtime, batch, threads));
    Report("decode", batch, decode, report);
  }
  return args.json.empty() ? base::Status::Ok() : report.WriteJson(args.json);
}

}  // namespace

int CmdBenchEngine(const BenchEngineArgs& args) {
  const base::Status status = RunBench(args);
  if (!status.ok()) fmt::print(stderr, "kvplane bench engine: {}\n", status.ToString());
  return ExitCodeFor(status.code());
}

}  // namespace kvplane::cli
