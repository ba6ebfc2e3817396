#include "kvplane/transport/tls_transport.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/transport/endpoint.h"
#include "kvplane/transport/handshake_gate.h"
#include "kvplane/transport/refusal_log.h"
#include "kvplane/transport/stream_decorator.h"

namespace kvplane::transport {
namespace {

// Plain bytes coded, and coded bytes received, under one hold of the lock or in one system call.
constexpr size_t kBatchBytes = 256 << 10;

// Plain bytes of one record (RFC 8446). Smaller pieces are gathered up to it: a record costs 22 bytes.
constexpr size_t kRecordBytes = 16 << 10;

// What the coding side and the moving side of one stream exchange.
struct TlsBuffers {
  std::span<const std::byte> received;  // coded, not yet taken by OpenSSL
  std::vector<std::byte> to_send;       // coded
};

TlsBuffers& BuffersOf(BIO* bio) { return *static_cast<TlsBuffers*>(BIO_get_data(bio)); }

int BioRead(BIO* bio, char* into, int size) {
  TlsBuffers& buffers = BuffersOf(bio);
  BIO_clear_retry_flags(bio);
  const size_t count = std::min(static_cast<size_t>(std::max(size, 0)), buffers.received.size());
  if (count == 0) {
    BIO_set_retry_read(bio);
    return -1;
  }
  std::memcpy(into, buffers.received.data(), count);
  buffers.received = buffers.received.subspan(count);
  return static_cast<int>(count);
}

int BioWrite(BIO* bio, const char* from, int size) {
  BIO_clear_retry_flags(bio);
  const auto* bytes = reinterpret_cast<const std::byte*>(from);
  std::vector<std::byte>& to_send = BuffersOf(bio).to_send;
  to_send.insert(to_send.end(), bytes, bytes + size);
  return size;
}

long BioControl(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

BIO_METHOD* MakeBioMethod() {
  BIO_METHOD* method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "kvplane stream");
  if (method != nullptr) {
    BIO_meth_set_read(method, BioRead);
    BIO_meth_set_write(method, BioWrite);
    BIO_meth_set_ctrl(method, BioControl);
  }
  return method;
}

struct SslDeleter {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};
using Ssl = std::unique_ptr<SSL, SslDeleter>;

// Checks the certificate against `host`, a name or an address.
bool ExpectHost(SSL* ssl, const std::string& host) {
  std::array<unsigned char, sizeof(in6_addr)> ignored{};
  const bool is_address = inet_pton(AF_INET, host.c_str(), ignored.data()) == 1 ||
                          inet_pton(AF_INET6, host.c_str(), ignored.data()) == 1;
  if (is_address) return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host.c_str()) == 1;
  SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  return SSL_set1_host(ssl, host.c_str()) == 1 && SSL_set_tlsext_host_name(ssl, host.c_str()) == 1;
}

// What the streams of one transport share.
struct TlsSettings {
  TlsOptions options;
  RefusalLog refusals;
};

class TlsStream final : public Stream {
 public:
  TlsStream(std::unique_ptr<Stream> inner, StreamEnd end, Ssl ssl, std::unique_ptr<TlsBuffers> buffers,
            std::string host, std::shared_ptr<TlsSettings> settings)
      : inner_(std::move(inner)),
        end_(end),
        host_(std::move(host)),
        settings_(std::move(settings)),
        gate_(settings_->options.handshake_timeout),
        received_(kBatchBytes),
        buffers_(std::move(buffers)),
        ssl_(std::move(ssl)) {}

  base::Status Write(std::span<const std::span<const std::byte>> pieces, base::TimePoint deadline) override {
    PieceCursor from(pieces);
    if (from.empty()) return base::Status::Ok();
    KVPLANE_RETURN_IF_ERROR(Ready(deadline));
    while (!from.empty()) {
      if (cancelled_.load()) return base::Cancelled("stream to {} shut down", peer());
      KVPLANE_RETURN_IF_ERROR(Encode(from));
      const std::span<const std::byte> coded(sending_);
      KVPLANE_RETURN_IF_ERROR(inner_->Write({&coded, 1}, deadline));
    }
    return base::Status::Ok();
  }

  base::Status Read(std::span<std::byte> into, base::TimePoint deadline) override {
    while (!into.empty()) {
      KVPLANE_ASSIGN_OR_RETURN(const size_t got, ReadSome(into, deadline));
      into = into.subspan(got);
    }
    return base::Status::Ok();
  }

