#include "kvplane/server/api_request.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace kvplane::server {
namespace {

using nlohmann::json;

ApiResult<ApiRequest> Completion(std::string_view extra) {
  return ParseApiRequest(ApiKind::kCompletion, R"({"prompt": "hi")" + std::string(extra) + "}");
}

ApiResult<ApiRequest> Chat(std::string_view body) { return ParseApiRequest(ApiKind::kChat, body); }

TEST(ApiRequestUnit, Defaults) {
  const auto request = Completion("");
  ASSERT_TRUE(request.has_value());
  EXPECT_EQ(std::get<std::string>(request->prompts.at(0)), "hi");
  EXPECT_EQ(request->n, 1u);
  EXPECT_FALSE(request->max_tokens.has_value());
  EXPECT_EQ(request->sampling.temperature, 1.0F);
  EXPECT_FALSE(request->stream);
  EXPECT_FALSE(request->transfer.has_value());
  EXPECT_FALSE(request->strategy.has_value());
  EXPECT_TRUE(request->accept_lossy);
}

TEST(ApiRequestUnit, ReadsEveryField) {
  const auto request = Completion(R"(,
    "model": "demo", "max_tokens": 5, "max_completion_tokens": 7, "min_tokens": 2, "temperature": 0.5,
    "top_p": 0.9, "top_k": 40, "min_p": 0.1, "n": 3, "stop": ["a", "bc"], "stop_token_ids": [7, 8],
    "seed": -3, "logprobs": 4, "presence_penalty": -1, "frequency_penalty": 2, "repetition_penalty": 1.5,
    "logit_bias": {"12": -100, "13": 5.5}, "ignore_eos": true, "stream": true,
    "stream_options": {"include_usage": true}, "user": "u", "return_token_ids": true,
    "kvplane": {"strategy": "off", "accept_lossy": false}, "unknown_field": {"x": [1, 2]})");
  ASSERT_TRUE(request.has_value()) << request.error().message;
  EXPECT_EQ(request->model, "demo");
  EXPECT_EQ(request->max_tokens, 7u);
  EXPECT_EQ(request->min_tokens, 2u);
  EXPECT_EQ(request->sampling.temperature, 0.5F);
  EXPECT_EQ(request->sampling.top_p, 0.9F);
  EXPECT_EQ(request->sampling.top_k, 40);
  EXPECT_EQ(request->sampling.min_p, 0.1F);
  EXPECT_EQ(request->n, 3u);
  EXPECT_EQ(request->stop, (std::vector<std::string>{"a", "bc"}));
  EXPECT_EQ(request->stop_token_ids, (std::vector<int32_t>{7, 8}));
  EXPECT_EQ(request->sampling.seed, static_cast<uint64_t>(-3));
  EXPECT_EQ(request->sampling.logprobs, 4);
  EXPECT_EQ(request->sampling.presence_penalty, -1.0F);
  EXPECT_EQ(request->sampling.frequency_penalty, 2.0F);
  EXPECT_EQ(request->sampling.repetition_penalty, 1.5F);
  EXPECT_EQ(request->sampling.logit_bias,
            (std::vector<std::pair<int32_t, float>>{{12, -100.0F}, {13, 5.5F}}));
  EXPECT_TRUE(request->ignore_eos);
  EXPECT_TRUE(request->stream);
  EXPECT_TRUE(request->include_usage);
  EXPECT_TRUE(request->return_token_ids);
  EXPECT_EQ(request->strategy, codec::Strategy());
  EXPECT_FALSE(request->accept_lossy);
}

TEST(ApiRequestUnit, NullMeansAbsent) {
  const auto request =
      Completion(R"(, "max_tokens": null, "stop": null, "stream": null, "seed": null, "logit_bias": null,
                      "suffix": null, "kv_transfer_params": null, "temperature": null)");
  ASSERT_TRUE(request.has_value()) << request.error().message;
  EXPECT_FALSE(request->max_tokens.has_value());
}

TEST(ApiRequestUnit, PromptForms) {
  const auto forms = [](std::string_view prompt) {
    return ParseApiRequest(ApiKind::kCompletion, R"({"prompt": )" + std::string(prompt) + "}");
  };
  EXPECT_EQ(forms(R"(["a", "b"])")->prompts.size(), 2u);
  EXPECT_EQ(std::get<1>(forms("[1, 2, 3]")->prompts.at(0)), (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(forms("[[1, 2], [3]]")->prompts.size(), 2u);
  for (const char* bad :
       {"[]", "[[]]", "[1, \"a\"]", "{}", "3", "[true]", "[[1], [-1]]", "[[1.5]]", "[4294967296]"}) {
    const auto refused = forms(bad);
    ASSERT_FALSE(refused.has_value()) << bad;
    EXPECT_EQ(refused.error().param, "prompt") << bad;
  }
}

TEST(ApiRequestUnit, ChatMessages) {
  const auto request = Chat(R"({"messages": [{"role": "system", "content": "s"},
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    {"role": "assistant", "content": null}], "logprobs": true, "top_logprobs": 2})");
  ASSERT_TRUE(request.has_value()) << request.error().message;
  EXPECT_EQ(request->messages.at(1).content, "ab");
  EXPECT_EQ(request->messages.at(2).content, "");
  EXPECT_EQ(request->sampling.logprobs, 2);
}

TEST(ApiRequestUnit, TransferParams) {
  const auto decode =
      Completion(R"(, "kv_transfer_params": {"do_remote_prefill": true, "do_remote_decode": false,
    "transfer_id": "t", "remote_engine_id": "e", "remote_host": "127.0.0.1", "remote_port": "7001",
    "remote_block_ids": [], "tp_size": 1})");
  ASSERT_TRUE(decode.has_value()) << decode.error().message;
  EXPECT_TRUE(decode->transfer->do_remote_prefill);
  EXPECT_EQ(decode->transfer->remote_port, 7001);
  const auto prefill = Completion(R"(, "kv_transfer_params": {"do_remote_decode": true})");
  ASSERT_TRUE(prefill.has_value());
  EXPECT_TRUE(prefill->transfer->do_remote_decode);
  EXPECT_EQ(prefill->transfer->transfer_id, "");
  // Neither role: an ordinary request, as vLLM's proxies send it for short prompts.
  EXPECT_FALSE(Completion(R"(, "kv_transfer_params": {})")->transfer.has_value());
}

