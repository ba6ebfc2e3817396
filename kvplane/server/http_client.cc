#include "kvplane/server/http_client.h"

#include <array>
#include <asio/buffer.hpp>
#include <asio/connect.hpp>
#include <asio/write.hpp>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace kvplane::server {

using asio::ip::tcp;

namespace {

constexpr size_t kReadBytes = 16 << 10;

base::TimePoint Now() { return base::Clock::System().Now(); }

// A pooled connection on which something waits to be read is closed or out of step.
bool IsQuiet(tcp::socket& socket) {
  asio::error_code error;
  socket.non_blocking(true, error);
  char byte = 0;
  socket.receive(asio::buffer(&byte, 1), asio::socket_base::message_peek, error);
  return error == asio::error::would_block || error == asio::error::try_again;
}

}  // namespace

class HttpClientState {
 public:
  HttpClientState(asio::io_context& context, const HttpClientOptions& options)
      : context_(context), options_(options) {}

  asio::io_context& context() { return context_; }
  const HttpClientOptions& options() const { return options_; }

  void Add(HttpCall* call) { calls_.insert(call); }
  void Remove(HttpCall* call) { calls_.erase(call); }

  std::optional<tcp::socket> TakeIdle(const HttpEndpoint& endpoint) {
    std::vector<Idle>& idle = idle_[endpoint];
    while (!idle.empty()) {
      Idle last = std::move(idle.back());
      idle.pop_back();
      if (last.since + options_.idle_timeout > Now() && IsQuiet(last.socket)) return std::move(last.socket);
    }
    return std::nullopt;
  }

  void PutIdle(const HttpEndpoint& endpoint, tcp::socket socket) {
    std::vector<Idle>& idle = idle_[endpoint];
    if (closed_ || idle.size() >= options_.max_idle_per_endpoint) return;
    idle.push_back({std::move(socket), Now()});
  }

  // nullptr: all endpoints.
  void AbortAll(const HttpEndpoint* endpoint) {
    if (endpoint == nullptr) {
      closed_ = true;
      idle_.clear();
    } else {
      idle_.erase(*endpoint);
    }
    for (HttpCall* call : calls_) {
      if (endpoint == nullptr || call->endpoint() == *endpoint) call->Abort();
    }
  }

 private:
  struct Idle {
    tcp::socket socket;
    base::TimePoint since;
  };

  asio::io_context& context_;
  const HttpClientOptions options_;
  std::map<HttpEndpoint, std::vector<Idle>> idle_;
  std::set<HttpCall*> calls_;
  bool closed_ = false;
};

HttpCall::HttpCall(std::shared_ptr<HttpClientState> client, HttpEndpoint endpoint)
    : client_(std::move(client)),
      endpoint_(std::move(endpoint)),
      resolver_(client_->context()),
      timer_(client_->context()),
      parser_(client_->options().limits) {
  client_->Add(this);
}

HttpCall::~HttpCall() { client_->Remove(this); }

void HttpCall::Abort() {
  aborted_ = true;
  resolver_.cancel();
  asio::error_code ignored;
  if (socket_) socket_->close(ignored);
}

void HttpCall::Arm(base::TimePoint deadline) {
  const uint64_t round = ++timer_round_;
  timer_.expires_at(deadline);
  timer_.async_wait([weak = weak_from_this(), round](const asio::error_code& error) {
    const auto self = weak.lock();
    if (error || self == nullptr || self->timer_round_ != round) return;
    self->timed_out_ = true;
    self->resolver_.cancel();
    asio::error_code ignored;
    if (self->socket_) self->socket_->close(ignored);
  });
}

void HttpCall::Disarm() {
  ++timer_round_;
  timer_.cancel();
}

base::Status HttpCall::Failure(std::string_view what, const asio::error_code& error) const {
  if (aborted_) return base::Cancelled("call to {} aborted", endpoint_.Authority());
  if (timed_out_) return base::DeadlineExceeded("{} {}: no answer in time", what, endpoint_.Authority());
  return base::Unavailable("{} {}: {}", what, endpoint_.Authority(), error.message());
}

asio::awaitable<base::Status> HttpCall::Start(const HttpRequest& request, base::TimePoint deadline) {
  const std::string bytes = SerializeRequest(request, endpoint_.Authority());
  socket_ = client_->TakeIdle(endpoint_);
  if (socket_) {
    base::Status reused = co_await SendAndReadHead(bytes, deadline);
    // What is not idempotent may have been acted upon.
    const bool again = request.method == "GET" && !aborted_ && !timed_out_ && !answer_begun_;
    if (reused.ok() || !again) co_return reused;
  }
  base::Status connected = co_await Connect(deadline);
  if (!connected.ok()) co_return connected;
  base::Status answered = co_await SendAndReadHead(bytes, deadline);
  co_return answered;
}

