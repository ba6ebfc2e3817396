// BrowserGuard: keeps web pages away from an API that asks for no token.
//
// A page that somebody looks at on this machine can make their browser send requests here. Cross-site POSTs
// of text or of a form go out unasked, and a page whose own name is made to resolve to 127.0.0.1 ("DNS
// rebinding") may send anything and read the answer. Two headers that a page cannot choose give it away:
// Content-Type, because application/json crosses sites only after a preflight, which no route here answers;
// and Host, which names the page's host.
//
// Thread safety: const after creation.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/server/api_error.h"
#include "kvplane/server/http_message.h"

namespace kvplane::server {

class BrowserGuard {
 public:
  // Refuses nothing: for servers that want a token, which no page has.
  BrowserGuard() = default;
  // POSTs must be application/json. A server on loopback, and any one that is given names, answers only to
  // addresses, to localhost and to `allowed_hosts` (without port).
  BrowserGuard(std::string_view bound_host, std::vector<std::string> allowed_hosts);

  // 403 (Host) or 415 (Content-Type); nullopt: no page sent this.
  std::optional<ApiError> Refuse(const HttpRequest& head) const;

 private:
  bool AnswersTo(std::string_view host) const;

  bool enabled_ = false;
  bool checks_host_ = false;
  std::vector<std::string> allowed_hosts_;
};

}  // namespace kvplane::server
