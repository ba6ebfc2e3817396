#include "kvplane/server/api_error.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <utility>

namespace kvplane::server {
namespace {

// A queue that is full now has usually moved within this time; clients back off further on their own.
constexpr uint32_t kRetryAfterSeconds = 1;

struct StatusKind {
  std::string_view type;
  std::string_view code;
};

StatusKind KindOf(int status) {
  switch (status) {
    case 401:
      return {"authentication_error", "invalid_api_key"};
    case 403:
      return {"permission_error", "forbidden"};
    case 404:
      return {"not_found_error", "not_found"};
    case 405:
      return {"invalid_request_error", "method_not_allowed"};
    case 415:
      return {"invalid_request_error", "unsupported_media_type"};
    case 429:
      return {"rate_limit_error", "queue_full"};
    case 499:
      return {"cancelled_error", "cancelled"};
    case 502:
      return {"server_error", "bad_gateway"};
    case 503:
      return {"service_unavailable_error", "unavailable"};
    case 504:
      return {"server_error", "timeout"};
    default:
      if (status >= 500) return {"server_error", "internal_error"};
      return {"invalid_request_error", ""};
  }
}

int HttpStatusOf(base::StatusCode code) {
  switch (code) {
    case base::StatusCode::kOk:
    case base::StatusCode::kCorrupt:
    case base::StatusCode::kInternal:
      return 500;
    case base::StatusCode::kInvalidArgument:
    case base::StatusCode::kFailedPrecondition:
    case base::StatusCode::kUnimplemented:
      return 400;
    case base::StatusCode::kNotFound:
      return 404;
    case base::StatusCode::kUnavailable:
      return 503;
    case base::StatusCode::kDeadlineExceeded:
      return 504;
    case base::StatusCode::kCancelled:
      return 499;
    case base::StatusCode::kResourceExhausted:
      return 429;
    case base::StatusCode::kPermissionDenied:
      return 401;
  }
  return 500;
}

}  // namespace

ApiError PlainError(int status, std::string message) {
  const StatusKind kind = KindOf(status);
  ApiError error;
  error.status = status;
  error.type = kind.type;
  error.code = kind.code;
  error.message = std::move(message);
  if (status == 429 || status == 503) error.retry_after_s = kRetryAfterSeconds;
  return error;
}

ApiError BadField(std::string_view param, std::string message) {
  ApiError error = PlainError(400, std::move(message));
  error.param = param;
  return error;
}

ApiError TooLong(std::string_view param, std::string message) {
  ApiError error = PlainError(413, std::move(message));
  error.param = param;
  error.code = "context_length_exceeded";
  return error;
}

ApiError Draining() {
  ApiError error = PlainError(503, "this node is draining and takes no new requests");
  error.code = "draining";
  return error;
}

ApiError TextsWaiting() { return PlainError(503, "too much text is waiting to be tokenized: try again"); }

ApiError ToApiError(const base::Status& status) {
  return PlainError(HttpStatusOf(status.code()), status.message());
}

std::string ErrorJson(const ApiError& error) {
  const auto text_or_null = [](const std::string& text) {
    return text.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(text);
  };
  nlohmann::ordered_json body;
  body["message"] = error.message;
  body["type"] = error.type;
  body["param"] = text_or_null(error.param);
  body["code"] = text_or_null(error.code);
  return nlohmann::ordered_json{{"error", body}}.dump(-1, ' ', false,
                                                      nlohmann::ordered_json::error_handler_t::replace);
}

HttpResponse ErrorResponse(const ApiError& error) {
  HttpResponse response = JsonResponse(ErrorJson(error), error.status);
  if (error.retry_after_s > 0) response.headers.Set("Retry-After", std::to_string(error.retry_after_s));
  if (error.status == 401) response.headers.Set("WWW-Authenticate", "Bearer");
  return response;
}

HttpResponse JsonResponse(std::string json, int status) {
  HttpResponse response;
  response.status = status;
  response.headers.Set("Content-Type", "application/json");
  response.body = std::move(json);
  return response;
}

}  // namespace kvplane::server
