#include "kvplane/transport/tls_context.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

namespace kvplane::transport {
namespace {

constexpr std::string_view kSecretLabel = "kvplane tls psk 1";
constexpr std::string_view kNameLabel = "kvplane tls psk name 1";
// Of a key's name: enough that two tokens of one file never share one.
constexpr size_t kNameBytes = 16;

// Suites by the cost of a byte on CPUs with AES instructions. A pre-shared key belongs to a hash: SHA-256.
constexpr const char* kSuites = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
constexpr const char* kTokenSuites = "TLS_AES_128_GCM_SHA256";
constexpr std::array<unsigned char, 2> kTokenSuiteId = {0x13, 0x01};

// Authorities and chain certificates in one file; system bundles have about 150.
constexpr size_t kMaxCertificates = 1024;

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Bio = std::unique_ptr<BIO, Deleter<BIO_free_all>>;
using Certificate = std::unique_ptr<X509, Deleter<X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY_free>>;
using Session = std::unique_ptr<SSL_SESSION, Deleter<SSL_SESSION_free>>;

Bio OpenText(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(std::min<size_t>(text.size(), 16 << 20))));
}

// Never asks a terminal for a password.
int NoPassword(char*, int, int, void*) { return 0; }

base::Result<std::vector<Certificate>> ParseCertificates(const std::string& pem, std::string_view what) {
  const Bio text = OpenText(pem);
  std::vector<Certificate> out;
  ERR_clear_error();
  while (out.size() < kMaxCertificates) {
    Certificate one(PEM_read_bio_X509(text.get(), nullptr, NoPassword, nullptr));
    if (one == nullptr) break;
    out.push_back(std::move(one));
  }
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  const std::string error = TakeTlsErrorText("too many certificates");
  if (out.empty() || !at_end) {
    return base::InvalidArgument("the {} is not in PEM form: {}", what,
                                 at_end ? "no certificate in it" : error);
  }
  return out;
}

base::Status UseCertificate(SSL_CTX* context, const TlsCredentials& credentials) {
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<Certificate> chain,
                           ParseCertificates(credentials.certificate_pem, "certificate"));
  bool ok = SSL_CTX_use_certificate(context, chain.front().get()) == 1;
  for (size_t i = 1; i < chain.size(); ++i) {
    ok = ok && SSL_CTX_add1_chain_cert(context, chain[i].get()) == 1;
  }
  if (!ok) return base::InvalidArgument("the certificate is refused: {}", TakeTlsErrorText("unknown reason"));
  const Bio text = OpenText(credentials.key_pem);
  const PrivateKey key(PEM_read_bio_PrivateKey(text.get(), nullptr, NoPassword, nullptr));
  if (key == nullptr) {
    return base::InvalidArgument("the key is not in PEM form, or has a password: {}",
                                 TakeTlsErrorText("no key in it"));
  }
  if (SSL_CTX_use_PrivateKey(context, key.get()) != 1 || SSL_CTX_check_private_key(context) != 1) {
    return base::InvalidArgument("the key does not belong to the certificate: {}",
                                 TakeTlsErrorText("unknown reason"));
  }
  return base::Status::Ok();
}

base::Status TrustAuthorities(SSL_CTX* context, const std::string& pem, TlsEnd end) {
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<Certificate> authorities, ParseCertificates(pem, "CA file"));
  X509_STORE* store = SSL_CTX_get_cert_store(context);
  for (const Certificate& authority : authorities) {
    bool ok = X509_STORE_add_cert(store, authority.get()) == 1;
    // Tells a client which of its certificates would do.
    if (end == TlsEnd::kServer) ok = ok && SSL_CTX_add_client_CA(context, authority.get()) == 1;
    if (!ok) return base::InvalidArgument("the CA file: {}", TakeTlsErrorText("refused"));
  }
  return base::Status::Ok();
}

base::Result<Session> MakeSession(SSL* ssl, const TlsContext::TokenKey& key) {
  Session session(SSL_SESSION_new());
  const SSL_CIPHER* cipher = SSL_CIPHER_find(ssl, kTokenSuiteId.data());
  if (session == nullptr || cipher == nullptr ||
      SSL_SESSION_set1_master_key(session.get(), reinterpret_cast<const unsigned char*>(key.secret.data()),
                                  key.secret.size()) != 1 ||
      SSL_SESSION_set_cipher(session.get(), cipher) != 1 ||
      SSL_SESSION_set_protocol_version(session.get(), TLS1_3_VERSION) != 1) {
    return base::Internal("OpenSSL cannot make a session of a pre-shared key");
  }
  return session;
}

const std::vector<TlsContext::TokenKey>& KeysOf(SSL* ssl) {
  return *static_cast<const std::vector<TlsContext::TokenKey>*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
}

