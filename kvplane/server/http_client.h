// HttpClient: the router's calls to nodes: pooled keep-alive connections, streamed answers, deadlines.
// Internal (shows Asio).
//
// A pooled connection is used only while nothing waits to be read on it; a GET that still finds it closed
// before any byte of an answer tries once more on a fresh one. Cancellation is Abort(): the socket closes and
// the pending operation ends with kCancelled.
//
// Thread safety: the io thread. Errors: kUnavailable (refused, reset, cut short), kDeadlineExceeded,
// kCancelled (Abort), kCorrupt (not HTTP), kPermissionDenied (the TLS handshake).
#pragma once

#include <asio/awaitable.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/steady_timer.hpp>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/server/http_endpoint.h"
#include "kvplane/server/http_parser.h"
#include "kvplane/server/io_loop.h"
#include "kvplane/transport/socket_address.h"
#include "kvplane/transport/tls_engine.h"

namespace kvplane::server {

// Bytes that are kept of an answer: of what a node says about itself or about a transfer, and of a whole
// generation.
inline constexpr size_t kMaxNoteBytes = size_t{1} << 20;
inline constexpr size_t kMaxAnswerBytes = size_t{64} << 20;

struct HttpClientOptions {
  base::Duration connect_timeout = std::chrono::seconds(2);
  base::Duration idle_timeout =
      std::chrono::seconds(30);  // pooled connections older than this are not reused
  size_t max_idle_per_endpoint = 64;
  HttpLimits limits;  // of one answer
  // What certificates of https endpoints are checked with; null: such endpoints cannot be called.
  std::shared_ptr<const transport::TlsContext> tls;
  transport::NameLookup lookup;  // how node names become addresses; empty: as the system does it
};

class HttpClientState;
struct PendingLookup;

// A connection, used by one call at a time.
struct HttpChannel {
  explicit HttpChannel(asio::io_context& context) : socket(context) {}
  asio::ip::tcp::socket socket;
  std::unique_ptr<transport::TlsEngine> tls;  // null: plain
  std::vector<std::byte> tls_input;           // coded, what the engine is working on
};

class HttpCall : public std::enable_shared_from_this<HttpCall> {
 public:
  HttpCall(std::shared_ptr<HttpClientState> client, HttpEndpoint endpoint);
  ~HttpCall();
  HttpCall(const HttpCall&) = delete;
  HttpCall& operator=(const HttpCall&) = delete;

  // Sends the request and reads the head of the answer. Both must outlive the call. Once per object.
  // A pooled connection that turns out dead before a byte of the answer is replaced by a new one, once, when
  // the request may be sent twice: a GET, or `repeatable`. An answer that comes instead of the other side's
  // taking the whole request counts, too.
  asio::awaitable<base::Status> Start(const HttpRequest& request, base::TimePoint deadline,
                                      bool repeatable = false);
  // Whether the other side accepted a new connection of this call and bytes of the request over it. What
  // fails after that is the request's own affair; what fails before says that nobody is there.
  bool took_bytes() const { return took_bytes_; }
  int status() const { return parser_.status(); }
  const HttpHeaders& headers() const { return parser_.response_headers(); }
  // The next bytes of the body; empty at its end.
  asio::awaitable<base::Result<std::string>> ReadSome(base::TimePoint deadline);
  // The rest of the body. kResourceExhausted when that is more than `max_bytes`; the connection then closes.
  asio::awaitable<base::Result<std::string>> ReadAll(base::TimePoint deadline, size_t max_bytes);

  void Abort();
  const HttpEndpoint& endpoint() const { return endpoint_; }

 private:
  asio::awaitable<base::Status> Connect(base::TimePoint deadline);
  // The addresses of the endpoint. The system's resolver knows neither deadline nor cancellation, so it runs
  // on a thread that is left alone when either comes.
  asio::awaitable<base::Result<std::vector<asio::ip::tcp::endpoint>>> LookUp(base::TimePoint deadline);
  asio::awaitable<base::Status> ShakeHands(base::TimePoint deadline);
  asio::awaitable<base::Status> SendAndReadHead(const std::string& bytes, base::TimePoint deadline);
  asio::awaitable<base::Status> ReadMore(base::TimePoint deadline);
  // Bytes off the socket, decoded; `error` is set where there are none.
  asio::awaitable<size_t> Receive(std::span<char> into, asio::error_code& error);
  void Arm(base::TimePoint deadline);
  void Disarm();
  base::Status Failure(std::string_view what, const asio::error_code& error) const;
  void ReturnConnection();

  const std::shared_ptr<HttpClientState> client_;
  const HttpEndpoint endpoint_;
  std::unique_ptr<HttpChannel> channel_;
  std::shared_ptr<PendingLookup> lookup_;
  asio::steady_timer timer_;
  uint64_t timer_round_ = 0;  // a timer that fired for an earlier operation must not hit a later one
  HttpResponseParser parser_;
  bool timed_out_ = false;
  bool aborted_ = false;
  bool answer_begun_ = false;
  bool fresh_ = false;       // channel_ was connected by this call
  bool took_bytes_ = false;  // of the request, over a fresh connection
  bool unsent_ = false;      // the rest of the request: the connection is of no further use
};

class HttpClient {
 public:
  HttpClient(const std::shared_ptr<IoLoop>& loop, const HttpClientOptions& options);
  ~HttpClient();

  std::shared_ptr<HttpCall> NewCall(const HttpEndpoint& endpoint);
  // Ends every call to that endpoint and forgets its pooled connections.
  void AbortAll(const HttpEndpoint& endpoint);
  void AbortAll();

 private:
  const std::shared_ptr<HttpClientState> state_;
};

}  // namespace kvplane::server
