// Flags that several verbs share.
#include <CLI/CLI.hpp>

#include "apps/cli/verbs/verb.h"

namespace kvplane::cli {

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
