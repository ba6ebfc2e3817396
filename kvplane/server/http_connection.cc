#include "kvplane/server/http_connection.h"

#include <algorithm>
#include <array>
#include <asio/buffer.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/this_coro.hpp>
#include <asio/write.hpp>
#include <span>
#include <utility>

#include "kvplane/base/log.h"
#include "kvplane/transport/stream.h"

namespace kvplane::server {
namespace {

// g++ 12 miscompiles co_await inside conditions and arguments that are temporaries of such a call. In this
// library the result of co_await is always bound to a name, and arguments of coroutines are named objects.
using asio::experimental::awaitable_operators::operator||;

constexpr size_t kReadBytes = 16 << 10;
// Pipelined bytes accepted while an answer is under way; beyond it the socket is left unread.
constexpr size_t kMaxPipelinedBytes = 64 << 10;
// One piece handed to the kernel; the write timeout is per piece, so it measures progress, not size.
constexpr size_t kWriteBytes = 64 << 10;
// Encoded at a time: bounds the copy that TLS makes of an answer.
constexpr size_t kEncodeBytes = 1 << 20;
// After a refusal the peer may still be sending. Closing at once would make the kernel reset the connection
// and destroy the answer before it is read, so input is dropped for a while.
constexpr base::Duration kLinger = std::chrono::seconds(1);
constexpr size_t kMaxLingerBytes = 4 << 20;

base::TimePoint Now() { return base::Clock::System().Now(); }

}  // namespace

void ConnectionExchange::Respond(HttpResponse response) {
  if (gone() || started()) return;
  phase_ = Phase::kComplete;
  keep_alive_ = connection_->may_keep_alive() && request_.keep_alive();
  output_ = SerializeResponseHead(response, BodyFraming::kLength, keep_alive_);
  if (!head_only()) output_ += response.body;
  connection_->OnOutput();
}

void ConnectionExchange::BeginStream(HttpResponse head) {
  if (gone() || started()) return;
  phase_ = Phase::kStreaming;
  framing_ = request_.minor_version >= 1 ? BodyFraming::kChunked : BodyFraming::kClose;
  keep_alive_ = connection_->may_keep_alive() && request_.keep_alive() && framing_ == BodyFraming::kChunked;
  output_ = SerializeResponseHead(head, framing_, keep_alive_);
  AppendBody(head.body);
  connection_->OnOutput();
}

void ConnectionExchange::AppendBody(std::string_view bytes) {
  if (head_only()) return;
  if (framing_ == BodyFraming::kChunked) {
    AppendChunk(output_, bytes);
  } else {
    output_.append(bytes);
  }
}

void ConnectionExchange::Write(std::string_view bytes) {
  if (gone() || phase_ != Phase::kStreaming) return;
  AppendBody(bytes);
  connection_->OnOutput();
}

void ConnectionExchange::End() {
  if (gone() || phase_ != Phase::kStreaming) return;
  phase_ = Phase::kComplete;
  if (framing_ == BodyFraming::kChunked && !head_only()) output_.append(kLastChunk);
  connection_->OnOutput();
}

void ConnectionExchange::Abort() {
  if (gone() || complete()) return;
  phase_ = Phase::kComplete;
  aborted_ = true;
  connection_->OnOutput();
}

// A callback kept after the end would keep its owner, and with it this exchange, for ever.
void ConnectionExchange::OnGone(std::function<void()> callback) {
  if (!gone()) {
    on_gone_ = std::move(callback);
  } else if (callback) {
    callback();
  }
}

void ConnectionExchange::OnDrained(std::function<void()> callback) {
  if (!gone()) on_drained_ = std::move(callback);
}

void ConnectionExchange::NotifyDrained() {
  if (on_drained_) on_drained_();
}

void ConnectionExchange::Detach(bool delivered) {
  connection_ = nullptr;
  on_drained_ = nullptr;
  const auto callback = std::exchange(on_gone_, nullptr);
  if (callback && !delivered) callback();
}

HttpConnection::HttpConnection(std::shared_ptr<IoLoop> loop, asio::ip::tcp::socket socket,
                               std::unique_ptr<transport::TlsEngine> tls,
                               std::shared_ptr<ConnectionOwner> owner)
    : loop_(std::move(loop)),
      socket_(std::move(socket)),
      tls_(std::move(tls)),
      owner_(std::move(owner)),
      watchdog_(loop_->context()),
      wake_(loop_->context()),
      parser_(owner_->options().limits) {}

void HttpConnection::Start() {
  asio::co_spawn(
      loop_->context(), [self = shared_from_this()]() -> asio::awaitable<void> { co_await self->Run(); },
      asio::detached);
}

void HttpConnection::Close() {
  closing_ = true;
  asio::error_code ignored;
  socket_.close(ignored);
  watchdog_.cancel();
  wake_.Notify();
}

bool HttpConnection::may_keep_alive() const { return !owner_->draining() && !closing_; }

void HttpConnection::OnOutput() {
  // Of a stream: a whole answer is in memory already, and cutting it off would leave its client without one.
  if (!exchange_->complete() && exchange_->buffered_bytes() > owner_->options().max_buffered_bytes)
    pump_failed_ = true;
  wake_.Notify();
}

asio::awaitable<void> HttpConnection::Run() {
  co_await (Serve() || Watchdog());
  // Still set here: the watchdog or Close() ended the exchange.
  if (const auto exchange = std::exchange(exchange_, nullptr)) {
    exchange->Detach(/*delivered=*/false);
    cut_off_ = true;
    owner_->OnExchangeEnd();
  }
  asio::error_code ignored;
  if (reading_request_ && !closing_) {  // timed out in the middle of a request: say so if the socket takes it
    const HttpResponse response = owner_->MakeError(408, "the request did not arrive in time");
    const std::string bytes =
        SerializeResponseHead(response, BodyFraming::kLength, /*keep_alive=*/false) + response.body;
    socket_.non_blocking(true, ignored);
    if (const auto coded = Coded(bytes)) socket_.write_some(asio::buffer(*coded), ignored);
  }
  SayFarewell();
  socket_.shutdown(asio::ip::tcp::socket::shutdown_both, ignored);
  socket_.close(ignored);
  owner_->OnClosed(this);
}

asio::awaitable<bool> HttpConnection::Cancelled() {
  const auto state = co_await asio::this_coro::cancellation_state;
  co_return closing_ || state.cancelled() != asio::cancellation_type::none;
}

asio::awaitable<void> HttpConnection::Serve() {
  co_await asio::this_coro::throw_if_cancelled(false);
  if (tls_ != nullptr) {
    const bool greeted = co_await ShakeHands();
    if (!greeted) co_return;
  }
  while (true) {
    const bool complete = co_await ReadRequest();
    if (!complete) co_return;
    const bool keep = co_await RunExchange();
    if (!keep) co_return;
  }
}

asio::awaitable<void> HttpConnection::Watchdog() {
  co_await asio::this_coro::throw_if_cancelled(false);
  while (deadline_ > Now()) {
    const bool cancelled = co_await Cancelled();
    if (cancelled) co_return;
    watchdog_.expires_at(deadline_);
    co_await watchdog_.async_wait(kAsTuple);
  }
}

void HttpConnection::SetDeadline(base::TimePoint deadline) {
  const bool earlier = deadline < deadline_;
  deadline_ = deadline;
  if (earlier) watchdog_.cancel();  // a later deadline is noticed when the timer fires
}

void HttpConnection::SetTimeout(base::Duration timeout) { SetDeadline(Now() + timeout); }

asio::awaitable<bool> HttpConnection::ShakeHands() {
  const base::TimePoint deadline = Now() + transport::kHandshakeTimeout;
  while (true) {
    const base::Result<bool> done = tls_->Handshake();
    std::vector<std::byte> output;  // also the alert that tells the client why not
    tls_->TakeOutput(output);
    SetDeadline(deadline);
    const std::string_view bytes(reinterpret_cast<const char*>(output.data()), output.size());
    const bool sent = co_await WriteCoded(bytes);
    if (!done.ok()) base::Log(base::LogLevel::kDebug, "HTTPS: {}", done.status().message());
    if (!sent || !done.ok() || *done) co_return sent&& done.ok();
    SetDeadline(deadline);
    const bool more = co_await FeedTls();
    if (!more) co_return false;
  }
}

asio::awaitable<bool> HttpConnection::FeedTls() {
  tls_input_.resize(kReadBytes);
  const auto [error, count] = co_await socket_.async_read_some(asio::buffer(tls_input_), kAsTuple);
  if (error) co_return false;
  tls_->Feed(std::span<const std::byte>(tls_input_).first(count));
  co_return true;
}

asio::awaitable<bool> HttpConnection::ReadMore() {
  std::array<char, kReadBytes> piece;
  while (tls_ != nullptr) {
    const auto got = tls_->Decode(std::as_writable_bytes(std::span(piece)));
    if (!got.ok()) co_return false;
    unread_.append(piece.data(), *got);
    if (*got > 0) co_return true;
    const bool more = co_await FeedTls();
    if (!more) co_return false;
  }
  const auto [error, count] = co_await socket_.async_read_some(asio::buffer(piece), kAsTuple);
  if (error) co_return false;
  unread_.append(piece.data(), count);
  co_return true;
}

std::optional<HttpResponse> HttpConnection::Refusal() {
  if (parser_.state() == HttpParserState::kError) {
    return owner_->MakeError(parser_.error_status(), parser_.error());
  }
  if (parser_.state() != HttpParserState::kBody || std::exchange(body_allowed_, true)) return std::nullopt;
  return owner_->RefuseBody(parser_.request());
}

asio::awaitable<bool> HttpConnection::ReadRequest() {
  SetTimeout(owner_->options().idle_timeout);
  body_allowed_ = false;
  bool invited = false;
  while (true) {
    unread_.erase(0, parser_.Feed(unread_));
    if (!parser_.idle() && !reading_request_) {
      reading_request_ = true;
      SetTimeout(owner_->options().read_timeout);
    }
    if (parser_.state() == HttpParserState::kDone) {
      reading_request_ = false;
      co_return true;
    }
    const std::optional<HttpResponse> refusal = Refusal();
    if (refusal) {
      reading_request_ = false;
      co_await RefuseAndLinger(*refusal);
      co_return false;
    }
    if (parser_.state() == HttpParserState::kBody && parser_.expects_continue() && !invited) {
      invited = true;
      const bool sent = co_await WriteAll("HTTP/1.1 100 Continue\r\n\r\n");
      if (!sent) co_return false;
      SetTimeout(owner_->options().read_timeout);
    }
    const bool more = co_await ReadMore();
    if (!more) {
      const bool cancelled = co_await Cancelled();
      if (!cancelled) reading_request_ = false;  // the client left: nobody to answer
      co_return false;
    }
  }
}

asio::awaitable<bool> HttpConnection::RunExchange() {
  SetDeadline(base::kNoDeadline);
  pump_failed_ = false;
  exchange_ = std::make_shared<ConnectionExchange>(loop_, this, parser_.Take());
  owner_->Handle(exchange_);
  co_await (Pump() || WatchPeer());
  const bool cancelled = co_await Cancelled();
  if (cancelled) co_return false;  // Run() detaches the exchange
  const auto exchange = std::exchange(exchange_, nullptr);
  const bool delivered =
      exchange->complete() && !exchange->aborted() && !pump_failed_ && exchange->buffered_bytes() == 0;
  exchange->Detach(delivered);
  cut_off_ = !delivered;
  owner_->OnExchangeEnd();
  co_return delivered && exchange->keep_alive();
}

asio::awaitable<void> HttpConnection::Pump() {
  co_await asio::this_coro::throw_if_cancelled(false);
  while (true) {
    const bool cancelled = co_await Cancelled();
    if (cancelled || pump_failed_ || exchange_->aborted()) co_return;
    if (exchange_->buffered_bytes() > 0) {
      const std::string output = exchange_->TakeOutput();
      const bool sent = co_await WriteAll(output);
      if (!sent) {
        pump_failed_ = true;
        co_return;
      }
      if (exchange_->buffered_bytes() == 0) exchange_->NotifyDrained();
    } else if (exchange_->complete()) {
      co_return;
    } else {
      SetDeadline(base::kNoDeadline);  // waiting for the handler, not for the peer
      co_await wake_.Wait();
    }
  }
}

asio::awaitable<void> HttpConnection::WatchPeer() {
  co_await asio::this_coro::throw_if_cancelled(false);
  bool open = true;
  while (true) {
    if (open && unread_.size() < kMaxPipelinedBytes) {
      open = co_await ReadMore();
    } else {
      co_await wake_.Wait();  // Pump() ends the exchange
    }
    const bool cancelled = co_await Cancelled();
    if (cancelled || (!open && !exchange_->complete())) co_return;  // the client left
  }
}

std::optional<std::string_view> HttpConnection::Coded(std::string_view plain) {
  if (tls_ == nullptr) return plain;
  if (!tls_->Encode(std::as_bytes(std::span(plain))).ok()) return std::nullopt;
  tls_->TakeOutput(coded_);
  return std::string_view(reinterpret_cast<const char*>(coded_.data()), coded_.size());
}

// Without it, a client of TLS takes the end for a cut; so it must not come after one.
void HttpConnection::SayFarewell() {
  if (tls_ == nullptr || closing_ || cut_off_) return;
  tls_->Close();
  tls_->TakeOutput(coded_);
  asio::error_code ignored;
  socket_.non_blocking(true, ignored);
  socket_.write_some(asio::buffer(coded_), ignored);
}

asio::awaitable<bool> HttpConnection::WriteAll(std::string_view bytes) {
  while (!bytes.empty()) {
    const std::string_view plain = bytes.substr(0, kEncodeBytes);
    const std::optional<std::string_view> coded = Coded(plain);
    if (!coded) co_return false;
    const bool sent = co_await WriteCoded(*coded);
    if (!sent) co_return false;
    bytes.remove_prefix(plain.size());
  }
  co_return true;
}

asio::awaitable<bool> HttpConnection::WriteCoded(std::string_view bytes) {
  size_t written = 0;
  while (written < bytes.size()) {
    SetTimeout(owner_->options().write_timeout);
    const size_t piece = std::min(kWriteBytes, bytes.size() - written);
    const auto [error, count] =
        co_await socket_.async_write_some(asio::buffer(bytes.data() + written, piece), kAsTuple);
    if (error) co_return false;
    written += count;
  }
  co_return true;
}

asio::awaitable<void> HttpConnection::RefuseAndLinger(const HttpResponse& response) {
  std::string bytes = SerializeResponseHead(response, BodyFraming::kLength, /*keep_alive=*/false);
  bytes += response.body;
  const bool sent = co_await WriteAll(bytes);
  if (!sent) co_return;
  asio::error_code ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  SetTimeout(kLinger);
  size_t dropped = 0;
  while (dropped < kMaxLingerBytes) {
    unread_.clear();
    const bool more = co_await ReadMore();
    if (!more) co_return;
    dropped += unread_.size();
  }
}

}  // namespace kvplane::server
