// The router in front of real prefill and decode nodes, and in front of nodes that misbehave on purpose.

#include "kvplane/server/router.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/engine/testing/demo_model.h"
#include "kvplane/server/api_error.h"
#include "kvplane/server/http_client.h"
#include "kvplane/server/io_loop.h"
#include "kvplane/server/testing/demo_node.h"
#include "kvplane/server/testing/raw_client.h"

namespace kvplane::server {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::Call;
using testing::DemoNode;
using testing::RawClient;
using testing::RawResponse;

// False after a minute.
bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 12'000 && !condition(); ++i) std::this_thread::sleep_for(milliseconds(5));
  return condition();
}

// A router with a thread of its own, which checks its nodes often unless it is told how often.
class RunningRouter {
 public:
  explicit RunningRouter(RouterOptions options) {
    if (options.health_interval == RouterOptions().health_interval)
      options.health_interval = milliseconds(20);
    auto router = Router::Create(options);
    EXPECT_TRUE(router.ok()) << router.status().ToString();
    router_ = *std::move(router);
    thread_ = std::thread([this] { router_->Run(); });
  }
  ~RunningRouter() {
    router_->Stop();
    thread_.join();
  }
  uint16_t port() const { return router_->port(); }

  // Waits until /ready reports these numbers of healthy nodes.
  bool WaitForNodes(int prefill, int decode) {
    for (int i = 0; i < 1000; ++i) {
      const json ready = json::parse(Call(port(), "GET", "/ready").body, nullptr, false);
      if (ready.value("prefill_nodes", -1) == prefill && ready.value("decode_nodes", -1) == decode)
        return true;
      std::this_thread::sleep_for(milliseconds(10));
    }
    return false;
  }

 private:
  std::unique_ptr<Router> router_;
  std::thread thread_;
};

// A node that speaks HTTP as scripted: the router's view of faults that a healthy node cannot be asked to
// make.
class ScriptedNode {
 public:
  using Script = std::function<void(const std::shared_ptr<Exchange>&)>;

  explicit ScriptedNode(Script script, bool serves_kv = false, const std::string& fingerprint = "demo",
                        const HttpServerOptions& options = {})
      : script_(std::move(script)) {
    const json kv_host = serves_kv ? json("127.0.0.1") : json();
    const std::string endpoint =
        json{{"ready", true},      {"engine_id", "e"}, {"model", "demo"}, {"model_fingerprint", fingerprint},
             {"kv_host", kv_host}, {"kv_port", 9}}
            .dump();
    HttpServerHooks hooks;
    hooks.handler = [this, endpoint](const std::shared_ptr<Exchange>& exchange) {
      if (exchange->request().path() == "/v1/kv/endpoint") {
        if (silent_) {
          held_.push_back(exchange);
        } else {
          exchange->Respond(JsonResponse(endpoint));
        }
        return;
      }
      ++calls_;
      held_.push_back(exchange);
      script_(exchange);
    };
    hooks.make_error = [](int status, const std::string& message) {
      return ErrorResponse(PlainError(status, message));
    };
    server_ = *HttpServer::Create(std::make_shared<IoLoop>(), options, hooks);
    thread_ = std::thread([this] { server_->Run(); });
  }
  ~ScriptedNode() {
    server_->Stop();
    thread_.join();
  }
  std::string url() const { return fmt::format("http://127.0.0.1:{}", server_->port()); }
  int calls() const { return calls_.load(); }
  void BeSilent() { silent_ = true; }

 private:
  const Script script_;
  std::unique_ptr<HttpServer> server_;
  std::atomic<int> calls_{0};
  std::atomic<bool> silent_{false};
  std::vector<std::shared_ptr<Exchange>> held_;  // io thread
  std::thread thread_;
};

void AnswerOk(const std::shared_ptr<Exchange>& exchange) {
  exchange->Respond(JsonResponse(R"({"ok":true})"));
}
void Hang(const std::shared_ptr<Exchange>&) {}
void Die(const std::shared_ptr<Exchange>& exchange) { exchange->Abort(); }
void Busy(const std::shared_ptr<Exchange>& exchange) {
  exchange->Respond(ErrorResponse(PlainError(429, "the queue is full")));
}
void DieInMidStream(const std::shared_ptr<Exchange>& exchange) {
  HttpResponse head;
  head.headers.Set("Content-Type", "text/event-stream");
  exchange->BeginStream(std::move(head));
  exchange->Write("data: {\"first\":1}\n\n");
  exchange->OnDrained([weak = std::weak_ptr<Exchange>(exchange)] {
    if (const auto alive = weak.lock()) alive->Abort();
  });
}

