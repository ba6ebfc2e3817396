// RouteCall: one client request on its way through the router. Internal (shows Asio).
//
// Thread safety: the io thread. Ownership: its coroutines and the exchange keep it alive.
#pragma once

#include <asio/awaitable.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "kvplane/base/clock.h"
#include "kvplane/server/api_error.h"
#include "kvplane/server/http_client.h"
#include "kvplane/server/http_exchange.h"
#include "kvplane/server/node_pool.h"
#include "kvplane/server/routed_request.h"
#include "kvplane/server/router_metrics.h"

namespace kvplane::server {

// What the calls of one router share.
struct RouterContext {
  IoLoop& loop;
  HttpClient& client;
  NodePool& pool;
  RouterMetrics& metrics;
  const RouterOptions& options;
  bool pass_client_token = false;  // the client's Authorization header goes to the nodes
  uint64_t turn = 0;
};

class RouteCall : public std::enable_shared_from_this<RouteCall> {
 public:
  static void Start(RouterContext& router, std::shared_ptr<Exchange> exchange, RoutedRequest request);

  RouteCall(RouterContext& router, std::shared_ptr<Exchange> exchange, RoutedRequest request);

 private:
  enum class Outcome { kAnswered, kPrefillFailed, kDecodeFailed };

  // The prefill half of one attempt.
  struct PrefillTry {
    size_t node = 0;
    std::string transfer_id;
    std::shared_ptr<HttpCall> call;
    bool ended = false;
    bool failed = false;
    bool given_up = false;  // by this call: its end tells nothing
  };

  asio::awaitable<void> Run();
  asio::awaitable<Outcome> Attempt(const NodeChoice& choice);
  // The node that an attempt failed for is not asked again.
  void LeaveOut(Outcome outcome, const NodeChoice& choice, ChoiceRequest& wanted);
  asio::awaitable<void> Prefill(size_t node, uint64_t bytes, std::string body,
                                std::shared_ptr<PrefillTry> prefill, std::shared_ptr<HttpCall> decode);
  // What the prefill node computes or holds for the attempt that is over is of no use to anybody.
  void GiveUpPrefill();
  asio::awaitable<void> WithdrawKv(size_t node, std::string transfer_id);
  asio::awaitable<Outcome> Decode(size_t node, const std::string& body);
  asio::awaitable<Outcome> PassWhole(size_t node);
  asio::awaitable<Outcome> PassStream();
  Outcome DecodeLost(const base::Status& status);
  HttpRequest NodeRequest(std::string_view target, std::string body) const;
  HttpResponse CopyHead() const;
  void Finish(HttpResponse response);
  void RecordAnswer(int status);

  RouterContext& router_;
  const std::shared_ptr<Exchange> exchange_;
  const RoutedRequest request_;
  const base::TimePoint arrived_;
  const base::TimePoint deadline_;
  base::TimePoint first_byte_{};
  Event wake_;  // the client took what was buffered, or left
  std::shared_ptr<HttpCall> decode_;
  std::optional<NodeLease> decode_lease_;
  std::shared_ptr<PrefillTry> prefill_;
  bool kv_fetched_ = false;     // this attempt's: the whole answer is here and was made from it
  uint64_t prefill_bytes_ = 0;  // that this attempt's prefill has to compute
  uint32_t prefill_failures_ = 0;
  uint32_t decode_failures_ = 0;
  std::optional<HttpResponse> refusal_;  // the last node's "busy", if no other takes the request
  base::Status last_error_;
};

}  // namespace kvplane::server