  base::Result<size_t> ReadSome(std::span<std::byte> into, base::TimePoint deadline) override {
    KVPLANE_RETURN_IF_ERROR(Ready(deadline));
    while (true) {
      if (cancelled_.load()) return base::Cancelled("stream to {} shut down", peer());
      KVPLANE_ASSIGN_OR_RETURN(const size_t got, Decode(into));
      if (got > 0) return got;
      KVPLANE_RETURN_IF_ERROR(Receive(deadline));
    }
  }

  void Shutdown() override {
    cancelled_.store(true);
    inner_->Shutdown();
  }

  std::string peer() const override { return inner_->peer(); }

 private:
  // The bytes of a gather list still to be written, in pieces of at most a record.
  class PieceCursor {
   public:
    explicit PieceCursor(std::span<const std::span<const std::byte>> pieces) : pieces_(pieces) {
      SkipEmpty();
    }

    bool empty() const { return pieces_.empty(); }

    // The next bytes: a part of one piece, or small pieces copied together into `gathered`.
    std::span<const std::byte> Next(std::vector<std::byte>& gathered) {
      const std::span<const std::byte> first = pieces_.front().subspan(offset_);
      if (first.size() >= kRecordBytes) return Advance(kRecordBytes);
      gathered.clear();
      while (!empty() && gathered.size() < kRecordBytes) {
        const size_t left = pieces_.front().size() - offset_;
        const auto part = Advance(std::min(left, kRecordBytes - gathered.size()));
        gathered.insert(gathered.end(), part.begin(), part.end());
      }
      return gathered;
    }

   private:
    std::span<const std::byte> Advance(size_t bytes) {
      const auto part = pieces_.front().subspan(offset_, bytes);
      offset_ += bytes;
      SkipEmpty();
      return part;
    }
    void SkipEmpty() {
      while (!pieces_.empty() && offset_ == pieces_.front().size()) {
        pieces_ = pieces_.subspan(1);
        offset_ = 0;
      }
    }

    std::span<const std::span<const std::byte>> pieces_;
    size_t offset_ = 0;
  };

  bool uses_tokens() const {
    const TlsOptions& options = settings_->options;
    return (end_ == StreamEnd::kAccepted ? options.server : options.client)->uses_tokens();
  }

  // Codes up to a batch into sending_.
  base::Status Encode(PieceCursor& from) KVPLANE_EXCLUDES(mutex_) {
    sending_.clear();
    base::MutexLock lock(mutex_);
    if (written_since_key_ >= settings_->options.rekey_bytes) {
      written_since_key_ = 0;
      if (SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_NOT_REQUESTED) != 1) return BrokenLocked("change of key");
    }
    size_t taken = 0;
    while (!from.empty() && taken < kBatchBytes) {
      const std::span<const std::byte> part = from.Next(gathered_);
      ERR_clear_error();
      size_t written = 0;
      if (SSL_write_ex(ssl_.get(), part.data(), part.size(), &written) != 1 || written != part.size()) {
        return BrokenLocked("write");
      }
      taken += part.size();
    }
    written_since_key_ += taken;
    sending_.swap(buffers_->to_send);
    return base::Status::Ok();
  }

  // Decodes what has arrived; 0: not a whole record yet.
  base::Result<size_t> Decode(std::span<std::byte> into) KVPLANE_EXCLUDES(mutex_) {
    base::MutexLock lock(mutex_);
    size_t total = 0;
    const size_t most = std::min(into.size(), kBatchBytes);
    while (total < most) {
      ERR_clear_error();
      size_t got = 0;
      if (SSL_read_ex(ssl_.get(), into.data() + total, most - total, &got) == 1) {
        total += got;
        continue;
      }
      const int error = SSL_get_error(ssl_.get(), 0);
      if (total > 0 || error == SSL_ERROR_WANT_READ) break;
      if (error == SSL_ERROR_ZERO_RETURN) return base::Unavailable("{} closed the connection", peer());
      return anything_read_ ? BrokenLocked("read") : RefusedLocked();
    }
    anything_read_ = anything_read_ || total > 0;
    return total;
  }

