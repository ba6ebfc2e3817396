// Server: the OpenAI-compatible HTTP face of one engine. docs/api.md is its reference.
//
// Run() serves on the calling thread; everything the engine's thread reports is posted there, so that neither
// waits for the other. Shut down in this order: RequestDrain (or Stop), wait for Run to return, then drain
// and destroy the engine.
//
// Thread safety: Create, Run and the destructor must not overlap; RequestDrain and Stop from any thread (but
// not from a signal handler: they take a lock).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/engine/engine.h"
#include "kvplane/model/chat_template.h"
#include "kvplane/model/tokenizer.h"
#include "kvplane/server/http_server.h"
#include "kvplane/server/node_context.h"

namespace kvplane::server {

struct ServerOptions {
  HttpServerOptions http;  // address, port, limits and timeouts of connections

  // File with one bearer token per line; every route but /health and /ready then needs one of them. Empty:
  // no authentication, allowed on loopback addresses only.
  std::string auth_token_file;
  // Allow another address than loopback without a token.
  bool insecure = false;
  // Without a token: names, beside addresses and localhost, that clients may call this server by
  // (browser_guard.h).
  std::vector<std::string> allowed_hosts;
  // What GET /metrics tells beside the node's own, as Prometheus text: of what the node stands on. May be
  // empty. Must not block; called on the server's thread.
  std::function<std::string()> more_metrics{};

  // Bytes of long texts that may wait to be tokenized; more are answered 503. A byte takes well below a
  // microsecond whatever the text, so the last of them waits for a minute at most.
  size_t max_waiting_text = size_t{64} << 20;
  // A generation that has not ended this long after its arrival fails (504, or an error event in its stream).
  base::Duration request_timeout = std::chrono::seconds(600);
};

class Server {
 public:
  // Listens at once (see HttpServer). `engine`, `tokenizer` and `chat_template` (null: chat is refused) must
  // outlive the server. `model_name` is what clients put into "model".
  // Errors: kPermissionDenied (a public address without token or `insecure`), kInvalidArgument and kNotFound
  // (address, token file), kUnavailable (port taken).
  static base::Result<std::unique_ptr<Server>> Create(engine::Engine& engine,
                                                      const model::Tokenizer& tokenizer,
                                                      const model::ChatTemplate* chat_template,
                                                      std::string model_name, NodeInfo info,
                                                      const ServerOptions& options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  uint16_t port() const;

  // Returns after Stop, or when a drain is complete.
  void Run();
  // New generations get 503, the listening socket closes, running answers may finish until `deadline`.
  void RequestDrain(base::TimePoint deadline);
  // Closes all connections now; their generations are cancelled.
  void Stop();

 private:
  class State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace kvplane::server
