#include "kvplane/server/router.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "kvplane/server/api_auth.h"
#include "kvplane/server/api_error.h"
#include "kvplane/server/api_routes.h"
#include "kvplane/server/http_client.h"
#include "kvplane/server/node_pool.h"
#include "kvplane/server/route_call.h"
#include "kvplane/server/router_metrics.h"

namespace kvplane::server {
namespace {

using json = nlohmann::ordered_json;

HttpClientOptions ClientOptions(const RouterOptions& options) {
  HttpClientOptions client;
  client.connect_timeout = options.connect_timeout;
  client.tls = options.node_tls;
  // Streams are passed on, not kept: bounded by time and by what the client takes, not by size.
  client.limits.max_body_bytes = uint64_t{1} << 32;
  return client;
}

HttpServerOptions ClientSide(HttpServerOptions options) {
  uint64_t& body = options.limits.max_body_bytes;
  body -= std::min(body, kSplitBodyBytes);
  return options;
}

std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

}  // namespace

class Router::State {
 public:
  State(const RouterOptions& options, ApiAuth auth, std::string node_token)
      : options_(options),
        loop_(std::make_shared<IoLoop>()),
        client_(loop_, ClientOptions(options)),
        pool_(*loop_, client_, options_, std::move(node_token)),
        context_{.loop = *loop_,
                 .client = client_,
                 .pool = pool_,
                 .metrics = metrics_,
                 .options = options_,
                 .pass_client_token = !auth.enabled()},
        routes_(std::move(auth), Routes()) {}

  base::Status Init() {
    if (options_.decode.empty()) return base::InvalidArgument("a router needs at least one decode node");
    KVPLANE_RETURN_IF_ERROR(pool_.AddNodes(options_.prefill, NodeRole::kPrefill));
    KVPLANE_RETURN_IF_ERROR(pool_.AddNodes(options_.decode, NodeRole::kDecode));
    HttpServerHooks hooks;
    hooks.handler = [this](const std::shared_ptr<Exchange>& exchange) {
      const Refusal refusal = routes_.Dispatch(exchange);
      if (refusal.status != 0) metrics_.CountHttp(refusal.route, refusal.status);
    };
    hooks.make_error = [this](int status, const std::string& message) {
      metrics_.CountHttp("other", status);
      return ErrorResponse(PlainError(status, message));
    };
    hooks.refuse_body = [this](const HttpRequest& head) {
      std::optional<HttpResponse> refusal = routes_.RefuseBody(head);
      if (refusal) metrics_.CountHttp("other", refusal->status);
      return refusal;
    };
    hooks.on_close = [this] { pool_.Close(); };
    KVPLANE_ASSIGN_OR_RETURN(http_, HttpServer::Create(loop_, ClientSide(options_.http), std::move(hooks)));
    pool_.Start();
    return base::Status::Ok();
  }

  void RequestDrain(base::TimePoint deadline) {
    loop_->Post([this] { draining_ = true; });
    http_->Drain(deadline);
  }

  HttpServer& http() { return *http_; }

 private:
  std::vector<Route> Routes();
  void Forward(const std::shared_ptr<Exchange>& exchange);
  void Ready(const std::shared_ptr<Exchange>& exchange);
  void Models(const std::shared_ptr<Exchange>& exchange);
  void Metrics(const std::shared_ptr<Exchange>& exchange);
  void Answer(const std::shared_ptr<Exchange>& exchange, HttpResponse response);

