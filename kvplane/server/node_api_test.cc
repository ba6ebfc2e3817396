// The API of one real node: the demo model's engine behind a server on loopback.

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "kvplane/engine/testing/demo_model.h"
#include "kvplane/server/server.h"
#include "kvplane/server/testing/demo_node.h"
#include "kvplane/server/testing/raw_client.h"

namespace kvplane::server {
namespace {

using nlohmann::json;
using testing::Call;
using testing::DemoNode;
using testing::DemoNodeOptions;
using testing::RawClient;
using testing::RawResponse;

constexpr std::string_view kFacts =
    "The code for amber is 48213. The code for walnut is 90117.\\nQuestion: What is the code for "
    "walnut?\\nAnswer:";

json PostJson(uint16_t port, std::string_view path, std::string_view body, int expected_status = 200) {
  const RawResponse response = Call(port, "POST", path, body);
  EXPECT_EQ(response.status, expected_status) << response.body;
  EXPECT_EQ(response.Header("Content-Type"), "application/json");
  return json::parse(response.body, nullptr, false);
}

// The data of all events of a stream but the last, which must be [DONE].
std::vector<json> Stream(uint16_t port, std::string_view path, std::string_view body) {
  const RawResponse response = Call(port, "POST", path, body);
  EXPECT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.Header("Content-Type"), "text/event-stream; charset=utf-8");
  std::vector<json> events;
  std::string_view rest = response.body;
  EXPECT_TRUE(rest.ends_with("data: [DONE]\n\n")) << rest;
  while (!rest.empty()) {
    const size_t end = rest.find("\n\n");
    if (end == std::string_view::npos || !rest.starts_with("data: ")) break;
    const std::string_view data = rest.substr(6, end - 6);
    if (data != "[DONE]") events.push_back(json::parse(data));
    rest.remove_prefix(end + 2);
  }
  return events;
}

std::string JoinText(const std::vector<json>& events, size_t index = 0) {
  std::string text;
  for (const json& event : events) {
    for (const json& choice : event["choices"]) {
      if (choice["index"] != index) continue;
      text +=
          choice.contains("text") ? choice["text"].get<std::string>() : choice["delta"].value("content", "");
    }
  }
  return text;
}

class NodeApiUnit : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { node_ = new DemoNode(); }
  static void TearDownTestSuite() { delete std::exchange(node_, nullptr); }
  static uint16_t port() { return node_->port(); }
  static inline DemoNode* node_ = nullptr;
};

TEST_F(NodeApiUnit, GreedyTokensAreTheGoldenOnes) {
  const engine::GoldenPrompt& golden = engine::GoldenPrompts().front();
  json body = {{"model", "demo"},  {"prompt", golden.token_ids}, {"max_tokens", 32},
               {"temperature", 0}, {"ignore_eos", true},         {"return_token_ids", true}};
  const json answer = PostJson(port(), "/v1/completions", body.dump());
  EXPECT_EQ(answer["object"], "text_completion");
  EXPECT_EQ(answer["model"], "demo");
  EXPECT_EQ(answer["choices"][0]["token_ids"], json(golden.greedy_32));
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(answer["usage"]["prompt_tokens"], golden.token_ids.size());
  EXPECT_EQ(answer["usage"]["completion_tokens"], 32);
  EXPECT_EQ(answer["usage"]["total_tokens"], golden.token_ids.size() + 32);
  EXPECT_EQ(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
  EXPECT_EQ(answer["kvplane"]["source"], "local");
  EXPECT_GT(answer["kvplane"]["ttft_ms"].get<double>(), 0);
  EXPECT_GE(answer["kvplane"]["total_ms"].get<double>(), answer["kvplane"]["ttft_ms"].get<double>());
  EXPECT_FALSE(answer["kvplane"].contains("transfer"));

  body["stream"] = true;
  const std::vector<json> events = Stream(port(), "/v1/completions", body.dump());
  json ids = json::array();
  for (const json& event : events) {
    for (const json& id : event["choices"][0]["token_ids"]) ids.push_back(id);
  }
  EXPECT_EQ(ids, json(golden.greedy_32));
  EXPECT_EQ(answer["choices"][0]["text"], JoinText(events));
  EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(events.back()["kvplane"]["source"], "local");
  EXPECT_FALSE(events.back().contains("usage"));
}

TEST_F(NodeApiUnit, AnswersFromItsContext) {
  const json answer = PostJson(
      port(), "/v1/completions",
      fmt::format(R"({{"prompt": "{}", "temperature": 0, "stop": "\n", "max_tokens": 40}})", kFacts));
  EXPECT_NE(answer["choices"][0]["text"].get<std::string>().find("90117"), std::string::npos) << answer;
}

TEST_F(NodeApiUnit, StopStringsEndTheTextBeforeThem) {
  const auto ask = [&](std::string_view extra) {
    return fmt::format(R"({{"prompt": "{}", "temperature": 0, "max_tokens": 24, "ignore_eos": true{}}})",
                       kFacts, extra);
  };
  const std::string whole =
      PostJson(port(), "/v1/completions", ask(""))["choices"][0]["text"].get<std::string>();
  ASSERT_NE(whole.find("walnut"), std::string::npos) << whole;
  for (const std::string stop : {"walnut is", "ut i", "90117"}) {  // across and inside tokens
    const std::string extra = R"(, "stop": [")" + stop + R"("])";
    const json answer = PostJson(port(), "/v1/completions", ask(extra));
    EXPECT_EQ(answer["choices"][0]["text"], whole.substr(0, whole.find(stop))) << stop;
    EXPECT_EQ(answer["choices"][0]["finish_reason"], "stop");
    const auto events = Stream(port(), "/v1/completions", ask(extra + R"(, "stream": true)"));
    EXPECT_EQ(JoinText(events), whole.substr(0, whole.find(stop))) << stop;
    EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "stop");
  }
}

