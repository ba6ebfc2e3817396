#include "kvplane/server/route_call.h"

#include <fmt/core.h>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "kvplane/base/log.h"
#include "kvplane/server/random_id.h"

namespace kvplane::server {
namespace {

constexpr size_t kTransferIdBytes = 16;
// Bytes buffered for a client that reads slowly before the router stops reading from the node.
constexpr size_t kMaxUnsentBytes = 256 << 10;
// Prefill nodes tried for one request.
constexpr uint32_t kMaxPrefillFailures = 2;

// A prefill node that does not take an id back in this time drops the KV when its lease ends.
constexpr base::Duration kWithdrawTimeout = std::chrono::seconds(2);

// How an answer says that its KV did not come from the prefill node. Quotes inside text are escaped, so this
// is never part of what was generated.
constexpr std::string_view kRecomputedMark = R"("source":"recompute")";

// Finds the mark in an answer that comes in pieces.
class RecomputeWatch {
 public:
  void Feed(std::string_view piece) {
    tail_ += piece;
    seen_ = seen_ || tail_.find(kRecomputedMark) != std::string::npos;
    if (tail_.size() >= kRecomputedMark.size()) tail_.erase(0, tail_.size() - kRecomputedMark.size() + 1);
  }
  bool seen() const { return seen_; }

