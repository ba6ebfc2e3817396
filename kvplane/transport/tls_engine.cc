#include "kvplane/transport/tls_engine.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace kvplane::transport {
namespace {

struct SslDeleter {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};

// Checks the peer's certificate against `host`.
bool ExpectHost(SSL* ssl, const std::string& host) {
  std::array<unsigned char, sizeof(in6_addr)> ignored{};
  const bool is_address = inet_pton(AF_INET, host.c_str(), ignored.data()) == 1 ||
                          inet_pton(AF_INET6, host.c_str(), ignored.data()) == 1;
  if (is_address) return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host.c_str()) == 1;
  SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  return SSL_set1_host(ssl, host.c_str()) == 1 && SSL_set_tlsext_host_name(ssl, host.c_str()) == 1;
}

}  // namespace

// What OpenSSL reads from and writes to.
struct TlsEngine::State {
  std::span<const std::byte> received;   // coded, not yet taken
  std::vector<std::byte> to_send;        // coded
  std::unique_ptr<SSL, SslDeleter> ssl;  // last: its BIO points to this object
};

namespace {

// The BIO's functions; templates, because the state they work on is private to the class.
template <typename State>
State& StateOf(BIO* bio) {
  return *static_cast<State*>(BIO_get_data(bio));
}

template <typename State>
int BioRead(BIO* bio, char* into, int size) {
  State& state = StateOf<State>(bio);
  BIO_clear_retry_flags(bio);
  const size_t count = std::min(static_cast<size_t>(std::max(size, 0)), state.received.size());
  if (count == 0) {
    BIO_set_retry_read(bio);
    return -1;
  }
  std::memcpy(into, state.received.data(), count);
  state.received = state.received.subspan(count);
  return static_cast<int>(count);
}

template <typename State>
int BioWrite(BIO* bio, const char* from, int size) {
  BIO_clear_retry_flags(bio);
  const auto* bytes = reinterpret_cast<const std::byte*>(from);
  std::vector<std::byte>& to_send = StateOf<State>(bio).to_send;
  to_send.insert(to_send.end(), bytes, bytes + size);
  return size;
}

long BioControl(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

template <typename State>
BIO_METHOD* MakeBioMethod() {
  BIO_METHOD* method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "kvplane memory");
  if (method != nullptr) {
    BIO_meth_set_read(method, BioRead<State>);
    BIO_meth_set_write(method, BioWrite<State>);
    BIO_meth_set_ctrl(method, BioControl);
  }
  return method;
}

}  // namespace

TlsEngine::TlsEngine(std::shared_ptr<const TlsContext> context, std::unique_ptr<State> state,
                     std::string host)
    : context_(std::move(context)), state_(std::move(state)), host_(std::move(host)) {}
TlsEngine::~TlsEngine() = default;

base::Result<std::unique_ptr<TlsEngine>> TlsEngine::Create(std::shared_ptr<const TlsContext> context,
                                                           TlsEnd end, const std::string& host) {
  static BIO_METHOD* const method = MakeBioMethod<State>();
  auto state = std::make_unique<State>();
  state->ssl.reset(SSL_new(context->get()));
  BIO* const bio = method == nullptr ? nullptr : BIO_new(method);
  SSL* const ssl = state->ssl.get();
  if (ssl == nullptr || bio == nullptr) {
    BIO_free(bio);
    return base::ResourceExhausted("OpenSSL: {}", TakeTlsErrorText("out of memory"));
  }
  BIO_set_data(bio, state.get());
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl, bio, bio);
  if (end == TlsEnd::kServer) {
    SSL_set_accept_state(ssl);
  } else {
    SSL_set_connect_state(ssl);
    if (!context->uses_tokens() && (host.empty() || !ExpectHost(ssl, host))) {
      return base::InvalidArgument("\"{}\" is no name that a certificate can be for", host);
    }
  }
  return std::unique_ptr<TlsEngine>(new TlsEngine(std::move(context), std::move(state), host));
}

void TlsEngine::Feed(std::span<const std::byte> coded) { state_->received = coded; }

void TlsEngine::TakeOutput(std::vector<std::byte>& into) {
  into.clear();
  into.swap(state_->to_send);
}

base::Result<bool> TlsEngine::Handshake() {
  ERR_clear_error();
  const int result = SSL_do_handshake(state_->ssl.get());
  if (result == 1) return true;
  if (SSL_get_error(state_->ssl.get(), result) == SSL_ERROR_WANT_READ) return false;
  return Refused();
}

base::Result<size_t> TlsEngine::Decode(std::span<std::byte> into) {
  size_t total = 0;
  while (total < into.size()) {
    ERR_clear_error();
    size_t got = 0;
    if (SSL_read_ex(state_->ssl.get(), into.data() + total, into.size() - total, &got) == 1) {
      total += got;
      continue;
    }
    const int error = SSL_get_error(state_->ssl.get(), 0);
    if (total > 0 || error == SSL_ERROR_WANT_READ) break;  // an error comes again with the next call
    if (error == SSL_ERROR_ZERO_RETURN) return base::Unavailable("the peer closed the connection");
    return anything_read_ ? Broken("read") : Refused();
  }
  anything_read_ = anything_read_ || total > 0;
  return total;
}

base::Status TlsEngine::Encode(std::span<const std::byte> plain) {
  if (plain.empty()) return base::Status::Ok();
  ERR_clear_error();
  size_t written = 0;
  if (SSL_write_ex(state_->ssl.get(), plain.data(), plain.size(), &written) == 1 && written == plain.size()) {
    return base::Status::Ok();
  }
  return Broken("write");
}

base::Status TlsEngine::ChangeKey() {
  ERR_clear_error();
  if (SSL_key_update(state_->ssl.get(), SSL_KEY_UPDATE_NOT_REQUESTED) == 1) return base::Status::Ok();
  return Broken("change of key");
}

void TlsEngine::Close() {
  ERR_clear_error();
  SSL_shutdown(state_->ssl.get());
  ERR_clear_error();
}

base::Status TlsEngine::Broken(std::string_view what) const {
  return base::Unavailable("TLS {}: {}", what, TakeTlsErrorText("the connection is broken"));
}

// Why OpenSSL ended the handshake, in words that say what to do.
base::Status TlsEngine::Refused() const {
  const unsigned long error = ERR_peek_error();
  const int reason = ERR_GET_REASON(error);
  const std::string text = TakeTlsErrorText("refused");
  if (ERR_GET_LIB(error) != ERR_LIB_SSL) return base::Unavailable("TLS handshake: {}", text);
  if (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST ||
      reason == SSL_R_HTTPS_PROXY_REQUEST || reason == SSL_R_PACKET_LENGTH_TOO_LONG) {
    return base::PermissionDenied("TLS handshake: the peer does not speak TLS: both ends need it");
  }
  if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
    const char* why = X509_verify_cert_error_string(SSL_get_verify_result(state_->ssl.get()));
    return base::PermissionDenied("TLS handshake: the peer's certificate is refused: {}{}", why,
                                  host_.empty() ? "" : fmt::format(" (connected to \"{}\")", host_));
  }
  if (context_->uses_tokens()) {
    return base::PermissionDenied("TLS handshake: the peer does not hold the same token: {}", text);
  }
  return base::PermissionDenied("TLS handshake: {}", text);
}

}  // namespace kvplane::transport
