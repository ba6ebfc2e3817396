#include "kvplane/store/redis/redis_options.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <utility>

#include "kvplane/transport/endpoint.h"
#include "kvplane/transport/tcp_transport.h"
#include "kvplane/transport/tls_transport.h"
#include "kvplane/transport/transport_security.h"

namespace kvplane::store {
namespace {

constexpr std::string_view kScheme = "redis://";
constexpr std::string_view kTlsScheme = "rediss://";
constexpr size_t kMaxPasswordBytes = 4096;
constexpr size_t kMaxPrefixBytes = 64;
constexpr uint64_t kMaxTtlSeconds = uint64_t{10} * 365 * 24 * 3600;

base::Result<std::string> PercentDecode(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    uint32_t byte = 0;
    const char* const digits = text.data() + i + 1;
    if (i + 2 >= text.size() || std::from_chars(digits, digits + 2, byte, 16).ptr != digits + 2) {
      return base::InvalidArgument("redis: a % in user or password needs two hexadecimal digits after it");
    }
    out += static_cast<char>(byte);
    i += 2;
  }
  return out;
}

base::Result<uint64_t> Number(std::string_view name, std::string_view text, uint64_t limit) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size() || value > limit) {
    return base::InvalidArgument("redis: {} is not a number up to {}", name, limit);
  }
  return value;
}

// The first line.
base::Result<std::string> ReadPasswordFile(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    if (errno == EACCES) return base::PermissionDenied("redis: may not read the password file {}", path);
    return base::NotFound("redis: cannot open the password file {}", path);
  }
  std::string text(kMaxPasswordBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  text.resize(std::min(text.size(), text.find('\n')));
  if (text.ends_with('\r')) text.pop_back();
  if (text.empty() || text.size() > kMaxPasswordBytes) {
    return base::InvalidArgument("redis: the first line of {} is no password (1 to {} bytes)", path,
                                 kMaxPasswordBytes);
  }
  return text;
}

// What only connections with TLS have. False: no such option.
base::Result<bool> ParseTlsOption(std::string_view name, std::string_view value, RedisOptions& options) {
  const std::pair<std::string_view, std::string*> files[] = {
      {"ca_file", &options.credentials.ca_pem},
      {"cert_file", &options.credentials.certificate_pem},
      {"key_file", &options.credentials.key_pem},
  };
  for (const auto& [known, contents] : files) {
    if (name != known) continue;
    if (!options.tls) return base::InvalidArgument("redis: {} is for {} only", name, kTlsScheme);
    auto read = transport::ReadPemFile(std::string(value));
    if (!read.ok()) return read.status().Annotate(known);
    *contents = *std::move(read);
    return true;
  }
  return false;
}

base::Status ParseOption(std::string_view name, std::string_view value, RedisOptions& options) {
  if (name == "password_file") {
    KVPLANE_ASSIGN_OR_RETURN(options.password, ReadPasswordFile(std::string(value)));
  } else if (name == "user") {
    options.user = value;
  } else if (name == "prefix") {
    options.prefix = value;
  } else if (name == "ttl_s") {
    KVPLANE_ASSIGN_OR_RETURN(const uint64_t seconds, Number(name, value, kMaxTtlSeconds));
    options.default_ttl = std::chrono::seconds(seconds);
  } else if (name == "connections") {
    KVPLANE_ASSIGN_OR_RETURN(const uint64_t count, Number(name, value, kMaxRedisConnectionsPerNode));
    options.connections_per_node = static_cast<size_t>(count);
  } else {
    KVPLANE_ASSIGN_OR_RETURN(const bool known, ParseTlsOption(name, value, options));
    if (known) return base::Status::Ok();
    return base::InvalidArgument(
        "redis: unknown option; there are password_file, user, prefix, ttl_s and connections{}",
        options.tls ? ", ca_file, cert_file and key_file" : "");
  }
  return base::Status::Ok();
}

// Splits `text` at `separator`; calls take(part) until it fails.
template <typename Take>
base::Status ForEachPart(std::string_view text, char separator, Take take) {
  while (true) {
    const size_t end = text.find(separator);
    KVPLANE_RETURN_IF_ERROR(take(text.substr(0, end)));
    if (end == std::string_view::npos) return base::Status::Ok();
    text.remove_prefix(end + 1);
  }
}

base::Status ParseUser(std::string_view text, RedisOptions& options) {
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    return base::InvalidArgument("redis: before the @ stands USER:PASSWORD or :PASSWORD");
  }
  KVPLANE_ASSIGN_OR_RETURN(options.user, PercentDecode(text.substr(0, colon)));
  KVPLANE_ASSIGN_OR_RETURN(options.password, PercentDecode(text.substr(colon + 1)));
  return base::Status::Ok();
}

}  // namespace

