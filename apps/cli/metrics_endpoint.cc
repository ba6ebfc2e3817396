#include "apps/cli/metrics_endpoint.h"

#include <charconv>
#include <utility>

#include "kvplane/server/api_error.h"
#include "kvplane/server/io_loop.h"
#include "kvplane/transport/endpoint.h"

namespace kvplane::cli {
namespace {

constexpr size_t kMaxConnections = 16;  // whoever scrapes, and a few people

}  // namespace

base::Result<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Create(const std::string& address,
                                                                       server::ApiAuth auth, bool insecure,
                                                                       std::function<std::string()> render) {
  base::Result<transport::TcpEndpoint> where = transport::ParseTcpEndpoint("tcp://" + address);
  if (!where.ok()) return base::InvalidArgument("'{}' is not HOST:PORT", address);
  KVPLANE_RETURN_IF_ERROR(server::CheckBindPolicy(where->host, auth.enabled(), insecure));
  std::unique_ptr<MetricsEndpoint> endpoint(new MetricsEndpoint(std::move(auth), std::move(render)));
  endpoint->host_ = where->host;
  server::HttpServerOptions options;
  options.host = where->host;
  options.port = where->port;
  options.max_connections = kMaxConnections;
  options.limits.max_body_bytes = 0;  // nothing here has a use for one
  server::HttpServerHooks hooks;
  hooks.handler = [self = endpoint.get()](const std::shared_ptr<server::Exchange>& exchange) {
    exchange->Respond(self->Answer(exchange->request()));
  };
  hooks.make_error = [](int status, const std::string& message) {
    return server::ErrorResponse(server::PlainError(status, message));
  };
  KVPLANE_ASSIGN_OR_RETURN(endpoint->http_, server::HttpServer::Create(std::make_shared<server::IoLoop>(),
                                                                       options, std::move(hooks)));
  endpoint->thread_ = std::thread([self = endpoint.get()] { self->http_->Run(); });
  return endpoint;
}

MetricsEndpoint::~MetricsEndpoint() {
  if (!thread_.joinable()) return;
  http_->Stop();
  thread_.join();
}

std::string MetricsEndpoint::address() const { return transport::FormatHostPort(host_, http_->port()); }

server::HttpResponse MetricsEndpoint::Answer(const server::HttpRequest& request) const {
  const bool metrics = request.path() == "/metrics";
  if (!metrics && request.path() != "/health") {
    return server::ErrorResponse(server::PlainError(404, "there is /metrics and /health"));
  }
  if (request.method != "GET") return server::ErrorResponse(server::PlainError(405, "GET is meant"));
  if (!metrics) return server::JsonResponse(R"({"status":"ok"})");
  if (!auth_.Allows(request)) return server::ErrorResponse(server::PlainError(401, "the token is missing"));
  server::HttpResponse response;
  response.headers.Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
  response.body = render_();
  return response;
}

}  // namespace kvplane::cli
