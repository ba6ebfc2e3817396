// Who may call: bearer tokens from a file, no web pages where there is no token, and the rule that a public
// address needs one.
//
// Thread safety: const after creation.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/server/api_error.h"
#include "kvplane/server/browser_guard.h"
#include "kvplane/server/http_message.h"

namespace kvplane::server {

// Tokens are compared in time that does not depend on their content.
class ApiAuth {
 public:
  // Accepts everybody.
  ApiAuth() = default;
  // A token file (transport/token_file.h).
  static base::Result<ApiAuth> FromFile(const std::string& path);
  static ApiAuth FromTokens(std::vector<std::string> tokens);

  bool enabled() const { return !tokens_.empty(); }
  // For a server without tokens.
  void SetGuard(BrowserGuard guard) { guard_ = std::move(guard); }
  // 401 without a right token, or what the guard says; nullopt: the request may pass. Needs the head only.
  std::optional<ApiError> Refuse(const HttpRequest& request) const;
  bool Allows(const HttpRequest& request) const;
  // The first token, for calls to other nodes; empty when disabled.
  std::string_view token() const { return tokens_.empty() ? std::string_view() : tokens_.front(); }

 private:
  std::vector<std::string> tokens_;
  BrowserGuard guard_;
};

// kPermissionDenied when `host` is not a loopback address and there is neither a token nor `insecure`.
base::Status CheckBindPolicy(std::string_view host, bool has_auth, bool insecure);

}  // namespace kvplane::server