// The connecting end: which key to offer.
int OfferKey(SSL* ssl, const EVP_MD* digest, const unsigned char** name, size_t* name_bytes,
             SSL_SESSION** session) {
  *session = nullptr;
  *name = nullptr;
  *name_bytes = 0;
  // After a HelloRetryRequest the digest is decided: a key of another hash is not offered.
  if (digest != nullptr && EVP_MD_get_type(digest) != NID_sha256) return 1;
  const TlsContext::TokenKey& key = KeysOf(ssl).front();
  auto made = MakeSession(ssl, key);
  if (!made.ok()) return 0;
  *session = (*made).release();
  *name = reinterpret_cast<const unsigned char*>(key.name.data());
  *name_bytes = key.name.size();
  return 1;
}

// The accepting end: the key of that name; none means that the handshake goes on without one, and fails.
int FindKey(SSL* ssl, const unsigned char* name, size_t name_bytes, SSL_SESSION** session) {
  *session = nullptr;
  const std::string_view wanted(reinterpret_cast<const char*>(name), name_bytes);
  for (const TlsContext::TokenKey& key : KeysOf(ssl)) {
    if (key.name != wanted) continue;
    auto made = MakeSession(ssl, key);
    if (!made.ok()) return 0;
    *session = (*made).release();
    break;
  }
  return 1;
}

std::string Hex(std::span<const std::byte> bytes) {
  std::string out;
  for (const std::byte byte : bytes) out += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  return out;
}

}  // namespace

TlsContext::~TlsContext() { SSL_CTX_free(context_); }

base::Status TlsContext::Open(TlsEnd end) {
  context_ = SSL_CTX_new(end == TlsEnd::kServer ? TLS_server_method() : TLS_client_method());
  if (context_ == nullptr || SSL_CTX_set_min_proto_version(context_, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_ciphersuites(context_, kSuites) != 1) {
    return base::Internal("OpenSSL has no TLS 1.3: {}", TakeTlsErrorText("unknown reason"));
  }
  SSL_CTX_set_session_cache_mode(context_, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context_, 0);
  SSL_CTX_set_options(context_, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_mode(context_, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_default_passwd_cb(context_, NoPassword);
  return base::Status::Ok();
}

base::Status TlsContext::Use(const TlsCredentials& credentials, TlsEnd end) {
  const bool has_certificate = !credentials.certificate_pem.empty() || !credentials.key_pem.empty();
  if (end == TlsEnd::kServer && !has_certificate) {
    return base::InvalidArgument("a server needs a certificate and its key");
  }
  if (has_certificate) KVPLANE_RETURN_IF_ERROR(UseCertificate(context_, credentials));
  if (!credentials.ca_pem.empty()) {
    KVPLANE_RETURN_IF_ERROR(TrustAuthorities(context_, credentials.ca_pem, end));
  } else if (end == TlsEnd::kClient && SSL_CTX_set_default_verify_paths(context_) != 1) {
    return base::Internal("the system's certificate authorities cannot be found");
  }
  const bool verify = end == TlsEnd::kClient || !credentials.ca_pem.empty();
  SSL_CTX_set_verify(context_, verify ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT : SSL_VERIFY_NONE,
                     nullptr);
  return base::Status::Ok();
}

base::Result<std::shared_ptr<const TlsContext>> TlsContext::FromCertificates(
    const TlsCredentials& credentials, TlsEnd end) {
  std::shared_ptr<TlsContext> context(new TlsContext());
  KVPLANE_RETURN_IF_ERROR(context->Open(end));
  KVPLANE_RETURN_IF_ERROR(context->Use(credentials, end));
  return std::shared_ptr<const TlsContext>(std::move(context));
}

base::Result<std::shared_ptr<const TlsContext>> TlsContext::FromTokens(const std::vector<std::string>& tokens,
                                                                       TlsEnd end) {
  if (tokens.empty()) return base::InvalidArgument("no token to make a key of");
  std::shared_ptr<TlsContext> context(new TlsContext());
  KVPLANE_RETURN_IF_ERROR(context->Open(end));
  for (const std::string& token : tokens) {
    KVPLANE_ASSIGN_OR_RETURN(const Key secret, DeriveKey(token, kSecretLabel));
    KVPLANE_ASSIGN_OR_RETURN(const Key name, DeriveKey(token, kNameLabel));
    context->keys_.push_back({secret, Hex(std::span(name).first(kNameBytes))});
  }
  SSL_CTX* const ssl = context->context_;
  SSL_CTX_set_app_data(ssl, &context->keys_);
  if (SSL_CTX_set_ciphersuites(ssl, kTokenSuites) != 1) return base::Internal("OpenSSL has no AES-128-GCM");
  if (end == TlsEnd::kServer) {
    SSL_CTX_set_psk_find_session_callback(ssl, FindKey);
  } else {
    SSL_CTX_set_psk_use_session_callback(ssl, OfferKey);
    // A server that answers without the key would have to show a certificate: no authority is trusted.
    SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER, nullptr);
  }
  return std::shared_ptr<const TlsContext>(std::move(context));
}

std::string TakeTlsErrorText(std::string_view otherwise) {
  const unsigned long first = ERR_get_error();
  ERR_clear_error();
  const char* reason = first == 0 ? nullptr : ERR_reason_error_string(first);
  return reason == nullptr ? std::string(otherwise) : reason;
}

}  // namespace kvplane::transport
