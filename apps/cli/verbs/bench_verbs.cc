// Verbs that measure: bench with what is under it, and demo.
#include <CLI/CLI.hpp>

#include "apps/cli/commands/bench_codec.h"
#include "apps/cli/commands/bench_engine.h"
#include "apps/cli/commands/bench_quality.h"
#include "apps/cli/commands/bench_reuse.h"
#include "apps/cli/commands/bench_store.h"
#include "apps/cli/commands/bench_transfer.h"
#include "apps/cli/commands/bench_transport.h"
#include "apps/cli/commands/cmd_demo.h"
#include "apps/cli/verbs/verb.h"

namespace kvplane::cli {
namespace {

void AddDemoFlags(CLI::App* verb, DemoArgs& args) {
  verb->add_option("--model", args.model, "Model folder");
  verb->add_option("--prompts", args.prompts, "Folder of text files the prompts are cut from");
  verb->add_option("--modes", args.modes, "Presets or strategies to compare, comma-separated or repeated");
  verb->add_option("--profile", args.profiles, "Profile of the model, for modes that take one; repeatable")
      ->allow_extra_args(false);
  verb->add_option("--count", args.count, "Prompts");
  verb->add_option("--min-tokens", args.min_tokens, "Shortest prompt, in tokens");
  verb->add_option("--max-tokens", args.max_tokens, "Longest prompt, in tokens");
  verb->add_option("--generate", args.generate, "Tokens generated for each prompt");
  verb->add_option("--seed", args.seed, "Which prompts are cut");
  verb->add_option("--threads", args.threads, "Compute threads of each node");
  verb->add_option("--compute", args.compute,
                   "GEMM type of all nodes; auto: the faster one, measured at start")
      ->check(CLI::IsMember({"auto", "bf16", "f32"}));
  verb->add_option(
      "--auth-token-file", args.kv_security.auth_token_file,
      "File with the token that the nodes prove to each other; default with --kv-tls: one of its own");
  AddKvSecurityFlags(verb, args.kv_security);
  verb->add_option("--json", args.json, "Also write the measurements to this file (docs/benchmarks.md)");
}

void AddBenchQuality(CLI::App* bench, const std::string& command, Action& action) {
  static BenchQualityArgs args;
  args.command = command;
  CLI::App* verb = Verb(*bench, "quality", "What strategies do to the model's output, beside uncompressed");
  verb->add_option("--model", args.runtime.model, "Model folder");
  verb->add_option("--threads", args.runtime.threads, "Compute threads; 0: one per CPU");
  verb->add_option("--compute", args.runtime.compute, "GEMM type; auto: the faster one, measured at start")
      ->check(CLI::IsMember({"auto", "bf16", "f32"}));
  verb->add_option("--strategies", args.strategies,
                   "Presets or strategies to judge, comma-separated or repeated; default: all presets");
  verb->add_option("--text", args.text, "Text file, or folder of *.txt, that the windows are cut from");
  verb->add_option("--windows", args.windows, "Windows of text; 0: no text");
  verb->add_option("--profile", args.profile, "Profile of the model, for strategies that take one");
  verb->add_option("--prefix-tokens", args.prefix_tokens, "Tokens of a window whose KV is compressed");
  verb->add_option("--scored-tokens", args.scored_tokens, "Predictions judged behind them");
  verb->add_option("--words", args.words, "Words of the tasks; default: task_words.txt of the model folder");
  verb->add_option("--questions", args.questions, "Questions of each of the 7 tasks; 0: no tasks");
  verb->add_option("--seed", args.seed, "Which questions are drawn");
  verb->add_option("--json", args.json, "Also write the measurements to this file");
  verb->add_option("--svg", args.svg, "Also draw ratio against quality into this file");
  verb->callback([&action] { action = [] { return CmdBenchQuality(args); }; });
}

void AddBenchCodec(CLI::App* bench, const std::string& command, Action& action) {
  static BenchCodecArgs args;
  args.command = command;
  CLI::App* verb = Verb(*bench, "codec", "Bytes, error and speed of strategies beside memcpy, zstd and lz4");
  CLI::Option* strategies =
      verb->add_option("--strategies", args.strategies,
                       "Presets or strategies to measure, comma-separated or repeated; default: all presets");
  CLI::Option* profile =
      verb->add_option("--profile", args.profile,
                       "Profile of the model, for strategies that take one; synthetic KV brings its own");
  CLI::Option* model =
      verb->add_option("--model", args.model, "Measure on the KV of this model folder on --text");
  CLI::Option* text =
      verb->add_option("--text", args.text, "Text file, or folder of *.txt, for --model")->needs(model);
  CLI::Option* kv = verb->add_option("--kv", args.kv, "Measure on raw KV (.npy)");
  CLI::Option* synthetic =
      verb->add_option(
              "--synthetic", args.synthetic,
              "Measure on synthetic KV (the default): spread=K/V,outliers=,gain=,participation=,sinks=,"
              "sink_gain=,theta=,layers=,heads=,head_dim=,seed=")
          ->expected(0, 1)
          ->default_str("");
  CLI::Option* tokens =
      verb->add_option("--tokens", args.tokens,
                       "Tokens of --model (in sequences of its context) or synthetic; 0: 16384")
          ->excludes(kv);
  CLI::Option* queries = verb->add_option("--queries", args.queries,
                                          "Queries per sequence of --model, for the error of attention")
                             ->needs(model);
  CLI::Option* quality =
      verb->add_option("--quality", args.quality,
                       "Quality byte of ecsq and ternary, as encode takes it; K,V or one for both")
          ->delimiter(',')
          ->allow_extra_args(false);
  verb->add_option("--repeats", args.repeats,
                   "Rounds; the median is reported; 0: sizes and errors, no speed");
  CLI::Option* threads =
      verb->add_option("--threads", args.threads, "Threads of 'all cores'; 0: one per CPU");
  verb->add_option("--slice-s", args.slice_s, "Aim of one timed turn, seconds");
  CLI::Option* kernels =
      verb->add_flag("--kernels", args.kernels, "Measure the kernels and their bars instead of strategies");
  verb->add_option("--json", args.json, "Also write the measurements to this file");
  CLI::Option* svg =
      verb->add_option("--svg", args.svg, "Also draw bits per value against error into this file");
  // Kernels have values of their own.
  for (CLI::Option* other :
       {strategies, profile, model, text, kv, synthetic, tokens, queries, quality, threads, svg}) {
    kernels->excludes(other);
  }
  verb->callback([&action] { action = [] { return CmdBenchCodec(args); }; });
}

void AddBenchReuse(CLI::App* bench, const std::string& command, Action& action) {
  static BenchReuseArgs args;
  args.command = command;
  CLI::App* verb =
      Verb(*bench, "reuse", "Time to first token of prefixes that a store holds, beside computing");
  verb->add_option("--model", args.model, "Model folder");
  verb->add_option("--prompts", args.prompts, "Folder of text files the prompts are cut from");
  verb->add_option("--profile", args.profiles,
                   "Profile of the model, for strategies that take one; repeatable")
      ->allow_extra_args(false);
  verb->add_option("--link-rates", args.link_rates, "Rates of the store's link")->delimiter(',');
  verb->add_option("--strategies", args.strategies,
                   "What stored KV is coded with, comma-separated or repeated");
  verb->add_option("--redis", args.redis,
                   "redis://HOST:PORT[,HOST:PORT] of servers that run already; none: no such rows; "
                   "default: a redis-server of its own, where that is installed");
  verb->add_option("--count", args.count, "Prompts");
  verb->add_option("--rounds", args.rounds, "Every prompt so often in every mode");
  verb->add_option("--clients", args.clients,
                   "Then also with so many requests in flight; 0: only one at a time");
  verb->add_option("--min-tokens", args.min_tokens, "Shortest prompt, in tokens");
  verb->add_option("--max-tokens", args.max_tokens, "Longest prompt, in tokens");
  verb->add_option("--run-tokens", args.run_tokens, "Tokens of one stored object");
  verb->add_option("--seed", args.seed, "Which prompts are cut");
  verb->add_option("--threads", args.threads, "Compute threads of each node");
  verb->add_option("--compute", args.compute, "GEMM type of all nodes; auto: measured once")
      ->check(CLI::IsMember({"auto", "bf16", "f32"}));
  verb->add_option("--json", args.json, "Also write the measurements to this file");
  verb->callback([&action] { action = [] { return CmdBenchReuse(args); }; });
}

void AddBenchStore(CLI::App* bench, const std::string& command, Action& action) {
  static BenchStoreArgs args;
  args.command = command;
  CLI::App* verb = Verb(*bench, "store", "Hit ratios of a trace, or (without --trace) times of stores");
  verb->add_option("--trace", args.trace, "Trace to replay: JSON lines or CSV, also packed (.zst)");
  verb->add_option("--format", args.format, "Its format; default: by the file's name")
      ->check(CLI::IsMember({"mooncake", "agent", "azure"}));
  verb->add_option("--policy", args.policies, "Eviction policies: lru, s3fifo, s3fifo-paper")->delimiter(',');
  verb->add_option("--capacity", args.capacities, "Cache sizes in blocks of the trace")->delimiter(',');
  verb->add_option("--tiers", args.tiers, "Also replay memory over disk: MEMORY+DISK in blocks")
      ->delimiter(',');
  verb->add_option("--session-gap", args.session_gap_s,
                   "Seconds between the beginnings of sessions, on average (agent)");
  verb->add_option("--seed", args.seed, "When sessions begin (agent)");
  verb->add_option("--svg", args.svg, "Also draw hit ratio against capacity into this file");
  verb->add_option("--store", args.stores,
                   "Store to measure beside memory and a server on loopback; repeatable")
      ->allow_extra_args(false);
  verb->add_option("--object-bytes", args.object_bytes, "Size of an object");
  verb->add_option("--objects", args.objects, "Objects of a round");
  verb->add_option("--layers", args.layers, "Ranges that an object is read in");
  verb->add_flag("--durable", args.durable, "Wait until puts would survive a crash");
  verb->add_option("--repeats", args.repeats, "Rounds; the median is reported");
  verb->add_option("--json", args.json, "Also write the measurements to this file");
  verb->callback([&action] { action = [] { return CmdBenchStore(args); }; });
}

void AddBenchTransfer(CLI::App* bench, const std::string& command, Action& action) {
  static BenchTransferArgs args;
  args.command = command;
  CLI::App* verb =
      Verb(*bench, "transfer", "Streaming KV beside one stage after the other and a plain socket copy");
  verb->add_option("--strategies", args.strategies, "Presets or strategies, comma-separated or repeated")
      ->delimiter(',');
  verb->add_option("--layers", args.layers, "Layers of the synthetic KV");
  verb->add_option("--kv-heads", args.kv_heads, "KV heads");
  verb->add_option("--head-dim", args.head_dim, "Channels of a head");
  verb->add_option("--tokens", args.tokens, "Tokens of the prompt");
  verb->add_option("--repeats", args.repeats, "Rounds; the median is reported");
  verb->add_option("--codec-threads", args.codec_threads, "Threads that code tiles, at each end");
  verb->add_option("--json", args.json, "Also write the measurements to this file");
  verb->callback([&action] { action = [] { return CmdBenchTransfer(args); }; });
}

void AddBenchTransport(CLI::App* bench, const std::string& command, Action& action) {
  static BenchTransportArgs args;
  args.command = command;
  CLI::App* verb =
      Verb(*bench, "transport", "Goodput and CPU time of every transport beside a plain socket copy");
  verb->add_option("--frames", args.frames, "Bytes of one write and read")->delimiter(',');
  verb->add_option("--bytes", args.bytes, "Bytes moved for one figure");
  verb->add_option("--connections", args.connections, "Also measure this many at a time; 1: not");
  verb->add_option("--repeats", args.repeats, "Runs per figure; the median is reported");
  verb->add_option("--json", args.json, "Also write the measurements to this file");
  verb->callback([&action] { action = [] { return CmdBenchTransport(args); }; });
}

}  // namespace

void AddDemo(CLI::App& app, const std::string& command, Action& action) {
  static DemoArgs args;
  args.command = command;
  CLI::App* verb =
      Verb(app, "demo", "Prefill, decode and router on loopback; compare compression on real prompts");
  AddDemoFlags(verb, args);
  verb->add_option("--link-rate", args.link_rate, "Rate of the prefill node's link");
  verb->callback([&action] { action = [] { return CmdDemo(args); }; });
}

void AddBench(CLI::App& app, const std::string& command, Action& action) {
  CLI::App* bench =
      Verb(app, "bench", "Measure: codec, engine, quality, reuse, store, transfer, transport or pd");
  bench->require_subcommand(1);

  AddBenchCodec(bench, command, action);

  static BenchEngineArgs engine_args;
  engine_args.command = command;
  CLI::App* engine =
      Verb(*bench, "engine", "Prefill and decode speed beside oneDNN alone on the same shapes");
  AddRuntimeFlags(engine, engine_args.runtime);
  engine->add_option("--prompt-tokens", engine_args.prompt_tokens,
                     "Prompt length of the prefill measurement");
  engine->add_option("--chunk-tokens", engine_args.chunk_tokens, "Prefill chunk");
  engine->add_option("--decode-steps", engine_args.decode_steps, "Decode steps per measurement");
  engine->add_option("--batches", engine_args.batches, "Decode batch sizes")->delimiter(',');
  engine->add_option("--repeats", engine_args.repeats, "Runs per figure; the median is reported");
  engine->add_option("--json", engine_args.json, "Also write the measurements to this file");
  engine->callback([&action] { action = [] { return CmdBenchEngine(engine_args); }; });

  AddBenchQuality(bench, command, action);
  AddBenchReuse(bench, command, action);
  AddBenchStore(bench, command, action);
  AddBenchTransfer(bench, command, action);
  AddBenchTransport(bench, command, action);

  static BenchPdArgs pd_args;
  pd_args.base.command = command;
  CLI::App* pd = Verb(*bench, "pd", "Prefill/decode separation over a grid of link rates");
  AddDemoFlags(pd, pd_args.base);
  pd->add_option("--link-rates", pd_args.link_rates, "Link rates")->delimiter(',');
  pd->add_option("--router", pd_args.router, "HOST:PORT of a router that runs already (bench/pd_netlab)");
  pd->add_option("--unified", pd_args.unified, "HOST:PORT of a node that does both halves, to compare with");
  pd->callback([&action] { action = [] { return CmdBenchPd(pd_args); }; });
}

}  // namespace kvplane::cli
