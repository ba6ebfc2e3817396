// What every Transport must do, run against each of them. To add a transport: add a row to kTransports.
//
// Covered: byte-exact delivery under any split into pieces and reads; both directions at once; deadlines of
// Read, Accept and Write; Shutdown() from another thread wakes reader, writer and listener; what was written
// before an orderly end still arrives, then kUnavailable; refusal; thousands of small messages; many streams.
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/transport/create_transport.h"
#include "kvplane/transport/inproc_transport.h"
#include "kvplane/transport/shaped_transport.h"
#include "kvplane/transport/tcp_transport.h"
#include "kvplane/transport/testing/faulty_transport.h"
#include "kvplane/transport/testing/test_certificates.h"
#include "kvplane/transport/tls_transport.h"
#include "kvplane/transport/token_transport.h"
#include "kvplane/transport/ucx_transport.h"

namespace kvplane::transport {
namespace {

using base::StatusCode;

base::TimePoint In(int milliseconds) {
  return base::Clock::System().Now() + std::chrono::milliseconds(milliseconds);
}
// For waits that must succeed: only a hang reaches it.
base::TimePoint Soon() { return In(30'000); }

struct TransportCase {
  const char* name;
  const char* listen;
  const char* nobody;  // an endpoint where nobody listens
  std::function<std::unique_ptr<Transport>()> create;
};

std::unique_ptr<Transport> Shaped(std::unique_ptr<Transport> inner, double rate, int latency_us) {
  ShapedOptions options;
  options.bits_per_second = rate;
  options.latency = std::chrono::microseconds(latency_us);
  return *ShapedTransport::Create(std::move(inner), options);
}

// What two nodes with one token file get: handshake only, or TLS with a key made from it.
std::unique_ptr<Transport> WithToken(const char* spec, bool tls) {
  TransportSecurity security;
  security.tokens = {"0123456789abcdef-conformance"};
  security.tls = tls;
  return *CreateTransport(spec, security);
}

// Certificates on both ends.
std::unique_ptr<Transport> WithCertificates(const char* spec) {
  const TestAuthority authority;
  TransportSecurity security;
  security.tls = true;
  security.credentials = authority.Sign("DNS:localhost,IP:127.0.0.1");
  security.credentials.ca_pem = authority.pem();
  return *CreateTransport(spec, security);
}

std::unique_ptr<Transport> TlsOver(std::unique_ptr<Transport> inner) {
  const std::vector<std::string> tokens = {"0123456789abcdef-conformance"};
  return CreateTlsTransport(std::move(inner), {.server = *TlsContext::FromTokens(tokens, TlsEnd::kServer),
                                               .client = *TlsContext::FromTokens(tokens, TlsEnd::kClient),
                                               .rekey_bytes = 100'000});
}

std::unique_ptr<Transport> TokenOver(std::unique_ptr<Transport> inner) {
  return *CreateTokenTransport(std::move(inner), {"0123456789abcdef-conformance"});
}

const TransportCase kTransports[] = {
    {"tcp", "tcp://127.0.0.1:0", "tcp://127.0.0.1:1", [] { return CreateTcpTransport(); }},
    {"tcp_small_buffers", "tcp://127.0.0.1:0", "tcp://127.0.0.1:1",
     [] {
       TcpOptions options;
       options.send_buffer_bytes = options.receive_buffer_bytes = 4096;
       return CreateTcpTransport(options);
     }},
    {"tcp_by_name", "tcp://localhost:0", "tcp://localhost:1", [] { return CreateTcpTransport(); }},
    {"inproc", "inproc://here", "inproc://nowhere", [] { return CreateInprocTransport(); }},
    {"inproc_tiny_pipe", "inproc://here", "inproc://nowhere",
     [] { return CreateInprocTransport({.pipe_bytes = 16}); }},
    {"shaped_tcp", "tcp://127.0.0.1:0", "tcp://127.0.0.1:1",
     [] { return Shaped(CreateTcpTransport(), 4e9, 0); }},
    {"shaped_inproc_latency", "inproc://here", "inproc://nowhere",
     [] { return Shaped(CreateInprocTransport(), 4e9, 300); }},
    {"shaped_inproc_jitter", "inproc://here", "inproc://nowhere",
     [] { return *CreateTransport("shaped(inproc,rate=4Gbit/s,latency_us=50,jitter_us=400,seed=3)"); }},
    {"token_tcp", "tcp://127.0.0.1:0", "tcp://127.0.0.1:1", [] { return WithToken("tcp", false); }},
    {"token_inproc", "inproc://here", "inproc://nowhere", [] { return TokenOver(CreateInprocTransport()); }},
    {"token_inproc_tiny_pipe", "inproc://here", "inproc://nowhere",
     [] { return TokenOver(CreateInprocTransport({.pipe_bytes = 16})); }},
    {"tls_tokens", "tcp://127.0.0.1:0", "tcp://127.0.0.1:1", [] { return WithToken("tcp", true); }},
    {"tls_certificates", "tcp://127.0.0.1:0", "tcp://127.0.0.1:1", [] { return WithCertificates("tcp"); }},
    {"tls_certificates_by_name", "tls://localhost:0", "tls://localhost:1",
     [] { return WithCertificates("tcp"); }},
    {"tls_inproc_small_pipe_rekeying", "inproc://here", "inproc://nowhere",
     [] { return TlsOver(CreateInprocTransport({.pipe_bytes = 64})); }},
    {"shaped_tls", "tcp://127.0.0.1:0", "tcp://127.0.0.1:1",
     [] { return WithToken("shaped(tcp,rate=4Gbit/s,latency_us=100)", true); }},
    {"tls_over_shaped", "inproc://here", "inproc://nowhere",
     [] { return TlsOver(Shaped(CreateInprocTransport(), 4e9, 300)); }},
    {"token_in_tls", "inproc://here", "inproc://nowhere",
     [] { return TokenOver(TlsOver(CreateInprocTransport())); }},
    {"faulty_without_faults", "inproc://here", "inproc://nowhere",
     []() -> std::unique_ptr<Transport> { return FaultyTransport::Create(CreateInprocTransport(), {}); }},
};

base::Status WriteText(Stream& stream, std::string_view text, base::TimePoint deadline) {
  const std::span<const std::byte> piece = std::as_bytes(std::span(text.data(), text.size()));
  return stream.Write({&piece, 1}, deadline);
}

base::Result<std::string> ReadText(Stream& stream, size_t bytes, base::TimePoint deadline) {
  std::string text(bytes, '\0');
  KVPLANE_RETURN_IF_ERROR(stream.Read(std::as_writable_bytes(std::span(text.data(), text.size())), deadline));
  return text;
}

class TransportConformance : public ::testing::TestWithParam<TransportCase> {
 protected:
  void SetUp() override {
    transport_ = GetParam().create();
    auto listener = transport_->Listen(GetParam().listen);
    ASSERT_TRUE(listener.ok()) << listener.status().ToString();
    listener_ = *std::move(listener);
  }

  struct Pair {
    std::unique_ptr<Stream> client;
    std::unique_ptr<Stream> server;
  };
  // Two streams that have spoken: a handshake, where there is one, needs both ends at a time and is behind
  // them.
  Pair Connect() {
    Pair pair = ConnectSilently();
    if (pair.client == nullptr || pair.server == nullptr) return pair;
    std::thread server([&] {
      EXPECT_EQ(*ReadText(*pair.server, 4, Soon()), "ping");
      EXPECT_TRUE(WriteText(*pair.server, "pong", Soon()).ok());
    });
    EXPECT_TRUE(WriteText(*pair.client, "ping", Soon()).ok());
    EXPECT_EQ(*ReadText(*pair.client, 4, Soon()), "pong");
    server.join();
    return pair;
  }
  Pair ConnectSilently() {
    Pair pair;
    auto client = transport_->Connect(listener_->endpoint(), Soon());
    EXPECT_TRUE(client.ok()) << client.status().ToString();
    auto server = listener_->Accept(Soon());
    EXPECT_TRUE(server.ok()) << server.status().ToString();
    if (client.ok()) pair.client = *std::move(client);
    if (server.ok()) pair.server = *std::move(server);
    return pair;
  }

  std::unique_ptr<Transport> transport_;
  std::unique_ptr<Listener> listener_;
};

std::byte PatternByte(uint64_t seed, uint64_t at) {
  return static_cast<std::byte>(((at * 0x9e3779b97f4a7c15u) ^ seed) >> 29);
}

// Writes `total` pattern bytes in random pieces, random numbers of pieces per call.
void WritePattern(Stream& stream, uint64_t seed, size_t total) {
  base::Rng rng(seed);
  std::vector<std::byte> buffer;
  for (size_t sent = 0; sent < total;) {
    std::vector<size_t> sizes(1 + rng.Below(80));
    size_t bytes = 0;
    for (size_t& size : sizes) {
      size = std::min<size_t>(rng.Below(4) == 0 ? rng.Below(3000) : rng.Below(20), total - sent - bytes);
      bytes += size;
    }
    buffer.resize(bytes);
    for (size_t i = 0; i < bytes; ++i) buffer[i] = PatternByte(seed, sent + i);
    std::vector<std::span<const std::byte>> pieces;
    size_t at = 0;
    for (const size_t size : sizes) {
      pieces.emplace_back(buffer.data() + at, size);
      at += size;
    }
    const base::Status status = stream.Write(pieces, Soon());
    ASSERT_TRUE(status.ok()) << status.ToString();
    sent += bytes;
  }
}

void ReadPattern(Stream& stream, uint64_t seed, size_t total) {
  base::Rng rng(seed + 1);
  std::vector<std::byte> buffer;
  for (size_t got = 0; got < total;) {
    buffer.resize(std::min<size_t>(1 + rng.Below(7000), total - got));
    const base::Status status = stream.Read(buffer, Soon());
    ASSERT_TRUE(status.ok()) << status.ToString();
    for (size_t i = 0; i < buffer.size(); ++i) {
      ASSERT_EQ(buffer[i], PatternByte(seed, got + i)) << "at byte " << got + i;
    }
    got += buffer.size();
  }
}

TEST_P(TransportConformance, BytesArriveExactlyInBothDirectionsProperty) {
  Pair pair = Connect();
  constexpr size_t kBytes = 300'000;
  std::thread threads[] = {
      std::thread([&] { WritePattern(*pair.client, 1, kBytes); }),
      std::thread([&] { ReadPattern(*pair.server, 1, kBytes); }),
      std::thread([&] { WritePattern(*pair.server, 2, kBytes); }),
      std::thread([&] { ReadPattern(*pair.client, 2, kBytes); }),
  };
  for (std::thread& thread : threads) thread.join();
}

TEST_P(TransportConformance, ThousandsOfSmallMessagesProperty) {
  Pair pair = Connect();
  constexpr int kMessages = 3000;
  std::thread echo([&] {
    for (int i = 0; i < kMessages; ++i) {
      const auto text = ReadText(*pair.server, 5, Soon());
      ASSERT_TRUE(text.ok()) << text.status().ToString();
      ASSERT_TRUE(WriteText(*pair.server, *text, Soon()).ok());
    }
  });
  std::thread writer([&] {
    for (int i = 0; i < kMessages; ++i) {
      ASSERT_TRUE(WriteText(*pair.client, fmt::format("{:05}", i), Soon()).ok());
    }
  });
  for (int i = 0; i < kMessages; ++i) {
    const auto text = ReadText(*pair.client, 5, Soon());
    EXPECT_TRUE(text.ok() && *text == fmt::format("{:05}", i)) << i;
    if (!text.ok()) break;
  }
  writer.join();
  echo.join();
}

TEST_P(TransportConformance, ManyStreamsStayApartUnit) {
  std::vector<Pair> pairs;
  for (int i = 0; i < 20; ++i) pairs.push_back(Connect());
  for (size_t i = 0; i < pairs.size(); ++i) {
    ASSERT_TRUE(WriteText(*pairs[i].client, fmt::format("to {:03}", i), Soon()).ok());
  }
  for (size_t i = pairs.size(); i-- > 0;) {
    EXPECT_EQ(*ReadText(*pairs[i].server, 6, Soon()), fmt::format("to {:03}", i));
  }
}

TEST_P(TransportConformance, ReadSomeGivesWhatHasArrivedUnit) {
  Pair pair = Connect();
  ASSERT_TRUE(WriteText(*pair.client, "abcdef", Soon()).ok());
  std::string received;
  std::byte some[64];
  while (received.size() < 6) {
    const auto got = pair.server->ReadSome(some, Soon());
    ASSERT_TRUE(got.ok()) << got.status().ToString();
    ASSERT_GE(*got, 1u);
    received.append(reinterpret_cast<const char*>(some), *got);
  }
  EXPECT_EQ(received, "abcdef");
  EXPECT_EQ(pair.server->ReadSome(some, In(20)).status().code(), StatusCode::kDeadlineExceeded);
  pair.client->Shutdown();
  EXPECT_EQ(pair.server->ReadSome(some, Soon()).status().code(), StatusCode::kUnavailable);
}

TEST_P(TransportConformance, EmptyWritesAndReadsUnit) {
  Pair pair = Connect();
  EXPECT_TRUE(pair.client->Write({}, Soon()).ok());
  const std::span<const std::byte> empty[3];
  EXPECT_TRUE(pair.client->Write(empty, Soon()).ok());
  EXPECT_TRUE(pair.server->Read({}, Soon()).ok());
  EXPECT_TRUE(WriteText(*pair.client, "x", Soon()).ok());
  EXPECT_EQ(*ReadText(*pair.server, 1, Soon()), "x");
}

TEST_P(TransportConformance, DeadlinesEndWaitsUnit) {
  Pair pair = Connect();
  EXPECT_EQ(ReadText(*pair.server, 1, In(20)).status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReadText(*pair.server, 1, In(-20)).status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(listener_->Accept(In(20)).status().code(), StatusCode::kDeadlineExceeded);
  // Part of what was asked for is still a miss.
  EXPECT_TRUE(WriteText(*pair.client, "ab", Soon()).ok());
  EXPECT_EQ(ReadText(*pair.server, 3, In(20)).status().code(), StatusCode::kDeadlineExceeded);
}

TEST_P(TransportConformance, WriteToAPeerThatDoesNotReadHitsItsDeadlineUnit) {
  Pair pair = Connect();
  const std::string large(96 << 20, 'x');  // more than any socket, pipe or delay line holds
  EXPECT_EQ(WriteText(*pair.client, large, In(200)).code(), StatusCode::kDeadlineExceeded);
  pair.client->Shutdown();
}

TEST_P(TransportConformance, ShutdownWakesReaderAndWriterUnit) {
  Pair pair = Connect();
  const std::string large(96 << 20, 'x');
  base::Status read;
  base::Status written;
  std::thread reader([&] { read = ReadText(*pair.client, 1, base::kNoDeadline).status(); });
  std::thread writer([&] { written = WriteText(*pair.client, large, base::kNoDeadline); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  pair.client->Shutdown();
  reader.join();
  writer.join();
  EXPECT_EQ(read.code(), StatusCode::kCancelled) << read.ToString();
  EXPECT_EQ(written.code(), StatusCode::kCancelled) << written.ToString();
  EXPECT_EQ(ReadText(*pair.client, 1, Soon()).status().code(), StatusCode::kCancelled);
  EXPECT_EQ(WriteText(*pair.client, "x", Soon()).code(), StatusCode::kCancelled);
  pair.client->Shutdown();  // again: harmless
}

TEST_P(TransportConformance, ShutdownWakesAcceptUnit) {
  base::Status accepted;
  std::thread acceptor([&] { accepted = listener_->Accept(base::kNoDeadline).status(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  listener_->Shutdown();
  acceptor.join();
  EXPECT_EQ(accepted.code(), StatusCode::kCancelled);
  EXPECT_EQ(listener_->Accept(Soon()).status().code(), StatusCode::kCancelled);
}

TEST_P(TransportConformance, PeerSeesWhatWasWrittenThenTheEndUnit) {
  Pair pair = Connect();
  ASSERT_TRUE(WriteText(*pair.client, "h", Soon()).ok());
  pair.client.reset();
  EXPECT_EQ(*ReadText(*pair.server, 1, Soon()), "h");
  EXPECT_EQ(ReadText(*pair.server, 1, Soon()).status().code(), StatusCode::kUnavailable);
}

TEST_P(TransportConformance, PeerDeathWakesABlockedReaderAndFailsTheWriterUnit) {
  Pair pair = Connect();
  base::Status read;
  std::thread reader([&] { read = ReadText(*pair.server, 1, base::kNoDeadline).status(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  pair.client->Shutdown();
  reader.join();
  EXPECT_EQ(read.code(), StatusCode::kUnavailable) << read.ToString();
  // The first writes may still vanish into a kernel buffer; soon one must fail.
  base::Status written;
  for (int i = 0; i < 1000 && written.ok(); ++i) {
    written = WriteText(*pair.server, std::string(10'000, 'x'), Soon());
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(written.code(), StatusCode::kUnavailable) << written.ToString();
}

TEST_P(TransportConformance, FirstUseFromFourThreadsProperty) {
  Pair pair = ConnectSilently();
  constexpr size_t kBytes = 20'000;
  std::thread threads[] = {
      std::thread([&] { ReadPattern(*pair.server, 1, kBytes); }),
      std::thread([&] { ReadPattern(*pair.client, 2, kBytes); }),
      std::thread([&] { WritePattern(*pair.server, 2, kBytes); }),
      std::thread([&] { WritePattern(*pair.client, 1, kBytes); }),
  };
  for (std::thread& thread : threads) thread.join();
}

TEST_P(TransportConformance, ShutdownWakesWhoeverUsesAStreamFirstUnit) {
  Pair pair = ConnectSilently();  // its other end says nothing
  base::Status read;
  std::thread reader([&] { read = ReadText(*pair.server, 1, base::kNoDeadline).status(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  pair.server->Shutdown();
  reader.join();
  EXPECT_EQ(read.code(), StatusCode::kCancelled) << read.ToString();
  EXPECT_EQ(WriteText(*pair.server, "x", Soon()).code(), StatusCode::kCancelled);
}

TEST_P(TransportConformance, AShortDeadlineDoesNotSpoilAStreamUnit) {
  Pair pair = ConnectSilently();
  EXPECT_EQ(ReadText(*pair.server, 1, In(5)).status().code(), StatusCode::kDeadlineExceeded);
  std::thread writer([&] { EXPECT_TRUE(WriteText(*pair.client, "late", Soon()).ok()); });
  EXPECT_EQ(*ReadText(*pair.server, 4, Soon()), "late");
  writer.join();
}

TEST_P(TransportConformance, NobodyListensUnit) {
  EXPECT_EQ(transport_->Connect(GetParam().nobody, Soon()).status().code(), StatusCode::kUnavailable);
  const std::string endpoint = listener_->endpoint();
  listener_.reset();
  EXPECT_EQ(transport_->Connect(endpoint, Soon()).status().code(), StatusCode::kUnavailable);
}

TEST_P(TransportConformance, RefusesForeignEndpointsUnit) {
  for (const char* endpoint : {"", "carrier-pigeon://x", "tcp//", "inproc:/x"}) {
    EXPECT_EQ(transport_->Connect(endpoint, Soon()).status().code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(transport_->Listen(endpoint).status().code(), StatusCode::kInvalidArgument);
  }
}

TEST_P(TransportConformance, TwoListenersDoNotShareAnEndpointUnit) {
  EXPECT_EQ(transport_->Listen(listener_->endpoint()).status().code(), StatusCode::kUnavailable);
}

INSTANTIATE_TEST_SUITE_P(All, TransportConformance, ::testing::ValuesIn(kTransports),
                         [](const auto& tested) { return std::string(tested.param.name); });

// Nothing where UCX is not built in (ucx_transport_absent_test.cc covers that).
std::vector<TransportCase> UcxTransports() {
  if (!UcxIsBuilt()) return {};
  return {
      {"tcp", "ucx://127.0.0.1:0", "ucx://127.0.0.1:1", [] { return *CreateUcxTransport({.tls = "tcp"}); }},
      {"shared_memory", "ucx://127.0.0.1:0", "ucx://127.0.0.1:1",
       [] { return *CreateUcxTransport({.tls = "tcp,posix,cma,self"}); }},
      {"its_own_choice", "ucx://localhost:0", "ucx://localhost:1", [] { return *CreateTransport("ucx"); }},
      {"tls", "ucx://127.0.0.1:0", "ucx://127.0.0.1:1", [] { return WithToken("ucx", true); }},
  };
}

INSTANTIATE_TEST_SUITE_P(Ucx, TransportConformance, ::testing::ValuesIn(UcxTransports()),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace kvplane::transport