  base::Status Receive(base::TimePoint deadline) {
    const auto got = inner_->ReadSome(received_, deadline);
    base::MutexLock lock(mutex_);
    if (!got.ok()) {
      // The accepting end judges certificates after this end's part of the handshake is over, and its alert
      // can be lost when it closes.
      const bool refused = got.status().code() == base::StatusCode::kUnavailable && !anything_read_ &&
                           end_ == StreamEnd::kConnected && !uses_tokens();
      return refused
                 ? got.status().Annotate("before a byte came (is this node's certificate accepted there?)")
                 : got.status();
    }
    buffers_->received = std::span<const std::byte>(received_).first(*got);
    return base::Status::Ok();
  }

  base::Status Ready(base::TimePoint deadline) {
    return gate_.Pass(deadline, [this](base::TimePoint until) {
      const base::Status status = Handshake(until);
      const bool refused = status.code() == base::StatusCode::kPermissionDenied;
      if (refused && end_ == StreamEnd::kAccepted) settings_->refusals.Note(status);
      return status;
    });
  }

  base::Status Handshake(base::TimePoint deadline) {
    while (true) {
      base::Status outcome;
      bool wants_more = false;
      {
        base::MutexLock lock(mutex_);
        ERR_clear_error();
        const int result = SSL_do_handshake(ssl_.get());
        wants_more = result != 1 && SSL_get_error(ssl_.get(), result) == SSL_ERROR_WANT_READ;
        if (result != 1 && !wants_more) outcome = RefusedLocked();
        sending_.clear();
        sending_.swap(buffers_->to_send);
      }
      if (!sending_.empty()) {  // also the alert that tells the peer why not
        const std::span<const std::byte> coded(sending_);
        const base::Status sent = inner_->Write({&coded, 1}, deadline);
        if (outcome.ok() && sent.code() == base::StatusCode::kDeadlineExceeded) {
          return base::Unavailable("{}: TLS handshake: the peer takes no bytes", peer());
        }
        if (outcome.ok() && !sent.ok()) return sent.Annotate(fmt::format("{}: TLS handshake", peer()));
      }
      if (!wants_more) return outcome;
      const base::Status received = Receive(deadline);
      if (!received.ok()) return received.Annotate(fmt::format("{}: TLS handshake", peer()));
    }
  }

  base::Status BrokenLocked(std::string_view what) KVPLANE_REQUIRES(mutex_) {
    return base::Unavailable("{}: TLS {}: {}", peer(), what, TakeTlsErrorText("the connection is broken"));
  }

  // Why OpenSSL ended the handshake, in words that say what to do.
  base::Status RefusedLocked() KVPLANE_REQUIRES(mutex_) {
    const unsigned long error = ERR_peek_error();
    const int reason = ERR_GET_REASON(error);
    const std::string text = TakeTlsErrorText("refused");
    const std::string where = fmt::format("{}: TLS handshake", peer());
    if (ERR_GET_LIB(error) != ERR_LIB_SSL) return base::Unavailable("{}: {}", where, text);
    if (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST ||
        reason == SSL_R_HTTPS_PROXY_REQUEST || reason == SSL_R_PACKET_LENGTH_TOO_LONG) {
      return base::PermissionDenied("{}: it does not speak TLS: both nodes need --kv-tls", where);
    }
    if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
      const char* why = X509_verify_cert_error_string(SSL_get_verify_result(ssl_.get()));
      return base::PermissionDenied("{}: its certificate is refused: {}{}", where, why,
                                    host_.empty() ? "" : fmt::format(" (connected to \"{}\")", host_));
    }
    if (uses_tokens()) {
      return base::PermissionDenied("{}: it does not hold the same token: {}", where, text);
    }
    return base::PermissionDenied("{}: {}", where, text);
  }

  const std::unique_ptr<Stream> inner_;
  const StreamEnd end_;
  const std::string host_;  // what the peer's certificate must be for; empty at the accepting end
  const std::shared_ptr<TlsSettings> settings_;
  HandshakeGate gate_;
  std::atomic<bool> cancelled_{false};

  std::vector<std::byte> sending_;   // the writer's, or of the thread in the handshake
  std::vector<std::byte> gathered_;  // the writer's
  std::vector<std::byte> received_;  // the reader's while buffers_->received is empty

  base::Mutex mutex_;
  const std::unique_ptr<TlsBuffers> buffers_;  // what it points to is guarded by mutex_; before ssl_: its BIO
                                               // points there
  const Ssl ssl_;                              // guarded by mutex_
  bool anything_read_ KVPLANE_GUARDED_BY(mutex_) = false;
  uint64_t written_since_key_ KVPLANE_GUARDED_BY(mutex_) = 0;
};

