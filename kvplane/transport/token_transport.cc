#include "kvplane/transport/token_transport.h"

#include <algorithm>
#include <array>
#include <utility>

#include "kvplane/transport/handshake_gate.h"
#include "kvplane/transport/refusal_log.h"
#include "kvplane/transport/shared_secret.h"
#include "kvplane/transport/stream_decorator.h"

namespace kvplane::transport {
namespace {

constexpr std::string_view kKeyLabel = "kvplane token handshake 1";

constexpr size_t kHelloBytes = 40;
constexpr size_t kPrefixBytes = 8;  // of a hello, in front of the nonce
using Hello = std::array<std::byte, kHelloBytes>;
constexpr std::array<std::byte, 4> kMagic = {std::byte{'K'}, std::byte{'V'}, std::byte{'T'}, std::byte{'K'}};
constexpr std::byte kVersion{1};
constexpr std::byte kRoleConnected{1};
constexpr std::byte kRoleAccepted{2};

constexpr size_t kProofBytes = kKeyBytes;
constexpr size_t kVerdictBytes = 8 + kProofBytes;
constexpr std::byte kAccepted{0};
constexpr std::byte kRefused{1};

std::byte RoleOf(StreamEnd end) { return end == StreamEnd::kConnected ? kRoleConnected : kRoleAccepted; }

base::Result<Hello> MakeHello(StreamEnd end) {
  Hello hello{};
  std::copy(kMagic.begin(), kMagic.end(), hello.begin());
  hello[4] = kVersion;
  hello[5] = RoleOf(end);
  KVPLANE_RETURN_IF_ERROR(FillRandom(std::span(hello).subspan(kPrefixBytes)));
  return hello;
}

base::Status CheckHello(std::span<const std::byte> hello, StreamEnd sender) {
  if (!std::equal(kMagic.begin(), kMagic.end(), hello.begin())) {
    constexpr std::byte kTlsHandshake{22};
    return base::PermissionDenied("it {}: both nodes need the same --auth-token-file and --kv-tls",
                                  hello[0] == kTlsHandshake ? "speaks TLS" : "does not present a token");
  }
  if (hello[4] != kVersion) {
    return base::PermissionDenied("it speaks version {} of the token handshake, this node version {}",
                                  std::to_integer<int>(hello[4]), std::to_integer<int>(kVersion));
  }
  if (hello[5] != RoleOf(sender)) return base::PermissionDenied("it plays this end's part of the handshake");
  return base::Status::Ok();
}

// What the streams of one transport share.
struct TokenSettings {
  std::vector<Key> keys;  // the first is presented
  base::Duration handshake_timeout{};
  RefusalLog refusals;
};

class TokenStream final : public Stream {
 public:
  TokenStream(std::unique_ptr<Stream> inner, StreamEnd end, std::shared_ptr<TokenSettings> settings)
      : inner_(std::move(inner)),
        end_(end),
        settings_(std::move(settings)),
        gate_(settings_->handshake_timeout) {}

  base::Status Write(std::span<const std::span<const std::byte>> pieces, base::TimePoint deadline) override {
    if (std::all_of(pieces.begin(), pieces.end(), [](const auto piece) { return piece.empty(); })) {
      return base::Status::Ok();
    }
    KVPLANE_RETURN_IF_ERROR(Ready(deadline));
    return inner_->Write(pieces, deadline);
  }
  base::Status Read(std::span<std::byte> into, base::TimePoint deadline) override {
    if (into.empty()) return base::Status::Ok();
    KVPLANE_RETURN_IF_ERROR(Ready(deadline));
    return inner_->Read(into, deadline);
  }
  base::Result<size_t> ReadSome(std::span<std::byte> into, base::TimePoint deadline) override {
    KVPLANE_RETURN_IF_ERROR(Ready(deadline));
    return inner_->ReadSome(into, deadline);
  }
  void Shutdown() override { inner_->Shutdown(); }
  std::string peer() const override { return inner_->peer(); }

 private:
  enum class Step { kBegin, kAwaitHello, kAwaitProof, kAwaitVerdict };

  base::Status Ready(base::TimePoint deadline) {
    return gate_.Pass(deadline, [this](base::TimePoint until) { return Handshake(until); });
  }

  base::Status Handshake(base::TimePoint deadline) {
    const bool connected = end_ == StreamEnd::kConnected;
    const base::Status status = (connected ? Present(deadline) : Judge(deadline))
                                    .Annotate(fmt::format("{}: token handshake", peer()));
    if (status.code() == base::StatusCode::kPermissionDenied && !connected) settings_->refusals.Note(status);
    return status;
  }

  // The connecting end. Each step may be entered again after a deadline.
  base::Status Present(base::TimePoint deadline) {
    if (step_ == Step::kBegin) {
      KVPLANE_ASSIGN_OR_RETURN(mine_, MakeHello(end_));
      KVPLANE_RETURN_IF_ERROR(Send(mine_, deadline));
      step_ = Step::kAwaitHello;
    }
    if (step_ == Step::kAwaitHello) {
      KVPLANE_RETURN_IF_ERROR(Receive(kHelloBytes, deadline));
      KVPLANE_RETURN_IF_ERROR(TakeHello(StreamEnd::kAccepted));
      KVPLANE_ASSIGN_OR_RETURN(const Key proof, Proof(settings_->keys.front(), StreamEnd::kConnected));
      KVPLANE_RETURN_IF_ERROR(Send(proof, deadline));
      step_ = Step::kAwaitVerdict;
    }
    KVPLANE_RETURN_IF_ERROR(Receive(kVerdictBytes, deadline));
    if (received_[0] != kAccepted) {
      return base::PermissionDenied("it refused this node's token: both need the same --auth-token-file");
    }
    KVPLANE_ASSIGN_OR_RETURN(const Key expected, Proof(settings_->keys.front(), StreamEnd::kAccepted));
    if (!SameBytes(expected, std::span(received_).last(kProofBytes))) {
      return base::PermissionDenied("it could not prove that it holds this node's token");
    }
    return base::Status::Ok();
  }

