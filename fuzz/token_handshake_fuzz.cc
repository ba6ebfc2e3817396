// The token handshake (docs/formats/token_handshake.md) against a peer that holds the token but whose bytes
// are changed on the way.
//
// First byte: which end is under test and how its input is cut. The rest is XORed onto what the peer sends.
// Let through is exactly who changed nothing that counts: magic, version, role, proof and, of a verdict, its
// first byte. (What is random or reserved is under the proof, which is made over the bytes as changed.) And
// nobody gets a byte to try tokens on before it has said hello.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/transport/shared_secret.h"
#include "kvplane/transport/stream.h"
#include "kvplane/transport/token_transport.h"

namespace {

namespace base = kvplane::base;
namespace transport = kvplane::transport;

using Bytes = std::vector<std::byte>;

constexpr size_t kHelloBytes = 40;
constexpr size_t kHelloThatCounts = 6;  // magic, version, role
constexpr size_t kProofBytes = 32;
constexpr size_t kVerdictHead = 8;
constexpr std::byte kConnecting{1};
constexpr std::byte kAccepting{2};
constexpr std::string_view kToken = "a token that both hold";
constexpr std::string_view kPayload = "payload";

const transport::Key& SharedKey() {
  static const transport::Key key = *transport::DeriveKey(kToken, "kvplane token handshake 1");
  return key;
}

Bytes Hello(std::byte role) {
  Bytes hello(kHelloBytes);
  const char magic[] = {'K', 'V', 'T', 'K', 1};
  for (size_t i = 0; i < sizeof(magic); ++i) hello[i] = static_cast<std::byte>(magic[i]);
  hello[5] = role;
  return hello;
}

// The peer of the end under test: says what a right one says, changed by the mask.
class ChangedPeer final : public transport::Stream {
 public:
  // Outlives the stream.
  struct Talk {
    std::span<const std::byte> mask;
    size_t piece = 1;
    bool peer_connects = false;
    Bytes heard{};        // from the end under test
    size_t changed = 0;   // bytes of the mask used
    bool counts = false;  // a change that must not pass
    bool greeted = false;
  };

  explicit ChangedPeer(Talk& talk) : talk_(talk) {}

  base::Status Write(std::span<const std::span<const std::byte>> pieces, base::TimePoint) override {
    for (const auto part : pieces) talk_.heard.insert(talk_.heard.end(), part.begin(), part.end());
    return base::Status::Ok();
  }
  base::Status Read(std::span<std::byte> into, base::TimePoint deadline) override {
    while (!into.empty()) {
      KVPLANE_ASSIGN_OR_RETURN(const size_t got, ReadSome(into, deadline));
      into = into.subspan(got);
    }
    return base::Status::Ok();
  }
  base::Result<size_t> ReadSome(std::span<std::byte> into, base::TimePoint) override {
    if (at_ == message_.size() && !NextMessage()) return base::Unavailable("end of input");
    const size_t count = std::min({into.size(), message_.size() - at_, talk_.piece});
    std::copy_n(message_.begin() + static_cast<ptrdiff_t>(at_), count, into.begin());
    at_ += count;
    return count;
  }
  void Shutdown() override {}
  std::string peer() const override { return "peer"; }

 private:
  void Send(Bytes message, size_t counts_from, size_t counts_to) {
    for (size_t i = 0; i < message.size() && talk_.changed < talk_.mask.size(); ++i, ++talk_.changed) {
      const std::byte change = talk_.mask[talk_.changed];
      message[i] ^= change;
      if (i >= counts_from && i < counts_to && change != std::byte{0}) talk_.counts = true;
    }
    message_ = std::move(message);
    at_ = 0;
  }

  Bytes Proof(std::byte role) const {
    const std::byte roles[] = {role};
    const std::span<const std::byte> heard = std::span(talk_.heard).first(kHelloBytes);
    const std::span<const std::byte> mine = hello_;
    const bool first = talk_.peer_connects;
    const auto proof =
        transport::Authenticate(SharedKey(), {roles, first ? mine : heard, first ? heard : mine});
    return Bytes(proof->begin(), proof->end());
  }

