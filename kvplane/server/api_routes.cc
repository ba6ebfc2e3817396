#include "kvplane/server/api_routes.h"

#include <fmt/core.h>

#include <string>

#include "kvplane/server/api_error.h"

namespace kvplane::server {
namespace {

bool Matches(const Route& route, std::string_view method) {
  return route.method == method || (route.method == "GET" && method == "HEAD");
}

}  // namespace

std::optional<HttpResponse> RouteTable::RefuseBody(const HttpRequest& head) const {
  const std::optional<ApiError> refusal = auth_.Refuse(head);
  if (!refusal) return std::nullopt;
  return ErrorResponse(*refusal);
}

Refusal RouteTable::Dispatch(const std::shared_ptr<Exchange>& exchange) const {
  const HttpRequest& request = exchange->request();
  const std::string_view path = request.path();
  std::string allowed;
  for (const Route& route : routes_) {
    if (route.path != path) continue;
    if (!Matches(route, request.method)) {
      allowed += fmt::format("{}{}", allowed.empty() ? "" : ", ", route.method);
      continue;
    }
    const std::optional<ApiError> refusal = route.open ? std::nullopt : auth_.Refuse(request);
    if (refusal) {
      exchange->Respond(ErrorResponse(*refusal));
      return {route.path, refusal->status};
    }
    route.handle(exchange);
    return {route.path, 0};
  }
  if (allowed.empty()) {
    exchange->Respond(ErrorResponse(PlainError(404, fmt::format("no such path: {}", path))));
    return {"other", 404};
  }
  HttpResponse response = ErrorResponse(
      PlainError(405, fmt::format("{} is not allowed on {}; allowed: {}", request.method, path, allowed)));
  response.headers.Set("Allow", allowed);
  exchange->Respond(std::move(response));
  return {"other", 405};
}

}  // namespace kvplane::server