asio::awaitable<base::Status> HttpCall::Connect(base::TimePoint deadline) {
  socket_.emplace(client_->context());
  Arm(std::min(deadline, Now() + client_->options().connect_timeout));
  asio::error_code failed;
  const asio::ip::address address = asio::ip::make_address(endpoint_.host, failed);
  if (!failed) {
    const tcp::endpoint target(address, endpoint_.port);
    const auto [error] = co_await socket_->async_connect(target, kAsTuple);
    failed = error;
  } else {
    const std::string port = std::to_string(endpoint_.port);
    const auto [unresolved, targets] = co_await resolver_.async_resolve(endpoint_.host, port, kAsTuple);
    failed = unresolved;
    if (!failed && !aborted_ && !timed_out_) {
      const auto [error, target] = co_await asio::async_connect(*socket_, targets, kAsTuple);
      failed = error;
    }
  }
  Disarm();
  if (failed || aborted_ || timed_out_) co_return Failure("connecting to", failed);
  asio::error_code ignored;
  socket_->set_option(tcp::no_delay(true), ignored);
  co_return base::Status::Ok();
}

asio::awaitable<base::Status> HttpCall::SendAndReadHead(const std::string& bytes, base::TimePoint deadline) {
  if (aborted_) co_return Failure("calling", {});
  Arm(deadline);
  const auto buffer = asio::buffer(bytes);
  const auto [error, count] = co_await asio::async_write(*socket_, buffer, kAsTuple);
  Disarm();
  if (error) co_return Failure("sending to", error);
  while (!parser_.head_complete()) {
    base::Status more = co_await ReadMore(deadline);
    if (!more.ok()) co_return more;
  }
  co_return base::Status::Ok();
}

asio::awaitable<base::Status> HttpCall::ReadMore(base::TimePoint deadline) {
  if (aborted_ || timed_out_) co_return Failure("reading from", {});
  std::array<char, kReadBytes> piece;
  const auto buffer = asio::buffer(piece);
  Arm(deadline);
  const auto [error, count] = co_await socket_->async_read_some(buffer, kAsTuple);
  Disarm();
  if (error == asio::error::eof && answer_begun_) {
    parser_.FeedEof();
    if (parser_.state() == HttpParserState::kDone) co_return base::Status::Ok();
  }
  if (error) co_return Failure("reading from", error);
  answer_begun_ = true;
  const size_t used = parser_.Feed(std::string_view(piece.data(), count));
  if (parser_.state() == HttpParserState::kError || used != count) {
    aborted_ = true;  // out of step: never to be reused
    co_return base::Corrupt("{} does not speak HTTP: {}", endpoint_.Authority(), parser_.error());
  }
  co_return base::Status::Ok();
}

asio::awaitable<base::Result<std::string>> HttpCall::ReadSome(base::TimePoint deadline) {
  while (true) {
    std::string body = parser_.TakeBody();
    if (!body.empty()) co_return body;
    if (parser_.state() == HttpParserState::kDone) {
      ReturnConnection();
      co_return std::string();
    }
    base::Status more = co_await ReadMore(deadline);
    if (!more.ok()) co_return more;
  }
}

asio::awaitable<base::Result<std::string>> HttpCall::ReadAll(base::TimePoint deadline) {
  std::string whole;
  while (true) {
    base::Result<std::string> piece = co_await ReadSome(deadline);
    if (!piece.ok()) co_return piece.status();
    if (piece->empty()) co_return whole;
    whole += *piece;
  }
}

void HttpCall::ReturnConnection() {
  if (!socket_ || aborted_ || timed_out_ || !parser_.keep_alive()) return;
  client_->PutIdle(endpoint_, std::move(*socket_));
  socket_.reset();
}

HttpClient::HttpClient(asio::io_context& context, const HttpClientOptions& options)
    : state_(std::make_shared<HttpClientState>(context, options)) {}
HttpClient::~HttpClient() = default;

std::shared_ptr<HttpCall> HttpClient::NewCall(const HttpEndpoint& endpoint) {
  return std::make_shared<HttpCall>(state_, endpoint);
}

void HttpClient::AbortAll(const HttpEndpoint& endpoint) { state_->AbortAll(&endpoint); }
void HttpClient::AbortAll() { state_->AbortAll(nullptr); }

}  // namespace kvplane::server