  // The accepting end.
  base::Status Judge(base::TimePoint deadline) {
    if (step_ == Step::kBegin) {
      KVPLANE_RETURN_IF_ERROR(Receive(kHelloBytes, deadline));
      KVPLANE_RETURN_IF_ERROR(TakeHello(StreamEnd::kConnected));
      KVPLANE_ASSIGN_OR_RETURN(mine_, MakeHello(end_));
      KVPLANE_RETURN_IF_ERROR(Send(mine_, deadline));
      step_ = Step::kAwaitProof;
    }
    KVPLANE_RETURN_IF_ERROR(Receive(kProofBytes, deadline));
    const Key* shared = nullptr;
    for (const Key& key : settings_->keys) {
      KVPLANE_ASSIGN_OR_RETURN(const Key expected, Proof(key, StreamEnd::kConnected));
      if (SameBytes(expected, received_)) shared = &key;
    }
    std::array<std::byte, kVerdictBytes> verdict{};
    verdict[0] = shared != nullptr ? kAccepted : kRefused;
    if (shared != nullptr) {
      KVPLANE_ASSIGN_OR_RETURN(const Key proof, Proof(*shared, StreamEnd::kAccepted));
      std::copy(proof.begin(), proof.end(), verdict.end() - kProofBytes);
    }
    KVPLANE_RETURN_IF_ERROR(Send(verdict, deadline));
    if (shared == nullptr) return base::PermissionDenied("its token is none of this node's");
    return base::Status::Ok();
  }

  base::Status TakeHello(StreamEnd sender) {
    KVPLANE_RETURN_IF_ERROR(CheckHello(received_, sender));
    std::copy(received_.begin(), received_.end(), theirs_.begin());
    received_.clear();
    return base::Status::Ok();
  }

  // What `prover` sends to show that it holds the token: its role and both hellos, the connecting end's
  // first.
  base::Result<Key> Proof(const Key& key, StreamEnd prover) const {
    const std::byte role[] = {RoleOf(prover)};
    const bool connected = end_ == StreamEnd::kConnected;
    return Authenticate(key, {role, connected ? mine_ : theirs_, connected ? theirs_ : mine_});
  }

  // Half a message written cannot be taken back: such a stream is lost.
  base::Status Send(std::span<const std::byte> bytes, base::TimePoint deadline) {
    const base::Status status = inner_->Write({&bytes, 1}, deadline);
    if (status.code() != base::StatusCode::kDeadlineExceeded) return status;
    return base::Unavailable("the peer takes no bytes");
  }

  // Until `received_` has `bytes`; what came before a deadline is kept. Never reads beyond the handshake.
  base::Status Receive(size_t bytes, base::TimePoint deadline) {
    std::array<std::byte, kVerdictBytes> buffer;
    static_assert(kVerdictBytes >= kHelloBytes);
    while (received_.size() < bytes) {
      const auto missing = std::span(buffer).first(bytes - received_.size());
      KVPLANE_ASSIGN_OR_RETURN(const size_t got, inner_->ReadSome(missing, deadline));
      received_.insert(received_.end(), buffer.begin(), buffer.begin() + static_cast<ptrdiff_t>(got));
    }
    return base::Status::Ok();
  }

  const std::unique_ptr<Stream> inner_;
  const StreamEnd end_;
  const std::shared_ptr<TokenSettings> settings_;
  HandshakeGate gate_;
  // Of the thread that the gate lets run.
  Step step_ = Step::kBegin;
  Hello mine_{};
  Hello theirs_{};
  std::vector<std::byte> received_;
};

}  // namespace

base::Result<std::unique_ptr<Transport>> CreateTokenTransport(std::shared_ptr<Transport> inner,
                                                              const std::vector<std::string>& tokens,
                                                              base::Duration handshake_timeout) {
  if (tokens.empty()) return base::InvalidArgument("no token to protect connections with");
  auto settings = std::make_shared<TokenSettings>();
  settings->handshake_timeout = handshake_timeout;
  for (const std::string& token : tokens) {
    KVPLANE_ASSIGN_OR_RETURN(const Key key, DeriveKey(token, kKeyLabel));
    settings->keys.push_back(key);
  }
  StreamDecoration decoration;
  decoration.name = fmt::format("token({})", inner->name());
  decoration.capabilities = inner->capabilities();
  decoration.capabilities.authenticated = true;
  decoration.wrap = [settings](std::unique_ptr<Stream> stream, StreamEnd end,
                               std::string_view) -> base::Result<std::unique_ptr<Stream>> {
    return std::unique_ptr<Stream>(std::make_unique<TokenStream>(std::move(stream), end, settings));
  };
  return DecorateStreams(std::move(inner), std::move(decoration));
}

}  // namespace kvplane::transport
