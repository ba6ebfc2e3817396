#include "kvplane/server/api_request.h"

#include <charconv>
#include <limits>
#include <utility>

#include "kvplane/model/detokenizer.h"
#include "kvplane/server/json_fields.h"
#include "kvplane/transfer/transfer.h"
#include "kvplane/transport/endpoint.h"

namespace kvplane::server {
namespace {

using nlohmann::json;

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
// Above any context window; the engine's own limit answers with the real one.
constexpr int64_t kMaxTokens = int64_t{1} << 24;
constexpr size_t kMaxMessages = 4096;
constexpr size_t kMaxModelNameBytes = 1024;

// Fields that would change the answer and that we do not implement: refused unless they ask for nothing.
void RefuseUnsupported(JsonFields& fields, uint32_t n) {
  for (const std::string_view name : {"echo", "use_beam_search"}) {
    bool wanted = false;
    fields.Bool(name, wanted);
    if (wanted) fields.Fail(name, "is not supported");
  }
  for (const std::string_view name : {"suffix", "prompt_logprobs", "functions", "audio"}) {
    if (const json* value = fields.Find(name); value != nullptr && *value != "") {
      fields.Fail(name, "is not supported");
    }
  }
  if (const json* tools = fields.Find("tools"); tools != nullptr && !tools->empty()) {
    fields.Fail("tools", "is not supported");
  }
  if (const auto best_of = fields.Integer("best_of", 1, kMaxInt32); best_of && *best_of != n) {
    fields.Fail("best_of", "is not supported: only a value equal to n");
  }
  if (const json* format = fields.Object("response_format"); format != nullptr) {
    if (format->value("type", json("text")) != "text") {
      fields.Fail("response_format", "only {\"type\": \"text\"} is supported");
    }
  }
}

bool ReadTokenPrompt(const json& array, std::vector<int32_t>& ids) {
  for (const json& item : array) {
    const std::optional<int32_t> id = AsTokenId(item);
    if (!id) return false;
    ids.push_back(*id);
  }
  return !ids.empty();
}

// A string, strings, token ids, or arrays of token ids.
void ReadPrompt(JsonFields& fields, std::vector<Prompt>& prompts) {
  const json* value = fields.Find("prompt");
  if (value == nullptr) return fields.Fail("prompt", "is required");
  if (value->is_string()) {
    prompts.emplace_back(value->get<std::string>());
    return;
  }
  constexpr std::string_view kShape =
      "must be a string, an array of strings, an array of token ids, or an array of arrays of token ids, "
      "none of them empty";
  if (!value->is_array() || value->empty()) return fields.Fail("prompt", std::string(kShape));
  if (value->front().is_number()) {
    std::vector<int32_t> ids;
    if (!ReadTokenPrompt(*value, ids)) return fields.Fail("prompt", std::string(kShape));
    prompts.emplace_back(std::move(ids));
    return;
  }
  if (value->size() > kMaxChoices) {
    return fields.Fail("prompt",
                       fmt::format("{} prompts, at most {} are allowed", value->size(), kMaxChoices));
  }
  for (const json& item : *value) {
    std::vector<int32_t> ids;
    if (item.is_string()) {
      prompts.emplace_back(item.get<std::string>());
    } else if (item.is_array() && ReadTokenPrompt(item, ids)) {
      prompts.emplace_back(std::move(ids));
    } else {
      return fields.Fail("prompt", std::string(kShape));
    }
  }
}

// A string, or the text parts of a list.
bool ReadContent(const json& content, std::string& out) {
  if (content.is_string()) {
    out = content.get<std::string>();
    return true;
  }
  if (!content.is_array()) return false;
  for (const json& part : content) {
    if (!part.is_object()) return false;
    const auto type = part.find("type");
    const auto text = part.find("text");
    if (type == part.end() || *type != "text" || text == part.end() || !text->is_string()) return false;
    out += text->get<std::string>();
  }
  return true;
}

void ReadMessages(JsonFields& fields, std::vector<model::ChatMessage>& messages) {
  const json* value = fields.Find("messages");
  if (value == nullptr) return fields.Fail("messages", "is required");
  if (!value->is_array() || value->empty()) return fields.Fail("messages", "must be an array with a message");
  if (value->size() > kMaxMessages) {
    return fields.Fail("messages",
                       fmt::format("{} messages, at most {} are allowed", value->size(), kMaxMessages));
  }
  for (size_t i = 0; i < value->size(); ++i) {
    const json& item = (*value)[i];
    const std::string at = fmt::format("messages[{}]", i);
    if (!item.is_object()) return fields.Fail(at, "must be an object");
    JsonFields message(item, at + ".");
    model::ChatMessage& out = messages.emplace_back();
    message.String("role", out.role);
    if (message.ok() && out.role.empty()) message.Fail("role", "is required");
    const json* content = message.Find("content");
    // An assistant turn may have no content (it called a tool).
    if (content == nullptr && out.role != "assistant") message.Fail("content", "is required");
    if (content != nullptr && !ReadContent(*content, out.content)) {
      message.Fail("content", "must be a string or an array of {\"type\": \"text\", \"text\": ...} parts");
    }
    fields.Absorb(message);
    if (!fields.ok()) return;
  }
}

void ReadStop(JsonFields& fields, ApiRequest& request) {
  fields.TokenIds("stop_token_ids", request.stop_token_ids);
  const json* value = fields.Find("stop");
  if (value == nullptr) return;
  if (value->is_string()) {
    request.stop = {value->get<std::string>()};
  } else if (value->is_array()) {
    for (const json& item : *value) {
      if (!item.is_string()) return fields.Fail("stop", "must be a string or an array of strings");
      request.stop.push_back(item.get<std::string>());
    }
  } else {
    return fields.Fail("stop", "must be a string or an array of strings");
  }
  const auto matcher = model::StopMatcher::Create(request.stop);
  if (!matcher.ok()) fields.Fail("stop", matcher.status().message());
}

void ReadLogitBias(JsonFields& fields, model::SamplingParams& sampling) {
  const json* value = fields.Object("logit_bias");
  if (value == nullptr) return;
  if (value->size() > model::kMaxLogitBias) {
    return fields.Fail("logit_bias", fmt::format("at most {} entries are allowed", model::kMaxLogitBias));
  }
  for (const auto& [key, bias] : value->items()) {
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    const bool is_id = error == std::errc() && end == key.data() + key.size() && id >= 0;
    const double number = bias.is_number() ? bias.get<double>() : 1e9;
    if (!is_id || !(number >= -100.0 && number <= 100.0)) {
      return fields.Fail("logit_bias", "must map token ids to numbers from -100 to 100");
    }
    sampling.logit_bias.emplace_back(id, static_cast<float>(number));
  }
}

void ReadLogprobs(JsonFields& fields, ApiKind kind, model::SamplingParams& sampling) {
  if (kind == ApiKind::kCompletion) {
    if (const auto count = fields.Integer("logprobs", 0, model::kMaxLogprobs)) {
      sampling.logprobs = static_cast<int32_t>(*count);
    }
    return;
  }
  bool wanted = false;
  fields.Bool("logprobs", wanted);
  const auto count = fields.Integer("top_logprobs", 0, model::kMaxLogprobs);
  if (count && *count > 0 && !wanted) fields.Fail("top_logprobs", "needs logprobs: true");
  if (wanted) sampling.logprobs = static_cast<int32_t>(count.value_or(0));
}

void ReadSampling(JsonFields& fields, ApiKind kind, model::SamplingParams& sampling) {
  fields.Float("temperature", 0.0F, 2.0F, sampling.temperature);
  fields.Float("top_p", 0.0F, 1.0F, sampling.top_p);
  if (sampling.top_p == 0.0F) fields.Fail("top_p", "must be above 0");
  fields.Float("min_p", 0.0F, 1.0F, sampling.min_p);
  fields.Float("repetition_penalty", 0.0F, 100.0F, sampling.repetition_penalty);
  if (sampling.repetition_penalty == 0.0F) fields.Fail("repetition_penalty", "must be above 0");
  fields.Float("presence_penalty", -2.0F, 2.0F, sampling.presence_penalty);
  fields.Float("frequency_penalty", -2.0F, 2.0F, sampling.frequency_penalty);
  if (const auto top_k = fields.Integer("top_k", -1, kMaxInt32))
    sampling.top_k = static_cast<int32_t>(*top_k);
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  if (const auto seed = fields.Integer("seed", kMin, kMax)) sampling.seed = static_cast<uint64_t>(*seed);
  ReadLogitBias(fields, sampling);
  ReadLogprobs(fields, kind, sampling);
}

void ReadLengths(JsonFields& fields, ApiRequest& request) {
  // max_completion_tokens is the newer name of the same thing; it wins when both are given.
  for (const std::string_view name : {"max_tokens", "max_completion_tokens"}) {
    if (const auto count = fields.Integer(name, 1, kMaxTokens)) {
      request.max_tokens = static_cast<uint32_t>(*count);
    }
  }
  if (const auto count = fields.Integer("min_tokens", 0, kMaxTokens)) {
    request.min_tokens = static_cast<uint32_t>(*count);
  }
  if (request.max_tokens && request.min_tokens > *request.max_tokens) {
    fields.Fail("min_tokens", "is above max_tokens");
  }
  if (const auto n = fields.Integer("n", 1, kMaxChoices)) request.n = static_cast<uint32_t>(*n);
}

void ReadStream(JsonFields& fields, ApiRequest& request) {
  fields.Bool("stream", request.stream);
  const json* options = fields.Object("stream_options");
  if (options == nullptr) return;
  if (!request.stream) return fields.Fail("stream_options", "needs stream: true");
  JsonFields nested(*options, "stream_options.");
  nested.Bool("include_usage", request.include_usage);
  fields.Absorb(nested);
}

// The port of vLLM's handshake may come as a number or, from some proxies, as text.
void ReadRemoteEndpoint(JsonFields& fields, TransferParams& params) {
  fields.String("remote_host", params.remote_host);
  int64_t port = 0;
  if (const json* value = fields.Find("remote_port"); value != nullptr && value->is_string()) {
    const auto text = value->get<std::string>();
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
    if (error != std::errc() || end != text.data() + text.size()) port = 0;
  } else {
    port = fields.Integer("remote_port", 1, 65535).value_or(0);
  }
  if (port < 1 || port > 65535) fields.Fail("remote_port", "must be a port from 1 to 65535");
  params.remote_port = static_cast<uint16_t>(port);
  const std::string_view host = params.remote_host;
  if (host.empty() || host.size() > 255 || host.find_first_of("/ \t\r\n@?#") != std::string_view::npos) {
    fields.Fail("remote_host", "must be the host of the prefill node's KV endpoint");
  }
  if (transport::IsWildcardHost(host)) {
    fields.Fail("remote_host",
                "names no host: start the prefill node with --kv-advertise and the host's own name");
  }
  if (params.transfer_id.empty()) fields.Fail("transfer_id", "is required with do_remote_prefill");
}

void ReadTransfer(JsonFields& fields, ApiRequest& request) {
  const json* value = fields.Object("kv_transfer_params");
  if (value == nullptr) return;
  TransferParams params;
  JsonFields nested(*value, "kv_transfer_params.");
  nested.Bool("do_remote_decode", params.do_remote_decode);
  nested.Bool("do_remote_prefill", params.do_remote_prefill);
  nested.String("transfer_id", params.transfer_id);
  if (params.transfer_id.size() > transfer::kMaxTransferIdBytes) {
    nested.Fail("transfer_id", fmt::format("at most {} bytes", transfer::kMaxTransferIdBytes));
  }
  if (params.do_remote_decode && params.do_remote_prefill) {
    nested.Fail("do_remote_prefill", "cannot be combined with do_remote_decode");
  }
  if (params.do_remote_prefill) ReadRemoteEndpoint(nested, params);
  fields.Absorb(nested);
  if (!params.do_remote_decode && !params.do_remote_prefill) return;
  if (request.n > 1 || request.prompts.size() > 1) {
    fields.Fail("kv_transfer_params",
                "one transfer carries one prompt: n and the number of prompts must be 1");
  }
  request.transfer = std::move(params);
}

void ReadExtension(JsonFields& fields, ApiRequest& request) {
  const json* value = fields.Object("kvplane");
  if (value == nullptr) return;
  JsonFields nested(*value, "kvplane.");
  nested.Bool("accept_lossy", request.accept_lossy);
  std::string text;
  nested.String("strategy", text);
  if (!text.empty()) {
    auto strategy = codec::Strategy::Parse(text);
    if (!strategy.ok()) {
      nested.Fail("strategy", strategy.status().message());
    } else if (strategy->lossy() && !request.accept_lossy) {
      nested.Fail("strategy", "is lossy, but accept_lossy is false");
    } else {
      request.strategy = *std::move(strategy);
    }
  }
  fields.Absorb(nested);
}

}  // namespace

ApiResult<ApiRequest> ParseApiRequest(ApiKind kind, std::string_view body) {
  const ApiResult<json> object = ParseJsonObject(body);
  if (!object) return tl::make_unexpected(object.error());
  ApiRequest request;
  request.kind = kind;
  JsonFields fields(*object);
  fields.String("model", request.model);
  if (request.model.size() > kMaxModelNameBytes) fields.Fail("model", "is too long");
  if (kind == ApiKind::kChat) {
    ReadMessages(fields, request.messages);
  } else {
    ReadPrompt(fields, request.prompts);
  }
  fields.Bool("add_special_tokens", request.add_special_tokens);
  fields.Bool("add_generation_prompt", request.add_generation_prompt);
  ReadLengths(fields, request);
  fields.Bool("ignore_eos", request.ignore_eos);
  ReadStop(fields, request);
  ReadSampling(fields, kind, request.sampling);
  ReadStream(fields, request);
  fields.Bool("return_token_ids", request.return_token_ids);
  std::string user;
  fields.String("user", user);
  ReadTransfer(fields, request);
  ReadExtension(fields, request);
  RefuseUnsupported(fields, request.n);
  if (request.n * request.prompts.size() > kMaxChoices) {
    fields.Fail("n", fmt::format("prompts times n is above {}", kMaxChoices));
  }
  if (!fields.ok()) return tl::make_unexpected(*fields.error());
  return request;
}

ApiResult<std::string> ParseWithdrawRequest(std::string_view body) {
  const ApiResult<json> object = ParseJsonObject(body);
  if (!object) return tl::make_unexpected(object.error());
  std::string id;
  JsonFields fields(*object);
  if (fields.Find("transfer_id") == nullptr) fields.Fail("transfer_id", "is required");
  fields.String("transfer_id", id);
  if (!fields.ok()) return tl::make_unexpected(*fields.error());
  return id;
}

ApiResult<TokenizeRequest> ParseTokenizeRequest(std::string_view body) {
  const ApiResult<json> object = ParseJsonObject(body);
  if (!object) return tl::make_unexpected(object.error());
  TokenizeRequest request;
  JsonFields fields(*object);
  if (fields.Find("prompt") == nullptr && fields.Find("text") == nullptr)
    fields.Fail("prompt", "is required");
  fields.String("text", request.text);
  fields.String("prompt", request.text);
  fields.Bool("add_special_tokens", request.add_special_tokens);
  if (!fields.ok()) return tl::make_unexpected(*fields.error());
  return request;
}

ApiResult<std::vector<int32_t>> ParseDetokenizeRequest(std::string_view body) {
  const ApiResult<json> object = ParseJsonObject(body);
  if (!object) return tl::make_unexpected(object.error());
  std::vector<int32_t> ids;
  JsonFields fields(*object);
  if (fields.Find("tokens") == nullptr) fields.Fail("tokens", "is required");
  fields.TokenIds("tokens", ids);
  if (!fields.ok()) return tl::make_unexpected(*fields.error());
  return ids;
}

}  // namespace kvplane::server