base::Result<std::unique_ptr<Stream>> WrapInTls(const std::shared_ptr<TlsSettings>& settings,
                                                std::unique_ptr<Stream> inner, StreamEnd end,
                                                std::string_view endpoint) {
  static BIO_METHOD* const method = MakeBioMethod();
  const auto& context = end == StreamEnd::kAccepted ? settings->options.server : settings->options.client;
  auto buffers = std::make_unique<TlsBuffers>();
  Ssl ssl(SSL_new(context->get()));
  BIO* const bio = method == nullptr ? nullptr : BIO_new(method);
  if (ssl == nullptr || bio == nullptr) {
    BIO_free(bio);
    return base::ResourceExhausted("OpenSSL: {}", TakeTlsErrorText("out of memory"));
  }
  BIO_set_data(bio, buffers.get());
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl.get(), bio, bio);
  std::string host;
  if (end == StreamEnd::kAccepted) {
    SSL_set_accept_state(ssl.get());
  } else {
    SSL_set_connect_state(ssl.get());
    if (!context->uses_tokens()) {
      const auto tcp = ParseTcpEndpoint(endpoint);
      host = tcp.ok() ? tcp->host
                      : std::string(endpoint.substr(std::min(endpoint.find("://") + 3, endpoint.size())));
      if (!ExpectHost(ssl.get(), host)) {
        return base::InvalidArgument("\"{}\" is no name that a certificate can be for", host);
      }
    }
  }
  return std::unique_ptr<Stream>(std::make_unique<TlsStream>(std::move(inner), end, std::move(ssl),
                                                             std::move(buffers), std::move(host), settings));
}

// Refuses what there is no context for, and takes "tls://" for "tcp://".
class TlsTransport final : public Transport {
 public:
  TlsTransport(std::unique_ptr<Transport> decorated, bool can_listen, bool can_connect)
      : decorated_(std::move(decorated)), can_listen_(can_listen), can_connect_(can_connect) {}

  std::string_view name() const override { return decorated_->name(); }
  Capabilities capabilities() const override { return decorated_->capabilities(); }
  base::Result<std::unique_ptr<Listener>> Listen(std::string_view endpoint) override {
    if (!can_listen_) {
      return base::FailedPrecondition("listening with TLS needs a certificate and its key, or a token");
    }
    return decorated_->Listen(Inner(endpoint));
  }
  base::Result<std::unique_ptr<Stream>> Connect(std::string_view endpoint,
                                                base::TimePoint deadline) override {
    if (!can_connect_) return base::FailedPrecondition("no TLS settings for connecting");
    return decorated_->Connect(Inner(endpoint), deadline);
  }

 private:
  static std::string Inner(std::string_view endpoint) {
    constexpr std::string_view kScheme = "tls://";
    return endpoint.starts_with(kScheme) ? fmt::format("tcp://{}", endpoint.substr(kScheme.size()))
                                         : std::string(endpoint);
  }

  const std::unique_ptr<Transport> decorated_;
  const bool can_listen_;
  const bool can_connect_;
};

}  // namespace

std::unique_ptr<Transport> CreateTlsTransport(std::shared_ptr<Transport> inner, TlsOptions options) {
  StreamDecoration decoration;
  decoration.name = fmt::format("tls({})", inner->name());
  decoration.capabilities = inner->capabilities();
  decoration.capabilities.encrypted = true;
  decoration.capabilities.authenticated = options.authenticates_peers;
  decoration.capabilities.cpu_ns_per_byte += 0.24;
  const bool can_listen = options.server != nullptr;
  const bool can_connect = options.client != nullptr;
  auto settings = std::make_shared<TlsSettings>();
  settings->options = std::move(options);
  decoration.wrap = [settings](std::unique_ptr<Stream> stream, StreamEnd end, std::string_view endpoint) {
    return WrapInTls(settings, std::move(stream), end, endpoint);
  };
  return std::make_unique<TlsTransport>(DecorateStreams(std::move(inner), std::move(decoration)), can_listen,
                                        can_connect);
}

}  // namespace kvplane::transport
