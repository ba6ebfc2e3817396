// Router: one OpenAI-compatible address in front of prefill and decode nodes (`kvplane route`).
//
// A request for one completion starts on a prefill node and on a decode node at the same time, under one
// transfer id that nobody can guess: the prompt's KV streams from one to the other while later layers are
// still computed, and the decode node's answer is passed through unchanged. Requests that cannot be split
// (several prompts, n > 1), or that come while no prefill node is well, run on a decode node alone.
//
// Failures: a prefill node that refuses or dies makes the decode node start over without it; a decode node
// that dies before the first byte of its answer is replaced (bounded retries); one that dies in the middle of
// a stream ends it with an error event. Nodes are checked every second; a node that stops answering has all
// its calls ended, so nothing waits for ever.
//
// Thread safety: as Server. docs/api.md is the reference.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/server/http_server.h"

namespace kvplane::server {

// What a request may grow by on its way to a node: the transfer's parameters, with a host name.
constexpr uint64_t kSplitBodyBytes = 4 << 10;

struct RouterOptions {
  // Address, port, limits and timeouts of client connections. Of limits.max_body_bytes, which is what nodes
  // take, clients get kSplitBodyBytes less.
  HttpServerOptions http;

  std::vector<std::string> prefill;  // "http://HOST:PORT" or "https://HOST:PORT"; may be empty
  std::vector<std::string> decode;   // at least one

  // File with one bearer token per line that clients must send; empty: none needed, loopback only.
  std::string auth_token_file;
  // File with the bearer token that the nodes want; empty: none is sent, and without client authentication
  // here the client's own token is passed on.
  std::string node_token_file;
  // What the certificates of https nodes are checked with; null: only http nodes.
  std::shared_ptr<const transport::TlsContext> node_tls;
  // Allow another address than loopback without a token.
  bool insecure = false;
  // Without a token: names, beside addresses and localhost, that clients may call this server by
  // (browser_guard.h).
  std::vector<std::string> allowed_hosts;

  // From the arrival of a request to the end of its answer, retries included.
  base::Duration request_timeout = std::chrono::seconds(300);
  base::Duration connect_timeout = std::chrono::seconds(2);  // to a node
  base::Duration health_interval = std::chrono::seconds(1);  // pause between two checks of a node
  base::Duration health_timeout = std::chrono::seconds(2);   // of one check
  // Checks in a row that must fail before a node is out. A refused connection puts it out at once.
  uint32_t health_failures = 3;
  uint32_t max_attempts = 3;  // nodes tried for one request, the first included
  // Prompts go where their beginning was sent before, as far as load allows; false: load alone decides.
  bool prefix_aware = true;
};

class Router {
 public:
  // Listens at once and begins to check the nodes when Run is called. Errors as Server::Create, and
  // kInvalidArgument for a bad node address or no decode node.
  static base::Result<std::unique_ptr<Router>> Create(const RouterOptions& options);
  ~Router();
  Router(const Router&) = delete;
  Router& operator=(const Router&) = delete;

  uint16_t port() const;

  // Returns after Stop, or when a drain is complete.
  void Run();
  // New requests get 503, the listening socket closes, running answers may finish until `deadline`.
  void RequestDrain(base::TimePoint deadline);
  // Closes all connections now; the nodes see their clients leave and cancel.
  void Stop();

 private:
  class State;
  explicit Router(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace kvplane::server
