#include "kvplane/server/routed_request.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "kvplane/server/json_fields.h"

namespace kvplane::server {
namespace {

using nlohmann::json;

constexpr size_t kBytesPerToken = 4;  // of English text, for prompts given as ids

size_t PromptBytes(const json& prompt) {
  if (prompt.is_string()) return prompt.get_ref<const std::string&>().size();
  if (prompt.is_number()) return kBytesPerToken;
  size_t total = 0;
  if (prompt.is_structured()) {
    for (const json& item : prompt) total += PromptBytes(item);
  }
  return total;
}

bool IsOnePrompt(const json& prompt) {
  if (prompt.is_string()) return true;
  if (!prompt.is_array() || prompt.empty()) return false;
  return prompt.size() == 1 || prompt.front().is_number();
}

std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

}  // namespace

ApiResult<RoutedRequest> RoutedRequest::Parse(std::string body) {
  ApiResult<json> object = ParseJsonObject(body);
  if (!object) return tl::make_unexpected(object.error());
  RoutedRequest request;
  request.body_ = std::move(body);
  const json& fields = *object;
  const bool chat = fields.contains("messages");
  const json prompt = fields.value(chat ? "messages" : "prompt", json());
  request.prompt_bytes_ = PromptBytes(prompt);
  const json n = fields.value("n", json());
  const json own_transfer = fields.value("kv_transfer_params", json());
  request.splittable_ = (chat || IsOnePrompt(prompt)) && (n.is_null() || n == 1) && own_transfer.is_null();
  request.stream_ = fields.value("stream", json()) == true;
  request.object_ = std::make_shared<const json>(*std::move(object));
  return request;
}

std::string RoutedRequest::PrefillBody(std::string_view transfer_id) const {
  json body = *object_;
  // Fields about the length or form of an answer that nobody will read.
  for (const char* name : {"stream_options", "max_completion_tokens", "min_tokens", "return_token_ids"}) {
    body.erase(name);
  }
  body["stream"] = false;
  body["max_tokens"] = 1;
  body["kv_transfer_params"] = {
      {"do_remote_decode", true}, {"do_remote_prefill", false}, {"transfer_id", transfer_id}};
  return Dump(body);
}

std::string RoutedRequest::DecodeBody(const TransferSource& source) const {
  json body = *object_;
  body["kv_transfer_params"] = {{"do_remote_prefill", true},         {"do_remote_decode", false},
                                {"transfer_id", source.transfer_id}, {"remote_engine_id", source.engine_id},
                                {"remote_host", source.kv_host},     {"remote_port", source.kv_port},
                                {"remote_block_ids", json::array()}};
  return Dump(body);
}

}  // namespace kvplane::server