std::string FingerprintOf(const DemoNode& node) {
  return json::parse(Call(node.port(), "GET", "/v1/kv/endpoint").body)["model_fingerprint"]
      .get<std::string>();
}

constexpr std::string_view kBody = R"({"prompt": "x", "max_tokens": 4})";

json MetricsOf(const RunningRouter& router, std::string_view name) {
  const std::string text = Call(router.port(), "GET", "/metrics").body;
  const size_t at = text.find(fmt::format("\n{} ", name));
  if (at == std::string::npos) return 0;
  return json::parse(text.substr(at + name.size() + 2, text.find('\n', at + 1) - at - name.size() - 2));
}

RouterOptions RealNodes(const DemoNode& prefill, const DemoNode& decode) {
  RouterOptions options;
  options.prefill = {prefill.url()};
  options.decode = {decode.url()};
  return options;
}

testing::DemoNodeOptions NodeOptions(std::string role, int copy) {
  testing::DemoNodeOptions options;
  options.role = std::move(role);
  options.model_copy = copy;
  return options;
}

class RouterUnit : public ::testing::Test {
 protected:
  RouterUnit()
      : prefill_(NodeOptions("prefill", 0)),
        decode_(NodeOptions("decode", 1)),
        router_(RealNodes(prefill_, decode_)) {}
  void SetUp() override { ASSERT_TRUE(router_.WaitForNodes(1, 1)); }

  DemoNode prefill_;
  DemoNode decode_;
  RunningRouter router_;
};

TEST_F(RouterUnit, SplitGenerationEqualsTheGoldenOne) {
  const engine::GoldenPrompt& golden = engine::GoldenPrompts().front();
  json body = {{"model", "demo"},  {"prompt", golden.token_ids}, {"max_tokens", 32},
               {"temperature", 0}, {"ignore_eos", true},         {"return_token_ids", true}};
  const RawResponse response = Call(router_.port(), "POST", "/v1/completions", body.dump());
  ASSERT_EQ(response.status, 200) << response.body;
  const json answer = json::parse(response.body);
  EXPECT_EQ(answer["choices"][0]["token_ids"], json(golden.greedy_32));
  EXPECT_EQ(answer["kvplane"]["source"], "transfer");
  EXPECT_GT(answer["kvplane"]["transfer"]["bytes_wire"].get<uint64_t>(), 0u);
  EXPECT_EQ(answer["kvplane"]["transfer"]["tiles_retried"], 0);

  body["stream"] = true;
  body["kvplane"] = {{"strategy", "int8"}};
  const RawResponse stream = Call(router_.port(), "POST", "/v1/completions", body.dump());
  EXPECT_EQ(stream.Header("Content-Type"), "text/event-stream; charset=utf-8");
  EXPECT_TRUE(stream.body.ends_with("data: [DONE]\n\n"));
  EXPECT_NE(stream.body.find("\"source\":\"transfer\""), std::string::npos);
  EXPECT_NE(stream.body.find("affine(bits=8"), std::string::npos) << stream.body;
  EXPECT_EQ(MetricsOf(router_, "kvplane_router_placements_total{placement=\"split\"}"), 2);
  for (const std::string result : {"withdrawn", "aborted", "ended", "unknown", "failed"}) {
    EXPECT_EQ(MetricsOf(router_, fmt::format("kvplane_router_withdrawals_total{{result=\"{}\"}}", result)), 0)
        << "what was delivered is not withdrawn";
  }
}

TEST_F(RouterUnit, WhatCannotBeSplitRunsOnTheDecodeNode) {
  const RawResponse response = Call(router_.port(), "POST", "/v1/completions",
                                    R"({"prompt": "x", "n": 2, "max_tokens": 2, "ignore_eos": true})");
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(json::parse(response.body)["kvplane"]["source"], "local");
}