base::Result<RedisOptions> ParseRedisSpec(std::string_view spec) {
  RedisOptions options;
  options.tls = spec.starts_with(kTlsScheme);
  if (!options.tls && !spec.starts_with(kScheme)) {
    return base::InvalidArgument("redis: the address begins with {} or {}", kScheme, kTlsScheme);
  }
  std::string_view hosts = spec.substr(options.tls ? kTlsScheme.size() : kScheme.size());
  std::string_view query;
  // A password may hold any of the other marks; the last @ ends it.
  if (const size_t at = hosts.rfind('@'); at != std::string_view::npos && at < hosts.find('?')) {
    if (options.tls) {
      // Who protects the connection does not want it in the list of processes either.
      return base::InvalidArgument("redis: with {} a password comes from a file: password_file= and user=",
                                   kTlsScheme);
    }
    KVPLANE_RETURN_IF_ERROR(ParseUser(hosts.substr(0, at), options));
    hosts.remove_prefix(at + 1);
  }
  if (const size_t mark = hosts.find('?'); mark != std::string_view::npos) {
    query = hosts.substr(mark + 1);
    hosts = hosts.substr(0, mark);
  }
  if (hosts.ends_with('/')) hosts.remove_suffix(1);
  KVPLANE_RETURN_IF_ERROR(ForEachPart(hosts, ',', [&](std::string_view host) -> base::Status {
    if (options.seeds.size() >= kMaxRedisSeeds) return base::InvalidArgument("redis: too many addresses");
    base::Result<transport::TcpEndpoint> endpoint =
        transport::ParseTcpEndpoint(fmt::format("tcp://{}", host));
    if (!endpoint.ok()) {
      return base::InvalidArgument(
          "redis: address {} is not HOST:PORT (in a password, @ is %40 and ? is %3F)",
          options.seeds.size() + 1);
    }
    options.seeds.push_back({std::move(endpoint->host), endpoint->port});
    return base::Status::Ok();
  }));
  if (!query.empty()) {
    KVPLANE_RETURN_IF_ERROR(ForEachPart(query, '&', [&](std::string_view option) {
      const size_t equals = option.find('=');
      return ParseOption(option.substr(0, equals),
                         equals == std::string_view::npos ? "" : option.substr(equals + 1), options);
    }));
  }
  KVPLANE_RETURN_IF_ERROR(ValidateRedisOptions(options));
  return options;
}

base::Status ValidateRedisOptions(const RedisOptions& options) {
  if (options.seeds.empty() || options.seeds.size() > kMaxRedisSeeds) {
    return base::InvalidArgument("redis: {} addresses; there must be 1 to {}", options.seeds.size(),
                                 kMaxRedisSeeds);
  }
  for (const RedisAddress& seed : options.seeds) {
    if (seed.port == 0) return base::InvalidArgument("redis: {} has no port", seed.ToString());
  }
  // Brackets would choose slots, * and ? would match other keys, a colon ends the prefix.
  const bool plain = std::all_of(options.prefix.begin(), options.prefix.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || c == '-';
  });
  if (options.prefix.empty() || options.prefix.size() > kMaxPrefixBytes || !plain) {
    return base::InvalidArgument("redis: a prefix has 1 to {} of the bytes A-Z a-z 0-9 _ . -",
                                 kMaxPrefixBytes);
  }
  if (!options.user.empty() && options.password.empty()) {
    return base::InvalidArgument("redis: a user without password");
  }
  if (options.credentials.certificate_pem.empty() != options.credentials.key_pem.empty()) {
    return base::InvalidArgument("redis: cert_file and key_file belong together");
  }
  if (options.password.size() > kMaxPasswordBytes) return base::InvalidArgument("redis: password too long");
  if (options.connections_per_node == 0 || options.connections_per_node > kMaxRedisConnectionsPerNode) {
    return base::InvalidArgument("redis: connections must be 1 to {}", kMaxRedisConnectionsPerNode);
  }
  if (options.connect_timeout <= base::Duration::zero() || options.stall_timeout <= base::Duration::zero() ||
      options.default_ttl < base::Duration::zero()) {
    return base::InvalidArgument("redis: timeouts must be positive, a time to live not negative");
  }
  return base::Status::Ok();
}

base::Result<std::shared_ptr<transport::Transport>> CreateRedisTransport(const RedisOptions& options) {
  std::shared_ptr<transport::Transport> tcp = transport::CreateTcpTransport();
  if (!options.tls) return tcp;
  transport::TlsOptions tls;
  auto context = transport::TlsContext::FromCertificates(options.credentials, transport::TlsEnd::kClient);
  if (!context.ok()) return context.status().Annotate("redis");
  tls.client = *std::move(context);
  return std::shared_ptr<transport::Transport>(transport::CreateTlsTransport(std::move(tcp), std::move(tls)));
}

}  // namespace kvplane::store
