#include "apps/cli/pd_cluster.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "apps/cli/completion_client.h"
#include "kvplane/base/clock.h"

namespace kvplane::cli {
namespace {

constexpr base::Duration kStartTimeout = std::chrono::seconds(60);
constexpr base::Duration kStopTimeout = std::chrono::seconds(10);

// What makes a node protect its KV connections; with a token its API asks for it, too.
std::vector<std::string> SecurityFlags(const transport::SecurityFiles& files) {
  std::vector<std::string> flags;
  if (files.tls) flags.push_back("--kv-tls");
  const auto add = [&flags](const char* name, const std::string& path) {
    if (!path.empty()) flags.insert(flags.end(), {name, path});
  };
  add("--auth-token-file", files.auth_token_file);
  add("--kv-cert", files.certificate);
  add("--kv-key", files.key);
  add("--kv-ca", files.ca);
  return flags;
}

}  // namespace

base::Status PdCluster::AwaitNodes(const NodeProcess& router, base::TimePoint deadline) {
  CompletionClient client(router.http());
  while (true) {
    const base::Result<int> status = client.GetStatus("/ready", deadline);
    if (status.ok() && *status == 200) return base::Status::Ok();
    base::Clock& clock = base::Clock::System();
    if (clock.Now() >= deadline) return base::DeadlineExceeded("the router found no healthy nodes");
    clock.SleepUntil(clock.Now() + std::chrono::milliseconds(20));
  }
}

base::Result<PdCluster> PdCluster::Start(const ClusterOptions& options) {
  const base::TimePoint deadline = base::Clock::System().Now() + kStartTimeout;
  const auto launch = [&](const std::string& role, std::vector<std::string> flags) {
    flags.insert(flags.end(), {"--host", "127.0.0.1", "--port", "0", "--log-level", options.log_level});
    return NodeProcess::Launch(role, flags, options.log_folder);
  };
  // Every mode computes every prompt: what is compared is the transfer.
  std::vector<std::string> serve = {"serve", "--model",   options.model.string(),         "--store",
                                    "none",  "--threads", std::to_string(options.threads)};
  for (const std::string& profile : options.profiles) serve.insert(serve.end(), {"--profile", profile});
  const std::vector<std::string> secure = SecurityFlags(options.kv_security);
  std::vector<std::string> prefill = serve;
  prefill.insert(prefill.end(), secure.begin(), secure.end());
  prefill.insert(prefill.end(), {"--role", "prefill", "--compute", options.compute});
  if (options.link_bits_per_s > 0) {
    prefill.insert(prefill.end(), {"--link-rate", fmt::format("{:.0f}bit/s", options.link_bits_per_s)});
  }
  PdCluster cluster;
  KVPLANE_ASSIGN_OR_RETURN(NodeProcess prefill_node, launch("prefill", prefill));
  KVPLANE_RETURN_IF_ERROR(prefill_node.AwaitReady(deadline));
  serve.insert(serve.end(), {"--compute", prefill_node.field("compute"), "--role"});
  cluster.nodes_.push_back(std::move(prefill_node));
  for (const std::string role : {"decode", "unified"}) {
    if (role == "unified" && !options.with_unified) continue;
    std::vector<std::string> flags = serve;
    flags.push_back(role);
    if (role == "decode") flags.insert(flags.end(), secure.begin(), secure.end());
    KVPLANE_ASSIGN_OR_RETURN(NodeProcess node, launch(role, flags));
    cluster.nodes_.push_back(std::move(node));
  }
  for (size_t i = 1; i < cluster.nodes_.size(); ++i) {
    KVPLANE_RETURN_IF_ERROR(cluster.nodes_[i].AwaitReady(deadline));
  }
  if (options.with_unified) cluster.unified_ = cluster.nodes_.back().http();

  std::vector<std::string> route = {"route", "--prefill", "http://" + cluster.nodes_[0].http(), "--decode",
                                    "http://" + cluster.nodes_[1].http()};
  if (const std::string& tokens = options.kv_security.auth_token_file; !tokens.empty()) {
    route.insert(route.end(), {"--node-token-file", tokens});
  }
  KVPLANE_ASSIGN_OR_RETURN(NodeProcess router, launch("router", route));
  KVPLANE_RETURN_IF_ERROR(router.AwaitReady(deadline));
  KVPLANE_RETURN_IF_ERROR(AwaitNodes(router, deadline));
  cluster.router_ = router.http();
  cluster.nodes_.insert(cluster.nodes_.begin(), std::move(router));
  return cluster;
}

PdCluster PdCluster::Attach(std::string router, std::string unified) {
  PdCluster cluster;
  cluster.router_ = std::move(router);
  cluster.unified_ = std::move(unified);
  return cluster;
}

base::Status PdCluster::Stop() {
  base::Status first;
  for (NodeProcess& node : nodes_) {
    const base::Status status = node.Stop(base::Clock::System().Now() + kStopTimeout);
    if (first.ok()) first = status;
  }
  nodes_.clear();
  return first;
}

}  // namespace kvplane::cli