  // False: the peer has nothing more to say.
  bool NextMessage() {
    switch (step_++) {
      case 0:
        Send(Hello(talk_.peer_connects ? kConnecting : kAccepting), 0, kHelloThatCounts);
        hello_ = message_;
        talk_.greeted = true;
        return true;
      case 1:
        if (talk_.peer_connects) {
          Send(Proof(kConnecting), 0, kProofBytes);
        } else {
          Bytes verdict(kVerdictHead);
          const Bytes proof = Proof(kAccepting);
          verdict.insert(verdict.end(), proof.begin(), proof.end());
          Send(verdict, 0, 1);
          // The proof's own part: what follows the head.
          for (size_t i = 0; i < kProofBytes; ++i) {
            if (message_[kVerdictHead + i] != proof[i]) talk_.counts = true;
          }
        }
        return true;
      case 2: {
        const auto payload = std::as_bytes(std::span(kPayload));
        message_.assign(payload.begin(), payload.end());
        at_ = 0;
        return true;
      }
      default:
        return false;
    }
  }

  Talk& talk_;
  Bytes hello_;
  Bytes message_;
  size_t at_ = 0;
  int step_ = 0;
};

class OneStreamListener final : public transport::Listener {
 public:
  explicit OneStreamListener(ChangedPeer::Talk& talk) : talk_(talk) {}
  base::Result<std::unique_ptr<transport::Stream>> Accept(base::TimePoint) override {
    return std::unique_ptr<transport::Stream>(std::make_unique<ChangedPeer>(talk_));
  }
  std::string endpoint() const override { return "memory"; }
  void Shutdown() override {}

 private:
  ChangedPeer::Talk& talk_;
};

class OneStreamTransport final : public transport::Transport {
 public:
  explicit OneStreamTransport(ChangedPeer::Talk& talk) : talk_(talk) {}
  std::string_view name() const override { return "memory"; }
  transport::Capabilities capabilities() const override { return {}; }
  base::Result<std::unique_ptr<transport::Listener>> Listen(std::string_view) override {
    return std::unique_ptr<transport::Listener>(std::make_unique<OneStreamListener>(talk_));
  }
  base::Result<std::unique_ptr<transport::Stream>> Connect(std::string_view, base::TimePoint) override {
    return std::unique_ptr<transport::Stream>(std::make_unique<ChangedPeer>(talk_));
  }

 private:
  ChangedPeer::Talk& talk_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  ChangedPeer::Talk talk{.mask = std::as_bytes(std::span(data + 1, size - 1)),
                         .piece = size_t{1} + data[0] / 2 % 64,
                         .peer_connects = data[0] % 2 == 0};
  auto guarded =
      transport::CreateTokenTransport(std::make_shared<OneStreamTransport>(talk), {std::string(kToken)});
  KVPLANE_CHECK(guarded.ok());
  std::unique_ptr<transport::Listener> listener;
  base::Result<std::unique_ptr<transport::Stream>> stream = base::Unavailable("not yet");
  if (talk.peer_connects) {
    listener = *(*guarded)->Listen("memory");
    stream = listener->Accept(base::kNoDeadline);
  } else {
    stream = (*guarded)->Connect("memory", base::kNoDeadline);
  }
  KVPLANE_CHECK(stream.ok());
  std::string payload(kPayload.size(), '\0');
  const base::Status read = (*stream)->Read(std::as_writable_bytes(std::span(payload)), base::kNoDeadline);
  KVPLANE_CHECK(read.ok() == !talk.counts);
  if (read.ok()) {
    KVPLANE_CHECK(payload == kPayload);
  } else {
    KVPLANE_CHECK(read.code() == base::StatusCode::kPermissionDenied);
  }
  const size_t most = kHelloBytes + (talk.peer_connects ? kVerdictHead + kProofBytes : kProofBytes);
  KVPLANE_CHECK(talk.heard.size() <= most);
  return 0;
}
