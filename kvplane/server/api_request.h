// ApiRequest: a completion or chat request, checked field by field.
//
// The fields are OpenAI's plus the extensions vLLM's users know (top_k, min_p, repetition_penalty,
// min_tokens, ignore_eos, stop_token_ids, return_token_ids, kv_transfer_params) and ours under "kvplane".
// Unknown fields are ignored, as compatible servers do; a known field of the wrong type or out of range is
// refused by name; a known field we do not implement is refused when it asks for something (docs/api.md lists
// them).
//
// Thread safety: values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "kvplane/codec/strategy.h"
#include "kvplane/model/chat_template.h"
#include "kvplane/model/sampling.h"
#include "kvplane/server/api_error.h"

namespace kvplane::server {

enum class ApiKind { kCompletion, kChat };

// Text, or token ids that are taken as they are.
using Prompt = std::variant<std::string, std::vector<int32_t>>;

// prompts x n of one request: each is a request of the engine's.
constexpr size_t kMaxChoices = 128;

// vLLM's prefill/decode handshake.
struct TransferParams {
  bool do_remote_decode = false;   // prefill here, another node pulls
  bool do_remote_prefill = false;  // pull from remote_host:remote_port
  std::string transfer_id;         // empty with do_remote_decode: the node makes one
  std::string remote_host;
  uint16_t remote_port = 0;
};

struct ApiRequest {
  ApiKind kind = ApiKind::kCompletion;
  std::string model;                         // empty: not given
  std::vector<Prompt> prompts;               // completion: at least one
  std::vector<model::ChatMessage> messages;  // chat: at least one
  bool add_special_tokens = true;            // completion, text prompts
  bool add_generation_prompt = true;         // chat

  uint32_t n = 1;
  std::optional<uint32_t> max_tokens;
  uint32_t min_tokens = 0;
  bool ignore_eos = false;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  model::SamplingParams sampling;

  bool stream = false;
  bool include_usage = false;
  bool return_token_ids = false;

  std::optional<TransferParams> transfer;
  std::optional<codec::Strategy> strategy;  // kvplane.strategy
  bool accept_lossy = true;                 // kvplane.accept_lossy
};

// `body` is the request's JSON text.
ApiResult<ApiRequest> ParseApiRequest(ApiKind kind, std::string_view body);

// {"transfer_id": string}: the id.
ApiResult<std::string> ParseWithdrawRequest(std::string_view body);

// {"prompt"| "text": string, "add_special_tokens": bool}
struct TokenizeRequest {
  std::string text;
  bool add_special_tokens = true;
};
ApiResult<TokenizeRequest> ParseTokenizeRequest(std::string_view body);

// {"tokens": [ids]}
ApiResult<std::vector<int32_t>> ParseDetokenizeRequest(std::string_view body);

}  // namespace kvplane::server
