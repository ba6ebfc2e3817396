#include "kvplane/server/http_server.h"

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/ip/tcp.hpp>
#include <atomic>
#include <unordered_map>
#include <utility>

#include "kvplane/base/log.h"
#include "kvplane/server/http_connection.h"
#include "kvplane/server/io_loop.h"

namespace kvplane::server {
namespace {

using asio::ip::tcp;

// When accept fails for want of descriptors or memory, trying again at once would spin.
constexpr base::Duration kAcceptPause = std::chrono::milliseconds(100);

}  // namespace

class HttpServer::State final : public ConnectionOwner, public std::enable_shared_from_this<State> {
 public:
  State(std::shared_ptr<IoLoop> loop, const HttpServerOptions& options, HttpServerHooks hooks)
      : loop_(std::move(loop)),
        options_(options),
        hooks_(std::move(hooks)),
        acceptor_(loop_->context()),
        drain_timer_(loop_->context()) {}

  base::Status Listen();
  void StartAccepting();
  void BeginDrain(base::TimePoint deadline);
  void CloseAll();

  const std::shared_ptr<IoLoop>& loop() { return loop_; }
  uint16_t port() const { return port_; }
  size_t connections() const { return connection_count_.load(); }

  const HttpServerOptions& options() const override { return options_; }
  bool draining() const override { return draining_; }
  void Handle(const std::shared_ptr<Exchange>& exchange) override;
  HttpResponse MakeError(int status, const std::string& message) override {
    return hooks_.make_error(status, message);
  }
  std::optional<HttpResponse> RefuseBody(const HttpRequest& head) override {
    return hooks_.refuse_body ? hooks_.refuse_body(head) : std::nullopt;
  }
  void OnExchangeEnd() override { FinishDrainIfIdle(); }
  void OnClosed(HttpConnection* connection) override;

 private:
  asio::awaitable<void> Accept();
  void Admit(tcp::socket socket);
  void FinishDrainIfIdle();

  std::shared_ptr<IoLoop> loop_;
  const HttpServerOptions options_;
  HttpServerHooks hooks_;
  tcp::acceptor acceptor_;
  asio::steady_timer drain_timer_;
  uint16_t port_ = 0;
  bool draining_ = false;
  bool closed_ = false;
  base::TimePoint drain_deadline_ = base::kNoDeadline;
  std::unordered_map<HttpConnection*, std::shared_ptr<HttpConnection>> connections_;
  std::atomic<size_t> connection_count_{0};
};

base::Status HttpServer::State::Listen() {
  asio::error_code error;
  const auto address = asio::ip::make_address(options_.host, error);
  if (error) {
    return base::InvalidArgument("'{}' is not a numeric address to listen on", options_.host);
  }
  const tcp::endpoint endpoint(address, options_.port);
  acceptor_.open(endpoint.protocol(), error);
  if (!error) acceptor_.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor_.bind(endpoint, error);
  if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    return base::Unavailable("cannot listen on {}:{}: {}", options_.host, options_.port, error.message());
  }
  port_ = acceptor_.local_endpoint(error).port();
  return base::Status::Ok();
}

void HttpServer::State::StartAccepting() {
  asio::co_spawn(
      loop_->context(), [self = shared_from_this()]() -> asio::awaitable<void> { co_await self->Accept(); },
      asio::detached);
}

asio::awaitable<void> HttpServer::State::Accept() {
  while (!draining_ && !closed_) {
    auto [error, socket] = co_await acceptor_.async_accept(kAsTuple);
    if (!error) {
      Admit(std::move(socket));
      continue;
    }
    if (draining_ || closed_) co_return;
    base::Log(base::LogLevel::kWarn, "cannot accept a connection: {}", error.message());
    asio::steady_timer pause(loop_->context(), kAcceptPause);
    co_await pause.async_wait(kAsTuple);
  }
}

