#include "apps/cli/pd_cluster.h"

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <utility>

#include "apps/cli/completion_client.h"
#include "kvplane/base/clock.h"

namespace kvplane::cli {
namespace {

constexpr base::Duration kStartTimeout = std::chrono::seconds(60);
constexpr base::Duration kStopTimeout = std::chrono::seconds(10);

}  // namespace

base::Result<PdCluster::Node> PdCluster::Launch(const ClusterOptions& options, const std::string& role,
                                                std::vector<std::string> flags) {
  KVPLANE_ASSIGN_OR_RETURN(const std::string self, OwnExecutable());
  std::vector<std::string> argv = {self};
  argv.insert(argv.end(), flags.begin(), flags.end());
  argv.insert(argv.end(), {"--host", "127.0.0.1", "--port", "0", "--log-level", options.log_level});
  KVPLANE_ASSIGN_OR_RETURN(
      ChildProcess process,
      ChildProcess::Start(std::move(argv), (options.log_folder / (role + ".log")).string()));
  return Node{role, std::move(process), "", ""};
}

base::Status PdCluster::AwaitReady(Node& node, base::TimePoint deadline) {
  const base::Result<std::string> line = node.process.ReadLine(deadline);
  if (!line.ok()) return line.status().Annotate(node.role);
  const auto json = nlohmann::json::parse(*line, nullptr, false);
  if (!json.is_object() || json.value("event", "") != "ready") {
    return base::Internal("{}: expected a ready line, got '{}'", node.role, *line);
  }
  node.http = json.value("http", "");
  node.compute = json.value("compute", "");
  return base::Status::Ok();
}

base::Status PdCluster::AwaitNodes(const Node& router, base::TimePoint deadline) {
  CompletionClient client(router.http);
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
  std::vector<std::string> serve = {"serve", "--model", options.model.string(), "--threads",
                                    std::to_string(options.threads)};
  for (const std::string& profile : options.profiles) serve.insert(serve.end(), {"--profile", profile});
  std::vector<std::string> prefill = serve;
  prefill.insert(prefill.end(), {"--role", "prefill", "--compute", options.compute});
  if (options.link_bits_per_s > 0) {
    prefill.insert(prefill.end(), {"--link-rate", fmt::format("{:.0f}bit/s", options.link_bits_per_s)});
  }
  PdCluster cluster;
  KVPLANE_ASSIGN_OR_RETURN(Node prefill_node, Launch(options, "prefill", prefill));
  KVPLANE_RETURN_IF_ERROR(AwaitReady(prefill_node, deadline));
  serve.insert(serve.end(), {"--compute", prefill_node.compute, "--role"});
  cluster.nodes_.push_back(std::move(prefill_node));
  for (const std::string role : {"decode", "unified"}) {
    if (role == "unified" && !options.with_unified) continue;
    std::vector<std::string> flags = serve;
    flags.push_back(role);
    KVPLANE_ASSIGN_OR_RETURN(Node node, Launch(options, role, flags));
    cluster.nodes_.push_back(std::move(node));
  }
  for (size_t i = 1; i < cluster.nodes_.size(); ++i) {
    KVPLANE_RETURN_IF_ERROR(AwaitReady(cluster.nodes_[i], deadline));
  }
  if (options.with_unified) cluster.unified_ = cluster.nodes_.back().http;

  KVPLANE_ASSIGN_OR_RETURN(Node router, Launch(options, "router",
                                               {"route", "--prefill", "http://" + cluster.nodes_[0].http,
                                                "--decode", "http://" + cluster.nodes_[1].http}));
  KVPLANE_RETURN_IF_ERROR(AwaitReady(router, deadline));
  KVPLANE_RETURN_IF_ERROR(AwaitNodes(router, deadline));
  cluster.router_ = router.http;
  cluster.nodes_.insert(cluster.nodes_.begin(), std::move(router));
  return cluster;
}

base::Status PdCluster::Stop() {
  base::Status first;
  for (Node& node : nodes_) {
    const int code = node.process.Stop(base::Clock::System().Now() + kStopTimeout);
    if (code != 0 && first.ok())
      first = base::Internal("the {} process ended with exit code {}", node.role, code);
  }
  nodes_.clear();
  return first;
}

}  // namespace kvplane::cli
