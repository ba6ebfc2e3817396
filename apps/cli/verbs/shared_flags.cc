// Flags that several verbs share.
#include <CLI/CLI.hpp>

#include "apps/cli/verbs/verb.h"

namespace kvplane::cli {
namespace {

// Far beyond any use, far below what sums and products of them would overflow at. Activations of a step take
// memory for all its tokens.
constexpr uint32_t kMaxThreads = 1024;
constexpr uint32_t kMaxBlockTokens = 4096;
constexpr uint32_t kMaxStepTokens = 65'536;
constexpr uint32_t kMaxRunning = 16'384;
constexpr uint32_t kMaxQueued = 1'000'000;

}  // namespace

CLI::App* Verb(CLI::App& app, const std::string& name, const std::string& what) {
  CLI::App* verb = app.add_subcommand(name, what);
  verb->option_defaults()->always_capture_default();
  return verb;
}

void AddRuntimeFlags(CLI::App* verb, RuntimeArgs& args) {
  verb->add_option("--model", args.model, "Model folder as Hugging Face lays it out");
  verb->add_option("--threads", args.threads, "Compute threads; 0: one per CPU")
      ->check(CLI::Range(0u, kMaxThreads));
  verb->add_option("--compute", args.compute, "GEMM type; auto: the faster one, measured at start")
      ->check(CLI::IsMember({"auto", "bf16", "f32"}));
  verb->add_option("--kv-size", args.kv_size, "Memory of the KV cache, e.g. 2GiB");
  verb->add_option("--block-tokens", args.block_tokens, "Tokens per cache block")
      ->check(CLI::Range(1u, kMaxBlockTokens));
  verb->add_option("--step-tokens", args.step_tokens,
                   "Token budget of one step; more prefills faster, less keeps the token pace even")
      ->check(CLI::Range(1u, kMaxStepTokens));
  verb->add_option("--max-running", args.max_running, "Requests in the running set")
      ->check(CLI::Range(1u, kMaxRunning));
  verb->add_option("--max-queued", args.max_queued, "Requests waiting; more are answered 429")
      ->check(CLI::Range(0u, kMaxQueued));
  verb->add_option("--max-context", args.max_context, "Longest prompt plus output; 0: the model's limit");
}

void AddKvSecurityFlags(CLI::App* verb, transport::SecurityFiles& files) {
  verb->add_flag("--kv-tls", files.tls,
                 "TLS 1.3 between nodes, with keys made from the token file or with certificates");
  verb->add_option("--kv-cert", files.certificate, "Certificate (PEM) this node shows to other nodes");
  verb->add_option("--kv-key", files.key, "Its key (PEM)");
  verb->add_option("--kv-ca", files.ca,
                   "Authorities (PEM) that certificates of other nodes must be signed by");
}

void AddLogFlags(CLI::App* verb, std::string& level, bool& json) {
  verb->add_option("--log-level", level, "trace, debug, info, warn, error or off")->envname("KVPLANE_LOG");
  verb->add_flag("--log-json", json, "One JSON object per log line");
}

}  // namespace kvplane::cli