TEST_F(RouterUnit, RefusalsOfNodesArePassedOn) {
  const RawResponse model =
      Call(router_.port(), "POST", "/v1/completions", R"({"prompt": "x", "model": "gpt-4"})");
  EXPECT_EQ(model.status, 404);
  EXPECT_EQ(json::parse(model.body)["error"]["code"], "model_not_found");
  const RawResponse field = Call(router_.port(), "POST", "/v1/chat/completions", R"({"messages": 1})");
  EXPECT_EQ(field.status, 400);
  EXPECT_EQ(json::parse(field.body)["error"]["param"], "messages");
  EXPECT_EQ(Call(router_.port(), "POST", "/v1/completions", "nope").status, 400);
  EXPECT_EQ(json::parse(Call(router_.port(), "GET", "/v1/models").body)["data"][0]["id"], "demo");
}

TEST_F(RouterUnit, AVllmStyleProxyCanDriveTheNodes) {
  const RawResponse first = Call(prefill_.port(), "POST", "/v1/completions",
                                 R"({"prompt": "The old man looked", "max_tokens": 20, "temperature": 0,
                                     "kv_transfer_params": {"do_remote_decode": true, "do_remote_prefill": false}})");
  ASSERT_EQ(first.status, 200) << first.body;
  json params = json::parse(first.body)["kv_transfer_params"];
  EXPECT_EQ(params["do_remote_prefill"], true);
  EXPECT_EQ(params["do_remote_decode"], false);
  EXPECT_EQ(params["remote_block_ids"], json::array());
  EXPECT_EQ(params["transfer_id"].get<std::string>().size(), 32u);
  EXPECT_EQ(json::parse(first.body)["usage"]["completion_tokens"], 1);
  const json body = {{"prompt", "The old man looked"},
                     {"max_tokens", 20},
                     {"temperature", 0},
                     {"kv_transfer_params", params}};
  const json second = json::parse(Call(decode_.port(), "POST", "/v1/completions", body.dump()).body);
  EXPECT_EQ(second["kvplane"]["source"], "transfer") << second;
  const json whole =
      json::parse(Call(decode_.port(), "POST", "/v1/completions",
                       R"({"prompt": "The old man looked", "max_tokens": 20, "temperature": 0})")
                      .body);
  EXPECT_EQ(second["choices"][0]["text"], whole["choices"][0]["text"]);
}

TEST(RouterKvHostUnit, AnUnnamedKvHostIsTheOneThatTheNodeIsReachedBy) {
  testing::DemoNodeOptions unnamed = NodeOptions("prefill", 0);
  unnamed.names_kv_host = false;
  unnamed.server.allowed_hosts = {"prefill-1"};
  DemoNode prefill(unnamed);
  DemoNode decode(NodeOptions("decode", 1));
  RunningRouter router(RealNodes(prefill, decode));
  ASSERT_TRUE(router.WaitForNodes(1, 1));
  const RawResponse split = Call(router.port(), "POST", "/v1/completions", kBody);
  ASSERT_EQ(split.status, 200) << split.body;
  EXPECT_EQ(json::parse(split.body)["kvplane"]["source"], "transfer") << split.body;

  const std::string_view offer =
      R"({"prompt": "x", "max_tokens": 1, "kv_transfer_params": {"do_remote_decode": true}})";
  const auto remote_host = [&](std::string_view host) {
    const RawResponse answer = Call(prefill.port(), "POST", "/v1/completions", offer, host);
    EXPECT_EQ(answer.status, 200) << answer.body;
    return json::parse(answer.body)["kv_transfer_params"]["remote_host"];
  };
  EXPECT_EQ(remote_host("Host: prefill-1:8000\r\n"), "prefill-1");
  EXPECT_EQ(remote_host("Host: [::1]:8000\r\n"), "::1");
  RawClient old(prefill.port());
  old.Send(fmt::format(
      "POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
      offer.size(), offer));
  const RawResponse told = old.ReadResponse();
  EXPECT_EQ(told.status, 400);
  EXPECT_NE(told.body.find("--kv-advertise"), std::string::npos) << told.body;
}

TEST_F(RouterUnit, ClientsThatLeaveAreCancelledOnBothNodes) {
  RawClient client(router_.port());
  const std::string body = R"({"prompt": "Once", "max_tokens": 1900, "ignore_eos": true, "stream": true})";
  client.Send(
      fmt::format("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                  "application/json\r\nContent-Length: {}\r\n\r\n{}",
                  body.size(), body));
  EXPECT_FALSE(client.ReadSome().empty());
  client.Close();
  for (int i = 0; i < 2000 && decode_.engine().stats().requests_cancelled == 0; ++i) {
    std::this_thread::sleep_for(milliseconds(5));
  }
  EXPECT_EQ(decode_.engine().stats().requests_cancelled, 1u);
}