  const RouterOptions options_;
  const std::shared_ptr<IoLoop> loop_;
  HttpClient client_;
  NodePool pool_;
  RouterMetrics metrics_;
  RouterContext context_;
  bool draining_ = false;
  const RouteTable routes_;
  std::unique_ptr<HttpServer> http_;  // destroyed first: ends everything that uses the rest
};

std::vector<Route> Router::State::Routes() {
  using Ptr = std::shared_ptr<Exchange>;
  return {
      {"POST", "/v1/completions", false, [this](const Ptr& e) { Forward(e); }},
      {"POST", "/v1/chat/completions", false, [this](const Ptr& e) { Forward(e); }},
      {"GET", "/v1/models", false, [this](const Ptr& e) { Models(e); }},
      {"GET", "/metrics", false, [this](const Ptr& e) { Metrics(e); }},
      {"GET", "/health", true, [this](const Ptr& e) { Answer(e, JsonResponse(R"({"status":"ok"})")); }},
      {"GET", "/ready", true, [this](const Ptr& e) { Ready(e); }},
  };
}

void Router::State::Answer(const std::shared_ptr<Exchange>& exchange, HttpResponse response) {
  metrics_.CountHttp(exchange->request().path(), response.status);
  exchange->Respond(std::move(response));
}

void Router::State::Forward(const std::shared_ptr<Exchange>& exchange) {
  if (draining_) return Answer(exchange, ErrorResponse(Draining()));
  ApiResult<RoutedRequest> request = RoutedRequest::Parse(exchange->request().body);
  if (!request) return Answer(exchange, ErrorResponse(request.error()));
  RouteCall::Start(context_, exchange, *std::move(request));
}

void Router::State::Ready(const std::shared_ptr<Exchange>& exchange) {
  if (draining_) return Answer(exchange, ErrorResponse(Draining()));
  size_t prefill = 0, decode = 0;
  for (const PoolNode& node : pool_.nodes()) {
    if (node.view.healthy) ++(node.view.role == NodeRole::kPrefill ? prefill : decode);
  }
  if (decode == 0) return Answer(exchange, ErrorResponse(PlainError(503, "no decode node is up")));
  Answer(
      exchange,
      JsonResponse(Dump(
          {{"status", "ready"}, {"role", "router"}, {"prefill_nodes", prefill}, {"decode_nodes", decode}})));
}

void Router::State::Models(const std::shared_ptr<Exchange>& exchange) {
  std::set<std::string> names;
  for (const PoolNode& node : pool_.nodes()) {
    if (node.view.healthy && node.view.role == NodeRole::kDecode) names.insert(node.model);
  }
  json data = json::array();
  for (const std::string& name : names) {
    data.push_back({{"id", name}, {"object", "model"}, {"created", 0}, {"owned_by", "kvplane"}});
  }
  Answer(exchange, JsonResponse(Dump({{"object", "list"}, {"data", data}})));
}

void Router::State::Metrics(const std::shared_ptr<Exchange>& exchange) {
  std::vector<NodeSample> samples;
  for (const PoolNode& node : pool_.nodes()) {
    samples.push_back({node.endpoint.Authority(), node.view.role == NodeRole::kPrefill ? "prefill" : "decode",
                       node.view.healthy, node.view.outstanding_requests});
  }
  HttpResponse response;
  response.headers.Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
  response.body = metrics_.Render(samples, http_->connections());
  Answer(exchange, std::move(response));
}

Router::Router(std::unique_ptr<State> state) : state_(std::move(state)) {}
Router::~Router() = default;

base::Result<std::unique_ptr<Router>> Router::Create(const RouterOptions& options) {
  ApiAuth auth;
  if (!options.auth_token_file.empty()) {
    KVPLANE_ASSIGN_OR_RETURN(auth, ApiAuth::FromFile(options.auth_token_file));
  }
  std::string node_token;
  if (!options.node_token_file.empty()) {
    KVPLANE_ASSIGN_OR_RETURN(const ApiAuth nodes, ApiAuth::FromFile(options.node_token_file));
    node_token = nodes.token();
  }
  KVPLANE_RETURN_IF_ERROR(CheckBindPolicy(options.http.host, auth.enabled(), options.insecure));
  if (!auth.enabled()) auth.SetGuard(BrowserGuard(options.http.host, options.allowed_hosts));
  auto state = std::make_unique<State>(options, std::move(auth), std::move(node_token));
  KVPLANE_RETURN_IF_ERROR(state->Init());
  return std::unique_ptr<Router>(new Router(std::move(state)));
}

uint16_t Router::port() const { return state_->http().port(); }
void Router::Run() { state_->http().Run(); }
void Router::RequestDrain(base::TimePoint deadline) { state_->RequestDrain(deadline); }
void Router::Stop() { state_->http().Stop(); }

}  // namespace kvplane::server