// Every refusal names its field.
TEST(ApiRequestSafety, WrongTypesAndRangesNameTheField) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"("model": 3)", "model"},
      {R"("max_tokens": 0)", "max_tokens"},
      {R"("max_tokens": "5")", "max_tokens"},
      {R"("max_tokens": 1.5)", "max_tokens"},
      {R"("max_tokens": 99999999999)", "max_tokens"},
      {R"("max_tokens": 18446744073709551615)", "max_tokens"},
      {R"("max_completion_tokens": -1)", "max_completion_tokens"},
      {R"("max_tokens": 2, "min_tokens": 3)", "min_tokens"},
      {R"("temperature": -0.1)", "temperature"},
      {R"("temperature": 2.1)", "temperature"},
      {R"("temperature": "hot")", "temperature"},
      {R"("top_p": 0)", "top_p"},
      {R"("top_p": 1.5)", "top_p"},
      {R"("top_k": -2)", "top_k"},
      {R"("min_p": 2)", "min_p"},
      {R"("n": 0)", "n"},
      {R"("n": 1000)", "n"},
      {R"("stop": 5)", "stop"},
      {R"("stop": [""])", "stop"},
      {R"("stop": ["a", 1])", "stop"},
      {R"("stop_token_ids": ["a"])", "stop_token_ids"},
      {R"("stop_token_ids": [-1])", "stop_token_ids"},
      {R"("seed": 1.5)", "seed"},
      {R"("logprobs": 21)", "logprobs"},
      {R"("logprobs": true)", "logprobs"},
      {R"("presence_penalty": 3)", "presence_penalty"},
      {R"("frequency_penalty": -3)", "frequency_penalty"},
      {R"("repetition_penalty": 0)", "repetition_penalty"},
      {R"("logit_bias": [1])", "logit_bias"},
      {R"("logit_bias": {"a": 1})", "logit_bias"},
      {R"("logit_bias": {"1": 101})", "logit_bias"},
      {R"("logit_bias": {"1": "x"})", "logit_bias"},
      {R"("ignore_eos": 1)", "ignore_eos"},
      {R"("stream": "yes")", "stream"},
      {R"("stream_options": {"include_usage": true})", "stream_options"},
      {R"("stream": true, "stream_options": {"include_usage": 1})", "stream_options.include_usage"},
      {R"("user": 1)", "user"},
      {R"("return_token_ids": "x")", "return_token_ids"},
      {R"("kvplane": [])", "kvplane"},
      {R"("kvplane": {"strategy": 4})", "kvplane.strategy"},
      {R"("kvplane": {"strategy": "warp-drive"})", "kvplane.strategy"},
      {R"("kvplane": {"strategy": "int4", "accept_lossy": false})", "kvplane.strategy"},
      {R"("kvplane": {"accept_lossy": 1})", "kvplane.accept_lossy"},
      {R"("kv_transfer_params": 1)", "kv_transfer_params"},
      {R"("kv_transfer_params": {"do_remote_decode": 1})", "kv_transfer_params.do_remote_decode"},
      {R"("kv_transfer_params": {"do_remote_decode": true, "do_remote_prefill": true})",
       "kv_transfer_params.do_remote_prefill"},
      {R"("kv_transfer_params": {"do_remote_prefill": true, "transfer_id": "t", "remote_host": "h"})",
       "kv_transfer_params.remote_port"},
      {R"("kv_transfer_params": {"do_remote_prefill": true, "transfer_id": "t", "remote_host": "h/x",
          "remote_port": 1})",
       "kv_transfer_params.remote_host"},
      {R"("kv_transfer_params": {"do_remote_prefill": true, "transfer_id": "t", "remote_host": "0.0.0.0",
          "remote_port": 1})",
       "kv_transfer_params.remote_host"},
      {R"("kv_transfer_params": {"do_remote_prefill": true, "remote_host": "h", "remote_port": 1})",
       "kv_transfer_params.transfer_id"},
      {R"("kv_transfer_params": {"do_remote_decode": true}, "n": 2)", "kv_transfer_params"},
      {R"("echo": true)", "echo"},
      {R"("best_of": 4)", "best_of"},
      {R"("suffix": "x")", "suffix"},
      {R"("tools": [{"type": "function"}])", "tools"},
      {R"("response_format": {"type": "json_object"})", "response_format"},
  };
  for (const auto& [field, param] : cases) {
    const auto refused = Completion(", " + field);
    ASSERT_FALSE(refused.has_value()) << field;
    EXPECT_EQ(refused.error().status, 400) << field;
    EXPECT_EQ(refused.error().param, param) << field;
    const json body = json::parse(ErrorJson(refused.error()));
    EXPECT_EQ(body["error"]["param"], param);
    EXPECT_EQ(body["error"]["type"], "invalid_request_error");
    EXPECT_TRUE(body["error"]["message"].is_string());
    EXPECT_TRUE(body["error"]["code"].is_null());
  }
}

