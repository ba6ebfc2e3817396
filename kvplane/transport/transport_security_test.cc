// What tls and token refuse, and how they say so; what a stranger on a protected port can do: nothing.
#include "kvplane/transport/transport_security.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/transport/create_transport.h"
#include "kvplane/transport/inproc_transport.h"
#include "kvplane/transport/shared_secret.h"
#include "kvplane/transport/tcp_transport.h"
#include "kvplane/transport/testing/faulty_transport.h"
#include "kvplane/transport/testing/test_certificates.h"
#include "kvplane/transport/tls_transport.h"
#include "kvplane/transport/token_file.h"
#include "kvplane/transport/token_transport.h"

namespace kvplane::transport {
namespace {

using base::StatusCode;
using ::testing::HasSubstr;
using ::testing::StartsWith;

base::TimePoint In(int milliseconds) {
  return base::Clock::System().Now() + std::chrono::milliseconds(milliseconds);
}
base::TimePoint Soon() { return In(30'000); }

const std::vector<std::string> kToken = {"0123456789abcdef0123456789abcdef"};
const std::vector<std::string> kOtherToken = {"another-token-another-token-another"};

std::span<const std::byte> BytesOf(std::string_view text) { return std::as_bytes(std::span(text)); }

base::Status WriteText(Stream& stream, std::string_view text, base::TimePoint deadline = Soon()) {
  const std::span<const std::byte> piece = BytesOf(text);
  return stream.Write({&piece, 1}, deadline);
}

base::Result<std::string> ReadText(Stream& stream, size_t bytes, base::TimePoint deadline = Soon()) {
  std::string text(bytes, '\0');
  KVPLANE_RETURN_IF_ERROR(stream.Read(std::as_writable_bytes(std::span(text)), deadline));
  return text;
}

struct Ends {
  base::Status connecting;
  base::Status accepting;
};

// One connection from a node with `from`'s settings to one with `to`'s: a message each way, then the end.
Ends Meet(Transport& from, Transport& to, const std::string& host = "127.0.0.1") {
  auto listener = *to.Listen("tcp://127.0.0.1:0");
  const std::string bound = listener->endpoint();
  const std::string endpoint = fmt::format("tcp://{}:{}", host, bound.substr(bound.rfind(':') + 1));
  Ends ends;
  std::thread accepting([&] {
    auto stream = listener->Accept(Soon());
    ends.accepting = stream.status();
    if (!stream.ok()) return;
    const auto got = ReadText(**stream, 5);
    ends.accepting = got.ok() ? WriteText(**stream, *got) : got.status();
  });
  auto stream = from.Connect(endpoint, Soon());
  ends.connecting = stream.status();
  if (stream.ok()) {
    ends.connecting = WriteText(**stream, "hello");
    if (ends.connecting.ok()) ends.connecting = ReadText(**stream, 5).status();
    stream->reset();
  }
  accepting.join();
  return ends;
}

std::unique_ptr<Transport> Tcp(const TransportSecurity& security) {
  return *CreateTransport("tcp", security);
}

TransportSecurity Tokens(std::vector<std::string> tokens, bool tls) {
  TransportSecurity security;
  security.tokens = std::move(tokens);
  security.tls = tls;
  return security;
}

// ---- who may meet whom ----

TEST(TransportSecurityUnit, NamesAndCapabilitiesSayWhatProtects) {
  const TestAuthority authority;
  TransportSecurity certificates = Tokens({}, true);
  certificates.credentials = authority.Sign("IP:127.0.0.1");
  EXPECT_EQ(Tcp({})->name(), "tcp");
  EXPECT_FALSE(Tcp({})->capabilities().authenticated);
  EXPECT_EQ(Tcp(Tokens(kToken, false))->name(), "token(tcp)");
  EXPECT_TRUE(Tcp(Tokens(kToken, false))->capabilities().authenticated);
  EXPECT_FALSE(Tcp(Tokens(kToken, false))->capabilities().encrypted);
  EXPECT_EQ(Tcp(Tokens(kToken, true))->name(), "tls(tcp)");
  EXPECT_TRUE(Tcp(Tokens(kToken, true))->capabilities().encrypted);
  EXPECT_TRUE(Tcp(Tokens(kToken, true))->capabilities().authenticated);
  EXPECT_FALSE(Tcp(certificates)->capabilities().authenticated) << "no authority: anybody is served";
  certificates.tokens = kToken;
  EXPECT_EQ(Tcp(certificates)->name(), "token(tls(tcp))");
  EXPECT_EQ((*CreateTransport("shaped(tcp,rate=1Gbit/s)", Tokens(kToken, true)))->name(), "shaped(tls(tcp))");
  EXPECT_EQ((*CreateTransport("inproc", Tokens(kToken, true)))->name(), "inproc");
  EXPECT_EQ(Describe(Tcp({})->capabilities()),
            "between hosts, not encrypted, not authenticated, about 0.12 ns of CPU per byte");
}

TEST(TransportSecurityUnit, AnyTokenOfTheAcceptingEndWillDo) {
  const std::vector<std::string> both = {kOtherToken.front(), kToken.front()};
  for (const bool tls : {false, true}) {
    const auto one = Tcp(Tokens(kToken, tls));
    const auto two = Tcp(Tokens(both, tls));
    const Ends ends = Meet(*one, *two);
    EXPECT_TRUE(ends.connecting.ok()) << ends.connecting.ToString();
    EXPECT_TRUE(ends.accepting.ok()) << ends.accepting.ToString();
  }
}

TEST(TransportSecuritySafety, AnotherTokenIsRefusedOnBothEndsByName) {
  for (const bool tls : {false, true}) {
    const auto one = Tcp(Tokens(kToken, tls));
    const auto two = Tcp(Tokens(kOtherToken, tls));
    const Ends ends = Meet(*one, *two);
    EXPECT_EQ(ends.connecting.code(), StatusCode::kPermissionDenied) << ends.connecting.ToString();
    EXPECT_EQ(ends.accepting.code(), StatusCode::kPermissionDenied) << ends.accepting.ToString();
    EXPECT_THAT(ends.connecting.message(), HasSubstr("token"));
    EXPECT_THAT(ends.accepting.message(), HasSubstr("token"));
  }
}

TEST(TransportSecuritySafety, DifferentProtectionsNeverMeet) {
  std::vector<std::unique_ptr<Transport>> kinds;
  kinds.push_back(Tcp(Tokens(kToken, false)));
  kinds.push_back(Tcp(Tokens(kToken, true)));
  const TestAuthority authority;
  TransportSecurity certificates = Tokens({}, true);
  certificates.credentials = authority.Sign("IP:127.0.0.1");
  certificates.credentials.ca_pem = authority.pem();
  kinds.push_back(Tcp(certificates));
  for (const auto& from : kinds) {
    for (const auto& to : kinds) {
      if (from == to) continue;
      const Ends ends = Meet(*from, *to);
      EXPECT_FALSE(ends.connecting.ok()) << from->name() << " to " << to->name();
      EXPECT_FALSE(ends.accepting.ok()) << from->name() << " to " << to->name();
    }
  }
}

TEST(TransportSecuritySafety, APlainPeerIsToldApart) {
  const auto plain = Tcp({});
  for (const bool tls : {false, true}) {
    const auto guarded = Tcp(Tokens(kToken, tls));
    auto listener = *guarded->Listen("tcp://127.0.0.1:0");
    auto stranger = *plain->Connect(listener->endpoint(), Soon());
    ASSERT_TRUE(WriteText(*stranger, "KVPW and whatever else a node without protection says").ok());
    auto stream = *listener->Accept(Soon());
    const base::Status status = ReadText(*stream, 1).status();
    EXPECT_EQ(status.code(), StatusCode::kPermissionDenied) << status.ToString();
    EXPECT_THAT(status.message(), HasSubstr(tls ? "does not speak TLS" : "--auth-token-file"));
    // The other way round: the protected end connects.
    auto open = *plain->Listen("tcp://127.0.0.1:0");
    auto client = *guarded->Connect(open->endpoint(), Soon());
    auto server = *open->Accept(Soon());
    ASSERT_TRUE(WriteText(*server, "KVPW and whatever else a node without protection says").ok());
    const base::Status refused = WriteText(*client, "secret");
    EXPECT_EQ(refused.code(), StatusCode::kPermissionDenied) << refused.ToString();
  }
}

// ---- certificates ----

class CertificatesSafety : public ::testing::Test {
 protected:
  static std::unique_ptr<Transport> Server(TlsCredentials credentials) {
    TransportSecurity security = Tokens({}, true);
    security.credentials = std::move(credentials);
    return Tcp(security);
  }
  // Trusts `authority`, shows nothing unless `own` is given.
  static std::unique_ptr<Transport> Client(const TestAuthority& authority, TlsCredentials own = {}) {
    TransportSecurity security = Tokens({}, true);
    security.credentials = std::move(own);
    security.credentials.ca_pem = authority.pem();
    return Tcp(security);
  }

  const TestAuthority authority_;
};

TEST_F(CertificatesSafety, NamesAndAddressesOfTheCertificateAreAccepted) {
  const auto server = Server(authority_.Sign("DNS:localhost,IP:127.0.0.1"));
  for (const char* host : {"127.0.0.1", "localhost"}) {
    const Ends ends = Meet(*Client(authority_), *server, host);
    EXPECT_TRUE(ends.connecting.ok()) << ends.connecting.ToString();
    EXPECT_TRUE(ends.accepting.ok()) << ends.accepting.ToString();
  }
}

TEST_F(CertificatesSafety, WrongHostExpiredAndUnknownAuthorityAreNamed) {
  const TestAuthority stranger;
  const struct {
    TlsCredentials credentials;
    const char* why;
  } cases[] = {
      {authority_.Sign("DNS:elsewhere.example,IP:10.1.2.3"), "mismatch"},
      {authority_.Sign("IP:127.0.0.1", -7200, -3600), "expired"},
      {authority_.Sign("IP:127.0.0.1", 3600, 7200), "not yet valid"},
      {stranger.Sign("IP:127.0.0.1"), "unable to get local issuer"},
  };
  for (const auto& tested : cases) {
    const auto server = Server(tested.credentials);
    const Ends ends = Meet(*Client(authority_), *server);
    EXPECT_EQ(ends.connecting.code(), StatusCode::kPermissionDenied) << ends.connecting.ToString();
    EXPECT_THAT(ends.connecting.message(), HasSubstr(tested.why));
    EXPECT_THAT(ends.connecting.message(), HasSubstr("127.0.0.1"));
    EXPECT_EQ(ends.accepting.code(), StatusCode::kPermissionDenied) << ends.accepting.ToString();
  }
}

TEST_F(CertificatesSafety, AServerWithAnAuthorityDemandsACertificate) {
  TlsCredentials own = authority_.Sign("IP:127.0.0.1");
  own.ca_pem = authority_.pem();
  const auto server = Server(own);
  EXPECT_TRUE(Meet(*Client(authority_, authority_.Sign("DNS:client")), *server).connecting.ok());
  for (const TlsCredentials& shown : {TlsCredentials(), TestAuthority().Sign("DNS:client")}) {
    const Ends ends = Meet(*Client(authority_, shown), *server);
    EXPECT_FALSE(ends.connecting.ok());
    EXPECT_EQ(ends.accepting.code(), StatusCode::kPermissionDenied) << ends.accepting.ToString();
  }
}

TEST_F(CertificatesSafety, ATokenInsideTlsIsCheckedToo) {
  TransportSecurity security = Tokens(kToken, true);
  security.credentials = authority_.Sign("IP:127.0.0.1");
  const auto server = Tcp(security);
  TransportSecurity with = Tokens(kToken, true);
  with.credentials.ca_pem = authority_.pem();
  EXPECT_TRUE(Meet(*Tcp(with), *server).connecting.ok());
  with.tokens = kOtherToken;
  EXPECT_EQ(Meet(*Tcp(with), *server).connecting.code(), StatusCode::kPermissionDenied);
}

TEST_F(CertificatesSafety, UnusableFilesAreRefusedAtStart) {
  const TlsCredentials good = authority_.Sign("IP:127.0.0.1");
  const TlsCredentials other = authority_.Sign("IP:127.0.0.1");
  const auto refused = [](TlsCredentials credentials) {
    TransportSecurity security;
    security.tls = true;
    security.credentials = std::move(credentials);
    return CreateTransport("tcp", security).status();
  };
  for (const base::Status& status : {
           refused({"no certificate", good.key_pem, ""}),
           refused({good.certificate_pem, "no key", ""}),
           refused({good.certificate_pem, other.key_pem, ""}),
           refused({good.certificate_pem, good.key_pem, "no authority"}),
           refused({good.certificate_pem + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                    good.key_pem, ""}),
           refused({}),
       }) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status.ToString();
  }
  const auto client_only = Client(authority_);
  EXPECT_EQ(client_only->Listen("tcp://127.0.0.1:0").status().code(), StatusCode::kFailedPrecondition);
}

// ---- what strangers can do ----

TEST(HostileHandshakeSafety, RandomBytesEndTheStreamAndNothingElse) {
  base::Rng rng(7);
  const auto plain = CreateTcpTransport();
  for (const bool tls : {false, true}) {
    const auto guarded = Tcp(Tokens(kToken, tls));
    auto listener = *guarded->Listen("tcp://127.0.0.1:0");
    for (int round = 0; round < 60; ++round) {
      auto stranger = *plain->Connect(listener->endpoint(), Soon());
      auto stream = *listener->Accept(Soon());
      std::string bytes(1 + rng.Below(600), '\0');
      for (char& byte : bytes) byte = static_cast<char>(rng.Below(256));
      if (round % 3 == 1) bytes.replace(0, 6, std::string("KVTK\1\1", 6));
      if (round % 3 == 2) bytes.replace(0, 3, "\x16\x03\x01");
      ASSERT_TRUE(WriteText(*stranger, bytes).ok());
      stranger.reset();
      EXPECT_FALSE(ReadText(*stream, 1).status().ok());
    }
    const Ends ends = Meet(*guarded, *guarded);
    EXPECT_TRUE(ends.connecting.ok()) << ends.connecting.ToString();
  }
}

TEST(HostileHandshakeSafety, EveryTruncationOfAHandshakeIsAnError) {
  // What an honest client sends, recorded by a decorator's inner transport, replayed in parts.
  for (const size_t bytes : {size_t{1}, size_t{5}, size_t{39}, size_t{40}, size_t{60}, size_t{71}}) {
    FaultPlan plan;
    plan.truncate_after_bytes = bytes;
    const std::shared_ptr<Transport> cut = FaultyTransport::Create(CreateTcpTransport(), plan);
    const auto client = *CreateTokenTransport(cut, kToken);
    const auto server = *CreateTokenTransport(CreateTcpTransport(), kToken, std::chrono::milliseconds(150));
    const Ends ends = Meet(*client, *server);
    EXPECT_FALSE(ends.connecting.ok()) << bytes;
    EXPECT_EQ(ends.accepting.code(), StatusCode::kDeadlineExceeded) << ends.accepting.ToString();
    EXPECT_THAT(ends.accepting.message(), HasSubstr("handshake"));
  }
}

TEST(HostileHandshakeSafety, ASilentPeerIsGivenUpOn) {
  const auto plain = CreateTcpTransport();
  TlsOptions options;
  options.server = *TlsContext::FromTokens(kToken, TlsEnd::kServer);
  options.handshake_timeout = std::chrono::milliseconds(100);
  const auto tls = CreateTlsTransport(CreateTcpTransport(), options);
  auto listener = *tls->Listen("tcp://127.0.0.1:0");
  const auto silent = *plain->Connect(listener->endpoint(), Soon());
  auto stream = *listener->Accept(Soon());
  const base::Status status = ReadText(*stream, 1, base::kNoDeadline).status();
  EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded) << status.ToString();
  EXPECT_EQ(ReadText(*stream, 1, base::kNoDeadline).status(), status) << "final";
  EXPECT_EQ(tls->Connect(listener->endpoint(), Soon()).status().code(), StatusCode::kFailedPrecondition);
}

// A peer that sends back what it gets holds no token: roles are part of the proofs.
TEST(HostileHandshakeSafety, AReflectedHandshakeIsRefused) {
  const auto plain = CreateTcpTransport();
  auto listener = *plain->Listen("tcp://127.0.0.1:0");
  std::thread mirror([&] {
    auto stream = *listener->Accept(Soon());
    std::vector<std::byte> buffer(4096);
    while (true) {
      const auto got = stream->ReadSome(buffer, Soon());
      if (!got.ok()) return;
      const std::span<const std::byte> back = std::span(buffer).first(*got);
      if (!stream->Write({&back, 1}, Soon()).ok()) return;
    }
  });
  const auto client = *CreateTokenTransport(CreateTcpTransport(), kToken);
  auto stream = *client->Connect(listener->endpoint(), Soon());
  EXPECT_EQ(WriteText(*stream, "x").code(), StatusCode::kPermissionDenied);
  stream.reset();
  mirror.join();
}

TEST(HostileHandshakeSafety, ABitFlippedUnderTlsBreaksTheConnectionAndIsNeverDelivered) {
  FaultPlan plan;
  plan.flip_probability = 1;
  plan.flip_min_piece_bytes = 5000;  // spares the handshake
  const std::shared_ptr<Transport> link = FaultyTransport::Create(CreateInprocTransport(), plan);
  const auto tls = CreateTlsTransport(link, {.server = *TlsContext::FromTokens(kToken, TlsEnd::kServer),
                                             .client = *TlsContext::FromTokens(kToken, TlsEnd::kClient)});
  auto listener = *tls->Listen("inproc://a");
  auto client = *tls->Connect("inproc://a", Soon());
  auto server = *listener->Accept(Soon());
  std::thread writer([&] {
    EXPECT_TRUE(WriteText(*client, "ping").ok());
    EXPECT_TRUE(WriteText(*client, std::string(10'000, 'x')).ok());
  });
  EXPECT_EQ(*ReadText(*server, 4), "ping");
  const base::Status status = ReadText(*server, 10'000).status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status.ToString();
  EXPECT_FALSE(WriteText(*server, "y").ok()) << "a broken connection stays broken";
  writer.join();
}

// ---- bytes on the wire ----

// Passes bytes on and keeps what each stream wrote.
TEST(TransportSecurityUnit, NeitherTokenNorPlainBytesTravel) {
  for (const bool tls : {false, true}) {
    const auto guarded = Tcp(Tokens(kToken, tls));
    const auto plain = CreateTcpTransport();
    auto target = *guarded->Listen("tcp://127.0.0.1:0");
    auto tap = *plain->Listen("tcp://127.0.0.1:0");
    std::string seen;
    std::thread forward([&] {
      auto near = *tap->Accept(Soon());
      auto far = *plain->Connect(target->endpoint(), Soon());
      const auto pump = [](Stream& from, Stream& to, std::string* copy) {
        std::vector<std::byte> buffer(4096);
        while (true) {
          const auto got = from.ReadSome(buffer, Soon());
          if (!got.ok()) break;
          const std::span<const std::byte> part = std::span(buffer).first(*got);
          copy->append(reinterpret_cast<const char*>(part.data()), part.size());
          if (!to.Write({&part, 1}, Soon()).ok()) break;
        }
        to.Shutdown();
      };
      std::string back;
      std::thread other([&] { pump(*far, *near, &back); });
      pump(*near, *far, &seen);
      other.join();
      seen += back;
    });
    auto client = *guarded->Connect(tap->endpoint(), Soon());
    std::thread writer([&] { EXPECT_TRUE(WriteText(*client, "the prompt's keys and values").ok()); });
    auto server = *target->Accept(Soon());
    EXPECT_EQ(*ReadText(*server, 28), "the prompt's keys and values");
    writer.join();
    client.reset();
    server.reset();
    forward.join();
    EXPECT_EQ(seen.find(kToken.front()), std::string::npos);
    EXPECT_EQ(seen.find("keys and values") == std::string::npos, tls)
        << "tls hides it, a token alone does not";
  }
}

// ---- key derivation ----

// RFC 4231, test case 2 with its key padded to 32 bytes by zeros (HMAC pads keys so itself).
TEST(SharedSecretUnit, HmacOfAKnownMessage) {
  Key key{};
  std::copy_n(BytesOf("Jefe").begin(), 4, key.begin());
  const Key tag = *Authenticate(key, {BytesOf("what do ya want "), BytesOf("for nothing?")});
  std::string hex;
  for (const std::byte byte : tag) hex += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  EXPECT_EQ(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

TEST(SharedSecretUnit, KeysDependOnTokenAndLabel) {
  EXPECT_EQ(*DeriveKey("t", "a"), *DeriveKey("t", "a"));
  EXPECT_NE(*DeriveKey("t", "a"), *DeriveKey("t", "b"));
  EXPECT_NE(*DeriveKey("t", "a"), *DeriveKey("u", "a"));
  EXPECT_TRUE(SameBytes(BytesOf("abc"), BytesOf("abc")));
  EXPECT_FALSE(SameBytes(BytesOf("abc"), BytesOf("abd")));
  EXPECT_FALSE(SameBytes(BytesOf("abc"), BytesOf("ab")));
}

// ---- policy and files ----

TEST(ListenPolicyUnit, UnprotectedServiceStaysOnLoopback) {
  const Capabilities open{.cross_host = true};
  const Capabilities known{.cross_host = true, .authenticated = true};
  for (const char* endpoint :
       {"tcp://127.0.0.1:1", "tcp://127.9.9.9:1", "tcp://[::1]:1", "tcp://localhost:1"}) {
    EXPECT_TRUE(CheckListenPolicy("--kv-listen", endpoint, open, false).ok()) << endpoint;
  }
  for (const char* endpoint :
       {"tcp://0.0.0.0:1", "tcp://[::]:1", "tcp://10.0.0.1:1", "tcp://127.0.0.1.example:1", "tcp://node:1"}) {
    const base::Status refused = CheckListenPolicy("--kv-listen", endpoint, open, false);
    EXPECT_EQ(refused.code(), StatusCode::kPermissionDenied) << endpoint;
    EXPECT_THAT(refused.message(), StartsWith("--kv-listen"));
    EXPECT_TRUE(CheckListenPolicy("--kv-listen", endpoint, open, true).ok());
    EXPECT_TRUE(CheckListenPolicy("--kv-listen", endpoint, known, false).ok());
  }
}

TEST(ListenPolicyUnit, HoldsForEverySchemeThatListens) {
  const Capabilities open{.cross_host = true};
  const auto verdict = [&](const std::string& endpoint) {
    return CheckListenPolicy("--listen", endpoint, open, false).code();
  };
  for (const std::string scheme : {"tcp", "tls", "ucx", "http", "https"}) {
    EXPECT_EQ(verdict(scheme + "://127.0.0.1:7000"), StatusCode::kOk) << scheme;
    EXPECT_EQ(verdict(scheme + "://[::ffff:127.0.0.1]:7000"), StatusCode::kOk) << scheme;
    EXPECT_EQ(verdict(scheme + "://0.0.0.0:7000"), StatusCode::kPermissionDenied) << scheme;
    EXPECT_EQ(verdict(scheme + "://[::]:7000"), StatusCode::kPermissionDenied) << scheme;
    EXPECT_EQ(verdict(scheme + "://node-1:7000"), StatusCode::kPermissionDenied) << scheme;
    EXPECT_EQ(verdict(scheme + "://node-1"), StatusCode::kInvalidArgument) << scheme;
  }
  EXPECT_EQ(verdict("127.0.0.1:7000"), StatusCode::kInvalidArgument);
  EXPECT_EQ(verdict("udp://127.0.0.1:7000"), StatusCode::kInvalidArgument);
  EXPECT_EQ(CheckListenPolicy("--listen", "inproc://a", Capabilities{}, false).code(), StatusCode::kOk)
      << "nobody outside this process";
}

TEST(SecurityFilesUnit, ReadsFilesAndNamesFlags) {
  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) / fmt::format("kvplane_security_{}", ::getpid());
  std::filesystem::create_directories(folder);
  const auto write = [&](const char* name, const std::string& text) {
    std::ofstream(folder / name) << text;
    return (folder / name).string();
  };
  const TestAuthority authority;
  const TlsCredentials own = authority.Sign("IP:127.0.0.1");
  SecurityFiles files;
  files.auth_token_file = write("token", "# comment\n\n" + kToken.front() + " \r\nsecond\n");
  files.tls = true;
  files.certificate = write("cert", own.certificate_pem);
  files.key = write("key", own.key_pem);
  files.ca = write("ca", authority.pem());
  const TransportSecurity read = *ReadSecurityFiles(files);
  EXPECT_EQ(read.tokens, (std::vector<std::string>{kToken.front(), "second"}));
  EXPECT_EQ(read.credentials.key_pem, own.key_pem);
  EXPECT_TRUE(CreateTransport("tcp", read).ok());

  SecurityFiles wrong = files;
  wrong.key.clear();
  EXPECT_EQ(ReadSecurityFiles(wrong).status().code(), StatusCode::kInvalidArgument);
  wrong = files;
  wrong.tls = false;
  EXPECT_EQ(ReadSecurityFiles(wrong).status().code(), StatusCode::kInvalidArgument);
  wrong = files;
  wrong.ca = (folder / "missing").string();
  EXPECT_EQ(ReadSecurityFiles(wrong).status().code(), StatusCode::kNotFound);
  EXPECT_THAT(ReadSecurityFiles(wrong).status().message(), HasSubstr("--kv-ca"));
  wrong = files;
  wrong.ca = write("huge", std::string((1 << 20) + 1, 'x'));
  EXPECT_EQ(ReadSecurityFiles(wrong).status().code(), StatusCode::kInvalidArgument);
  for (const char* text : {"", "# only a comment\n", "two words\n", "\x01\n"}) {
    EXPECT_EQ(ReadTokenFile(write("bad", text)).status().code(), StatusCode::kInvalidArgument) << text;
  }
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace kvplane::transport
