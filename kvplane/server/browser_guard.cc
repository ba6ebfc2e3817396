#include "kvplane/server/browser_guard.h"

#include <arpa/inet.h>
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <utility>

#include "kvplane/transport/endpoint.h"

namespace kvplane::server {
namespace {

constexpr size_t kLongestHostTold = 100;  // in an error message

// Pages are reached by an address only where somebody serves them there: no name can be rebound to it.
bool IsAddress(std::string_view host) {
  const std::string text(host);
  std::array<unsigned char, sizeof(in6_addr)> ignored{};
  return inet_pton(AF_INET, text.c_str(), ignored.data()) == 1 ||
         inet_pton(AF_INET6, text.c_str(), ignored.data()) == 1;
}

bool IsJson(std::string_view content_type) {
  std::string_view type = content_type.substr(0, content_type.find(';'));
  while (type.ends_with(' ') || type.ends_with('\t')) type.remove_suffix(1);
  return EqualsIgnoreCase(type, "application/json");
}

}  // namespace

BrowserGuard::BrowserGuard(std::string_view bound_host, std::vector<std::string> allowed_hosts)
    : enabled_(true),
      checks_host_(transport::IsLoopbackHost(bound_host) || !allowed_hosts.empty()),
      allowed_hosts_(std::move(allowed_hosts)) {}

bool BrowserGuard::AnswersTo(std::string_view host) const {
  if (IsAddress(host) || EqualsIgnoreCase(host, "localhost")) return true;
  return std::any_of(allowed_hosts_.begin(), allowed_hosts_.end(),
                     [host](const std::string& allowed) { return EqualsIgnoreCase(allowed, host); });
}

std::optional<ApiError> BrowserGuard::Refuse(const HttpRequest& head) const {
  if (!enabled_) return std::nullopt;
  // Without a Host header it is an HTTP/1.0 client: browsers send one.
  if (checks_host_ && head.headers.Find("Host") && !AnswersTo(head.host())) {
    return PlainError(403,
                      fmt::format("'{}' is no name of this server; without a token it answers to addresses, "
                                  "to localhost and to names given with --allow-host",
                                  head.host().substr(0, kLongestHostTold)));
  }
  if (head.method == "POST" && !IsJson(head.headers.Find("Content-Type").value_or(""))) {
    return PlainError(415, "a POST needs 'Content-Type: application/json'");
  }
  return std::nullopt;
}

}  // namespace kvplane::server
