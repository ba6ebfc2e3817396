// kvplane: one binary, one verb each. Flags are declared here and nowhere else; each verb validates the rest
// and does the work. This is the only translation unit that sees CLI11.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "apps/cli/commands/bench_codec.h"
#include "apps/cli/commands/bench_engine.h"
#include "apps/cli/commands/bench_quality.h"
#include "apps/cli/commands/bench_reuse.h"
#include "apps/cli/commands/bench_store.h"
#include "apps/cli/commands/bench_transfer.h"
#include "apps/cli/commands/bench_transport.h"
#include "apps/cli/commands/cmd_codec.h"
#include "apps/cli/commands/cmd_demo.h"
#include "apps/cli/commands/cmd_doctor.h"
#include "apps/cli/commands/cmd_generate.h"
#include "apps/cli/commands/cmd_profile_fit.h"
#include "apps/cli/commands/cmd_route.h"
#include "apps/cli/commands/cmd_serve.h"
#include "apps/cli/commands/cmd_store.h"
#include "apps/cli/commands/profile_enumerate.h"
#include "apps/cli/commands/store_objects.h"
#include "apps/cli/exit_code.h"
#include "kvplane/base/edit_distance.h"
#include "kvplane/kernel/isa.h"

namespace kvplane::cli {
namespace {

constexpr const char* kVersion = "kvplane 0.1.0";

// What the parser chose to run; empty until a verb's callback fires.
using Action = std::function<int()>;

CLI::App* Verb(CLI::App& app, const std::string& name, const std::string& what) {
  CLI::App* verb = app.add_subcommand(name, what);
  verb->option_defaults()->always_capture_default();
  return verb;
}

void AddRuntimeFlags(CLI::App* verb, RuntimeArgs& args) {
  verb->add_option("--model", args.model, "Model folder as Hugging Face lays it out");
  verb->add_option("--threads", args.threads, "Compute threads; 0: one per CPU");
  verb->add_option("--compute", args.compute, "GEMM type; auto: the faster one, measured at start")
      ->check(CLI::IsMember({"auto", "bf16", "f32"}));
  verb->add_option("--kv-size", args.kv_size, "Memory of the KV cache, e.g. 2GiB");
  verb->add_option("--block-tokens", args.block_tokens, "Tokens per cache block");
  verb->add_option("--step-tokens", args.step_tokens,
                   "Token budget of one step; more prefills faster, less keeps the token pace even");
  verb->add_option("--max-running", args.max_running, "Requests in the running set");
  verb->add_option("--max-queued", args.max_queued, "Requests waiting; more are answered 429");
  verb->add_option("--max-context", args.max_context, "Longest prompt plus output; 0: the model's limit");
}

// TLS of connections between nodes. The token file belongs to it, but is declared with the API's flags.
void AddKvSecurityFlags(CLI::App* verb, transport::SecurityFiles& files) {
  verb->add_flag("--kv-tls", files.tls,
                 "TLS 1.3 between nodes, with keys made from the token file or with certificates");
  verb->add_option("--kv-cert", files.certificate, "Certificate (PEM) this node shows to other nodes");
  verb->add_option("--kv-key", files.key, "Its key (PEM)");
  verb->add_option("--kv-ca", files.ca,
                   "Authorities (PEM) that certificates of other nodes must be signed by");
}

void AddTransferFlags(CLI::App* verb, RuntimeArgs& args) {
  verb->add_option("--role", args.role, "unified, prefill (sends KV) or decode (receives KV)")
      ->check(CLI::IsMember({"unified", "prefill", "decode"}));
  verb->add_option("--strategy", args.strategy, "Compression of transfers whose request names none");
  verb->add_option("--profile", args.profiles,
                   "Profile of the model, for strategies that take one; repeatable, the first is coded with")
      ->allow_extra_args(false);
  verb->add_option("--kv-listen", args.kv_listen, "Where a prefill node serves KV");
  AddKvSecurityFlags(verb, args.kv_security);
  verb->add_option("--codec-threads", args.codec_threads,
                   "Threads that code tiles; 0: on the link's own threads");
  verb->add_option("--tile-retries", args.tile_retries, "Times a damaged tile is asked for again");
  verb->add_option("--transfer-timeout-s", args.transfer_timeout_s,
                   "A transfer not complete by then is recomputed");
  verb->add_option("--offer-lease-s", args.offer_lease_s,
                   "Computed KV that no decode node has asked for is dropped after this long");
  verb->add_option("--stall-timeout-s", args.stall_timeout_s,
                   "A transfer on which nothing moves is recomputed");
  verb->add_option("--link-rate", args.link_rate, "Shape what this node sends, e.g. 200Mbit/s");
  verb->add_option("--kv-fault", args.kv_fault, "Tests only: damage what this node sends (docs/testing.md)")
      ->group("Testing");
}

void AddStoreFlags(CLI::App* verb, StoreArgs& args) {
  verb->add_option("--store", args.specs,
                   "Where KV of prompt prefixes is kept: mem:, dir:PATH, tcp://HOST:PORT, redis://HOST:PORT; "
                   "repeatable, fastest first; none: nowhere. Default: memory of --store-dram bytes")
      ->allow_extra_args(false);
  verb->add_option("--store-dram", args.dram, "Memory in front of a slower store; 0: none");
  verb->add_option("--store-strategy", args.strategy, "What KV is coded with on its way into the store");
  verb->add_option("--store-quality", args.quality,
                   "Quality of a lossy --store-strategy, in thousandths, as measured");
  verb->add_option("--store-min-quality", args.min_quality,
                   "Least quality of what is loaded, in thousandths; 1000: lossless only");
  verb->add_option("--store-run-tokens", args.run_tokens,
                   "Tokens of one stored object; nodes that share a store must agree");
  verb->add_option("--store-tenant", args.tenant, "Whose KV it is: tenants share nothing");
  verb->add_option("--store-salt-file", args.salt_file,
                   "File with a secret that goes into all names: who has another one shares nothing");
  verb->add_option("--store-timeout-ms", args.timeout_ms,
                   "A lookup, or a round of reads, that takes longer is a miss");
  verb->add_option("--store-load", args.load,
                   "adaptive: load where it is faster than computing; always: whatever is found")
      ->check(CLI::IsMember({"adaptive", "always"}));
}

void AddLogFlags(CLI::App* verb, std::string& level, bool& json) {
  verb->add_option("--log-level", level, "trace, debug, info, warn, error or off")->envname("KVPLANE_LOG");
  verb->add_flag("--log-json", json, "One JSON object per log line");
}

// Gives the flags that the command line and the environment left out the values of a file. CLI11 does this by
// itself for the flags before the verb only.
void ReadConfigFile(CLI::App* verb, const std::string& path) {
  for (const CLI::ConfigItem& item : CLI::ConfigTOML().from_file(path)) {
    if (item.name == "++" || item.name == "--") continue;  // where a section begins and ends
    CLI::Option* option = item.parents.empty() ? verb->get_option_no_throw("--" + item.name) : nullptr;
    if (option == nullptr || !option->get_configurable()) {
      throw CLI::ConfigError(
          fmt::format("{}: '{}' is no flag of {}", path, item.fullname(), verb->get_name()),
          CLI::ExitCodes::ConfigError);
    }
    if (option->count() > 0) continue;
    option->add_result(item.inputs);
    option->run_callback();
  }
}

void AddHttpsFlags(CLI::App* verb, std::string& certificate, std::string& key) {
  verb->add_option("--tls-cert", certificate, "Certificate (PEM, with its chain): HTTPS instead of HTTP");
  verb->add_option("--tls-key", key, "Its key (PEM)");
}

void AddServe(CLI::App& app, Action& action) {
  static ServeArgs args;
  CLI::App* verb = Verb(app, "serve", "Serve a model behind the OpenAI-compatible API");
  AddRuntimeFlags(verb, args.runtime);
  AddTransferFlags(verb, args.runtime);
  AddStoreFlags(verb, args.runtime.store);
  verb->add_option("--host", args.host, "Address to bind; others than loopback need a token or --insecure");
  verb->add_option("--port", args.port, "Port; 0: any free one")->check(CLI::Range(0, 65535));
  verb->add_option("--served-model-name", args.served_model_name,
                   "Name in the API; default: the folder's name");
  verb->add_option("--auth-token-file", args.auth_token_file,
                   "File with the token that clients must send and nodes must prove to each other");
  verb->add_flag("--insecure", args.insecure, "Allow a public address without a token");
  AddHttpsFlags(verb, args.tls_certificate, args.tls_key);
  verb->add_option("--drain-s", args.drain_s, "Time running requests get after SIGTERM");
  AddLogFlags(verb, args.log_level, args.log_json);
  static std::string config;
  verb->add_option("--config", config, "TOML file of flags (port = 8000); the command line goes first")
      ->configurable(false);
  verb->callback([&action, verb] {
    if (!config.empty()) ReadConfigFile(verb, config);
    action = [] { return CmdServe(args); };
  });
}

void AddRoute(CLI::App& app, Action& action) {
  static RouteArgs args;
  CLI::App* verb = Verb(app, "route", "Route requests over prefill and decode nodes");
  verb->add_option("--prefill", args.prefill, "http[s]://HOST:PORT of a prefill node; repeatable");
  verb->add_option("--decode", args.decode, "http[s]://HOST:PORT of a decode node; repeatable")->required();
  verb->add_option("--host", args.host, "Address to bind; others than loopback need a token or --insecure");
  verb->add_option("--port", args.port, "Port; 0: any free one")->check(CLI::Range(0, 65535));
  verb->add_option("--auth-token-file", args.auth_token_file, "File with the bearer token clients must send");
  verb->add_option("--node-token-file", args.node_token_file, "File with the bearer token the nodes ask for");
  verb->add_flag("--insecure", args.insecure, "Allow a public address without a token");
  AddHttpsFlags(verb, args.tls_certificate, args.tls_key);
  verb->add_option("--node-ca", args.node_ca,
                   "Authorities (PEM) that vouch for https:// nodes; default: the system's");
  verb->add_option("--request-timeout-s", args.request_timeout_s, "Longest a request may take");
  verb->add_option("--drain-s", args.drain_s, "Time running requests get after SIGTERM");
  AddLogFlags(verb, args.log_level, args.log_json);
  verb->callback([&action] { action = [] { return CmdRoute(args); }; });
}

void AddStoreClientFlags(CLI::App* verb, StoreClientArgs& args, bool keyed) {
  verb->add_option(
          "--store", args.store,
          "The store: tcp://HOST:PORT, dir:PATH, redis://HOST:PORT; repeated after mem: a stack of tiers")
      ->required()
      ->allow_extra_args(false);
  if (keyed) {
    verb->add_option("--tenant", args.tenant, "Name of the tenant; default: the default tenant");
    verb->add_option("--key", args.key, "The object's key, 64 hexadecimal digits");
    verb->add_option("--name", args.name, "Text the object's key is made from, instead of --key");
  }
  verb->add_option("--auth-token-file", args.security.auth_token_file,
                   "File with the token that both ends prove to each other");
  AddKvSecurityFlags(verb, args.security);
  verb->add_option("--timeout-s", args.timeout_s, "Longest it may take");
}

void AddStoreObjects(CLI::App* store, Action& action) {
  static StorePutArgs put_args;
  CLI::App* put = Verb(*store, "put", "Store an object file");
  put->add_option("input", put_args.input, "Object file, as kvplane encode writes it")->required();
  AddStoreClientFlags(put, put_args.client, /*keyed=*/true);
  put->add_flag("--durable", put_args.durable, "Return when it would survive a crash of the store");
  put->add_option("--ttl-s", put_args.ttl_s, "Time to live; 0: the store's default");
  put->add_option("--quality", put_args.quality, "Quality of a lossy object, thousandths of lossless")
      ->check(CLI::Range(0, 999));
  put->callback([&action] { action = [] { return CmdStorePut(put_args); }; });

  static StoreGetArgs get_args;
  CLI::App* get = Verb(*store, "get", "Read an object, verify it and write it to a file");
  AddStoreClientFlags(get, get_args.client, /*keyed=*/true);
  get->add_option("-o,--output", get_args.output, "Object file")->required();
  get->callback([&action] { action = [] { return CmdStoreGet(get_args); }; });

  static StoreClientArgs erase_args;
  CLI::App* erase = Verb(*store, "erase", "Erase an object, or everything of a tenant");
  AddStoreClientFlags(erase, erase_args, /*keyed=*/true);
  erase->callback([&action] { action = [] { return CmdStoreErase(erase_args); }; });

  static StoreClientArgs stats_args;
  CLI::App* stats = Verb(*store, "stats", "What a store and its tiers count, as JSON");
  AddStoreClientFlags(stats, stats_args, /*keyed=*/false);
  stats->callback([&action] { action = [] { return CmdStoreStats(stats_args); }; });
}

void AddStore(CLI::App& app, Action& action) {
  static StoreServerArgs args;
  CLI::App* verb =
      Verb(app, "store", "Keep KV objects for other nodes; put, get, erase, stats act on a store");
  verb->add_option("--listen", args.listen,
                   "Where to serve; others than loopback need a token or --insecure");
  verb->add_option("--dram", args.dram, "Memory for objects, e.g. 8GiB");
  verb->add_option("--policy", args.policy, "What leaves memory first")
      ->check(CLI::IsMember({"s3fifo", "lru"}));
  verb->add_option("--disk", args.disk, "Folder for objects; they outlive the process");
  verb->add_option("--disk-bytes", args.disk_bytes, "Bytes of the folder at most, e.g. 200GB");
  verb->add_option("--ttl-s", args.ttl_s, "Time to live of objects that come without one; 0: none");
  verb->add_option("--quota", args.quota, "Bytes of memory each tenant may take; default: no limit");
  verb->add_option("--tier", args.tiers,
                   "A further tier, slower than the disk: tcp://... or redis://...; repeatable")
      ->allow_extra_args(false);
  verb->add_option("--max-connections", args.max_connections, "Connections at a time")
      ->check(CLI::Range(1, 65'536));
  verb->add_option("--link-rate", args.link_rate, "Shape what this store sends, e.g. 200Mbit/s");
  verb->add_option("--metrics", args.metrics, "HOST:PORT for GET /metrics (Prometheus); default: none");
  verb->add_option("--auth-token-file", args.security.auth_token_file,
                   "File with the token that clients must prove");
  AddKvSecurityFlags(verb, args.security);
  verb->add_flag("--insecure", args.insecure, "Allow a public address without a token");
  verb->add_option("--drain-s", args.drain_s, "Time to answer and to flush after SIGTERM");
  AddLogFlags(verb, args.log_level, args.log_json);
  verb->require_subcommand(0, 1);
  AddStoreObjects(verb, action);
  verb->callback([&action, verb] {
    if (verb->get_subcommands().empty()) action = [] { return CmdStore(args); };
  });
}

void AddGenerate(CLI::App& app, Action& action) {
  static GenerateArgs args;
  CLI::App* verb = Verb(app, "generate", "Complete one prompt in this process");
  AddRuntimeFlags(verb, args.runtime);
  verb->add_option("prompt", args.prompt, "The prompt; '-' reads standard input")->required();
  verb->add_flag("--chat", args.chat, "Wrap the prompt as a user message in the model's chat template");
  verb->add_option("--max-tokens", args.max_tokens, "Tokens to generate");
  verb->add_option("--temperature", args.temperature, "0: greedy");
  verb->add_option("--top-p", args.top_p, "Nucleus sampling");
  verb->add_option("--seed", args.seed, "Seed of the sampler");
  verb->add_flag("--json", args.json, "One JSON object with text, token ids and timings");
  verb->callback([&action] { action = [] { return CmdGenerate(args); }; });
}

void AddCodecVerbs(CLI::App& app, Action& action) {
  static EncodeArgs encode_args;
  CLI::App* encode =
      Verb(app, "encode", "Code raw KV (.npy [layers, 2, tokens, kv_heads, head_dim]) into an object");
  encode->add_option("input", encode_args.input, "Raw KV, .npy")->required();
  encode->add_option("-o,--output", encode_args.output, "Object file")->required();
  encode->add_option("--strategy", encode_args.strategy, "Preset or strategy text, e.g. int4");
  encode->add_option("--head-group", encode_args.head_group, "KV heads per tile; 0: all");
  encode->add_option("--first-token", encode_args.first_token, "Position of the first token in its sequence");
  encode->add_option("--profile", encode_args.profile, "Profile of the model, for strategies that take one");
  encode->callback([&action] { action = [] { return CmdEncode(encode_args); }; });

  static DecodeArgs decode_args;
  CLI::App* decode = Verb(app, "decode", "Decode an object into raw KV (.npy)");
  decode->add_option("input", decode_args.input, "Object file")->required();
  decode->add_option("-o,--output", decode_args.output, "Raw KV, .npy")->required();
  decode->add_flag("--float32", decode_args.float32, "Write float32 instead of bf16 patterns");
  decode
      ->add_option("--profile", decode_args.profiles,
                   "Profile file; repeatable, the one the object names is taken")
      ->allow_extra_args(false);
  decode->add_flag("--strict", decode_args.strict, "Refuse lossy objects");
  decode->callback([&action] { action = [] { return CmdDecode(decode_args); }; });

  static InspectArgs inspect_args;
  CLI::App* inspect = Verb(app, "inspect", "Show what an object or a profile holds");
  inspect->add_option("input", inspect_args.input, "Object or profile file")->required();
  inspect->add_flag("--json", inspect_args.json, "JSON to standard output");
  inspect->callback([&action] { action = [] { return CmdInspect(inspect_args); }; });

  static VerifyArgs verify_args;
  CLI::App* verify = Verb(
      app, "verify", "Check every checksum of an object and decode it, or of all objects of a disk store");
  verify->add_option("input", verify_args.input, "Object file, or the folder of a disk store")->required();
  verify
      ->add_option("--profile", verify_args.profiles,
                   "Profile file; repeatable, the one the object names is taken")
      ->allow_extra_args(false);
  verify->add_flag("--repair", verify_args.repair, "Erase what is damaged (disk stores)");
  verify->add_flag("--json", verify_args.json, "Print the counts as JSON on standard output (disk stores)");
  verify->callback([&action] { action = [] { return CmdVerify(verify_args); }; });
}

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
  verb->add_option("--json", args.json, "Also write the measurements to this file (docs/benchmarks.md)");
}

void AddDemo(CLI::App& app, const std::string& command, Action& action) {
  static DemoArgs args;
  args.command = command;
  CLI::App* verb =
      Verb(app, "demo", "Prefill, decode and router on loopback; compare compression on real prompts");
  AddDemoFlags(verb, args);
  verb->add_option("--link-rate", args.link_rate, "Rate of the prefill node's link");
  verb->callback([&action] { action = [] { return CmdDemo(args); }; });
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
  verb->add_option("--strategies", args.strategies,
                   "Presets or strategies to measure, comma-separated or repeated; default: all presets");
  verb->add_option("--profile", args.profile,
                   "Profile of the model, for strategies that take one; synthetic KV brings its own");
  verb->add_option("--model", args.model, "Measure on the KV of this model folder on --text");
  verb->add_option("--text", args.text, "Text file, or folder of *.txt, for --model");
  verb->add_option("--kv", args.kv, "Measure on raw KV (.npy)");
  verb->add_option("--synthetic", args.synthetic,
                   "Measure on synthetic KV (the default): spread=K/V,outliers=,gain=,participation=,sinks=,"
                   "sink_gain=,theta=,layers=,heads=,head_dim=,seed=")
      ->expected(0, 1)
      ->default_str("");
  verb->add_option("--tokens", args.tokens,
                   "Tokens of --model (in sequences of its context) or synthetic; 0: 16384");
  verb->add_option("--queries", args.queries, "Queries per sequence of --model, for the error of attention");
  verb->add_option("--repeats", args.repeats,
                   "Rounds; the median is reported; 0: sizes and errors, no speed");
  verb->add_option("--threads", args.threads, "Threads of 'all cores'; 0: one per CPU");
  verb->add_option("--slice-s", args.slice_s, "Aim of one timed turn, seconds");
  verb->add_flag("--kernels", args.kernels, "Measure the kernels and their bars instead of strategies");
  verb->add_option("--json", args.json, "Also write the measurements to this file");
  verb->add_option("--svg", args.svg, "Also draw bits per value against error into this file");
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
  verb->add_option("--redis", args.redis, "redis://HOST:PORT[,HOST:PORT] of servers that run already");
  verb->add_option("--count", args.count, "Prompts");
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

void AddProfileFit(CLI::App* profile, Action& action) {
  static ProfileFitArgs args;
  CLI::App* fit = Verb(*profile, "fit", "Fit a profile of a model's KV cache on text");
  fit->add_option("--model", args.runtime.model, "Model folder");
  fit->add_option("--threads", args.runtime.threads, "Compute threads; 0: one per CPU");
  fit->add_option("--compute", args.runtime.compute, "GEMM type; auto: the faster one, measured at start")
      ->check(CLI::IsMember({"auto", "bf16", "f32"}));
  fit->add_option("--text", args.text, "Text files, or folders of *.txt: not what quality is judged on")
      ->required();
  fit->add_option("--out", args.out, "Where the profile goes")->required();
  fit->add_option("--prompts", args.prompts, "Stretches of text");
  fit->add_option("--tokens", args.tokens, "Tokens of each");
  fit->add_option("--probes", args.probes, "Sequences that sensitivities are measured on");
  fit->add_option("--task-share", args.task_share,
                  "Percent of the prompts that hold questions with answers, in the formats of bench quality "
                  "but from other draws: retrieval must be part of what is fitted");
  fit->add_option("--words", args.words, "Words of the tasks; default: task_words.txt of the model folder");
  fit->add_option("--max-rank", args.max_rank, "Components kept of every basis; 0: all");
  fit->add_option("--seed", args.seed, "Seed of the fit");
  fit->callback([&action] { action = [] { return CmdProfileFit(args); }; });
}

void AddProfile(CLI::App& app, Action& action) {
  CLI::App* profile = Verb(app, "profile", "Strategies of the space, and what is fitted to a model");
  profile->require_subcommand(1);
  AddProfileFit(profile, action);

  static ProfileEnumerateArgs enumerate_args;
  CLI::App* enumerate = Verb(*profile, "enumerate", "List the legal strategies of a grid, one per line");
  enumerate->add_option("--grid", enumerate_args.grid,
                        "full, published, or one sub-space such as kvserve (docs/strategies.md)");
  enumerate
      ->add_option("--side-pairs", enumerate_args.side_pairs,
                   "family: one sub-space on both sides; same: with equal values; all: every key chain with "
                   "every value chain")
      ->check(CLI::IsMember({"family", "same", "all"}));
  enumerate->add_option("--limit", enumerate_args.limit, "Strategies at most; 0: all");
  enumerate->add_flag("--no-dominated", enumerate_args.no_dominated,
                      "Leave out what another strategy is never worse than");
  enumerate->add_flag("--no-profile", enumerate_args.no_profile, "Leave out what needs a fitted profile");
  enumerate->add_option("--format", enumerate_args.format, "text, or json: one object per line")
      ->check(CLI::IsMember({"text", "json"}));
  enumerate->callback([&action] { action = [] { return CmdProfileEnumerate(enumerate_args); }; });
}

void AddDoctor(CLI::App& app, Action& action) {
  static DoctorArgs args;
  CLI::App* verb = Verb(app, "doctor", "Check this machine and say what to do");
  verb->add_option("--model", args.model, "Also load and check this model folder");
  verb->add_flag("--json", args.json, "JSON to standard output");
  verb->callback([&action] { action = [] { return CmdDoctor(args); }; });
}

// Names that could stand where `word` does: flags of the chosen verb, or verbs.
std::vector<std::string> Candidates(const CLI::App& app, bool flag) {
  std::vector<std::string> names;
  const CLI::App* scope = &app;
  while (!scope->get_subcommands().empty()) scope = scope->get_subcommands().front();
  if (flag) {
    for (const CLI::Option* option : scope->get_options()) {
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
  } else {
    for (const CLI::App* verb : scope->get_subcommands([](const CLI::App*) { return true; })) {
      names.push_back(verb->get_name());
    }
  }
  return names;
}

int ReportUsageError(const CLI::App& app, const CLI::ParseError& error) {
  fmt::print(stderr, "kvplane: {}\n", error.what());
  for (const std::string& word : app.remaining(true)) {
    std::string best;
    size_t best_distance = 4;  // further away is not a typing error
    constexpr size_t kLongestName = 64;
    const std::string bare = word.substr(0, std::min(word.find('='), kLongestName));
    for (const std::string& name : Candidates(app, word.starts_with("-"))) {
      if (const size_t distance = base::EditDistance(bare, name); distance < best_distance) {
        best = name;
        best_distance = distance;
      }
    }
    if (!best.empty()) fmt::print(stderr, "kvplane: '{}' is unknown; did you mean '{}'?\n", bare, best);
  }
  fmt::print(stderr, "kvplane: see 'kvplane --help' or 'kvplane VERB --help'\n");
  return kExitUsage;
}

// The command line as a shell would take it, for reports that say how they were made.
std::string CommandLine(int argc, char** argv) {
  std::string line = "kvplane";
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const bool plain = !word.empty() && word.find_first_of(" \t'\"|;$`\\()") == std::string::npos;
    if (plain) {
      line += " " + word;
      continue;
    }
    line += " '";
    for (const char c : word) line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += "'";
  }
  return line;
}

int Run(int argc, char** argv) {
  CLI::App app{"KV-cache plane of a disaggregated LLM service", "kvplane"};
  app.set_version_flag("--version", kVersion);
  app.require_subcommand(0, 1);
  Action action;
  AddServe(app, action);
  AddRoute(app, action);
  AddStore(app, action);
  AddGenerate(app, action);
  AddCodecVerbs(app, action);
  const std::string command = CommandLine(argc, argv);
  AddBench(app, command, action);
  AddDemo(app, command, action);
  AddProfile(app, action);
  AddDoctor(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return ReportUsageError(app, error);
  }
  if (!action) {
    fmt::print(stderr, "kvplane: which verb?\n\n{}", app.help());
    return kExitUsage;
  }
  if (const base::Status forced = kernel::ForcedIsaStatus(); !forced.ok()) {
    fmt::print(stderr, "kvplane: {}\n", forced.ToString());
    return kExitUsage;
  }
  return action();
}

}  // namespace
}  // namespace kvplane::cli

int main(int argc, char** argv) {
  try {
    return kvplane::cli::Run(argc, argv);
  } catch (const std::exception& error) {  // out of memory and our own bugs; libraries return Status
    fmt::print(stderr, "kvplane: unexpected: {}\n", error.what());
    return kvplane::cli::kExitFailed;
  }
}