TEST_F(NodeApiUnit, ChatStreamsDeltas) {
  const std::string body =
      R"({"messages": [{"role": "system", "content": "The code for amber is 48213. The code for walnut is 90117."},
          {"role": "user", "content": "What is the code for amber?"}], "temperature": 0, "max_tokens": 16,
          "ignore_eos": true)";
  const json answer = PostJson(port(), "/v1/chat/completions", body + "}");
  EXPECT_EQ(answer["object"], "chat.completion");
  EXPECT_EQ(answer["choices"][0]["message"]["role"], "assistant");
  const auto text = answer["choices"][0]["message"]["content"].get<std::string>();
  EXPECT_NE(text.find("48213"), std::string::npos) << text;
  const auto events = Stream(port(), "/v1/chat/completions",
                             body + R"(, "stream": true, "stream_options": {"include_usage": true}})");
  EXPECT_EQ(events.front()["object"], "chat.completion.chunk");
  EXPECT_EQ(events.front()["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(JoinText(events), text);
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    ASSERT_TRUE(events[i].contains("usage")) << i;
    EXPECT_TRUE(events[i]["usage"].is_null()) << i;
  }
  EXPECT_EQ(events.back()["choices"], json::array());
  EXPECT_EQ(events.back()["usage"]["completion_tokens"], 16);
  EXPECT_TRUE(events.back().contains("kvplane"));
}

TEST_F(NodeApiUnit, SeveralPromptsAndChoices) {
  const json answer = PostJson(
      port(), "/v1/completions",
      R"({"prompt": ["One", "Two words"], "n": 2, "max_tokens": 3, "ignore_eos": true, "seed": 7, "temperature": 1})");
  ASSERT_EQ(answer["choices"].size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(answer["choices"][i]["index"], i);
  EXPECT_EQ(answer["usage"]["completion_tokens"], 12);
  const json again = PostJson(
      port(), "/v1/completions",
      R"({"prompt": ["One", "Two words"], "n": 2, "max_tokens": 3, "ignore_eos": true, "seed": 7, "temperature": 1})");
  EXPECT_EQ(again["choices"], answer["choices"]);  // seeded
}

TEST_F(NodeApiUnit, Logprobs) {
  const json answer = PostJson(port(), "/v1/completions",
                               R"({"prompt": "The old man", "max_tokens": 4, "temperature": 0, "logprobs": 3,
                                   "ignore_eos": true})");
  const json& logprobs = answer["choices"][0]["logprobs"];
  ASSERT_EQ(logprobs["tokens"].size(), 4u);
  ASSERT_EQ(logprobs["token_logprobs"].size(), 4u);
  ASSERT_EQ(logprobs["text_offset"].size(), 4u);
  EXPECT_EQ(logprobs["text_offset"][0], 0);
  EXPECT_LE(logprobs["token_logprobs"][0].get<double>(), 0);
  EXPECT_EQ(logprobs["top_logprobs"][0].size(), 3u);
  const json chat = PostJson(port(), "/v1/chat/completions",
                             R"({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2,
                                 "logprobs": true, "top_logprobs": 2, "ignore_eos": true})");
  const json& content = chat["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 2u);
  EXPECT_TRUE(content[0]["bytes"].is_array());
  EXPECT_EQ(content[0]["top_logprobs"].size(), 2u);
}

