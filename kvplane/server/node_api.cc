#include "kvplane/server/node_api.h"

#include <fmt/core.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <utility>

#include "kvplane/server/api_error.h"
#include "kvplane/server/completion_call.h"
#include "kvplane/server/prompt_tokens.h"

namespace kvplane::server {
namespace {

using json = nlohmann::ordered_json;

std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

std::string_view NameOf(transfer::Withdrawal found) {
  switch (found) {
    case transfer::Withdrawal::kWithdrawn:
      return "withdrawn";
    case transfer::Withdrawal::kAborted:
      return "aborted";
    case transfer::Withdrawal::kEnded:
      return "ended";
    case transfer::Withdrawal::kUnknown:
      return "unknown";
  }
  return "unknown";
}

}  // namespace

NodeApi::NodeApi(NodeContext& node, ApiAuth auth, std::function<size_t()> connections)
    : node_(node),
      connections_(std::move(connections)),
      started_unix_s_(base::Clock::System().UnixSeconds()),
      routes_(std::move(auth), Routes()) {}

std::vector<Route> NodeApi::Routes() {
  using Ptr = std::shared_ptr<Exchange>;
  return {
      {"POST", "/v1/completions", false, [this](const Ptr& e) { Complete(ApiKind::kCompletion, e); }},
      {"POST", "/v1/chat/completions", false, [this](const Ptr& e) { Complete(ApiKind::kChat, e); }},
      {"GET", "/v1/models", false, [this](const Ptr& e) { Models(e); }},
      {"GET", "/v1/kv/endpoint", false, [this](const Ptr& e) { KvEndpoint(e); }},
      {"POST", "/v1/kv/withdraw", false, [this](const Ptr& e) { WithdrawKv(e); }},
      {"GET", "/metrics", false, [this](const Ptr& e) { Metrics(e); }},
      {"POST", "/tokenize", false, [this](const Ptr& e) { Tokenize(e); }},
      {"POST", "/detokenize", false, [this](const Ptr& e) { Detokenize(e); }},
      {"GET", "/health", true, [this](const Ptr& e) { Answer(e, JsonResponse(R"({"status":"ok"})")); }},
      {"GET", "/ready", true, [this](const Ptr& e) { Ready(e); }},
  };
}

void NodeApi::Handle(const std::shared_ptr<Exchange>& exchange) {
  const Refusal refusal = routes_.Dispatch(exchange);
  if (refusal.status != 0) node_.metrics.CountHttp(refusal.route, refusal.status);
}

std::optional<HttpResponse> NodeApi::RefuseBody(const HttpRequest& head) {
  std::optional<HttpResponse> refusal = routes_.RefuseBody(head);
  if (refusal) node_.metrics.CountHttp("other", refusal->status);
  return refusal;
}

void NodeApi::Answer(const std::shared_ptr<Exchange>& exchange, HttpResponse response) {
  node_.metrics.CountHttp(exchange->request().path(), response.status);
  exchange->Respond(std::move(response));
}

void NodeApi::Complete(ApiKind kind, const std::shared_ptr<Exchange>& exchange) {
  if (draining_) return Answer(exchange, ErrorResponse(Draining()));
  ApiResult<ApiRequest> request = ParseApiRequest(kind, exchange->request().body);
  if (!request) return Answer(exchange, ErrorResponse(request.error()));
  if (!request->model.empty() && request->model != node_.model_name) {
    ApiError error = PlainError(404, fmt::format("the model '{}' does not exist; this node serves '{}'",
                                                 request->model, node_.model_name));
    error.code = "model_not_found";
    error.param = "model";
    return Answer(exchange, ErrorResponse(error));
  }
  CompletionCall::Start(node_, exchange, *std::move(request));
}

void NodeApi::Ready(const std::shared_ptr<Exchange>& exchange) {
  if (draining_) return Answer(exchange, ErrorResponse(Draining()));
  Answer(exchange, JsonResponse(Dump({{"status", "ready"}, {"role", node_.info.role}})));
}

void NodeApi::Models(const std::shared_ptr<Exchange>& exchange) {
  const json model = {{"id", node_.model_name},
                      {"object", "model"},
                      {"created", static_cast<int64_t>(started_unix_s_)},
                      {"owned_by", "kvplane"},
                      {"max_model_len", node_.engine.options().max_context}};
  Answer(exchange, JsonResponse(Dump({{"object", "list"}, {"data", json::array({model})}})));
}

void NodeApi::KvEndpoint(const std::shared_ptr<Exchange>& exchange) {
  const engine::EngineStats stats = node_.engine.stats();
  json body = {{"ready", !draining_},
               {"role", node_.info.role},
               {"engine_id", node_.info.engine_id},
               {"model", node_.model_name},
               {"model_fingerprint", node_.info.model_fingerprint},
               {"max_context", node_.engine.options().max_context},
               {"default_strategy", node_.info.default_strategy},
               {"profiles", node_.info.profiles},
               {"kv_transport", node_.info.kv_transport},
               {"kv_host", nullptr},
               {"kv_port", nullptr},
               {"queued", stats.queued},
               {"running", stats.running}};
  if (node_.info.kv_port != 0) {
    body["kv_host"] = node_.info.kv_host;
    body["kv_port"] = node_.info.kv_port;
  }
  Answer(exchange, JsonResponse(Dump(body)));
}

// Also while draining: what is withdrawn need not be waited for.
void NodeApi::WithdrawKv(const std::shared_ptr<Exchange>& exchange) {
  const ApiResult<std::string> id = ParseWithdrawRequest(exchange->request().body);
  if (!id) return Answer(exchange, ErrorResponse(id.error()));
  const base::Result<transfer::Withdrawal> found = node_.engine.WithdrawOffer(*id);
  if (!found.ok()) return Answer(exchange, ErrorResponse(BadField("transfer_id", found.status().message())));
  Answer(exchange, JsonResponse(Dump({{"transfer_id", *id}, {"result", NameOf(*found)}})));
}

void NodeApi::Metrics(const std::shared_ptr<Exchange>& exchange) {
  HttpResponse response;
  response.headers.Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
  response.body = node_.metrics.Render(node_.engine.stats(), connections_());
  if (node_.more_metrics) response.body += node_.more_metrics();
  Answer(exchange, std::move(response));
}

void NodeApi::Tokenize(const std::shared_ptr<Exchange>& exchange) {
  ApiResult<TokenizeRequest> request = ParseTokenizeRequest(exchange->request().body);
  if (!request) return Answer(exchange, ErrorResponse(request.error()));
  struct Job {
    TokenizeRequest request;
    std::atomic<bool> gone{false};
    ApiResult<std::vector<int32_t>> ids;
  };
  const auto job = std::make_shared<Job>();
  job->request = *std::move(request);
  exchange->OnGone([job] { job->gone = true; });
  const auto encode = [this, job] {
    if (!job->gone) job->ids = EncodeForCounting(node_, job->request);
  };
  const auto answer = [this, job, exchange] {
    if (job->gone) return;
    if (!job->ids) return Answer(exchange, ErrorResponse(job->ids.error()));
    Answer(exchange, JsonResponse(Dump({{"tokens", *job->ids},
                                        {"count", job->ids->size()},
                                        {"max_model_len", node_.engine.options().max_context}})));
  };
  if (!node_.texts.Run(exchange, job->request.text.size(), encode, answer)) {
    Answer(exchange, ErrorResponse(TextsWaiting()));
  }
}

void NodeApi::Detokenize(const std::shared_ptr<Exchange>& exchange) {
  const auto ids = ParseDetokenizeRequest(exchange->request().body);
  if (!ids) return Answer(exchange, ErrorResponse(ids.error()));
  const ApiResult<std::string> text = DecodeIds(node_, *ids);
  if (!text) return Answer(exchange, ErrorResponse(text.error()));
  Answer(exchange, JsonResponse(Dump({{"prompt", *text}})));
}

}  // namespace kvplane::server
