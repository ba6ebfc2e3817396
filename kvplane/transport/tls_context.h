// TlsContext: one side's TLS 1.3 settings (RFC 8446) in an SSL_CTX: certificates, or pre-shared keys made
// from tokens. Used by the tls transport and by HTTPS.
//
// Certificates: the accepting end shows one. With `ca_pem` it also demands one of the connecting end, signed
// by one of those authorities; the connecting end checks the other's against `ca_pem`, or the system's
// authorities where it is empty, and against the host name it connected to.
//
// Tokens: no certificates. Each token becomes a key and the public name of that key, both by HKDF with labels
// of their own; the connecting end offers its first token, the accepting end takes any of its own. The key
// exchange is ephemeral (psk_dhe_ke): who learns the token later cannot read what was recorded earlier.
//
// Only TLS 1.3, no session tickets, no resumption, no renegotiation, no compression.
//
// Thread safety: const after creation.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/transport/shared_secret.h"

struct ssl_ctx_st;  // OpenSSL's SSL_CTX

namespace kvplane::transport {

struct TlsCredentials {
  // Contents of PEM files, not their paths. The certificate may be followed by the chain to its authority.
  std::string certificate_pem;
  std::string key_pem;
  std::string ca_pem;
};

enum class TlsEnd { kClient, kServer };

class TlsContext {
 public:
  // kInvalidArgument says which of the files is not what it should be: PEM, a key that belongs to the
  // certificate, at least one authority. A server needs certificate and key; a client may have them.
  static base::Result<std::shared_ptr<const TlsContext>> FromCertificates(const TlsCredentials& credentials,
                                                                          TlsEnd end);
  static base::Result<std::shared_ptr<const TlsContext>> FromTokens(const std::vector<std::string>& tokens,
                                                                    TlsEnd end);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

  ssl_ctx_st* get() const { return context_; }
  bool uses_tokens() const { return !keys_.empty(); }

  // A pre-shared key and its name, which travels in clear.
  struct TokenKey {
    Key secret;
    std::string name;
  };

 private:
  TlsContext() = default;
  base::Status Open(TlsEnd end);
  base::Status Use(const TlsCredentials& credentials, TlsEnd end);

  ssl_ctx_st* context_ = nullptr;
  std::vector<TokenKey> keys_;  // their addresses are the SSL_CTX's application data
};

// The oldest entry of this thread's OpenSSL error queue in words ("certificate verify failed"), or
// `otherwise`; the queue is empty afterwards.
std::string TakeTlsErrorText(std::string_view otherwise);

}  // namespace kvplane::transport