 private:
  std::string tail_;
  bool seen_ = false;
};

base::TimePoint Now() { return base::Clock::System().Now(); }

// Another node may well answer where this one refuses for want of room or a fault of its own.
bool IsRetryable(int status) { return status == 429 || status >= 500; }

// What fails once the node has taken bytes of the request may be the request's fault; whether the node is
// well is then for the next check to say.
bool NobodyThere(const HttpCall& call, const base::Status& status) {
  return status.code() == base::StatusCode::kUnavailable && !call.took_bytes();
}

bool IsWithdrawalResult(std::string_view text) {
  return text == "withdrawn" || text == "aborted" || text == "ended" || text == "unknown";
}

// The error that a node answers between its SIGTERM and its end (api_error.h).
bool IsDraining(const std::string& body) {
  const auto answer = nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (!answer.is_object() || !answer.contains("error") || !answer["error"].is_object()) return false;
  return answer["error"].value("code", nlohmann::json()) == "draining";
}

}  // namespace

void RouteCall::Start(RouterContext& router, std::shared_ptr<Exchange> exchange, RoutedRequest request) {
  const auto call = std::make_shared<RouteCall>(router, exchange, std::move(request));
  exchange->OnDrained([call] { call->wake_.Notify(); });
  exchange->OnGone([call] {
    if (call->decode_) call->decode_->Abort();
    if (call->prefill_) call->prefill_->call->Abort();
    call->wake_.Notify();
  });
  asio::co_spawn(
      router.loop.context(), [call]() -> asio::awaitable<void> { co_await call->Run(); }, asio::detached);
}

RouteCall::RouteCall(RouterContext& router, std::shared_ptr<Exchange> exchange, RoutedRequest request)
    : router_(router),
      exchange_(std::move(exchange)),
      request_(std::move(request)),
      arrived_(Now()),
      deadline_(arrived_ + router.options.request_timeout),
      wake_(router.loop.context()) {}

asio::awaitable<void> RouteCall::Run() {
  ChoiceRequest wanted;
  wanted.splittable = request_.splittable();
  // Of prefill nodes at most two are tried, then the decode node does it all; these attempts use up no node.
  const uint32_t attempts = router_.options.max_attempts + kMaxPrefillFailures;
  for (uint32_t attempt = 0; attempt < attempts && !exchange_->gone(); ++attempt) {
    wanted.turn = router_.turn++;
    const NodeChoice choice = router_.pool.Choose(wanted, request_);
    if (!choice.decode || decode_failures_ >= router_.options.max_attempts) break;
    const size_t prefiller = choice.prefill.value_or(*choice.decode);
    prefill_bytes_ = PrefillWork(wanted, prefiller);
    router_.metrics.CountPrompt(wanted.prompt_bytes,
                                wanted.cached_bytes.empty() ? 0 : wanted.cached_bytes[prefiller]);
    router_.pool.NotePrefix(prefiller, request_);
    const Outcome outcome = co_await Attempt(choice);
    if (outcome == Outcome::kAnswered || exchange_->gone()) co_return;
    if (Now() >= deadline_) break;  // a further node would be asked for what nobody waits for
    LeaveOut(outcome, choice, wanted);
    const bool clients_fault = last_error_.code() == base::StatusCode::kInvalidArgument;
    base::Log(clients_fault ? base::LogLevel::kDebug : base::LogLevel::kWarn, "attempt {} failed: {}",
              attempt + 1, last_error_.ToString());
  }
  if (exchange_->gone()) co_return;
  if (refusal_) {
    Finish(*std::move(refusal_));
  } else if (last_error_.code() == base::StatusCode::kDeadlineExceeded) {
    Finish(ErrorResponse(PlainError(504, last_error_.message())));
  } else {
    const std::string reason = last_error_.ok() ? "no decode node is up" : last_error_.message();
    Finish(ErrorResponse(PlainError(503, fmt::format("no node can take the request now: {}", reason))));
  }
}

void RouteCall::LeaveOut(Outcome outcome, const NodeChoice& choice, ChoiceRequest& wanted) {
  if (outcome == Outcome::kPrefillFailed) {
    router_.metrics.CountRetry("prefill_failed");
    wanted.excluded.insert(*choice.prefill);
    // A fault of the request's own fails on every prefill node.
    const bool clients_fault = last_error_.code() == base::StatusCode::kInvalidArgument;
    if (++prefill_failures_ >= kMaxPrefillFailures || clients_fault) wanted.splittable = false;
  } else {
    router_.metrics.CountRetry("decode_failed");
    wanted.excluded.insert(*choice.decode);
    ++decode_failures_;
  }
}

asio::awaitable<RouteCall::Outcome> RouteCall::Attempt(const NodeChoice& choice) {
  decode_lease_.emplace(router_.pool, *choice.decode, choice.prefill ? 0 : prefill_bytes_);
  decode_ = router_.client.NewCall(router_.pool.node(*choice.decode).endpoint);
  prefill_ = nullptr;
  kv_fetched_ = false;
  SplitBodies bodies;
  if (choice.prefill) {
    const PoolNode& source = router_.pool.node(*choice.prefill);
    const std::string transfer_id = RandomHex(kTransferIdBytes);
    const std::string& kv_host = source.kv_host.empty() ? source.endpoint.host : source.kv_host;
    bodies = request_.Split({transfer_id, source.engine_id, kv_host, source.kv_port});
    prefill_ = std::make_shared<PrefillTry>();
    prefill_->node = *choice.prefill;
    prefill_->transfer_id = transfer_id;
    prefill_->call = router_.client.NewCall(source.endpoint);
    asio::co_spawn(
        router_.loop.context(),
        [self = shared_from_this(), node = *choice.prefill, text = std::move(bodies.prefill),
         bytes = prefill_bytes_, prefill = prefill_, decode = decode_]() -> asio::awaitable<void> {
          co_await self->Prefill(node, bytes, text, prefill, decode);
        },
        asio::detached);
  }
  router_.metrics.CountPlacement(choice.prefill ? "split" : "plain");
  const std::string& body = choice.prefill ? bodies.decode : request_.plain_body();
  const Outcome outcome = co_await Decode(*choice.decode, body);
  decode_lease_.reset();
  if (prefill_ && !prefill_->failed && !kv_fetched_) GiveUpPrefill();
  if (outcome == Outcome::kDecodeFailed && prefill_ && prefill_->failed) co_return Outcome::kPrefillFailed;
  co_return outcome;
}

void RouteCall::GiveUpPrefill() {
  prefill_->given_up = true;
  if (!prefill_->ended) prefill_->call->Abort();
  // The node may have offered the KV all the same, or may be about to: it has finished, or reads the request
  // before it sees its connection close.
  asio::co_spawn(
      router_.loop.context(),
      [self = shared_from_this(), node = prefill_->node,
       id = prefill_->transfer_id]() -> asio::awaitable<void> { co_await self->WithdrawKv(node, id); },
      asio::detached);
}

asio::awaitable<void> RouteCall::WithdrawKv(size_t node, std::string transfer_id) {
  const std::string body = nlohmann::json{{"transfer_id", transfer_id}}.dump();
  const HttpRequest request = NodeRequest("/v1/kv/withdraw", body);
  const base::TimePoint deadline = Now() + kWithdrawTimeout;
  const std::shared_ptr<HttpCall> call = router_.client.NewCall(router_.pool.node(node).endpoint);
  base::Status status = co_await call->Start(request, deadline, /*repeatable=*/true);
  std::string result = "failed";
  if (status.ok()) {
    const base::Result<std::string> answer = co_await call->ReadAll(deadline, kMaxNoteBytes);
    status = answer.status();
    if (status.ok()) {
      const auto fields = nlohmann::json::parse(*answer, nullptr, /*allow_exceptions=*/false);
      const bool understood = call->status() == 200 && fields.is_object() && fields.contains("result") &&
                              fields["result"].is_string();
      if (understood) {
        result = fields["result"].get<std::string>();
      } else {
        status = base::Unavailable("answered {}", call->status());
      }
    }
  }
  // A hostile node must not make the router keep arbitrary names.
  if (!IsWithdrawalResult(result)) result = "failed";
  router_.metrics.CountWithdrawal(result);
  if (!status.ok()) {
    base::Log(base::LogLevel::kWarn, "{} keeps KV that nobody will fetch, until its lease ends: {}",
              router_.pool.node(node).endpoint.Authority(), status.ToString());
  }
}

asio::awaitable<void> RouteCall::Prefill(size_t node, uint64_t bytes, std::string body,
                                         std::shared_ptr<PrefillTry> prefill,
                                         std::shared_ptr<HttpCall> decode) {
  const NodeLease lease(router_.pool, node, bytes);
  const HttpRequest request = NodeRequest(exchange_->request().path(), std::move(body));
  base::Status status = co_await prefill->call->Start(request, deadline_, /*repeatable=*/true);
  if (status.ok()) {
    const base::Result<std::string> answer = co_await prefill->call->ReadAll(deadline_, kMaxNoteBytes);
    status = answer.status();
    const int code = prefill->call->status();
    if (status.ok() && code == 503 && IsDraining(*answer)) router_.pool.MarkDown(node, "draining");
    if (status.ok() && code != 200) {
      // A fault of the request's own: the decode node will say so to the client.
      const bool clients_fault = code >= 400 && code < 500 && code != 429;
      status =
          base::Status(clients_fault ? base::StatusCode::kInvalidArgument : base::StatusCode::kUnavailable,
                       fmt::format("prefill node answers {}: {}", code, *answer));
    }
  } else if (NobodyThere(*prefill->call, status)) {
    router_.pool.MarkDown(node, status.message());
  }
  prefill->ended = true;
  if (status.ok() || exchange_->gone() || prefill->given_up) co_return;
  prefill->failed = true;
  last_error_ = status;
  // The decode node waits for KV that will not come. Unless it is past that, start it over without.
  if (prefill_ == prefill && first_byte_ == base::TimePoint{}) decode->Abort();
}

asio::awaitable<RouteCall::Outcome> RouteCall::Decode(size_t node, const std::string& body) {
  const HttpRequest request = NodeRequest(exchange_->request().path(), body);
  // A generation may be sent twice: the node sees the first connection close and stops.
  const base::Status started = co_await decode_->Start(request, deadline_, /*repeatable=*/true);
  if (!started.ok()) {
    if (NobodyThere(*decode_, started)) router_.pool.MarkDown(node, started.message());
    co_return DecodeLost(started);
  }
  const std::string type(decode_->headers().Find("Content-Type").value_or(""));
  Outcome outcome = Outcome::kAnswered;
  if (decode_->status() == 200 && type.starts_with("text/event-stream")) {
    outcome = co_await PassStream();
  } else {
    outcome = co_await PassWhole(node);
  }
  co_return outcome;
}

RouteCall::Outcome RouteCall::DecodeLost(const base::Status& status) {
  // An abort by Prefill() keeps that error as the reason.
  if (status.code() != base::StatusCode::kCancelled || last_error_.ok()) last_error_ = status;
  return Outcome::kDecodeFailed;
}

asio::awaitable<RouteCall::Outcome> RouteCall::PassWhole(size_t node) {
  base::Result<std::string> body = co_await decode_->ReadAll(deadline_, kMaxAnswerBytes);
  if (body.status().code() == base::StatusCode::kResourceExhausted) {
    // Another node's would be no shorter.
    Finish(ErrorResponse(PlainError(
        502, fmt::format("the answer has more than {} bytes: ask for it as a stream", kMaxAnswerBytes))));
    co_return Outcome::kAnswered;
  }
  if (!body.ok()) co_return DecodeLost(body.status());
  HttpResponse response = CopyHead();
  response.body = *std::move(body);
  if (IsRetryable(response.status)) {
    if (response.status == 503 && IsDraining(response.body)) router_.pool.MarkDown(node, "draining");
    last_error_ = base::Unavailable("decode node answers {}", response.status);
    refusal_ = std::move(response);
    co_return Outcome::kDecodeFailed;
  }
  kv_fetched_ = response.status == 200 && response.body.find(kRecomputedMark) == std::string::npos;
  first_byte_ = Now();
  Finish(std::move(response));
  co_return Outcome::kAnswered;
}

asio::awaitable<RouteCall::Outcome> RouteCall::PassStream() {
  base::Result<std::string> piece = co_await decode_->ReadSome(deadline_);
  if (!piece.ok()) co_return DecodeLost(piece.status());  // nothing was passed on yet
  first_byte_ = Now();
  decode_lease_->EndPrefill();
  exchange_->BeginStream(CopyHead());
  RecomputeWatch watch;
  while (piece.ok() && !piece->empty() && !exchange_->gone()) {
    exchange_->Write(*piece);
    watch.Feed(*piece);
    while (exchange_->buffered_bytes() > kMaxUnsentBytes && !exchange_->gone() && Now() < deadline_) {
      co_await wake_.WaitUntil(deadline_);
    }
    piece = co_await decode_->ReadSome(deadline_);
  }
  if (exchange_->gone()) co_return Outcome::kAnswered;
  if (!piece.ok()) {
    const bool late = piece.status().code() == base::StatusCode::kDeadlineExceeded;
    const ApiError error =
        PlainError(late ? 504 : 502,
                   fmt::format("the decode node was lost in mid-answer: {}", piece.status().message()));
    base::Log(base::LogLevel::kWarn, "{}", error.message);
    exchange_->Write(SseEvent(ErrorJson(error)));
    RecordAnswer(error.status);
  } else {
    kv_fetched_ = !watch.seen();
    RecordAnswer(200);
  }
  exchange_->End();
  co_return Outcome::kAnswered;
}

HttpRequest RouteCall::NodeRequest(std::string_view target, std::string body) const {
  HttpRequest request;
  request.method = "POST";
  request.target = target;
  request.headers.Set("Content-Type", "application/json");
  const std::string& token = router_.pool.token();
  if (!token.empty()) {
    request.headers.Set("Authorization", "Bearer " + token);
  } else if (const auto given = exchange_->request().headers.Find("Authorization");
             given && router_.pass_client_token) {
    request.headers.Set("Authorization", *given);
  }
  request.body = std::move(body);
  return request;
}

HttpResponse RouteCall::CopyHead() const {
  HttpResponse response;
  response.status = decode_->status();
  for (const std::string_view name : {"Content-Type", "Cache-Control", "Retry-After", "WWW-Authenticate"}) {
    if (const auto value = decode_->headers().Find(name)) response.headers.Set(name, *value);
  }
  return response;
}

void RouteCall::Finish(HttpResponse response) {
  RecordAnswer(response.status);
  exchange_->Respond(std::move(response));
}

void RouteCall::RecordAnswer(int status) {
  router_.metrics.CountHttp(exchange_->request().path(), status);
  if (first_byte_ != base::TimePoint{}) {
    router_.metrics.ObserveAnswer(first_byte_ - arrived_, Now() - arrived_);
  }
}

}  // namespace kvplane::server