// A prefill node whose offers end only when they are withdrawn or delivered, with a decode node of the test's
// that is asked for its answer when the prefill node has given its own.
class RouterWithdraws : public ::testing::Test {
 protected:
  RouterWithdraws() : prefill_(PatientPrefill()) {}

  static testing::DemoNodeOptions PatientPrefill() {
    testing::DemoNodeOptions options = NodeOptions("prefill", 0);
    options.engine.transfer_timeout = std::chrono::minutes(10);
    options.engine.offer_lease = std::chrono::minutes(10);
    return options;
  }
  // Until the prefill node holds KV and nothing runs on it. False after a minute.
  bool AwaitOffer() {
    return Eventually([&] { return prefill_.engine().stats().requests_finished == 1; });
  }
  ScriptedNode::Script WhenOffered(const ScriptedNode::Script& then) {
    return [this, then](const std::shared_ptr<Exchange>& exchange) {
      EXPECT_TRUE(AwaitOffer());
      then(exchange);
    };
  }
  RouterOptions Options(const ScriptedNode& decode) {
    RouterOptions options;
    options.prefill = {prefill_.url()};
    options.decode = {decode.url()};
    return options;
  }
  void ExpectWithdrawn(const RunningRouter& router) {
    EXPECT_TRUE(Eventually([&] { return prefill_.engine().stats().blocks_used == 0; }));
    EXPECT_EQ(prefill_.engine().stats().offers_withdrawn, 1u);
    EXPECT_TRUE(Eventually(
        [&] { return MetricsOf(router, R"(kvplane_router_withdrawals_total{result="withdrawn"})") == 1; }));
  }

  DemoNode prefill_;
};
using RouterWithdrawsSafety = RouterWithdraws;
using RouterWithdrawsUnit = RouterWithdraws;

TEST_F(RouterWithdrawsSafety, KvThatADecodeNodeRefused) {
  ScriptedNode decode(WhenOffered(Busy));
  RunningRouter router(Options(decode));
  ASSERT_TRUE(router.WaitForNodes(1, 1));
  EXPECT_EQ(Call(router.port(), "POST", "/v1/completions", kBody).status, 429);
  ExpectWithdrawn(router);
}

TEST_F(RouterWithdrawsSafety, KvThatADyingDecodeNodeDidNotFetch) {
  ScriptedNode decode(WhenOffered(Die));
  RunningRouter router(Options(decode));
  ASSERT_TRUE(router.WaitForNodes(1, 1));
  EXPECT_EQ(Call(router.port(), "POST", "/v1/completions", kBody).status, 503);
  ExpectWithdrawn(router);
}

TEST_F(RouterWithdrawsSafety, KvOfAnAnswerThatBrokeOff) {
  ScriptedNode decode(WhenOffered(DieInMidStream));
  RunningRouter router(Options(decode));
  ASSERT_TRUE(router.WaitForNodes(1, 1));
  Call(router.port(), "POST", "/v1/completions", R"({"prompt": "x", "max_tokens": 4, "stream": true})");
  ExpectWithdrawn(router);
}

TEST_F(RouterWithdrawsSafety, KvOfAClientThatLeft) {
  ScriptedNode decode(Hang);
  RunningRouter router(Options(decode));
  ASSERT_TRUE(router.WaitForNodes(1, 1));
  RawClient client(router.port());
  client.Send(
      fmt::format("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                  "application/json\r\nContent-Length: {}\r\n\r\n{}",
                  kBody.size(), kBody));
  ASSERT_TRUE(AwaitOffer());
  client.Close();
  ExpectWithdrawn(router);
}

TEST_F(RouterWithdrawsUnit, KvThatTheDecodeNodeComputedItself) {
  ScriptedNode decode(WhenOffered([](const std::shared_ptr<Exchange>& exchange) {
    exchange->Respond(
        JsonResponse(R"({"kvplane":{"source":"recompute","recompute_reason":"no way there"}})"));
  }));
  RunningRouter router(Options(decode));
  ASSERT_TRUE(router.WaitForNodes(1, 1));
  EXPECT_EQ(Call(router.port(), "POST", "/v1/completions", kBody).status, 200);
  ExpectWithdrawn(router);
}

