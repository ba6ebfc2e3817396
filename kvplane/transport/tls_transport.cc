#include "kvplane/transport/tls_transport.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/transport/endpoint.h"
#include "kvplane/transport/handshake_gate.h"
#include "kvplane/transport/refusal_log.h"
#include "kvplane/transport/stream_decorator.h"
#include "kvplane/transport/tls_engine.h"

namespace kvplane::transport {
namespace {

// Plain bytes coded, and coded bytes received, under one hold of the lock or in one system call.
constexpr size_t kBatchBytes = 256 << 10;

// Received at a time while the peer is unknown: strangers cost little.
constexpr size_t kHandshakeBytes = 16 << 10;

// Plain bytes of one record (RFC 8446). Smaller pieces are gathered up to it: a record costs 22 bytes.
constexpr size_t kRecordBytes = 16 << 10;

// What the streams of one transport share.
struct TlsSettings {
  TlsOptions options;
  RefusalLog refusals;
};

class TlsStream final : public Stream {
 public:
  TlsStream(std::unique_ptr<Stream> inner, StreamEnd end, std::unique_ptr<TlsEngine> engine,
            std::shared_ptr<TlsSettings> settings)
      : inner_(std::move(inner)),
        end_(end),
        uses_tokens_(engine->uses_tokens()),
        settings_(std::move(settings)),
        gate_(settings_->options.handshake_timeout),
        received_(kHandshakeBytes),
        engine_(std::move(engine)) {}

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
      received_.resize(kBatchBytes);
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

  // Codes up to a batch into sending_.
  base::Status Encode(PieceCursor& from) KVPLANE_EXCLUDES(mutex_) {
    base::MutexLock lock(mutex_);
    if (written_since_key_ >= settings_->options.rekey_bytes) {
      written_since_key_ = 0;
      KVPLANE_RETURN_IF_ERROR(engine_->ChangeKey());
    }
    size_t taken = 0;
    while (!from.empty() && taken < kBatchBytes) {
      const std::span<const std::byte> part = from.Next(gathered_);
      KVPLANE_RETURN_IF_ERROR(engine_->Encode(part).Annotate(peer()));
      taken += part.size();
    }
    written_since_key_ += taken;
    engine_->TakeOutput(sending_);
    return base::Status::Ok();
  }

  // Decodes what has arrived; 0: not a whole record yet.
  base::Result<size_t> Decode(std::span<std::byte> into) KVPLANE_EXCLUDES(mutex_) {
    base::MutexLock lock(mutex_);
    auto got = engine_->Decode(into.first(std::min(into.size(), kBatchBytes)));
    if (!got.ok()) return got.status().Annotate(peer());
    return got;
  }

  base::Status Receive(base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_) {
    const auto got = inner_->ReadSome(received_, deadline);
    base::MutexLock lock(mutex_);
    if (!got.ok()) {
      // The accepting end judges certificates after this end's part of the handshake is over, and its alert
      // can be lost when it closes.
      const bool refused = got.status().code() == base::StatusCode::kUnavailable &&
                           !engine_->anything_read() && end_ == StreamEnd::kConnected && !uses_tokens_;
      return refused
                 ? got.status().Annotate("before a byte came (is this node's certificate accepted there?)")
                 : got.status();
    }
    engine_->Feed(std::span<const std::byte>(received_).first(*got));
    return base::Status::Ok();
  }

  base::Status Ready(base::TimePoint deadline) {
    return gate_.Pass(deadline, [this](base::TimePoint until) {
      const base::Status status = Handshake(until).Annotate(peer());
      const bool refused = status.code() == base::StatusCode::kPermissionDenied;
      if (refused && end_ == StreamEnd::kAccepted) settings_->refusals.Note(status);
      return status;
    });
  }

  base::Status Handshake(base::TimePoint deadline) {
    while (true) {
      base::Result<bool> done = false;
      {
        base::MutexLock lock(mutex_);
        done = engine_->Handshake();
        engine_->TakeOutput(sending_);
      }
      if (!sending_.empty()) {  // also the alert that tells the peer why not
        const std::span<const std::byte> coded(sending_);
        const base::Status sent = inner_->Write({&coded, 1}, deadline);
        if (done.ok() && sent.code() == base::StatusCode::kDeadlineExceeded) {
          return base::Unavailable("TLS handshake: the peer takes no bytes");
        }
        if (done.ok() && !sent.ok()) return sent.Annotate("TLS handshake");
      }
      if (!done.ok() || *done) return done.status();
      const base::Status received = Receive(deadline);
      if (!received.ok()) return received.Annotate("TLS handshake");
    }
  }

  const std::unique_ptr<Stream> inner_;
  const StreamEnd end_;
  const bool uses_tokens_;
  const std::shared_ptr<TlsSettings> settings_;
  HandshakeGate gate_;
  std::atomic<bool> cancelled_{false};

  std::vector<std::byte> sending_;   // the writer's, or of the thread in the handshake
  std::vector<std::byte> gathered_;  // the writer's
  std::vector<std::byte> received_;  // the reader's while the engine asks for input

  base::Mutex mutex_;
  const std::unique_ptr<TlsEngine> engine_ ABSL_PT_GUARDED_BY(mutex_);
  uint64_t written_since_key_ KVPLANE_GUARDED_BY(mutex_) = 0;
};

// "HOST" of "tcp://HOST:PORT", "NAME" of "inproc://NAME".
std::string HostOf(std::string_view endpoint) {
  if (const auto host = ParseHostEndpoint(endpoint); host.ok()) return host->host;
  const size_t scheme = endpoint.find("://");
  return std::string(scheme == std::string_view::npos ? endpoint : endpoint.substr(scheme + 3));
}

base::Result<std::unique_ptr<Stream>> WrapInTls(const std::shared_ptr<TlsSettings>& settings,
                                                std::unique_ptr<Stream> inner, StreamEnd end,
                                                std::string_view endpoint) {
  const bool accepted = end == StreamEnd::kAccepted;
  const auto& context = accepted ? settings->options.server : settings->options.client;
  const std::string host = accepted || context->uses_tokens() ? "" : HostOf(endpoint);
  KVPLANE_ASSIGN_OR_RETURN(auto engine,
                           TlsEngine::Create(context, accepted ? TlsEnd::kServer : TlsEnd::kClient, host));
  return std::unique_ptr<Stream>(
      std::make_unique<TlsStream>(std::move(inner), end, std::move(engine), settings));
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
