// NodePool: the nodes behind a router, their health and what the router has open on each. Internal (shows
// Asio).
//
// Thread safety: the io thread.
#pragma once

#include <asio/awaitable.hpp>
#include <memory>
#include <string>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/server/http_client.h"
#include "kvplane/server/http_endpoint.h"
#include "kvplane/server/io_loop.h"
#include "kvplane/server/node_choice.h"
#include "kvplane/server/prefix_index.h"
#include "kvplane/server/routed_request.h"
#include "kvplane/server/router.h"

namespace kvplane::server {

struct PoolNode {
  HttpEndpoint endpoint;
  NodeView view;
  std::string engine_id;
  std::string model;
  std::string kv_host;  // empty: the endpoint's
  uint16_t kv_port = 0;
  uint32_t failed_checks = 0;
};

class NodePool {
 public:
  NodePool(IoLoop& loop, HttpClient& client, const RouterOptions& options, std::string node_token);

  base::Status AddNodes(const std::vector<std::string>& urls, NodeRole role);
  // Starts the checks; they end after Close.
  void Start();
  void Close();

  // Fills in what is known of the nodes' prefixes, and chooses.
  NodeChoice Choose(ChoiceRequest& wanted, const RoutedRequest& request);
  // The node prefills the prompt now, and will hold it.
  void NotePrefix(size_t i, const RoutedRequest& request);
  const std::vector<PoolNode>& nodes() const { return nodes_; }
  PoolNode& node(size_t i) { return nodes_[i]; }
  // No new requests until a check succeeds. Open calls go on: a node that drains finishes them, those of a
  // dead one fail by themselves.
  void MarkDown(size_t i, const std::string& reason);
  const std::string& token() const { return token_; }

 private:
  asio::awaitable<void> CheckForEver(size_t i);
  asio::awaitable<base::Status> CheckOnce(size_t i);
  base::Status Absorb(PoolNode& node, const std::string& json);

  IoLoop& loop_;
  HttpClient& client_;
  const RouterOptions& options_;
  const std::string token_;
  std::vector<PoolNode> nodes_;
  std::vector<std::unique_ptr<Event>> pauses_;  // [nodes]
  PrefixIndex prefixes_;
  bool closed_ = false;
};

// Counts a request against a node while it lives, and `prefill_bytes` of prompt until EndPrefill().
class NodeLease {
 public:
  NodeLease(NodePool& pool, size_t node, uint64_t prefill_bytes);
  ~NodeLease();
  void EndPrefill();
  NodeLease(const NodeLease&) = delete;
  NodeLease& operator=(const NodeLease&) = delete;

 private:
  NodePool& pool_;
  const size_t node_;
  uint64_t prefill_bytes_;
};

}  // namespace kvplane::server
