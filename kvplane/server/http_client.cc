#include "kvplane/server/http_client.h"

#include <array>
#include <asio/buffer.hpp>
#include <asio/connect.hpp>
#include <asio/write.hpp>
#include <map>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "kvplane/transport/stream.h"

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

  std::unique_ptr<HttpChannel> TakeIdle(const HttpEndpoint& endpoint) {
    std::vector<Idle>& idle = idle_[endpoint];
    while (!idle.empty()) {
      Idle last = std::move(idle.back());
      idle.pop_back();
      if (last.since + options_.idle_timeout > Now() && IsQuiet(last.channel->socket)) {
        return std::move(last.channel);
      }
    }
    return nullptr;
  }

  void PutIdle(const HttpEndpoint& endpoint, std::unique_ptr<HttpChannel> channel) {
    std::vector<Idle>& idle = idle_[endpoint];
    if (closed_ || idle.size() >= options_.max_idle_per_endpoint) return;
    idle.push_back({std::move(channel), Now()});
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
    std::unique_ptr<HttpChannel> channel;
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
  if (channel_) channel_->socket.close(ignored);
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
    if (self->channel_) self->channel_->socket.close(ignored);
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

asio::awaitable<base::Status> HttpCall::Start(const HttpRequest& request, base::TimePoint deadline,
                                              bool repeatable) {
  const std::string bytes = SerializeRequest(request, endpoint_.Authority());
  channel_ = client_->TakeIdle(endpoint_);
  if (channel_ != nullptr) {
    base::Status reused = co_await SendAndReadHead(bytes, deadline);
    // The other side may have closed it while it was idle, or may have acted upon the request.
    const bool may_repeat = repeatable || request.method == "GET";
    const bool again = may_repeat && !aborted_ && !timed_out_ && !answer_begun_;
    if (reused.ok() || !again) co_return reused;
  }
  base::Status connected = co_await Connect(deadline);
  if (!connected.ok()) co_return connected;
  base::Status answered = co_await SendAndReadHead(bytes, deadline);
  co_return answered;
}

asio::awaitable<base::Status> HttpCall::Connect(base::TimePoint deadline) {
  channel_ = std::make_unique<HttpChannel>(client_->context());
  tcp::socket& socket = channel_->socket;
  Arm(std::min(deadline, Now() + client_->options().connect_timeout));
  asio::error_code failed;
  const asio::ip::address address = asio::ip::make_address(endpoint_.host, failed);
  if (!failed) {
    const tcp::endpoint target(address, endpoint_.port);
    const auto [error] = co_await socket.async_connect(target, kAsTuple);
    failed = error;
  } else {
    const std::string port = std::to_string(endpoint_.port);
    const auto [unresolved, targets] = co_await resolver_.async_resolve(endpoint_.host, port, kAsTuple);
    failed = unresolved;
    if (!failed && !aborted_ && !timed_out_) {
      const auto [error, target] = co_await asio::async_connect(socket, targets, kAsTuple);
      failed = error;
    }
  }
  Disarm();
  if (failed || aborted_ || timed_out_) co_return Failure("connecting to", failed);
  asio::error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  if (!endpoint_.tls) co_return base::Status::Ok();
  base::Status greeted = co_await ShakeHands(deadline);
  co_return greeted;
}

asio::awaitable<base::Status> HttpCall::ShakeHands(base::TimePoint deadline) {
  if (client_->options().tls == nullptr) {
    co_return base::FailedPrecondition("{}: no TLS settings for https", endpoint_.Authority());
  }
  auto engine =
      transport::TlsEngine::Create(client_->options().tls, transport::TlsEnd::kClient, endpoint_.host);
  if (!engine.ok()) co_return engine.status();
  channel_->tls = *std::move(engine);
  Arm(std::min(deadline, Now() + transport::kHandshakeTimeout));
  asio::error_code failed;
  base::Status refused;
  while (!failed) {
    const base::Result<bool> done = channel_->tls->Handshake();
    std::vector<std::byte> output;
    channel_->tls->TakeOutput(output);
    const auto buffer = asio::buffer(output);
    const auto [unsent, count] = co_await asio::async_write(channel_->socket, buffer, kAsTuple);
    refused = done.status();
    failed = unsent;
    if (failed || !done.ok() || *done) break;
    channel_->tls_input.resize(kReadBytes);
    const auto input = asio::buffer(channel_->tls_input);
    const auto [unread, got] = co_await channel_->socket.async_read_some(input, kAsTuple);
    failed = unread;
    channel_->tls->Feed(std::span<const std::byte>(channel_->tls_input).first(got));
  }
  Disarm();
  if (!refused.ok()) co_return refused.Annotate(endpoint_.Authority());
  if (failed || aborted_ || timed_out_) co_return Failure("TLS handshake with", failed);
  co_return base::Status::Ok();
}

asio::awaitable<size_t> HttpCall::Receive(std::span<char> into, asio::error_code& error) {
  transport::TlsEngine* const tls = channel_->tls.get();
  while (true) {
    if (tls != nullptr) {
      const auto decoded = tls->Decode(std::as_writable_bytes(into));
      if (!decoded.ok()) error = asio::error::eof;
      if (!decoded.ok() || *decoded > 0) co_return decoded.ok() ? *decoded : 0;
      channel_->tls_input.resize(kReadBytes);
    }
    const auto buffer =
        tls == nullptr ? asio::mutable_buffer(into.data(), into.size()) : asio::buffer(channel_->tls_input);
    const auto [failed, count] = co_await channel_->socket.async_read_some(buffer, kAsTuple);
    error = failed;
    if (failed || tls == nullptr) co_return count;
    tls->Feed(std::span<const std::byte>(channel_->tls_input).first(count));
  }
}

asio::awaitable<base::Status> HttpCall::SendAndReadHead(const std::string& bytes, base::TimePoint deadline) {
  if (aborted_) co_return Failure("calling", {});
  std::vector<std::byte> coded;
  if (channel_->tls != nullptr) {
    const base::Status encoded = channel_->tls->Encode(std::as_bytes(std::span(bytes)));
    if (!encoded.ok()) co_return encoded.Annotate(endpoint_.Authority());
    channel_->tls->TakeOutput(coded);
  }
  Arm(deadline);
  const asio::const_buffer buffer =
      channel_->tls != nullptr ? asio::const_buffer(coded.data(), coded.size()) : asio::buffer(bytes);
  const auto [error, count] = co_await asio::async_write(channel_->socket, buffer, kAsTuple);
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
  const std::span<char> into(piece);
  asio::error_code error;
  Arm(deadline);
  const size_t count = co_await Receive(into, error);
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
  if (channel_ == nullptr || aborted_ || timed_out_ || !parser_.keep_alive()) return;
  client_->PutIdle(endpoint_, std::move(channel_));
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