TEST_F(RouterWithdrawsUnit, KvThatTheDecodeNodeComputedItselfAndSaysSoInPieces) {
  ScriptedNode decode(WhenOffered([](const std::shared_ptr<Exchange>& exchange) {
    HttpResponse head;
    head.headers.Set("Content-Type", "text/event-stream");
    exchange->BeginStream(std::move(head));
    exchange->Write(R"(data: {"kvplane":{"source":"recom)");
    exchange->OnDrained([weak = std::weak_ptr<Exchange>(exchange), last = false]() mutable {
      const auto alive = weak.lock();
      if (alive == nullptr || std::exchange(last, true)) return;
      alive->Write("pute\"}}\n\n");
      alive->End();
    });
  }));
  RunningRouter router(Options(decode));
  ASSERT_TRUE(router.WaitForNodes(1, 1));
  const RawResponse answer =
      Call(router.port(), "POST", "/v1/completions", R"({"prompt": "x", "max_tokens": 4, "stream": true})");
  EXPECT_EQ(answer.body, "data: {\"kvplane\":{\"source\":\"recompute\"}}\n\n");
  ExpectWithdrawn(router);
}

TEST(RouterSafety, APrefillNodeThatDoesNotTakeKvBackCostsNothing) {
  ScriptedNode prefill(AnswerOk, /*serves_kv=*/true);
  ScriptedNode decode([&prefill](const std::shared_ptr<Exchange>& exchange) {
    EXPECT_TRUE(Eventually([&prefill] { return prefill.calls() > 0; }));
    Busy(exchange);
  });
  RouterOptions options;
  options.prefill = {prefill.url()};
  options.decode = {decode.url()};
  RunningRouter router(options);
  ASSERT_TRUE(router.WaitForNodes(1, 1));
  EXPECT_EQ(Call(router.port(), "POST", "/v1/completions", kBody).status, 429);
  EXPECT_TRUE(Eventually([&] { return prefill.calls() >= 2; }));
  EXPECT_EQ(prefill.calls(), 2) << "once, whatever it says";
  EXPECT_TRUE(Eventually(
      [&] { return MetricsOf(router, R"(kvplane_router_withdrawals_total{result="failed"})") == 1; }));
}

TEST(RouterSafety, WithoutPrefillNodeTheDecodeNodeDoesAll) {
  DemoNode decode(NodeOptions("decode", 0));
  RouterOptions options;
  options.prefill = {"http://127.0.0.1:1"};  // nobody there
  options.decode = {decode.url()};
  RunningRouter router(options);
  ASSERT_TRUE(router.WaitForNodes(0, 1));
  const RawResponse response = Call(router.port(), "POST", "/v1/completions", kBody);
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(json::parse(response.body)["kvplane"]["source"], "local");
}

// Nodes are checked when the router starts; afterwards requests alone decide who is up.
RouterOptions CheckedOnce() {
  RouterOptions options;
  options.health_interval = std::chrono::hours(1);
  options.health_timeout = std::chrono::minutes(1);
  return options;
}

// The node answers and closes while the router still writes.
TEST(RouterSafety, ABodyThatNodesRefuseUnreadPutsNoNodeOut) {
  HttpServerOptions small;
  small.limits.max_body_bytes = 1000;
  ScriptedNode prefill(AnswerOk, /*serves_kv=*/true, "demo", small);
  ScriptedNode decode(AnswerOk, /*serves_kv=*/false, "demo", small);
  RouterOptions options = CheckedOnce();
  options.prefill = {prefill.url()};
  options.decode = {decode.url()};
  RunningRouter router(options);
  ASSERT_TRUE(router.WaitForNodes(1, 1));
  // More than buffers of sockets and what a server reads of a refused body.
  const std::string body = json{{"prompt", std::string(15 << 20, 'x')}}.dump();
  for (int i = 0; i < 3; ++i) {
    const RawResponse response = Call(router.port(), "POST", "/v1/completions", body);
    EXPECT_EQ(response.status, 413) << response.body;
  }
  EXPECT_TRUE(router.WaitForNodes(1, 1)) << "both are well";
  EXPECT_EQ(Call(router.port(), "POST", "/v1/completions", kBody).status, 200);
}

