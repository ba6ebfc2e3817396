// HttpConnection: the coroutines of one accepted socket. Internal to http_server.cc.
//
// Serve() reads a request, hands it on, pumps the answer out while WatchPeer() notices a client that leaves,
// and starts again. With TLS a handshake comes first and a TlsEngine codes what the socket moves. A watchdog
// ends it when the deadline in force passes; every wait for the peer sets one.
//
// Thread safety: io thread only, ConnectionExchange::Post excepted.
#pragma once

#include <asio/ip/tcp.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/server/http_exchange.h"
#include "kvplane/server/http_parser.h"
#include "kvplane/server/http_server.h"
#include "kvplane/server/io_loop.h"
#include "kvplane/transport/tls_engine.h"

namespace kvplane::server {

class HttpConnection;

// The exchange of a live connection. It holds no Asio object, so that it may outlive the loop.
class ConnectionExchange final : public Exchange {
 public:
  ConnectionExchange(std::shared_ptr<IoLoop> loop, HttpConnection* connection, HttpRequest request)
      : loop_(std::move(loop)), connection_(connection), request_(std::move(request)) {}

  const HttpRequest& request() const override { return request_; }
  void Respond(HttpResponse response) override;
  void BeginStream(HttpResponse head) override;
  void Write(std::string_view bytes) override;
  void End() override;
  void Abort() override;
  bool gone() const override { return connection_ == nullptr; }
  void OnGone(std::function<void()> callback) override;
  size_t buffered_bytes() const override { return output_.size(); }
  void OnDrained(std::function<void()> callback) override;
  void Post(std::function<void()> task) override { loop_->Post(std::move(task)); }

  // For the connection.
  bool started() const { return phase_ != Phase::kOpen; }
  bool complete() const { return phase_ == Phase::kComplete; }
  bool aborted() const { return aborted_; }
  bool keep_alive() const { return keep_alive_; }
  std::string TakeOutput() { return std::exchange(output_, {}); }
  void NotifyDrained();
  // The connection ends; calls OnGone unless the answer was complete and `delivered`.
  void Detach(bool delivered);

 private:
  enum class Phase { kOpen, kStreaming, kComplete };
  bool head_only() const { return request_.method == "HEAD"; }
  void AppendBody(std::string_view bytes);

  std::shared_ptr<IoLoop> loop_;
  HttpConnection* connection_;
  HttpRequest request_;
  Phase phase_ = Phase::kOpen;
  BodyFraming framing_ = BodyFraming::kLength;
  bool keep_alive_ = false;
  bool aborted_ = false;
  std::string output_;
  std::function<void()> on_gone_;
  std::function<void()> on_drained_;
};

// What a connection needs of its server.
class ConnectionOwner {
 public:
  virtual ~ConnectionOwner() = default;
  virtual const HttpServerOptions& options() const = 0;
  virtual bool draining() const = 0;
  virtual void Handle(const std::shared_ptr<Exchange>& exchange) = 0;
  virtual HttpResponse MakeError(int status, const std::string& message) = 0;
  virtual std::optional<HttpResponse> RefuseBody(const HttpRequest& head) = 0;
  virtual void OnExchangeEnd() = 0;
  virtual void OnClosed(HttpConnection* connection) = 0;
};

class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  // `tls` is null on a plain connection.
  HttpConnection(std::shared_ptr<IoLoop> loop, asio::ip::tcp::socket socket,
                 std::unique_ptr<transport::TlsEngine> tls, std::shared_ptr<ConnectionOwner> owner);

  void Start();
  // Ends the connection soon, whatever it is doing.
  void Close();
  bool busy() const { return exchange_ != nullptr; }

  // For the exchange.
  bool may_keep_alive() const;
  void OnOutput();

 private:
  asio::awaitable<void> Run();
  asio::awaitable<void> Serve();
  asio::awaitable<void> Watchdog();
  asio::awaitable<bool> ShakeHands();
  // False when the connection should end; an error answer has then been sent where one is due.
  asio::awaitable<bool> ReadRequest();
  asio::awaitable<bool> ReadMore();
  // Takes coded bytes off the socket for the TLS engine.
  asio::awaitable<bool> FeedTls();
  // True when the answer is complete and another request may follow.
  asio::awaitable<bool> RunExchange();
  asio::awaitable<void> Pump();
  asio::awaitable<void> WatchPeer();
  asio::awaitable<bool> WriteAll(std::string_view bytes);
  asio::awaitable<bool> WriteCoded(std::string_view bytes);
  // What goes to the socket for `plain`; with TLS it lies in coded_. Nothing: the connection is broken.
  std::optional<std::string_view> Coded(std::string_view plain);
  void SayFarewell();
  // The answer to what has arrived of a request that will not be read to its end, if it is to be refused.
  std::optional<HttpResponse> Refusal();
  asio::awaitable<void> RefuseAndLinger(const HttpResponse& response);
  asio::awaitable<bool> Cancelled();

  void SetDeadline(base::TimePoint deadline);
  void SetTimeout(base::Duration timeout);

  std::shared_ptr<IoLoop> loop_;
  asio::ip::tcp::socket socket_;
  std::unique_ptr<transport::TlsEngine> tls_;
  std::vector<std::byte> tls_input_;  // coded, what the engine is working on
  std::vector<std::byte> coded_;      // coded, being written
  std::shared_ptr<ConnectionOwner> owner_;
  asio::steady_timer watchdog_;
  Event wake_;
  base::TimePoint deadline_ = base::kNoDeadline;
  HttpRequestParser parser_;
  std::string unread_;  // received, not yet parsed
  std::shared_ptr<ConnectionExchange> exchange_;
  bool closing_ = false;
  bool body_allowed_ = false;     // the owner has seen the head that the body belongs to
  bool reading_request_ = false;  // inside a request that has not arrived completely
  bool pump_failed_ = false;
  bool cut_off_ = false;  // an answer did not get out completely
};

}  // namespace kvplane::server
