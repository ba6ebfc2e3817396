// Who may call: bearer tokens from a file, and the rule that a public address needs one.
//
// Thread safety: const after creation.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/status.h"
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
  bool Allows(const HttpRequest& request) const;
  // The first token, for calls to other nodes; empty when disabled.
  std::string_view token() const { return tokens_.empty() ? std::string_view() : tokens_.front(); }

 private:
  std::vector<std::string> tokens_;
};

// kPermissionDenied when `host` is not a loopback address and there is neither a token nor `insecure`.
base::Status CheckBindPolicy(std::string_view host, bool has_auth, bool insecure);

}  // namespace kvplane::server