TEST_F(NodeApiUnit, TokenizeAndBack) {
  const json tokens =
      PostJson(port(), "/tokenize", R"({"prompt": "The old man", "add_special_tokens": false})");
  EXPECT_EQ(tokens["count"], tokens["tokens"].size());
  EXPECT_EQ(tokens["max_model_len"], 2048);
  const json text = PostJson(port(), "/detokenize", json{{"tokens", tokens["tokens"]}}.dump());
  EXPECT_EQ(text["prompt"], "The old man");
}

TEST_F(NodeApiUnit, SmallRoutes) {
  EXPECT_EQ(json::parse(Call(port(), "GET", "/health").body)["status"], "ok");
  EXPECT_EQ(json::parse(Call(port(), "GET", "/ready").body)["status"], "ready");
  const json models = json::parse(Call(port(), "GET", "/v1/models").body);
  EXPECT_EQ(models["data"][0]["id"], "demo");
  const json endpoint = json::parse(Call(port(), "GET", "/v1/kv/endpoint").body);
  EXPECT_EQ(endpoint["role"], "unified");
  EXPECT_EQ(endpoint["ready"], true);
  EXPECT_TRUE(endpoint["kv_host"].is_null());
  EXPECT_EQ(endpoint["model_fingerprint"], "demo");
  EXPECT_EQ(endpoint["profiles"], json::array());
  EXPECT_EQ(endpoint["engine_id"].get<std::string>().size(), 16u);
}

TEST_F(NodeApiUnit, MetricsCountWhatHappened) {
  PostJson(port(), "/v1/completions", R"({"prompt": "x", "max_tokens": 2, "ignore_eos": true})");
  Call(port(), "GET", "/nowhere");
  const RawResponse metrics = Call(port(), "GET", "/metrics");
  EXPECT_EQ(metrics.Header("Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
  for (const char* part :
       {"kvplane_build_info{", "kvplane_ttft_seconds_bucket{", "kvplane_tpot_seconds_count",
        "kvplane_jct_seconds_sum", "kvplane_http_requests_total{route=\"/v1/completions\",status=\"200\"}",
        "kvplane_http_requests_total{route=\"other\",status=\"404\"}",
        "kvplane_generations_total{outcome=\"length\"}", "kvplane_requests{state=\"queued\"}",
        "kvplane_cache_blocks{state=\"free\"}", "kvplane_kv_bytes_total{form=\"wire\"}",
        "kvplane_tiles_retried_total", "kvplane_recomputes_total"}) {
    EXPECT_NE(metrics.body.find(part), std::string::npos) << part;
  }
  EXPECT_EQ(metrics.body.find("nowhere"), std::string::npos);  // clients must not name time series
}

TEST_F(NodeApiUnit, RefusalsAreOpenAiErrors) {
  const auto refused = [&](std::string_view path, std::string_view body, int status) {
    const json answer = PostJson(port(), path, body, status);
    EXPECT_TRUE(answer["error"]["message"].is_string()) << answer;
    return answer["error"];
  };
  EXPECT_EQ(refused("/v1/completions", R"({"prompt": "x", "model": "gpt-4"})", 404)["code"],
            "model_not_found");
  EXPECT_EQ(refused("/v1/completions", "{", 400)["type"], "invalid_request_error");
  EXPECT_EQ(refused("/v1/completions", R"({"prompt": [999999]})", 400)["param"], "prompt");
  EXPECT_EQ(refused("/v1/completions", R"({"prompt": "x", "logit_bias": {"999999": 1}})", 400)["type"],
            "invalid_request_error");
  EXPECT_EQ(refused("/v1/completions", R"({"prompt": "x", "kv_transfer_params": {"do_remote_decode": true}})",
                    400)["param"],
            "kv_transfer_params");
  EXPECT_EQ(refused("/v1/completions",
                    R"({"prompt": "x", "kv_transfer_params": {"do_remote_prefill": true, "transfer_id": "t",
                        "remote_host": "127.0.0.1", "remote_port": 1}})",
                    400)["param"],
            "kv_transfer_params");
  json long_prompt = {{"prompt", std::vector<int32_t>(2048, 5)}};
  const json too_long = refused("/v1/completions", long_prompt.dump(), 413);
  EXPECT_EQ(too_long["code"], "context_length_exceeded");
  EXPECT_NE(too_long["message"].get<std::string>().find("2048"), std::string::npos);
  EXPECT_EQ(refused("/v1/completions", R"({"prompt": "x", "max_tokens": 5000})", 413)["param"], "max_tokens");
  long_prompt["prompt"] = std::string(5 << 20, 'a');
  EXPECT_EQ(refused("/v1/completions", long_prompt.dump(), 413)["param"], "prompt");
  EXPECT_EQ(refused("/nowhere", "{}", 404)["code"], "not_found");
  const RawResponse wrong_method = Call(port(), "GET", "/v1/completions");
  EXPECT_EQ(wrong_method.status, 405);
  EXPECT_EQ(wrong_method.Header("Allow"), "POST");
  RawClient broken(port());
  broken.Send("BROKEN\r\n\r\n");
  EXPECT_EQ(json::parse(broken.ReadResponse().body)["error"]["type"], "invalid_request_error");
}

