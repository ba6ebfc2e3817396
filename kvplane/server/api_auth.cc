#include "kvplane/server/api_auth.h"

#include <arpa/inet.h>
#include <openssl/crypto.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

namespace kvplane::server {
namespace {

constexpr std::string_view kScheme = "Bearer ";
// Longer files are not token files; the bound keeps a wrong path (a model, say) from being read into memory.
constexpr size_t kMaxTokens = 1024;
constexpr size_t kMaxTokenBytes = 4096;
constexpr size_t kMaxFileBytes = kMaxTokens * kMaxTokenBytes;

bool SameSecret(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

bool IsVisible(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

}  // namespace

base::Result<ApiAuth> ApiAuth::FromFile(const std::string& path) {
  std::ifstream file(path);
  if (!file) return base::NotFound("token file '{}': {}", path, std::strerror(errno));
  std::string text(kMaxFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMaxFileBytes) {
    return base::InvalidArgument("token file '{}' is longer than {} bytes", path, kMaxFileBytes);
  }
  std::vector<std::string> tokens;
  std::string line;
  std::istringstream lines(std::move(text));
  while (std::getline(lines, line)) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (line.empty() || line.front() == '#') continue;
    if (line.size() > kMaxTokenBytes || tokens.size() >= kMaxTokens || !IsVisible(line)) {
      return base::InvalidArgument("token file '{}': one token of visible ASCII per line is expected", path);
    }
    tokens.push_back(line);
  }
  if (tokens.empty()) return base::InvalidArgument("token file '{}' holds no token", path);
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

base::Status CheckBindPolicy(std::string_view host, bool has_auth, bool insecure) {
  const bool loopback = host.starts_with("127.") || host == "::1";
  if (loopback || has_auth || insecure) return base::Status::Ok();
  const std::string address(host);
  std::array<unsigned char, sizeof(in6_addr)> ignored{};
  if (inet_pton(AF_INET, address.c_str(), ignored.data()) != 1 &&
      inet_pton(AF_INET6, address.c_str(), ignored.data()) != 1) {
    return base::InvalidArgument("'{}' is not a numeric address to listen on, such as 127.0.0.1", host);
  }
  return base::PermissionDenied(
      "refusing to listen on {} without authentication: give --auth-token-file, or --insecure on a network "
      "where everyone may use this node",
      host);
}

}  // namespace kvplane::server
