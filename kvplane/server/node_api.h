// NodeApi: the routes of one node over its engine.
//
// Thread safety: the io thread.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>

#include "kvplane/server/api_auth.h"
#include "kvplane/server/api_request.h"
#include "kvplane/server/api_routes.h"
#include "kvplane/server/http_exchange.h"
#include "kvplane/server/node_context.h"

namespace kvplane::server {

class NodeApi {
 public:
  // `connections` counts the server's connections, for /metrics.
  NodeApi(NodeContext& node, ApiAuth auth, std::function<size_t()> connections);

  void Handle(const std::shared_ptr<Exchange>& exchange);
  std::optional<HttpResponse> RefuseBody(const HttpRequest& head);
  // Refuse new generations from now on; /ready says so.
  void BeginDrain() { draining_ = true; }

 private:
  std::vector<Route> Routes();
  void Complete(ApiKind kind, const std::shared_ptr<Exchange>& exchange);
  void Ready(const std::shared_ptr<Exchange>& exchange);
  void Models(const std::shared_ptr<Exchange>& exchange);
  void KvEndpoint(const std::shared_ptr<Exchange>& exchange);
  void WithdrawKv(const std::shared_ptr<Exchange>& exchange);
  void Metrics(const std::shared_ptr<Exchange>& exchange);
  void Tokenize(const std::shared_ptr<Exchange>& exchange);
  void Detokenize(const std::shared_ptr<Exchange>& exchange);
  void Answer(const std::shared_ptr<Exchange>& exchange, HttpResponse response);

  NodeContext& node_;
  const std::function<size_t()> connections_;
  const double started_unix_s_;
  bool draining_ = false;
  const RouteTable routes_;
};

}  // namespace kvplane::server
