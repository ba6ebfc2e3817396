#include "apps/cli/https_flags.h"

#include "kvplane/transport/transport_security.h"

namespace kvplane::cli {
namespace {

base::Result<std::string> ReadFlag(std::string_view flag, const std::string& path) {
  if (path.empty()) return std::string();
  auto pem = transport::ReadPemFile(path);
  if (!pem.ok()) return pem.status().Annotate(flag);
  return pem;
}

}  // namespace

base::Result<std::shared_ptr<const transport::TlsContext>> HttpsServerContext(const std::string& certificate,
                                                                              const std::string& key) {
  if (certificate.empty() != key.empty()) {
    return base::InvalidArgument("--tls-cert and --tls-key go together");
  }
  if (certificate.empty()) return std::shared_ptr<const transport::TlsContext>();
  transport::TlsCredentials credentials;
  KVPLANE_ASSIGN_OR_RETURN(credentials.certificate_pem, ReadFlag("--tls-cert", certificate));
  KVPLANE_ASSIGN_OR_RETURN(credentials.key_pem, ReadFlag("--tls-key", key));
  auto context = transport::TlsContext::FromCertificates(credentials, transport::TlsEnd::kServer);
  if (!context.ok()) return context.status().Annotate("--tls-cert, --tls-key");
  return context;
}

base::Result<std::shared_ptr<const transport::TlsContext>> HttpsClientContext(const std::string& ca) {
  transport::TlsCredentials credentials;
  KVPLANE_ASSIGN_OR_RETURN(credentials.ca_pem, ReadFlag("--node-ca", ca));
  auto context = transport::TlsContext::FromCertificates(credentials, transport::TlsEnd::kClient);
  if (!context.ok()) return context.status().Annotate("--node-ca");
  return context;
}

}  // namespace kvplane::cli
