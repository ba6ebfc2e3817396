#include "kvplane/server/http_client.h"

#include <array>
#include <asio/buffer.hpp>
#include <asio/connect.hpp>
#include <asio/write.hpp>
#include <cstring>
#include <map>
#include <optional>
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

// Owned by the call that waits: it goes with the call, whenever the answer comes.
struct PendingLookup {
  explicit PendingLookup(asio::io_context& context) : changed(context) {}
  Event changed;
  std::optional<base::Result<std::vector<transport::SocketAddress>>> found;
};

class HttpClientState {
 public:
  HttpClientState(const std::shared_ptr<IoLoop>& loop, const HttpClientOptions& options)
      : loop_(loop), context_(loop->context()), options_(options) {}

  const std::weak_ptr<IoLoop>& loop() const { return loop_; }
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

  const std::weak_ptr<IoLoop> loop_;  // what runs there holds this
  asio::io_context& context_;
  const HttpClientOptions options_;
  std::map<HttpEndpoint, std::vector<Idle>> idle_;
  std::set<HttpCall*> calls_;
  bool closed_ = false;
};

HttpCall::HttpCall(std::shared_ptr<HttpClientState> client, HttpEndpoint endpoint)
    : client_(std::move(client)),
      endpoint_(std::move(endpoint)),
      timer_(client_->context()),
      parser_(client_->options().limits) {
  client_->Add(this);
}

HttpCall::~HttpCall() { client_->Remove(this); }

void HttpCall::Abort() {
  aborted_ = true;
  if (lookup_ != nullptr) lookup_->changed.Notify();
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
  fresh_ = true;
  base::Status answered = co_await SendAndReadHead(bytes, deadline);
  co_return answered;
}

asio::awaitable<base::Result<std::vector<tcp::endpoint>>> HttpCall::LookUp(base::TimePoint deadline) {
  asio::error_code no_literal;
  const asio::ip::address literal = asio::ip::make_address(endpoint_.host, no_literal);
  if (!no_literal) co_return std::vector<tcp::endpoint>{{literal, endpoint_.port}};
  lookup_ = std::make_shared<PendingLookup>(client_->context());
  const transport::OnResolved on_resolved = [loop = client_->loop(),
                                             pending = std::weak_ptr(lookup_)](auto found) {
    const auto alive = loop.lock();
    if (alive == nullptr) return;
    alive->Post([pending, found = std::move(found)]() mutable {
      const auto waiting = pending.lock();
      if (waiting == nullptr) return;
      waiting->found.emplace(std::move(found));
      waiting->changed.Notify();
    });
  };
  const base::Status started =
      transport::StartLookup({endpoint_.host, endpoint_.port}, transport::ResolveFor::kConnect,
                             client_->options().lookup, on_resolved);
  if (!started.ok()) co_return started;
  while (!lookup_->found.has_value() && !aborted_ && Now() < deadline) {
    co_await lookup_->changed.WaitUntil(deadline);
  }
  const std::shared_ptr<PendingLookup> ended = std::exchange(lookup_, nullptr);
  if (!ended->found.has_value()) {
    timed_out_ = !aborted_;
    co_return Failure("looking up", {});
  }
  const auto& found = *ended->found;
  if (!found.ok()) co_return found.status();
  std::vector<tcp::endpoint> targets;
  for (const transport::SocketAddress& address : *found) {
    tcp::endpoint& target = targets.emplace_back();
    target.resize(address.size);
    std::memcpy(target.data(), address.get(), address.size);
  }
  co_return targets;
}

asio::awaitable<base::Status> HttpCall::Connect(base::TimePoint deadline) {
  channel_ = std::make_unique<HttpChannel>(client_->context());
  tcp::socket& socket = channel_->socket;
  const base::TimePoint limit = std::min(deadline, Now() + client_->options().connect_timeout);
  const base::Result<std::vector<tcp::endpoint>> targets = co_await LookUp(limit);
  if (!targets.ok()) co_return targets.status();
  if (aborted_) co_return Failure("connecting to", {});
  Arm(limit);
  const auto [failed, target] = co_await asio::async_connect(socket, *targets, kAsTuple);
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
  const base::Status sent = error ? Failure("sending to", error) : base::Status::Ok();
  if (fresh_ && count > 0) took_bytes_ = true;
  // A server that refuses a request before it has read it all answers and closes: the answer lies here.
  unsent_ = !sent.ok();
  if (aborted_ || timed_out_) co_return sent;
  while (!parser_.head_complete()) {
    base::Status more = co_await ReadMore(deadline);
    if (!more.ok()) co_return unsent_ ? sent : more;
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

asio::awaitable<base::Result<std::string>> HttpCall::ReadAll(base::TimePoint deadline, size_t max_bytes) {
  std::string whole;
  while (true) {
    base::Result<std::string> piece = co_await ReadSome(deadline);
    if (!piece.ok()) co_return piece.status();
    if (piece->empty()) co_return whole;
    if (piece->size() > max_bytes - whole.size()) {
      Abort();
      co_return base::ResourceExhausted("{} answers with more than {} bytes", endpoint_.Authority(),
                                        max_bytes);
    }
    whole += *piece;
  }
}

void HttpCall::ReturnConnection() {
  if (channel_ == nullptr || aborted_ || timed_out_ || unsent_ || !parser_.keep_alive()) return;
  client_->PutIdle(endpoint_, std::move(channel_));
}

HttpClient::HttpClient(const std::shared_ptr<IoLoop>& loop, const HttpClientOptions& options)
    : state_(std::make_shared<HttpClientState>(loop, options)) {}
HttpClient::~HttpClient() = default;

std::shared_ptr<HttpCall> HttpClient::NewCall(const HttpEndpoint& endpoint) {
  return std::make_shared<HttpCall>(state_, endpoint);
}

void HttpClient::AbortAll(const HttpEndpoint& endpoint) { state_->AbortAll(&endpoint); }
void HttpClient::AbortAll() { state_->AbortAll(nullptr); }

}  // namespace kvplane::server
