#include "kvplane/server/server.h"

#include <utility>

#include "kvplane/server/api_auth.h"
#include "kvplane/server/api_error.h"
#include "kvplane/server/io_loop.h"
#include "kvplane/server/node_api.h"
#include "kvplane/server/prompt_tokens.h"
#include "kvplane/server/random_id.h"

namespace kvplane::server {

class Server::State {
 public:
  State(engine::Engine& engine, const model::Tokenizer& tokenizer, const model::ChatTemplate* chat_template,
        std::string model_name, NodeInfo info, const ServerOptions& options, ApiAuth auth)
      : metrics_(info.role, model_name),
        node_{.engine = engine,
              .tokenizer = tokenizer,
              .chat_template = chat_template,
              .metrics = metrics_,
              .texts = texts_,
              .model_name = std::move(model_name),
              .info = std::move(info),
              .request_timeout = options.request_timeout,
              .longest_piece_bytes = LongestPieceBytes(tokenizer),
              .more_metrics = options.more_metrics},
        api_(node_, std::move(auth), [this] { return http_->connections(); }),
        loop_(std::make_shared<IoLoop>()),
        texts_(options.max_waiting_text) {
    if (node_.info.engine_id.empty()) node_.info.engine_id = RandomHex(8);
  }

  base::Status Listen(const HttpServerOptions& options) {
    HttpServerHooks hooks;
    hooks.handler = [this](const std::shared_ptr<Exchange>& exchange) { api_.Handle(exchange); };
    hooks.make_error = [this](int status, const std::string& message) {
      metrics_.CountHttp("other", status);
      return ErrorResponse(PlainError(status, message));
    };
    hooks.refuse_body = [this](const HttpRequest& head) { return api_.RefuseBody(head); };
    KVPLANE_ASSIGN_OR_RETURN(http_, HttpServer::Create(loop_, options, std::move(hooks)));
    return base::Status::Ok();
  }

  void RequestDrain(base::TimePoint deadline) {
    loop_->Post([this] { api_.BeginDrain(); });
    http_->Drain(deadline);
  }

  HttpServer& http() { return *http_; }

 private:
  ServingMetrics metrics_;
  NodeContext node_;
  NodeApi api_;
  const std::shared_ptr<IoLoop> loop_;
  TextWorker texts_;                  // destroyed before what its work uses
  std::unique_ptr<HttpServer> http_;  // destroyed first: ends every connection that uses the rest
};

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}
Server::~Server() = default;

base::Result<std::unique_ptr<Server>> Server::Create(engine::Engine& engine,
                                                     const model::Tokenizer& tokenizer,
                                                     const model::ChatTemplate* chat_template,
                                                     std::string model_name, NodeInfo info,
                                                     const ServerOptions& options) {
  ApiAuth auth;
  if (!options.auth_token_file.empty()) {
    KVPLANE_ASSIGN_OR_RETURN(auth, ApiAuth::FromFile(options.auth_token_file));
  }
  KVPLANE_RETURN_IF_ERROR(CheckBindPolicy(options.http.host, auth.enabled(), options.insecure));
  if (!auth.enabled()) auth.SetGuard(BrowserGuard(options.http.host, options.allowed_hosts));
  auto state = std::make_unique<State>(engine, tokenizer, chat_template, std::move(model_name),
                                       std::move(info), options, std::move(auth));
  KVPLANE_RETURN_IF_ERROR(state->Listen(options.http));
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

uint16_t Server::port() const { return state_->http().port(); }
void Server::Run() { state_->http().Run(); }
void Server::RequestDrain(base::TimePoint deadline) { state_->RequestDrain(deadline); }
void Server::Stop() { state_->http().Stop(); }

}  // namespace kvplane::server