void HttpServer::State::Admit(tcp::socket socket) {
  asio::error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  std::unique_ptr<transport::TlsEngine> tls;
  if (options_.tls != nullptr) {
    auto engine = transport::TlsEngine::Create(options_.tls, transport::TlsEnd::kServer, "");
    if (!engine.ok() || connections_.size() >= options_.max_connections) return;  // cannot say why in clear
    tls = *std::move(engine);
  }
  if (connections_.size() >= options_.max_connections) {
    HttpResponse response = hooks_.make_error(503, "too many connections");
    response.headers.Set("Retry-After", "1");
    const std::string bytes = SerializeResponseHead(response, BodyFraming::kLength, false) + response.body;
    socket.non_blocking(true, ignored);
    socket.write_some(asio::buffer(bytes), ignored);
    return;
  }
  auto connection =
      std::make_shared<HttpConnection>(loop_, std::move(socket), std::move(tls), shared_from_this());
  connections_.emplace(connection.get(), connection);
  connection_count_.store(connections_.size());
  connection->Start();
}

void HttpServer::State::Handle(const std::shared_ptr<Exchange>& exchange) {
  try {
    hooks_.handler(exchange);
  } catch (const std::exception& error) {  // a library below threw: the request fails, the server lives
    base::Log(base::LogLevel::kError, "handler of {} failed: {}", exchange->request().path(), error.what());
    exchange->Respond(hooks_.make_error(500, "internal error"));
  }
}

void HttpServer::State::OnClosed(HttpConnection* connection) {
  connections_.erase(connection);
  connection_count_.store(connections_.size());
  FinishDrainIfIdle();
}

void HttpServer::State::BeginDrain(base::TimePoint deadline) {
  if (closed_) return;
  draining_ = true;
  asio::error_code ignored;
  acceptor_.close(ignored);
  if (deadline < drain_deadline_) {
    drain_deadline_ = deadline;
    drain_timer_.expires_at(deadline);
    drain_timer_.async_wait([self = shared_from_this()](asio::error_code error) {
      if (!error) self->CloseAll();
    });
  }
  FinishDrainIfIdle();
}

void HttpServer::State::FinishDrainIfIdle() {
  if (!draining_ || closed_) return;
  for (const auto& [pointer, connection] : connections_) {
    if (connection->busy()) return;
  }
  CloseAll();
}

void HttpServer::State::CloseAll() {
  if (closed_) return;
  closed_ = true;
  draining_ = true;
  asio::error_code ignored;
  acceptor_.close(ignored);
  drain_timer_.cancel();
  for (const auto& [pointer, connection] : connections_) connection->Close();
  if (hooks_.on_close) hooks_.on_close();
  loop_->Finish();
}

HttpServer::HttpServer(std::shared_ptr<State> state) : state_(std::move(state)) {}

base::Result<std::unique_ptr<HttpServer>> HttpServer::Create(std::shared_ptr<IoLoop> loop,
                                                             const HttpServerOptions& options,
                                                             HttpServerHooks hooks) {
  auto state = std::make_shared<State>(std::move(loop), options, std::move(hooks));
  KVPLANE_RETURN_IF_ERROR(state->Listen());
  state->StartAccepting();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(state)));
}

HttpServer::~HttpServer() {
  // Never run, or stopped before all coroutines ended: let them see closed sockets and end.
  state_->CloseAll();
  state_->loop()->Run();
  state_->loop()->Close();
}

uint16_t HttpServer::port() const { return state_->port(); }
size_t HttpServer::connections() const { return state_->connections(); }
void HttpServer::Run() { state_->loop()->Run(); }

void HttpServer::Drain(base::TimePoint deadline) {
  state_->loop()->Post([state = state_, deadline] { state->BeginDrain(deadline); });
}

void HttpServer::Stop() {
  state_->loop()->Post([state = state_] { state->CloseAll(); });
}

}  // namespace kvplane::server
