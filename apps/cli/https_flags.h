// TLS of the HTTP side of a verb, from its flags.
#pragma once

#include <memory>
#include <string>

#include "kvplane/base/status.h"
#include "kvplane/transport/tls_context.h"

namespace kvplane::cli {

// --tls-cert and --tls-key, PEM files: what a server shows. Null where neither is given.
base::Result<std::shared_ptr<const transport::TlsContext>> HttpsServerContext(const std::string& certificate,
                                                                              const std::string& key);

// --node-ca, a PEM file: the authorities that vouch for https nodes; the system's where it is empty.
base::Result<std::shared_ptr<const transport::TlsContext>> HttpsClientContext(const std::string& ca);

}  // namespace kvplane::cli
