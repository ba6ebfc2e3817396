// PdCluster: prefill node, decode node, router and a unified node as child processes on loopback.
//
// Real processes, real sockets; the link from prefill to decode is paced by the `shaped` transport in the
// prefill process. Everything ends with this object, or with this process (child_process.h).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "apps/cli/node_process.h"
#include "kvplane/base/status.h"
#include "kvplane/transport/transport_security.h"

namespace kvplane::cli {

struct ClusterOptions {
  std::filesystem::path model;
  double link_bits_per_s = 2e8;          // 0: not shaped
  size_t threads = 1;                    // compute threads of each node
  std::string compute = "auto";          // GEMM type of the prefill node; the others take what it chose
  std::vector<std::string> profiles;     // files, loaded by every node
  transport::SecurityFiles kv_security;  // of the prefill and the decode node; the router gets the token file
  bool with_unified = true;              // also start one process that does both, for comparison
  std::filesystem::path log_folder;      // standard error of each process goes to <role>.log there
  std::string log_level = "warn";
};

class PdCluster {
 public:
  // Starts the prefill node, then the others with the GEMM type it chose (each measuring for itself on a busy
  // machine could choose differently, and outputs would differ by rounding), and waits until each says it is
  // ready, at most 60 s in all.
  static base::Result<PdCluster> Start(const ClusterOptions& options);

  // Nodes that run already, elsewhere; the link between them is whatever it is. Stop() leaves them alone.
  static PdCluster Attach(std::string router, std::string unified);

  // "127.0.0.1:PORT"
  const std::string& router() const { return router_; }
  const std::string& unified() const { return unified_; }  // empty without one

  // Ends all processes in order (router first) and tells which did not end cleanly.
  base::Status Stop();

 private:
  // The router is up before it has met its nodes.
  static base::Status AwaitNodes(const NodeProcess& router, base::TimePoint deadline);

  std::vector<NodeProcess> nodes_;
  std::string router_;
  std::string unified_;
};

}  // namespace kvplane::cli