TEST(RouterSafety, NodesTakeWhatTheRouterTakes) {
  const HttpLimits limits;
  ScriptedNode prefill(AnswerOk, /*serves_kv=*/true);
  ScriptedNode decode(AnswerOk);
  RouterOptions options = CheckedOnce();
  options.prefill = {prefill.url()};
  options.decode = {decode.url()};
  RunningRouter router(options);
  ASSERT_TRUE(router.WaitForNodes(1, 1));
  const size_t quotes = json{{"prompt", ""}}.dump().size();
  const auto ask = [&](uint64_t bytes) {
    const std::string body = json{{"prompt", std::string(bytes - quotes, 'x')}}.dump();
    return Call(router.port(), "POST", "/v1/completions", body).status;
  };
  EXPECT_EQ(ask(limits.max_body_bytes), 413);
  EXPECT_EQ(prefill.calls() + decode.calls(), 0) << "the router's own refusal";
  EXPECT_EQ(ask(limits.max_body_bytes - kSplitBodyBytes), 200) << "with what the transfer adds";
  EXPECT_TRUE(router.WaitForNodes(1, 1));
}

// Whether the node is well is for the next check to say.
TEST(RouterSafety, ANodeThatFailsARequestItTookIsNotPutOut) {
  ScriptedNode decode(Die);
  RouterOptions options = CheckedOnce();
  options.decode = {decode.url()};
  RunningRouter router(options);
  ASSERT_TRUE(router.WaitForNodes(0, 1));
  EXPECT_EQ(Call(router.port(), "POST", "/v1/completions", kBody).status, 503);
  EXPECT_TRUE(router.WaitForNodes(0, 1));
}

TEST(RouterSafety, AFailingPrefillNodeIsLeftOut) {
  DemoNode decode(NodeOptions("decode", 0));
  for (const auto& script : {ScriptedNode::Script(Die), ScriptedNode::Script(Busy)}) {
    ScriptedNode prefill(script, /*serves_kv=*/true);
    RouterOptions options;
    options.prefill = {prefill.url()};
    options.decode = {decode.url()};
    RunningRouter router(options);
    ASSERT_TRUE(router.WaitForNodes(1, 1));
    const RawResponse response = Call(router.port(), "POST", "/v1/completions", kBody);
    ASSERT_EQ(response.status, 200) << response.body;
    EXPECT_EQ(json::parse(response.body)["choices"][0]["finish_reason"], "length");
    // Died on a pooled connection: sent once more, on a new one.
    EXPECT_LE(prefill.calls(), 2);
    EXPECT_GE(prefill.calls(), 1);
  }
}

TEST(RouterSafety, AnotherPrefillNodeTakesOver) {
  DemoNode good(NodeOptions("prefill", 0));
  DemoNode decode(NodeOptions("decode", 1));
  ScriptedNode::Script draining = [](const std::shared_ptr<Exchange>& exchange) {
    exchange->Respond(ErrorResponse(Draining()));
  };
  ScriptedNode bad(draining, /*serves_kv=*/true, FingerprintOf(good));
  RouterOptions options;
  options.prefill = {bad.url(), good.url()};
  options.decode = {decode.url()};
  RunningRouter router(options);
  ASSERT_TRUE(router.WaitForNodes(2, 1));
  for (int i = 0; i < 4; ++i) {
    const RawResponse response = Call(router.port(), "POST", "/v1/completions", kBody);
    ASSERT_EQ(response.status, 200) << response.body;
    EXPECT_EQ(json::parse(response.body)["kvplane"]["source"], "transfer");
  }
  EXPECT_GE(bad.calls(), 1);
}

