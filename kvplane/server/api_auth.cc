#include "kvplane/server/api_auth.h"

#include <arpa/inet.h>
#include <openssl/crypto.h>

#include <array>
#include <utility>

#include "kvplane/transport/endpoint.h"
#include "kvplane/transport/token_file.h"

namespace kvplane::server {
namespace {

constexpr std::string_view kScheme = "Bearer ";
bool SameSecret(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace

base::Result<ApiAuth> ApiAuth::FromFile(const std::string& path) {
  KVPLANE_ASSIGN_OR_RETURN(std::vector<std::string> tokens, transport::ReadTokenFile(path));
  return FromTokens(std::move(tokens));
}

ApiAuth ApiAuth::FromTokens(std::vector<std::string> tokens) {
  ApiAuth auth;
  auth.tokens_ = std::move(tokens);
  return auth;
}

bool ApiAuth::Allows(const HttpRequest& request) const {
  if (!enabled()) return true;
  const auto header = request.headers.Find("Authorization");
  if (!header || header->size() <= kScheme.size()) return false;
  if (!EqualsIgnoreCase(header->substr(0, kScheme.size()), kScheme)) return false;
  const std::string_view given = header->substr(kScheme.size());
  bool allowed = false;
  for (const std::string& token : tokens_) allowed = SameSecret(token, given) || allowed;
  return allowed;
}

std::optional<ApiError> ApiAuth::Refuse(const HttpRequest& request) const {
  if (Allows(request)) return guard_.Refuse(request);
  return PlainError(401, "a valid token is required: send it as 'Authorization: Bearer TOKEN'");
}

base::Status CheckBindPolicy(std::string_view host, bool has_auth, bool insecure) {
  if (has_auth || insecure) return base::Status::Ok();
  const std::string address(host);
  std::array<unsigned char, sizeof(in6_addr)> ignored{};
  if (inet_pton(AF_INET, address.c_str(), ignored.data()) != 1 &&
      inet_pton(AF_INET6, address.c_str(), ignored.data()) != 1) {
    return base::InvalidArgument("'{}' is not a numeric address to listen on, such as 127.0.0.1", host);
  }
  if (transport::IsLoopbackHost(host)) return base::Status::Ok();
  return base::PermissionDenied(
      "refusing to listen on {} without authentication: give --auth-token-file, or --insecure on a network "
      "where everyone may use this node",
      host);
}

}  // namespace kvplane::server
