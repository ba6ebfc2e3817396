#include "kvplane/server/node_pool.h"

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <nlohmann/json.hpp>
#include <utility>

#include "kvplane/base/log.h"

namespace kvplane::server {
namespace {

base::TimePoint Now() { return base::Clock::System().Now(); }

std::string_view RoleName(NodeRole role) { return role == NodeRole::kPrefill ? "prefill" : "decode"; }

}  // namespace

NodePool::NodePool(IoLoop& loop, HttpClient& client, const RouterOptions& options, std::string node_token)
    : loop_(loop), client_(client), options_(options), token_(std::move(node_token)) {}

base::Status NodePool::AddNodes(const std::vector<std::string>& urls, NodeRole role) {
  for (const std::string& url : urls) {
    PoolNode node;
    KVPLANE_ASSIGN_OR_RETURN(node.endpoint, ParseHttpEndpoint(url));
    node.view.role = role;
    nodes_.push_back(std::move(node));
    pauses_.push_back(std::make_unique<Event>(loop_.context()));
  }
  return base::Status::Ok();
}

void NodePool::Start() {
  for (size_t i = 0; i < nodes_.size(); ++i) {
    asio::co_spawn(loop_.context(), CheckForEver(i), asio::detached);
  }
}

void NodePool::Close() {
  closed_ = true;
  client_.AbortAll();
  for (const auto& pause : pauses_) pause->Notify();
}

NodeChoice NodePool::Choose(ChoiceRequest& wanted, const RoutedRequest& request) {
  std::vector<NodeView> views;
  views.reserve(nodes_.size());
  for (const PoolNode& node : nodes_) views.push_back(node.view);
  wanted.prompt_bytes = request.prompt_bytes();
  wanted.cached_bytes.clear();
  if (options_.prefix_aware) {
    for (const size_t chunks : prefixes_.Match(request.prefix_chunks(), nodes_.size(), Now())) {
      wanted.cached_bytes.push_back(request.BytesOfChunks(chunks));
    }
  }
  return ChooseNodes(views, wanted);
}

void NodePool::NotePrefix(size_t i, const RoutedRequest& request) {
  if (options_.prefix_aware) prefixes_.Insert(request.prefix_chunks(), i, Now());
}

void NodePool::MarkDown(size_t i, const std::string& reason) {
  PoolNode& node = nodes_[i];
  if (!node.view.healthy) return;
  node.view.healthy = false;
  base::Log(base::LogLevel::kWarn, "{} node {} is down: {}", RoleName(node.view.role),
            node.endpoint.Authority(), reason);
}

asio::awaitable<void> NodePool::CheckForEver(size_t i) {
  while (!closed_) {
    const base::Status status = co_await CheckOnce(i);
    if (closed_) co_return;
    PoolNode& node = nodes_[i];
    if (status.ok()) {
      node.failed_checks = 0;
      if (!node.view.healthy) {
        base::Log(base::LogLevel::kInfo, "{} node {} is up", RoleName(node.view.role),
                  node.endpoint.Authority());
      }
      node.view.healthy = true;
    } else {
      // Nobody listens, or the node itself says it is leaving: certain at once. Silence may be load; when it
      // lasts, the node's open calls would wait for their full deadlines, so they end here.
      const bool silent = status.code() == base::StatusCode::kDeadlineExceeded;
      const bool lasting = ++node.failed_checks >= options_.health_failures;
      if (!silent || lasting) MarkDown(i, status.message());
      if (node.engine_id.empty() && node.failed_checks == options_.health_failures) {
        base::Log(base::LogLevel::kWarn, "{} node {} has not come up: {}", RoleName(node.view.role),
                  node.endpoint.Authority(), status.message());
      }
      if (silent && lasting) client_.AbortAll(node.endpoint);
    }
    co_await pauses_[i]->WaitUntil(Now() + options_.health_interval);
  }
}

asio::awaitable<base::Status> NodePool::CheckOnce(size_t i) {
  HttpRequest request;
  request.target = "/v1/kv/endpoint";
  if (!token_.empty()) request.headers.Set("Authorization", "Bearer " + token_);
  const std::shared_ptr<HttpCall> call = client_.NewCall(nodes_[i].endpoint);
  const base::TimePoint deadline = Now() + options_.health_timeout;
  base::Status started = co_await call->Start(request, deadline);
  if (!started.ok()) co_return started;
  base::Result<std::string> body = co_await call->ReadAll(deadline, kMaxNoteBytes);
  if (!body.ok()) co_return body.status();
  if (call->status() != 200) {
    co_return base::Unavailable("/v1/kv/endpoint of {} answers {}", nodes_[i].endpoint.Authority(),
                                call->status());
  }
  co_return Absorb(nodes_[i], *body);
}

base::Status NodePool::Absorb(PoolNode& node, const std::string& text) {
  const auto body = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  try {
    if (!body.at("ready").get<bool>()) return base::Unavailable("draining");
    const auto engine_id = body.at("engine_id").get<std::string>();
    // Another process: what its predecessor held in memory is gone.
    if (!node.engine_id.empty() && node.engine_id != engine_id) {
      prefixes_.Forget(static_cast<size_t>(&node - nodes_.data()));
    }
    node.engine_id = engine_id;
    node.model = body.at("model").get<std::string>();
    node.view.model_fingerprint = body.at("model_fingerprint").get<std::string>();
    node.view.serves_kv = body.at("kv_host").is_string();
    if (node.view.serves_kv) {
      node.kv_host = body.at("kv_host").get<std::string>();
      node.kv_port = body.at("kv_port").get<uint16_t>();
    }
  } catch (const nlohmann::json::exception& error) {
    return base::Corrupt("unexpected answer of /v1/kv/endpoint: {}", error.what());
  }
  return base::Status::Ok();
}

NodeLease::NodeLease(NodePool& pool, size_t node, uint64_t prefill_bytes)
    : pool_(pool), node_(node), prefill_bytes_(prefill_bytes) {
  NodeView& view = pool_.node(node_).view;
  ++view.outstanding_requests;
  view.outstanding_prompt_bytes += prefill_bytes_;
}

NodeLease::~NodeLease() {
  EndPrefill();
  --pool_.node(node_).view.outstanding_requests;
}

void NodeLease::EndPrefill() {
  pool_.node(node_).view.outstanding_prompt_bytes -= prefill_bytes_;
  prefill_bytes_ = 0;
}

}  // namespace kvplane::server
