#include "kvplane/server/routed_request.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
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

// null when absent.
const json& Member(const json& object, std::string_view name) {
  static const json kAbsent;
  const auto found = object.find(name);
  return found == object.end() ? kAbsent : *found;
}

std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

// The bytes that decide what the prompt's tokens are, in the order of the tokens: the chat template writes
// tools before messages. A conversation that goes on repeats its bytes up to the bracket that closed the
// list.
std::string CanonicalPrompt(const json& fields, bool chat, const json& prompt) {
  std::string out = Dump(Member(fields, "model"));
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
  const json& fields = *object;
  if (!Member(fields, "kv_transfer_params").is_null()) {
    return tl::make_unexpected(BadField(
        "kv_transfer_params", "is for requests to nodes: a router chooses and pairs the nodes itself"));
  }
  RoutedRequest request;
  const bool chat = fields.contains("messages");
  const json& prompt = Member(fields, chat ? "messages" : "prompt");
  request.prompt_bytes_ = PromptBytes(prompt);
  const std::string canonical = CanonicalPrompt(fields, chat, prompt);
  request.canonical_bytes_ = canonical.size();
  request.prefix_chunks_ = HashPromptChunks(canonical);
  const json& n = Member(fields, "n");
  request.splittable_ = (chat || IsOnePrompt(prompt)) && (n.is_null() || n == 1);
  request.stream_ = Member(fields, "stream") == true;
  request.body_ = std::move(body);
  return request;
}

size_t RoutedRequest::BytesOfChunks(size_t chunks) const {
  const double share = static_cast<double>(chunks * kPromptChunkBytes) /
                       static_cast<double>(std::max<size_t>(canonical_bytes_, 1));
  return static_cast<size_t>(std::min(share, 1.0) * static_cast<double>(prompt_bytes_));
}

SplitBodies RoutedRequest::Split(const TransferSource& source) const {
  json fields = json::parse(body_, nullptr, /*allow_exceptions=*/false);  // Parse has read it
  SplitBodies bodies;
  fields["kv_transfer_params"] = {{"do_remote_prefill", true},         {"do_remote_decode", false},
                                  {"transfer_id", source.transfer_id}, {"remote_engine_id", source.engine_id},
                                  {"remote_host", source.kv_host},     {"remote_port", source.kv_port},
                                  {"remote_block_ids", json::array()}};
  bodies.decode = Dump(fields);
  // Fields about the length or form of an answer that nobody will read.
  for (const char* name : {"stream_options", "max_completion_tokens", "min_tokens", "return_token_ids"}) {
    fields.erase(name);
  }
  fields["stream"] = false;
  fields["max_tokens"] = 1;
  fields["kv_transfer_params"] = {
      {"do_remote_decode", true}, {"do_remote_prefill", false}, {"transfer_id", source.transfer_id}};
  bodies.prefill = Dump(fields);
  return bodies;
}

}  // namespace kvplane::server
