// ApiError: a refusal in the OpenAI error format, {"error": {"message", "type", "param", "code"}}.
//
// Thread safety: values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "kvplane/base/status.h"
#include "kvplane/server/http_message.h"

namespace kvplane::server {

struct ApiError {
  int status = 400;  // HTTP
  std::string type = "invalid_request_error";
  std::string code;            // empty: null
  std::string param;           // the field at fault; empty: null
  std::string message;         // what was wrong and what to do
  uint32_t retry_after_s = 0;  // > 0: sent as Retry-After
};

template <typename T>
using ApiResult = tl::expected<T, ApiError>;

// 400: `param` is missing, of the wrong type or out of range.
ApiError BadField(std::string_view param, std::string message);
// What a plain HTTP status says, for refusals that concern no field: 401, 404, 405, 408, 413, 503, ...
ApiError PlainError(int status, std::string message);
// 413 with code context_length_exceeded.
ApiError TooLong(std::string_view param, std::string message);
// 503 with Retry-After: this node finishes what it has and takes nothing new.
ApiError Draining();
// 503 with Retry-After: as much text as may wait to be tokenized is waiting.
ApiError TextsWaiting();

// The error for a Status of a library below: 400, 404, 413, 429, 499, 500, 503 or 504.
ApiError ToApiError(const base::Status& status);

// The JSON object, without line breaks.
std::string ErrorJson(const ApiError& error);
HttpResponse ErrorResponse(const ApiError& error);

// 200 with `json` as body.
HttpResponse JsonResponse(std::string json, int status = 200);

}  // namespace kvplane::server
