// TransportSecurity: how the connections between nodes (KV, store) are protected, and the rule that a node
// does not listen unprotected where others can reach it.
//
//     tokens  tls  certificate   connections
//     no      no                 plain
//     yes     no                 plain bytes, both ends prove the token first (token_transport.h)
//     yes     yes  no            TLS 1.3 with keys made from the tokens
//     any     yes  yes or CA     TLS 1.3 with certificates; with tokens both ends also prove the token inside
//     it no      yes  no            refused: there is nothing to recognise a peer by
//
// With a CA file the accepting end demands a certificate of whoever connects; without one, and without
// tokens, it takes anybody (but is still encrypted, and recognised by who connects).
//
// Both ends need the same settings. Thread safety: values and pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/transport/stream.h"
#include "kvplane/transport/tls_context.h"

namespace kvplane::transport {

struct TransportSecurity {
  std::vector<std::string> tokens;  // contents of a token file; empty: none
  bool tls = false;
  TlsCredentials credentials;
};

// The same as flags name it: paths.
struct SecurityFiles {
  std::string auth_token_file;  // --auth-token-file
  bool tls = false;             // --kv-tls
  std::string certificate;      // --kv-cert
  std::string key;              // --kv-key
  std::string ca;               // --kv-ca
};

// Reads the files. kInvalidArgument for combinations that make no sense, naming the flags; kNotFound.
base::Result<TransportSecurity> ReadSecurityFiles(const SecurityFiles& files);

// Up to 1 MiB of a PEM file. kNotFound, kInvalidArgument (longer).
base::Result<std::string> ReadPemFile(const std::string& path);

// Puts the protection around `inner`; returns it as it is where there is none.
base::Result<std::unique_ptr<Transport>> Protect(std::unique_ptr<Transport> inner,
                                                 const TransportSecurity& security);

// kPermissionDenied when `endpoint` (of any scheme of ParseHostEndpoint) is not a loopback address, anybody
// who reaches it would be served (Capabilities::authenticated) and `insecure` does not say that this is
// meant. `flag` names what set the endpoint ("--kv-listen").
base::Status CheckListenPolicy(std::string_view flag, std::string_view endpoint,
                               const Capabilities& capabilities, bool insecure);

}  // namespace kvplane::transport
