#include "kvplane/transport/transport_security.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "kvplane/base/log.h"
#include "kvplane/transport/endpoint.h"
#include "kvplane/transport/tls_transport.h"
#include "kvplane/transport/token_file.h"
#include "kvplane/transport/token_transport.h"

namespace kvplane::transport {
namespace {

constexpr size_t kMaxPemBytes = 1 << 20;

// Whoever records one handshake can try shorter tokens against it at leisure.
constexpr size_t kShortTokenBytes = 20;

void WarnOfShortTokens(const std::vector<std::string>& tokens) {
  for (const std::string& token : tokens) {
    if (token.size() >= kShortTokenBytes) continue;
    base::Log(
        base::LogLevel::kWarn,
        "a token of {} characters can be guessed from a recorded connection: take at least {} random ones",
        token.size(), kShortTokenBytes);
    return;
  }
}

base::Result<std::string> ReadNamedPem(std::string_view flag, const std::string& path) {
  if (path.empty()) return std::string();
  auto pem = ReadPemFile(path);
  if (!pem.ok()) return pem.status().Annotate(flag);
  return pem;
}

base::Result<std::unique_ptr<Transport>> ProtectByTls(std::shared_ptr<Transport> inner,
                                                      const TransportSecurity& security) {
  const TlsCredentials& credentials = security.credentials;
  const bool has_certificate = !credentials.certificate_pem.empty();
  TlsOptions options;
  if (!has_certificate && credentials.ca_pem.empty()) {
    if (security.tokens.empty()) {
      return base::InvalidArgument(
          "--kv-tls needs --auth-token-file (keys from the token), or --kv-cert with --kv-key where KV is "
          "served "
          "and --kv-ca where it is fetched");
    }
    KVPLANE_ASSIGN_OR_RETURN(options.server, TlsContext::FromTokens(security.tokens, TlsEnd::kServer));
    KVPLANE_ASSIGN_OR_RETURN(options.client, TlsContext::FromTokens(security.tokens, TlsEnd::kClient));
    options.authenticates_peers = true;
    return CreateTlsTransport(std::move(inner), std::move(options));
  }
  if (has_certificate) {
    KVPLANE_ASSIGN_OR_RETURN(options.server, TlsContext::FromCertificates(credentials, TlsEnd::kServer));
  }
  KVPLANE_ASSIGN_OR_RETURN(options.client, TlsContext::FromCertificates(credentials, TlsEnd::kClient));
  options.authenticates_peers = !credentials.ca_pem.empty();
  return CreateTlsTransport(std::move(inner), std::move(options));
}

}  // namespace

base::Result<std::string> ReadPemFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return base::NotFound("'{}': {}", path, std::strerror(errno));
  std::string text(kMaxPemBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.empty() || text.size() > kMaxPemBytes) {
    return base::InvalidArgument("'{}' is not a PEM file: {}", path,
                                 text.empty() ? "no bytes in it" : "longer than 1 MiB");
  }
  return text;
}

base::Result<TransportSecurity> ReadSecurityFiles(const SecurityFiles& files) {
  if (!files.tls && !(files.certificate.empty() && files.key.empty() && files.ca.empty())) {
    return base::InvalidArgument("--kv-cert, --kv-key and --kv-ca need --kv-tls");
  }
  if (files.certificate.empty() != files.key.empty()) {
    return base::InvalidArgument("--kv-cert and --kv-key go together");
  }
  TransportSecurity security;
  security.tls = files.tls;
  if (!files.auth_token_file.empty()) {
    KVPLANE_ASSIGN_OR_RETURN(security.tokens, ReadTokenFile(files.auth_token_file));
  }
  TlsCredentials& credentials = security.credentials;
  KVPLANE_ASSIGN_OR_RETURN(credentials.certificate_pem, ReadNamedPem("--kv-cert", files.certificate));
  KVPLANE_ASSIGN_OR_RETURN(credentials.key_pem, ReadNamedPem("--kv-key", files.key));
  KVPLANE_ASSIGN_OR_RETURN(credentials.ca_pem, ReadNamedPem("--kv-ca", files.ca));
  return security;
}

base::Result<std::unique_ptr<Transport>> Protect(std::unique_ptr<Transport> inner,
                                                 const TransportSecurity& security) {
  if (!security.tokens.empty()) WarnOfShortTokens(security.tokens);
  const bool certificates =
      !security.credentials.certificate_pem.empty() || !security.credentials.ca_pem.empty();
  if (security.tls) {
    KVPLANE_ASSIGN_OR_RETURN(inner, ProtectByTls(std::move(inner), security));
  }
  if (!security.tokens.empty() && (!security.tls || certificates)) {
    KVPLANE_ASSIGN_OR_RETURN(inner, CreateTokenTransport(std::move(inner), security.tokens));
  }
  return inner;
}

base::Status CheckListenPolicy(std::string_view flag, std::string_view endpoint,
                               const Capabilities& capabilities, bool insecure) {
  if (insecure || capabilities.authenticated || !capabilities.cross_host) return base::Status::Ok();
  const auto parsed = ParseHostEndpoint(endpoint);
  if (!parsed.ok()) return parsed.status().Annotate(flag);
  if (IsLoopbackHost(parsed->host)) return base::Status::Ok();
  return base::PermissionDenied(
      "{}: refusing to serve {} to whoever connects: give --auth-token-file (the same on every node), or "
      "--kv-tls with --kv-ca, or --insecure on a network where everyone may read and write what it serves",
      flag, endpoint);
}

}  // namespace kvplane::transport
