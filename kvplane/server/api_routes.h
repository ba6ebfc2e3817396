// RouteTable: from method and path to a handler, with the refusals every route shares: unknown path (404),
// wrong method (405 with Allow), missing or wrong token (401), a web page's request (403, 415).
//
// Thread safety: const after construction.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "kvplane/server/api_auth.h"
#include "kvplane/server/http_exchange.h"

namespace kvplane::server {

struct Route {
  std::string_view method;  // "GET" also answers HEAD
  std::string_view path;
  bool open = false;  // needs no token
  std::function<void(const std::shared_ptr<Exchange>&)> handle;
};

// How a request was answered by the table itself, for counting.
struct Refusal {
  std::string_view route;  // the known path, or "other"
  int status = 0;          // 0: a handler has it
};

class RouteTable {
 public:
  RouteTable(ApiAuth auth, std::vector<Route> routes) : auth_(std::move(auth)), routes_(std::move(routes)) {}

  Refusal Dispatch(const std::shared_ptr<Exchange>& exchange) const;
  // The refusal of a request with a body that is still to come: nobody without a token makes the server hold
  // one. Open routes need no body, so they are no exception.
  std::optional<HttpResponse> RefuseBody(const HttpRequest& head) const;

 private:
  const ApiAuth auth_;
  const std::vector<Route> routes_;
};

}  // namespace kvplane::server
