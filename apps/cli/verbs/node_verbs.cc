// Verbs of a node: serve, route, generate, doctor.
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "apps/cli/commands/cmd_doctor.h"
#include "apps/cli/commands/cmd_generate.h"
#include "apps/cli/commands/cmd_route.h"
#include "apps/cli/commands/cmd_serve.h"
#include "apps/cli/verbs/verb.h"

namespace kvplane::cli {
namespace {

constexpr uint32_t kMaxCodecThreads = 256;
constexpr uint32_t kMaxTileRetries = 100;         // a link that needs more delivers nothing in time
constexpr uint32_t kMaxStoreTimeoutMs = 600'000;  // requests end earlier

void AddTransferFlags(CLI::App* verb, RuntimeArgs& args) {
  verb->add_option("--role", args.role, "unified, prefill (sends KV) or decode (receives KV)")
      ->check(CLI::IsMember({"unified", "prefill", "decode"}));
  verb->add_option("--strategy", args.strategy, "Compression of transfers whose request names none");
  verb->add_option("--profile", args.profiles,
                   "Profile of the model, for strategies that take one; repeatable, the first is coded with")
      ->allow_extra_args(false);
  verb->add_option("--kv-transport", args.kv_transport,
                   "What KV connections run over: tcp, or ucx where it is built in; the same on all nodes")
      ->check(CLI::IsMember({"tcp", "ucx"}));
  verb->add_option("--kv-listen", args.kv_listen,
                   "Where a prefill node serves KV; default: any port of 127.0.0.1, as tcp://127.0.0.1:0");
  AddKvSecurityFlags(verb, args.kv_security);
  verb->add_option("--codec-threads", args.codec_threads,
                   "Threads that code tiles; 0: a decode node decodes on its links' own threads, a prefill "
                   "node takes one")
      ->check(CLI::Range(0u, kMaxCodecThreads));
  verb->add_option("--tile-retries", args.tile_retries, "Times a damaged tile is asked for again")
      ->check(CLI::Range(0u, kMaxTileRetries));
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
  verb->add_option(
          "--store", args.specs,
          "Where KV of prompt prefixes is kept: mem:, dir:PATH, tcp://HOST:PORT, redis[s]://HOST:PORT; "
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
                   "A lookup, or a round of reads, that takes longer is a miss")
      ->check(CLI::Range(1u, kMaxStoreTimeoutMs));
  verb->add_option("--store-load", args.load,
                   "adaptive: load where it is faster than computing; always: whatever is found")
      ->check(CLI::IsMember({"adaptive", "always"}));
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

void AddAllowHostFlag(CLI::App* verb, std::vector<std::string>& hosts) {
  verb->add_option(
          "--allow-host", hosts,
          "Without a token: a name, beside addresses and localhost, that clients may call this server "
          "by; repeatable")
      ->allow_extra_args(false);
}

}  // namespace

void AddServe(CLI::App& app, Action& action) {
  static ServeArgs args;
  CLI::App* verb = Verb(app, "serve", "Serve a model behind the OpenAI-compatible API");
  AddRuntimeFlags(verb, args.runtime);
  AddTransferFlags(verb, args.runtime);
  verb->add_option(
      "--kv-advertise", args.kv_advertise,
      "HOST[:PORT] at which decode nodes reach --kv-listen; default: its host, and where that is "
      "0.0.0.0 or [::], the host by which this node itself was reached");
  AddStoreFlags(verb, args.runtime.store);
  verb->add_option("--host", args.host, "Address to bind; others than loopback need a token or --insecure");
  verb->add_option("--port", args.port, "Port; 0: any free one")->check(CLI::Range(0, 65535));
  verb->add_option("--served-model-name", args.served_model_name,
                   "Name in the API; default: the folder's name");
  verb->add_option("--auth-token-file", args.auth_token_file,
                   "File with the token that clients must send and nodes must prove to each other");
  verb->add_flag("--insecure", args.insecure, "Allow a public address without a token");
  AddAllowHostFlag(verb, args.allowed_hosts);
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
  AddAllowHostFlag(verb, args.allowed_hosts);
  AddHttpsFlags(verb, args.tls_certificate, args.tls_key);
  verb->add_option("--node-ca", args.node_ca,
                   "Authorities (PEM) that vouch for https:// nodes; default: the system's");
  verb->add_option("--request-timeout-s", args.request_timeout_s, "Longest a request may take");
  verb->add_option("--drain-s", args.drain_s, "Time running requests get after SIGTERM");
  AddLogFlags(verb, args.log_level, args.log_json);
  verb->callback([&action] { action = [] { return CmdRoute(args); }; });
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

void AddDoctor(CLI::App& app, Action& action) {
  static DoctorArgs args;
  CLI::App* verb = Verb(app, "doctor", "Check this machine and say what to do");
  verb->add_option("--model", args.model, "Also load and check this model folder");
  verb->add_flag("--json", args.json, "JSON to standard output");
  verb->callback([&action] { action = [] { return CmdDoctor(args); }; });
}

}  // namespace kvplane::cli