// What is sent again and again goes where it went before; what is new goes round.
TEST(RouterPrefixUnit, PromptsFollowTheirBeginning) {
  ScriptedNode a(AnswerOk), b(AnswerOk), c(AnswerOk);
  RouterOptions options;
  options.decode = {a.url(), b.url(), c.url()};
  RunningRouter router(options);
  ASSERT_TRUE(router.WaitForNodes(0, 3));
  const auto ask = [&](char letter, const std::string& end) {
    const json body = {{"prompt", std::string(20'000, letter) + end}};
    EXPECT_EQ(Call(router.port(), "POST", "/v1/completions", body.dump()).status, 200);
  };
  const auto calls = [&] { return std::vector<int>{a.calls(), b.calls(), c.calls()}; };
  for (const char letter : {'x', 'y', 'z'}) ask(letter, "");
  EXPECT_EQ(calls(), (std::vector<int>{1, 1, 1})) << "new prompts go round";
  for (int i = 0; i < 5; ++i) ask('y', std::to_string(i));
  std::vector<int> counts = calls();
  std::sort(counts.begin(), counts.end());
  EXPECT_EQ(counts, (std::vector<int>{1, 1, 6})) << "one prefix, one node";
  EXPECT_EQ(MetricsOf(router, R"(kvplane_router_prompt_bytes_total{prefix="known"})").get<double>() > 90'000,
            true);
}

TEST(RouterPrefixUnit, WithoutPrefixAwarenessLoadAloneDecides) {
  ScriptedNode a(AnswerOk), b(AnswerOk);
  RouterOptions options;
  options.decode = {a.url(), b.url()};
  options.prefix_aware = false;
  RunningRouter router(options);
  ASSERT_TRUE(router.WaitForNodes(0, 2));
  const json body = {{"prompt", std::string(20'000, 'x')}};
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(Call(router.port(), "POST", "/v1/completions", body.dump()).status, 200);
  }
  EXPECT_EQ(a.calls(), 3);
  EXPECT_EQ(b.calls(), 3);
}

// A node that closes connections after every answer: the pooled ones are dead when they are used next, which
// is no reason to take the node out.
TEST(RouterSafety, PooledConnectionsThatDiedAreReplaced) {
  std::atomic<int> posts{0};
  ScriptedNode node([&posts](const std::shared_ptr<Exchange>& exchange) {
    // Every second request dies without an answer, as on a connection that was just being closed.
    if (posts++ % 2 == 0) {
      exchange->Abort();
    } else {
      exchange->Respond(JsonResponse(R"({"ok":true})"));
    }
  });
  RouterOptions options;
  options.decode = {node.url()};
  RunningRouter router(options);
  ASSERT_TRUE(router.WaitForNodes(0, 1));
  const RawResponse response = Call(router.port(), "POST", "/v1/completions", kBody);
  EXPECT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(posts.load(), 2);
  EXPECT_EQ(MetricsOf(router, R"(kvplane_router_retries_total{reason="decode_failed"})"), 0);
}

TEST(RouterSafety, ADecodeNodeThatDiesBeforeItsAnswerIsReplaced) {
  for (const auto& script : {ScriptedNode::Script(Die), ScriptedNode::Script(Busy)}) {
    ScriptedNode bad(script);
    ScriptedNode good(AnswerOk);
    RouterOptions options;
    options.decode = {bad.url(), good.url()};
    RunningRouter router(options);
    ASSERT_TRUE(router.WaitForNodes(0, 2));
    for (int i = 0; i < 4; ++i) {
      const RawResponse response = Call(router.port(), "POST", "/v1/completions", kBody);
      EXPECT_EQ(response.status, 200);
      EXPECT_EQ(response.body, R"({"ok":true})");
    }
    EXPECT_GE(bad.calls(), 1);
    EXPECT_EQ(good.calls(), 4);
  }
}

TEST(RouterSafety, RetriesAreBoundedAndTheLastRefusalIsTold) {
  ScriptedNode a(Busy), b(Busy), c(Busy), d(Busy);
  RouterOptions options;
  options.decode = {a.url(), b.url(), c.url(), d.url()};
  RunningRouter router(options);
  ASSERT_TRUE(router.WaitForNodes(0, 4));
  const RawResponse response = Call(router.port(), "POST", "/v1/completions", kBody);
  EXPECT_EQ(response.status, 429);
  EXPECT_EQ(response.Header("Retry-After"), "1");
  EXPECT_EQ(a.calls() + b.calls() + c.calls() + d.calls(), 3);
}

TEST(RouterSafety, AnAnswerThatIsTooLargeToKeepIsRefusedOnce) {
  ScriptedNode::Script much = [](const std::shared_ptr<Exchange>& exchange) {
    exchange->Respond(JsonResponse(std::string(kMaxAnswerBytes + 1, 'x')));
  };
  ScriptedNode a(much), b(much);
  RouterOptions options = CheckedOnce();
  options.decode = {a.url(), b.url()};
  RunningRouter router(options);
  ASSERT_TRUE(router.WaitForNodes(0, 2));
  const RawResponse response = Call(router.port(), "POST", "/v1/completions", kBody);
  EXPECT_EQ(response.status, 502);
  EXPECT_NE(response.body.find("stream"), std::string::npos) << response.body;
  EXPECT_EQ(a.calls() + b.calls(), 1);
  EXPECT_TRUE(router.WaitForNodes(0, 2));
}

TEST_F(RouterUnit, KvParametersOfAClientReachNoNode) {
  const RawResponse refused = Call(router_.port(), "POST", "/v1/completions",
                                   R"({"prompt": "x", "max_tokens": 2, "kv_transfer_params":
                                       {"do_remote_prefill": true, "transfer_id": "t", "remote_host": "127.0.0.1",
                                        "remote_port": 1}})");
  EXPECT_EQ(refused.status, 400) << refused.body;
  EXPECT_EQ(json::parse(refused.body)["error"]["param"], "kv_transfer_params");
  EXPECT_EQ(decode_.engine().stats().requests_submitted, 0u);
}

TEST(RouterSafety, DeathInMidStreamEndsItWithAnErrorEvent) {
  ScriptedNode decode(DieInMidStream);
  RouterOptions options;
  options.decode = {decode.url()};
  RunningRouter router(options);
  ASSERT_TRUE(router.WaitForNodes(0, 1));
  const RawResponse response =
      Call(router.port(), "POST", "/v1/completions", R"({"prompt": "x", "stream": true})");
  EXPECT_EQ(response.status, 200);
  EXPECT_FALSE(response.cut);
  ASSERT_TRUE(response.body.starts_with("data: {\"first\":1}\n\ndata: ")) << response.body;
  const json error = json::parse(response.body.substr(response.body.rfind("data: ") + 6));
  EXPECT_EQ(error["error"]["code"], "bad_gateway");
}

TEST(RouterSafety, NoNodeIs503WithRetryAfter) {
  RouterOptions options;
  options.decode = {"http://127.0.0.1:1"};
  RunningRouter router(options);
  const RawResponse response = Call(router.port(), "POST", "/v1/completions", kBody);
  EXPECT_EQ(response.status, 503);
  EXPECT_FALSE(response.Header("Retry-After").empty());
  EXPECT_EQ(json::parse(response.body)["error"]["type"], "service_unavailable_error");
  EXPECT_EQ(Call(router.port(), "GET", "/ready").status, 503);
  EXPECT_EQ(Call(router.port(), "GET", "/health").status, 200);
}

TEST(RouterSafety, ASilentNodeDoesNotHoldItsRequests) {
  ScriptedNode decode(Hang);
  RouterOptions options;
  options.decode = {decode.url()};
  options.health_timeout = milliseconds(500);  // three times in a row: silence, not a busy machine
  RunningRouter router(options);
  ASSERT_TRUE(router.WaitForNodes(0, 1));
  RawClient client(router.port());
  client.Send(
      fmt::format("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                  "application/json\r\nContent-Length: {}\r\n\r\n{}",
                  kBody.size(), kBody));
  ASSERT_TRUE(Eventually([&] { return decode.calls() > 0; }));
  decode.BeSilent();
  EXPECT_EQ(client.ReadResponse(60'000).status, 503);
}

TEST(RouterSafety, RequestsHaveADeadline) {
  ScriptedNode decode(Hang);
  RouterOptions options;
  options.decode = {decode.url()};
  options.request_timeout = milliseconds(150);
  RunningRouter router(options);
  ASSERT_TRUE(router.WaitForNodes(0, 1));
  EXPECT_EQ(Call(router.port(), "POST", "/v1/completions", kBody).status, 504);
}

TEST(RouterSafety, AfterTheDeadlineNoFurtherNodeIsAsked) {
  ScriptedNode a(Hang), b(Hang), c(Hang);
  RouterOptions options;
  options.decode = {a.url(), b.url(), c.url()};
  options.request_timeout = milliseconds(150);
  RunningRouter router(options);
  ASSERT_TRUE(router.WaitForNodes(0, 3));
  EXPECT_EQ(Call(router.port(), "POST", "/v1/completions", kBody).status, 504);
  EXPECT_EQ(MetricsOf(router, R"(kvplane_router_placements_total{placement="plain"})"), 1);
  EXPECT_EQ(MetricsOf(router, R"(kvplane_router_retries_total{reason="decode_failed"})"), 0);
}

TEST(RouterSafety, CreateRefusesBadOptions) {
  RouterOptions options;
  EXPECT_EQ(Router::Create(options).status().code(), base::StatusCode::kInvalidArgument);
  options.decode = {"ftp://a:1"};
  EXPECT_EQ(Router::Create(options).status().code(), base::StatusCode::kInvalidArgument);
  options.decode = {"http://127.0.0.1:1"};
  options.http.host = "0.0.0.0";
  EXPECT_EQ(Router::Create(options).status().code(), base::StatusCode::kPermissionDenied);
}

}  // namespace
}  // namespace kvplane::server