// The profile is not there, and the request says so before anything is computed.
TEST(NodeApiProfileUnit, AStrategyWithoutItsProfileIsRefusedByRule) {
  testing::DemoNodeOptions prefill;
  prefill.role = "prefill";
  const testing::DemoNode node(prefill);
  const json answer =
      PostJson(node.port(), "/v1/completions",
               R"({"prompt": "x", "kv_transfer_params": {"do_remote_decode": true, "transfer_id": "t"},
                   "kvplane": {"strategy": "heads(ratio=50) | levels(m=16,low=2) | pack"}})",
               400);
  EXPECT_NE(answer["error"]["message"].get<std::string>().find("L4"), std::string::npos) << answer;
}

TEST_F(NodeApiUnit, ClientsThatLeaveAreCancelled) {
  const uint64_t before = node_->engine().stats().requests_cancelled;
  RawClient client(port());
  const std::string body = R"({"prompt": "Once", "max_tokens": 1900, "ignore_eos": true, "stream": true})";
  client.Send(
      fmt::format("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                  "application/json\r\nContent-Length: {}\r\n\r\n{}",
                  body.size(), body));
  EXPECT_FALSE(client.ReadSome().empty());
  client.Close();
  for (int i = 0; i < 2000 && node_->engine().stats().requests_cancelled == before; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(node_->engine().stats().requests_cancelled, before + 1);
}

std::string LongStream(size_t tokens) {
  const std::string body =
      fmt::format(R"({{"prompt": "Once", "max_tokens": {}, "ignore_eos": true, "stream": true}})", tokens);
  return fmt::format(
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
      "{}\r\n\r\n{}",
      body.size(), body);
}

TEST(NodeApiSafety, AFullQueueIs429WithRetryAfter) {
  DemoNodeOptions options;
  options.engine.max_running = 1;
  options.engine.max_queued = 1;
  DemoNode node(options);
  std::vector<std::unique_ptr<RawClient>> clients;
  RawResponse refused;
  for (int i = 0; i < 20 && refused.status != 429; ++i) {
    clients.push_back(std::make_unique<RawClient>(node.port()));
    clients.back()->Send(LongStream(2000));
    refused = Call(node.port(), "POST", "/v1/completions", R"({"prompt": "x", "max_tokens": 1900})", "", 500);
  }
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.Header("Retry-After"), "1");
  EXPECT_EQ(json::parse(refused.body)["error"]["type"], "rate_limit_error");
}

