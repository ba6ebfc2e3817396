#include "apps/cli/reuse_bench/reuse_nodes.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "apps/cli/completion_client.h"
#include "kvplane/base/clock.h"

namespace kvplane::cli {
namespace {

constexpr base::Duration kStartTimeout = std::chrono::seconds(60);

// Draining pushes what is still to be coded; the store takes it over an unpaced link.
constexpr base::Duration kDrainTimeout = std::chrono::seconds(60);

base::TimePoint After(base::Duration wait) { return base::Clock::System().Now() + wait; }

// A tenant for every object that differs: modes that read the same objects share them.
std::string TenantOf(const ReuseMode& mode) { return mode.strategy.empty() ? "none" : mode.strategy; }

}  // namespace

base::Result<NodeProcess> StartReuseNode(const ReuseSetting& setting, const ReuseMode& mode,
                                         const std::string& role) {
  std::vector<std::string> flags = {
      "serve", "--model",   setting.model.string(),          "--host",    "127.0.0.1",     "--port",
      "0",     "--threads", std::to_string(setting.threads), "--compute", setting.compute, "--log-level",
      "warn"};
  for (const std::string& profile : setting.profiles) flags.insert(flags.end(), {"--profile", profile});
  if (mode.store.empty()) {
    flags.insert(flags.end(), {"--store", "none"});
  } else {
    flags.insert(flags.end(),
                 {"--store", mode.store, "--store-dram", "0", "--store-strategy", mode.strategy,
                  "--store-tenant", TenantOf(mode), "--store-load", mode.load, "--store-run-tokens",
                  std::to_string(setting.run_tokens), "--store-timeout-ms", "5000"});
  }
  KVPLANE_ASSIGN_OR_RETURN(NodeProcess node, NodeProcess::Launch(role, flags, setting.folder));
  KVPLANE_RETURN_IF_ERROR(node.AwaitReady(After(kStartTimeout)));
  return node;
}

base::Status FillStore(const ReuseSetting& setting, const ReuseMode& mode, const std::vector<Prompt>& prompts,
                       base::Duration request_timeout) {
  KVPLANE_ASSIGN_OR_RETURN(NodeProcess writer, StartReuseNode(setting, mode, "writer-" + TenantOf(mode)));
  CompletionClient client(writer.http());
  for (const Prompt& prompt : prompts) {
    CompletionCall call;
    call.prompt = prompt.text;
    call.max_tokens = 1;
    KVPLANE_RETURN_IF_ERROR(
        client.Complete(call, After(request_timeout)).status().Annotate("filling the store"));
  }
  return writer.Stop(After(kDrainTimeout));
}

base::Result<NodeProcess> StartPacedStore(const ReuseSetting& setting, double link_bits_per_s) {
  std::vector<std::string> flags = {"store",       "--listen", "tcp://127.0.0.1:0", "--dram", "2GiB",
                                    "--log-level", "warn"};
  if (link_bits_per_s > 0) {
    flags.insert(flags.end(), {"--link-rate", fmt::format("{:.0f}bit/s", link_bits_per_s)});
  }
  KVPLANE_ASSIGN_OR_RETURN(NodeProcess store, NodeProcess::Launch("store", flags, setting.folder));
  KVPLANE_RETURN_IF_ERROR(store.AwaitReady(After(kStartTimeout)));
  return store;
}

}  // namespace kvplane::cli
