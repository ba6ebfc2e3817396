#include "kvplane/server/routed_request.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "kvplane/server/json_fields.h"
#include "kvplane/server/prefix_index.h"

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

// The bytes that decide what the prompt's tokens are, in the order of the tokens: the chat template writes
// tools before messages. A conversation that goes on repeats its bytes up to the bracket that closed the
// list.
std::string CanonicalPrompt(const json& fields, bool chat, const json& prompt) {
  std::string out = Dump(fields.value("model", json()));
  out += chat ? "chat" : "text";
  if (const auto tools = fields.find("tools"); chat && tools != fields.end()) out += Dump(*tools);
  if (prompt.is_string()) {
    out += prompt.get_ref<const std::string&>();
  } else {
    out += Dump(prompt);
  }
  return out;
}

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
  const std::string canonical = CanonicalPrompt(fields, chat, prompt);
  request.canonical_bytes_ = canonical.size();
  request.prefix_chunks_ = HashPromptChunks(canonical);
  const json n = fields.value("n", json());
  const json own_transfer = fields.value("kv_transfer_params", json());
  request.splittable_ = (chat || IsOnePrompt(prompt)) && (n.is_null() || n == 1) && own_transfer.is_null();
  request.stream_ = fields.value("stream", json()) == true;
  request.object_ = std::make_shared<const json>(*std::move(object));
  return request;
}

size_t RoutedRequest::BytesOfChunks(size_t chunks) const {
  const double share = static_cast<double>(chunks * kPromptChunkBytes) /
                       static_cast<double>(std::max<size_t>(canonical_bytes_, 1));
  return static_cast<size_t>(std::min(share, 1.0) * static_cast<double>(prompt_bytes_));
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
