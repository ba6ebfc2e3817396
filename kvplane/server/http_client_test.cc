// The router's HTTP client where names are concerned: a resolver that hangs holds no call.
#include "kvplane/server/http_client.h"

#include <gtest/gtest.h>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <memory>
#include <optional>
#include <thread>

#include "kvplane/base/mutex.h"
#include "kvplane/server/api_error.h"
#include "kvplane/server/http_server.h"

namespace kvplane::server {
namespace {

using base::StatusCode;
using Addresses = base::Result<std::vector<transport::SocketAddress>>;

constexpr base::Duration kPatience = std::chrono::seconds(60);

base::TimePoint After(base::Duration wait) { return base::Clock::System().Now() + wait; }

// A resolver whose servers answer when the test says so.
class SlowResolver {
 public:
  transport::NameLookup lookup() {
    return [state = state_](const transport::TcpEndpoint&, transport::ResolveFor) -> Addresses {
      base::MutexLock lock(state->mutex);
      state->asked = true;
      state->changed.NotifyAll();
      while (!state->answers) state->changed.WaitUntil(state->mutex, base::kNoDeadline);
      return base::Unavailable("no such name");
    };
  }
  ~SlowResolver() {
    base::MutexLock lock(state_->mutex);
    state_->answers = true;
    state_->changed.NotifyAll();
  }
  void AwaitQuestion() {
    base::MutexLock lock(state_->mutex);
    while (!state_->asked) state_->changed.WaitUntil(state_->mutex, base::kNoDeadline);
  }

 private:
  struct State {
    base::Mutex mutex;
    base::CondVar changed;
    bool asked KVPLANE_GUARDED_BY(mutex) = false;
    bool answers KVPLANE_GUARDED_BY(mutex) = false;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

// One GET on a loop of its own; returns how it ended. `meanwhile` runs on another thread.
template <typename Meanwhile>
base::Status Get(const HttpEndpoint& endpoint, const HttpClientOptions& options, base::TimePoint deadline,
                 Meanwhile meanwhile) {
  const auto loop = std::make_shared<IoLoop>();
  HttpClient client(loop, options);
  std::optional<base::Status> ended;
  const auto call = client.NewCall(endpoint);
  HttpRequest request;
  request.target = "/";
  asio::co_spawn(
      loop->context(),
      [&]() -> asio::awaitable<void> {
        base::Status status = co_await call->Start(request, deadline);
        ended = status;
        loop->Finish();
      },
      asio::detached);
  std::thread other([&] { meanwhile(*loop, client); });
  loop->Run();
  other.join();
  loop->Close();
  return ended.value_or(base::Internal("never ended"));
}

void Nothing(IoLoop&, HttpClient&) {}

TEST(HttpClientSafety, AResolverThatHangsHoldsNoCallBeyondItsDeadline) {
  SlowResolver resolver;
  HttpClientOptions options;
  options.lookup = resolver.lookup();
  options.connect_timeout = kPatience;
  EXPECT_EQ(Get({"node", 1}, options, After(std::chrono::milliseconds(20)), Nothing).code(),
            StatusCode::kDeadlineExceeded);
  options.connect_timeout = std::chrono::milliseconds(20);
  EXPECT_EQ(Get({"node", 1}, options, After(kPatience), Nothing).code(), StatusCode::kDeadlineExceeded);
}

TEST(HttpClientSafety, AbortEndsACallWhoseNameIsBeingLookedUp) {
  SlowResolver resolver;
  HttpClientOptions options;
  options.lookup = resolver.lookup();
  options.connect_timeout = kPatience;
  const base::Status status =
      Get({"node", 1}, options, After(kPatience), [&](IoLoop& loop, HttpClient& client) {
        resolver.AwaitQuestion();
        loop.Post([&client] { client.AbortAll(); });
      });
  EXPECT_EQ(status.code(), StatusCode::kCancelled) << status.ToString();
}

TEST(HttpClientUnit, NamesAreLookedUpAndUnknownOnesNamed) {
  const auto server_loop = std::make_shared<IoLoop>();
  HttpServerHooks hooks;
  hooks.handler = [](const std::shared_ptr<Exchange>& exchange) { exchange->Respond(JsonResponse("{}")); };
  hooks.make_error = [](int status, const std::string& message) {
    return ErrorResponse(PlainError(status, message));
  };
  auto server = *HttpServer::Create(server_loop, {}, hooks);
  std::thread serving([&] { server->Run(); });
  HttpClientOptions options;
  options.connect_timeout = kPatience;
  const base::Status found = Get({"localhost", server->port()}, options, After(kPatience), Nothing);
  EXPECT_TRUE(found.ok()) << found.ToString();
  server->Stop();
  serving.join();
  options.lookup = [](const transport::TcpEndpoint& endpoint, transport::ResolveFor) -> Addresses {
    return base::Unavailable("no \"{}\" here", endpoint.host);
  };
  EXPECT_EQ(Get({"node", 1}, options, After(kPatience), Nothing), base::Unavailable("no \"node\" here"));
}

TEST(HttpClientSafety, NoMoreIsKeptOfAnAnswerThanTheCallerTakes) {
  constexpr size_t kBytes = 100'000;  // in several pieces
  HttpServerHooks hooks;
  hooks.handler = [](const std::shared_ptr<Exchange>& exchange) {
    exchange->Respond(JsonResponse(std::string(kBytes, 'x')));
  };
  hooks.make_error = [](int status, const std::string& message) {
    return ErrorResponse(PlainError(status, message));
  };
  auto server = *HttpServer::Create(std::make_shared<IoLoop>(), {}, hooks);
  std::thread serving([&] { server->Run(); });
  const auto read = [&](size_t max_bytes) {
    const auto loop = std::make_shared<IoLoop>();
    HttpClient client(loop, {});
    base::Result<std::string> body = base::Internal("never ended");
    const auto call = client.NewCall({"127.0.0.1", server->port()});
    asio::co_spawn(
        loop->context(),
        [&]() -> asio::awaitable<void> {
          const HttpRequest request;
          const base::Status started = co_await call->Start(request, After(kPatience));
          if (started.ok()) body = co_await call->ReadAll(After(kPatience), max_bytes);
          loop->Finish();
        },
        asio::detached);
    loop->Run();
    loop->Close();
    return body;
  };
  const auto whole = read(kBytes);
  EXPECT_EQ(whole.ok() ? whole->size() : 0, kBytes) << whole.status().ToString();
  EXPECT_EQ(read(kBytes - 1).status().code(), StatusCode::kResourceExhausted);
  server->Stop();
  serving.join();
}

}  // namespace
}  // namespace kvplane::server
