#include "kvplane/server/api_routes.h"

#include <fmt/core.h>

#include <string>

#include "kvplane/server/api_error.h"

namespace kvplane::server {
namespace {

bool Matches(const Route& route, std::string_view method) {
  return route.method == method || (route.method == "GET" && method == "HEAD");
}

HttpResponse Unauthorized() {
  return ErrorResponse(
      PlainError(401, "a valid token is required: send it as 'Authorization: Bearer TOKEN'"));
}

}  // namespace

std::optional<HttpResponse> RouteTable::RefuseBody(const HttpRequest& head) const {
  if (auth_.Allows(head)) return std::nullopt;
  return Unauthorized();
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
    if (!route.open && !auth_.Allows(request)) {
      exchange->Respond(Unauthorized());
      return {route.path, 401};
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