TEST(ApiRequestSafety, RefusesBadChats) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({})", "messages"},
      {R"({"messages": []})", "messages"},
      {R"({"messages": "hi"})", "messages"},
      {R"({"messages": ["hi"]})", "messages[0]"},
      {R"({"messages": [{"role": "user"}]})", "messages[0].content"},
      {R"({"messages": [{"content": "x"}]})", "messages[0].role"},
      {R"({"messages": [{"role": "user", "content": 3}]})", "messages[0].content"},
      {R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})", "messages[0].content"},
      {R"({"messages": [{"role": "user", "content": "x"}], "top_logprobs": 3})", "top_logprobs"},
      {R"({"messages": [{"role": "user", "content": "x"}], "logprobs": 3})", "logprobs"},
  };
  for (const auto& [body, param] : cases) {
    const auto refused = Chat(body);
    ASSERT_FALSE(refused.has_value()) << body;
    EXPECT_EQ(refused.error().param, param) << body;
  }
}

TEST(ApiRequestSafety, RefusesWhatIsNoJsonObject) {
  for (const std::string& body :
       {std::string(), std::string("{"), std::string("[]"), std::string("null"), std::string("\"x\""),
        std::string("{\"prompt\": \"\xff\"}"), std::string(100'000, '['),
        // Deep enough to exhaust the stack of whoever copies or writes it.
        R"({"prompt": "a", "response_format": {"type": )" + std::string(500'000, '[') +
            std::string(500'000, ']') + "}}",
        "{\"prompt\": \"" + std::string(1 << 20, 'x'), std::string("{\"prompt\": \"a\"} x")}) {
    const auto refused = ParseApiRequest(ApiKind::kCompletion, body);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().status, 400);
    EXPECT_TRUE(json::accept(ErrorJson(refused.error())));
    EXPECT_LT(refused.error().message.size(), 1000u);  // a message quotes its cause, not the whole body
  }
}

TEST(ApiRequestUnit, TokenizeAndDetokenize) {
  EXPECT_EQ(ParseTokenizeRequest(R"({"prompt": "x", "add_special_tokens": false})")->text, "x");
  EXPECT_FALSE(ParseTokenizeRequest("{}").has_value());
  EXPECT_EQ(*ParseDetokenizeRequest(R"({"tokens": [1, 2]})"), (std::vector<int32_t>{1, 2}));
  EXPECT_FALSE(ParseDetokenizeRequest(R"({"tokens": "1"})").has_value());
  EXPECT_FALSE(ParseDetokenizeRequest("{}").has_value());
}

}  // namespace
}  // namespace kvplane::server
