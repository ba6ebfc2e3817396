// HttpServer: accepts connections, reads requests, hands them to a Handler, writes the answers.
//
// One io thread (the one that calls Run) serves all connections with coroutines. It owes its handlers and
// peers: keep-alive and pipelining in order; limits on connections, heads, bodies, unsent bytes; a deadline
// on every wait for a peer; notice when a client leaves (Exchange::OnGone); a drain that lets answers finish.
//
// A client that closes its sending side before the answer is complete counts as gone: a generation costs too
// much to run for a caller that may not be there.
//
// Thread safety: Create, Run and the destructor must not overlap; Drain and Stop from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/server/http_exchange.h"
#include "kvplane/server/http_parser.h"
#include "kvplane/transport/tls_context.h"

namespace kvplane::server {

class IoLoop;

struct HttpServerOptions {
  // Numeric address to bind. Any but a loopback one needs authentication (api_auth.h).
  std::string host = "127.0.0.1";
  uint16_t port = 0;  // 0: the system chooses; see HttpServer::port()

  std::shared_ptr<const transport::TlsContext> tls;  // of a server: HTTPS, TLS 1.3 only; null: plain HTTP

  size_t max_connections = 1024;        // one more is told 503 and closed
  HttpLimits limits;                    // of one request
  size_t max_buffered_bytes = 8 << 20;  // unsent bytes of a stream; beyond, its connection is closed

  base::Duration idle_timeout = std::chrono::seconds(60);   // between requests of a kept connection
  base::Duration read_timeout = std::chrono::seconds(30);   // from a request's first byte to its last
  base::Duration write_timeout = std::chrono::seconds(30);  // without the client taking a byte
};

// What a server calls, all on the io thread.
struct HttpServerHooks {
  Handler handler;
  // Makes the answer to what never reaches the handler: codec errors, too many connections.
  std::function<HttpResponse(int status, const std::string& message)> make_error;
  // Asked when a head is complete and a body is to follow: an answer refuses the request before its body is
  // read, and closes the connection. May be empty.
  std::function<std::optional<HttpResponse>(const HttpRequest& head)> refuse_body;
  // The server closes: everything else on the loop must end, or Run will not return. May be empty.
  std::function<void()> on_close;
};

class HttpServer {
 public:
  // Binds and listens at once: clients may connect before Run. kUnavailable when the address is taken.
  static base::Result<std::unique_ptr<HttpServer>> Create(std::shared_ptr<IoLoop> loop,
                                                          const HttpServerOptions& options,
                                                          HttpServerHooks hooks);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  uint16_t port() const;
  size_t connections() const;  // any thread

  // Serves on the calling thread until Stop, or until a Drain is complete.
  void Run();
  // Stops accepting. Requests in progress may finish until `deadline`; then their connections are closed.
  // Kept connections stay readable until then, so that a late request gets the handler's refusal. An earlier
  // deadline than a previous one takes effect, a later one does not.
  void Drain(base::TimePoint deadline);
  // Closes everything now.
  void Stop();

 private:
  class State;
  explicit HttpServer(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

}  // namespace kvplane::server