TEST(NodeApiSafety, DrainRefusesNewAndFinishesOld) {
  DemoNode node;
  RawClient running(node.port());
  RawClient kept(node.port());
  kept.Send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(kept.ReadResponse().status, 200);
  running.Send(LongStream(150));
  std::string text = running.ReadSome();
  ASSERT_FALSE(text.empty());
  node.server().RequestDrain(base::Clock::System().Now() + std::chrono::minutes(5));
  while (RawClient(node.port()).connected()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  kept.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
      "15\r\n\r\n{\"prompt\": \"x\"}");
  const RawResponse refused = kept.ReadResponse();
  if (refused.status != 0) {  // the stream may have ended first, and with it the drain
    EXPECT_EQ(refused.status, 503);
    EXPECT_EQ(json::parse(refused.body)["error"]["code"], "draining");
    EXPECT_FALSE(refused.Header("Retry-After").empty());
  }
  for (std::string piece = running.ReadSome(); !piece.empty(); piece = running.ReadSome()) text += piece;
  EXPECT_NE(text.find("data: [DONE]"), std::string::npos);
  node.Join();
}

TEST(NodeApiSafety, ServerMayGoBeforeItsRequestsEnd) {
  DemoNode node;
  RawClient client(node.port());
  client.Send(LongStream(1900));
  EXPECT_FALSE(client.ReadSome().empty());
  node.StopServer();
  EXPECT_TRUE(client.WaitForClose());
  for (int i = 0; i < 2000 && node.engine().stats().requests_cancelled == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(node.engine().stats().requests_cancelled, 1u);
}

TEST(NodeApiSafety, TokensGuardTheApi) {
  const std::string path = ::testing::TempDir() + "/kvplane_node_tokens";
  std::ofstream(path) << "secret\n";
  DemoNodeOptions options;
  options.server.auth_token_file = path;
  DemoNode node(options);
  std::remove(path.c_str());
  const RawResponse refused = Call(node.port(), "GET", "/v1/models");
  EXPECT_EQ(refused.status, 401);
  EXPECT_EQ(refused.Header("WWW-Authenticate"), "Bearer");
  EXPECT_EQ(json::parse(refused.body)["error"]["code"], "invalid_api_key");
  EXPECT_EQ(Call(node.port(), "GET", "/v1/models", "", "Authorization: Bearer wrong\r\n").status, 401);
  EXPECT_EQ(Call(node.port(), "GET", "/v1/models", "", "Authorization: Bearer secret\r\n").status, 200);
  EXPECT_EQ(Call(node.port(), "GET", "/health").status, 200);
  EXPECT_EQ(Call(node.port(), "POST", "/v1/kv/withdraw", R"({"transfer_id": "t"})").status, 401);
}

// Nothing but the withdrawal can end these offers within the test's patience.
DemoNodeOptions PatientPrefill() {
  DemoNodeOptions options;
  options.role = "prefill";
  options.engine.transfer_timeout = std::chrono::minutes(10);
  options.engine.offer_lease = std::chrono::minutes(10);
  return options;
}

bool BecomesIdle(DemoNode& node) {
  for (int i = 0; i < 6000 && node.engine().stats().blocks_used > 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return node.engine().stats().blocks_used == 0;
}

constexpr std::string_view kPrefillOnly =
    R"({"prompt": "Once upon a time", "kv_transfer_params": {"do_remote_decode": true, "transfer_id": "t1"}})";

TEST(NodeApiWithdrawUnit, WithdrawnKvFreesItsBlocks) {
  DemoNode node(PatientPrefill());
  PostJson(node.port(), "/v1/completions", kPrefillOnly);
  EXPECT_GT(node.engine().stats().blocks_used, 0u);
  EXPECT_EQ(PostJson(node.port(), "/v1/kv/withdraw", R"({"transfer_id": "t1"})"),
            (json{{"transfer_id", "t1"}, {"result", "withdrawn"}}));
  EXPECT_TRUE(BecomesIdle(node));
  EXPECT_EQ(node.engine().stats().offers_withdrawn, 1u);
  EXPECT_EQ(node.engine().stats().transfers_failed, 0u);
  EXPECT_EQ(PostJson(node.port(), "/v1/kv/withdraw", R"({"transfer_id": "t1"})")["result"], "ended");
  EXPECT_EQ(PostJson(node.port(), "/v1/kv/withdraw", R"({"transfer_id": "t2"})")["result"], "unknown");
  const std::string metrics = Call(node.port(), "GET", "/metrics").body;
  EXPECT_NE(metrics.find("\nkvplane_offers_dropped_total{reason=\"withdrawn\"} 1\n"), std::string::npos);
  EXPECT_NE(metrics.find("\nkvplane_offers_dropped_total{reason=\"lease\"} 0\n"), std::string::npos);
}

// The order of a request and its withdrawal is not known where they take two connections.
TEST(NodeApiWithdrawUnit, ARequestWithdrawnBeforeItCameIsCancelled) {
  DemoNode node(PatientPrefill());
  EXPECT_EQ(PostJson(node.port(), "/v1/kv/withdraw", R"({"transfer_id": "t1"})")["result"], "unknown");
  PostJson(node.port(), "/v1/completions", kPrefillOnly, 499);
  EXPECT_TRUE(BecomesIdle(node));
  EXPECT_EQ(node.engine().stats().requests_cancelled, 1u);
  EXPECT_EQ(node.engine().stats().requests_failed, 0u);
}

TEST(NodeApiWithdrawUnit, KvThatNobodyAsksForIsDroppedAndCounted) {
  DemoNodeOptions options = PatientPrefill();
  options.engine.offer_lease = std::chrono::milliseconds(1);
  DemoNode node(options);
  PostJson(node.port(), "/v1/completions", kPrefillOnly);
  EXPECT_TRUE(BecomesIdle(node));
  EXPECT_EQ(node.engine().stats().offers_expired, 1u);
  EXPECT_EQ(node.engine().stats().transfers_failed, 1u);
}

TEST_F(NodeApiUnit, WithdrawalsThatMakeNoSense) {
  DemoNode prefill(PatientPrefill());
  const auto refused = [](uint16_t port, std::string_view body) {
    return PostJson(port, "/v1/kv/withdraw", body, 400)["error"]["param"];
  };
  EXPECT_EQ(refused(port(), R"({"transfer_id": "t"})"), "transfer_id") << "this node serves no KV";
  EXPECT_EQ(refused(prefill.port(), "{}"), "transfer_id");
  EXPECT_EQ(refused(prefill.port(), R"({"transfer_id": 7})"), "transfer_id");
  EXPECT_EQ(refused(prefill.port(), R"({"transfer_id": ""})"), "transfer_id");
  EXPECT_EQ(refused(prefill.port(), fmt::format(R"({{"transfer_id": "{}"}})", std::string(129, 'x'))),
            "transfer_id");
  EXPECT_EQ(Call(prefill.port(), "GET", "/v1/kv/withdraw").status, 405);
}

TEST(NodeApiSafety, BodiesAreNotReadWithoutAToken) {
  const std::string path = ::testing::TempDir() + "/kvplane_body_tokens";
  std::ofstream(path) << "secret\n";
  DemoNodeOptions options;
  options.server.auth_token_file = path;
  DemoNode node(options);
  std::remove(path.c_str());
  for (const std::string_view target : {"/v1/completions", "/health", "/nowhere"}) {
    RawClient client(node.port());
    client.Send(fmt::format("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n", target));
    EXPECT_EQ(client.ReadResponse().status, 401) << target;  // nothing of the body was sent
    EXPECT_TRUE(client.WaitForClose());
  }
  RawClient client(node.port());
  client.Send(
      "POST /tokenize HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nContent-Length: 15\r\n\r\n");
  client.Send(R"({"prompt": "a"})");
  EXPECT_EQ(client.ReadResponse().status, 200);
}

TEST(NodeApiSafety, NoTemplateNoChat) {
  DemoNodeOptions options;
  options.chat_template = false;
  DemoNode node(options);
  const json answer = PostJson(node.port(), "/v1/chat/completions",
                               R"({"messages": [{"role": "user", "content": "Hi"}]})", 400);
  EXPECT_NE(answer["error"]["message"].get<std::string>().find("chat template"), std::string::npos);
}

TEST(NodeApiSafety, GenerationsHaveADeadline) {
  DemoNodeOptions options;
  options.server.request_timeout = std::chrono::milliseconds(30);
  DemoNode node(options);
  const RawResponse late = Call(node.port(), "POST", "/v1/completions",
                                R"({"prompt": "x", "max_tokens": 2000, "ignore_eos": true})");
  EXPECT_EQ(late.status, 504) << late.body;
}

}  // namespace
}  // namespace kvplane::server
