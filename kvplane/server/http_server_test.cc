#include "kvplane/server/http_server.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/server/io_loop.h"
#include "kvplane/server/testing/raw_client.h"
#include "kvplane/transport/tcp_transport.h"
#include "kvplane/transport/testing/test_certificates.h"
#include "kvplane/transport/tls_transport.h"

namespace kvplane::server {
namespace {

using testing::Call;
using testing::RawClient;
using testing::RawResponse;

HttpResponse Text(int status, std::string body) {
  HttpResponse response;
  response.status = status;
  response.body = std::move(body);
  return response;
}

// A server on loopback with a thread of its own. /echo answers the body; /hold keeps its exchange until a
// test releases it; /stream starts a stream and keeps it.
class ServerFixture : public ::testing::Test {
 protected:
  void Start(HttpServerOptions options = {}) {
    HttpServerHooks hooks;
    hooks.handler = [this](std::shared_ptr<Exchange> exchange) { Answer(std::move(exchange)); };
    hooks.make_error = [](int status, const std::string& message) { return Text(status, message); };
    auto server = HttpServer::Create(std::make_shared<IoLoop>(), options, hooks);
    ASSERT_TRUE(server.ok()) << server.status().ToString();
    server_ = *std::move(server);
    thread_ = std::thread([this] { server_->Run(); });
  }

  void TearDown() override {
    if (server_ == nullptr) return;
    server_->Stop();
    thread_.join();
  }

  void Answer(std::shared_ptr<Exchange> exchange) {
    const std::string_view path = exchange->request().path();
    if (path == "/echo") {
      exchange->Respond(Text(200, exchange->request().body));
    } else if (path == "/throw") {
      throw std::runtime_error("boom");
    } else if (path == "/big") {
      exchange->Respond(Text(200, std::string(3 << 20, 'x')));
    } else if (path == "/flood") {
      exchange->BeginStream(HttpResponse());
      exchange->OnGone([this] { ++gone_; });
      for (int i = 0; i < 64; ++i) exchange->Write(std::string(1 << 20, 'x'));
    } else if (path == "/hold" || path == "/stream") {
      if (path == "/stream") exchange->BeginStream(Text(200, "begin;"));
      exchange->OnGone([this] { ++gone_; });
      base::MutexLock lock(mutex_);
      held_.push_back(std::move(exchange));
    } else {
      exchange->Respond(Text(404, "no"));
    }
  }

  std::shared_ptr<Exchange> WaitForHeld(size_t count = 1) {
    for (int i = 0; i < 2000; ++i) {
      {
        base::MutexLock lock(mutex_);
        if (held_.size() >= count) return held_[count - 1];
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return nullptr;
  }

  bool WaitForGone(int count) {
    for (int i = 0; i < 2000 && gone_.load() < count; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return gone_.load() == count;
  }

  uint16_t port() const { return server_->port(); }

  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
  std::atomic<int> gone_{0};
  base::Mutex mutex_;
  std::vector<std::shared_ptr<Exchange>> held_;
};

using HttpServerUnit = ServerFixture;
using HttpServerSafety = ServerFixture;

TEST_F(HttpServerUnit, AnswersOnOneConnectionAgainAndAgain) {
  Start();
  RawClient client(port());
  for (int i = 0; i < 3; ++i) {
    client.Send(fmt::format("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{}", i));
    const RawResponse response = client.ReadResponse();
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.body, std::to_string(i));
    EXPECT_EQ(response.Header("Connection"), "keep-alive");
  }
}

TEST_F(HttpServerUnit, PipelinedRequestsAreAnsweredInOrder) {
  Start();
  RawClient client(port());
  client.Send(
      "GET /hold HTTP/1.1\r\nHost: x\r\n\r\nPOST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
      "GET /none HTTP/1.1\r\nHost: x\r\n\r\n");
  const auto held = WaitForHeld();
  ASSERT_NE(held, nullptr);
  held->Post([held] { held->Respond(Text(200, "first")); });
  EXPECT_EQ(client.ReadResponse().body, "first");
  EXPECT_EQ(client.ReadResponse().body, "hi");
  EXPECT_EQ(client.ReadResponse().status, 404);
}

TEST_F(HttpServerUnit, StreamsInChunks) {
  Start();
  RawClient client(port());
  client.Send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  const auto held = WaitForHeld();
  ASSERT_NE(held, nullptr);
  held->Post([held] { held->Write("one;"); });
  held->Post([held] {
    held->Write("two;");
    held->End();
  });
  const RawResponse response = client.ReadResponse();
  EXPECT_EQ(response.body, "begin;one;two;");
  EXPECT_EQ(response.Header("Transfer-Encoding"), "chunked");
  client.Send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n2");
  EXPECT_EQ(client.ReadResponse().body, "2");  // the connection lives on
  EXPECT_EQ(gone_.load(), 0);
}

TEST_F(HttpServerUnit, StreamsToOldClientsUntilClose) {
  Start();
  RawClient client(port());
  client.Send("GET /stream HTTP/1.0\r\n\r\n");
  const auto held = WaitForHeld();
  ASSERT_NE(held, nullptr);
  held->Post([held] {
    held->Write("x");
    held->End();
  });
  const RawResponse response = client.ReadResponse();
  EXPECT_EQ(response.body, "begin;x");
  EXPECT_FALSE(response.cut);
  EXPECT_EQ(response.Header("Transfer-Encoding"), "");
}

TEST_F(HttpServerUnit, HeadHasNoBody) {
  Start();
  RawClient client(port());
  client.Send(
      "HEAD /none HTTP/1.1\r\nHost: x\r\n\r\nPOST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
  const std::string bytes = client.ReadSome();
  EXPECT_NE(bytes.find("Content-Length: 2\r\n"), std::string::npos);
  EXPECT_EQ(bytes.find("\r\n\r\nno"), std::string::npos);
}

TEST_F(HttpServerUnit, InvitesTheBodyOfExpectContinue) {
  Start();
  RawClient client(port());
  client.Send("POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
  EXPECT_EQ(client.ReadSome(), "HTTP/1.1 100 Continue\r\n\r\n");
  client.Send("abc");
  EXPECT_EQ(client.ReadResponse().body, "abc");
}

TEST_F(HttpServerUnit, LargeAnswersArriveWhole) {
  HttpServerOptions options;
  options.max_buffered_bytes = 1 << 20;  // bounds streams; this answer is a whole one
  Start(options);
  EXPECT_EQ(Call(port(), "GET", "/big").body.size(), size_t{3} << 20);
}

TEST_F(HttpServerUnit, AbortedStreamsEndWithoutLastChunk) {
  Start();
  RawClient client(port());
  client.Send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  const auto held = WaitForHeld();
  ASSERT_NE(held, nullptr);
  held->Post([held] { held->Abort(); });
  EXPECT_TRUE(client.ReadResponse().cut);
}

TEST_F(HttpServerSafety, NoticesClientsThatLeave) {
  Start();
  {
    RawClient client(port());
    client.Send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    ASSERT_NE(WaitForHeld(), nullptr);
  }
  EXPECT_TRUE(WaitForGone(1));
  RawClient streaming(port());
  streaming.Send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  const auto held = WaitForHeld(2);
  ASSERT_NE(held, nullptr);
  streaming.Close();
  EXPECT_TRUE(WaitForGone(2));
  std::atomic<bool> ran{false};
  held->Post([held, &ran] {
    held->Write("nobody listens");  // must do nothing
    held->End();
    ran = held->gone();
  });
  EXPECT_EQ(Call(port(), "POST", "/echo", "alive").body, "alive");
  EXPECT_TRUE(ran.load());
}

TEST_F(HttpServerSafety, RefusesBrokenRequestsAndCloses) {
  Start();
  RawClient client(port());
  client.Send("GET / HTTP/1.1\nHost: x\n\n");
  EXPECT_EQ(client.ReadResponse().status, 400);
  EXPECT_TRUE(client.WaitForClose());
}

TEST_F(HttpServerSafety, RefusesOversizeWhileTheClientStillSends) {
  HttpServerOptions options;
  options.limits.max_body_bytes = 1000;
  Start(options);
  RawClient client(port());
  client.Send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n");
  client.Send(std::string(2 << 20, 'x'));
  EXPECT_EQ(client.ReadResponse().status, 413);
}

TEST_F(HttpServerSafety, SlowRequestsRunIntoTheReadTimeout) {
  HttpServerOptions options;
  options.read_timeout = std::chrono::milliseconds(200);
  Start(options);
  RawClient client(port());
  client.Send("GET /ec");
  for (int i = 0; i < 3; ++i) {  // a byte now and then does not extend it
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    client.Send("h");
  }
  EXPECT_EQ(client.ReadResponse().status, 408);
  EXPECT_TRUE(client.WaitForClose());
}

TEST_F(HttpServerSafety, IdleConnectionsAreClosed) {
  HttpServerOptions options;
  options.idle_timeout = std::chrono::milliseconds(100);
  Start(options);
  RawClient client(port());
  EXPECT_TRUE(client.WaitForClose());
  EXPECT_EQ(client.ReadSome(0), "");
}

TEST_F(HttpServerSafety, ClientsThatDoNotReadAreGivenUp) {
  HttpServerOptions options;
  options.write_timeout = std::chrono::milliseconds(200);
  options.max_buffered_bytes = size_t{100} << 20;
  Start(options);
  RawClient client(port());
  client.Send("GET /flood HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(WaitForGone(1));
}

TEST_F(HttpServerSafety, UnsentBytesAreBounded) {
  HttpServerOptions options;
  options.max_buffered_bytes = 1 << 20;
  Start(options);
  RawClient client(port());
  client.Send("GET /flood HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(WaitForGone(1));
  EXPECT_TRUE(client.WaitForClose());
}

TEST_F(HttpServerSafety, ConnectionsAreBounded) {
  HttpServerOptions options;
  options.max_connections = 1;
  Start(options);
  RawClient first(port());
  first.Send("GET /none HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(first.ReadResponse().status, 404);
  RawClient second(port());
  const RawResponse refused = second.ReadResponse();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.Header("Retry-After"), "1");
}

TEST_F(HttpServerSafety, AThrowingHandlerIsA500) {
  Start();
  EXPECT_EQ(Call(port(), "GET", "/throw").status, 500);
  EXPECT_EQ(Call(port(), "POST", "/echo", "still here").body, "still here");
}

TEST_F(HttpServerUnit, DrainLetsAnswersFinish) {
  Start();
  RawClient client(port());
  RawClient idle(port());
  idle.Send("GET /none HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(idle.ReadResponse().status, 404);
  client.Send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  const auto held = WaitForHeld();
  ASSERT_NE(held, nullptr);
  server_->Drain(base::Clock::System().Now() + std::chrono::minutes(5));
  EXPECT_EQ(client.ReadSome().substr(0, 15), "HTTP/1.1 200 OK");
  while (RawClient(port()).connected()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  idle.Send("GET /none HTTP/1.1\r\nHost: x\r\n\r\n");  // kept connections are answered meanwhile, then closed
  EXPECT_EQ(idle.ReadResponse().Header("Connection"), "close");
  held->Post([held] {
    held->Write("last;");
    held->End();
  });
  std::string rest;
  for (std::string piece = client.ReadSome(); !piece.empty(); piece = client.ReadSome()) rest += piece;
  EXPECT_NE(rest.find("last;"), std::string::npos);
  EXPECT_TRUE(rest.ends_with(kLastChunk));
  thread_.join();
  thread_ = std::thread([] {});
  EXPECT_EQ(gone_.load(), 0);
}

TEST_F(HttpServerSafety, DrainCutsAtTheDeadline) {
  Start();
  RawClient client(port());
  client.Send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_NE(WaitForHeld(), nullptr);
  server_->Drain(base::Clock::System().Now() + std::chrono::milliseconds(50));
  EXPECT_TRUE(client.ReadResponse().cut);
  EXPECT_TRUE(WaitForGone(1));
  thread_.join();
  thread_ = std::thread([] {});
}

TEST_F(HttpServerSafety, ExchangesMayOutliveTheServer) {
  Start();
  RawClient client(port());
  client.Send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
  const auto held = WaitForHeld();
  ASSERT_NE(held, nullptr);
  server_->Stop();
  thread_.join();
  server_.reset();
  EXPECT_TRUE(held->gone());
  bool ran = false;
  held->Post([&] { ran = true; });
  held->Respond(Text(200, "too late"));
  EXPECT_FALSE(ran);
}

// A server with a certificate, and clients that trust its authority.
class HttpsServer : public ServerFixture {
 protected:
  void SetUp() override {
    const transport::TestAuthority authority;
    HttpServerOptions options;
    options.tls =
        *transport::TlsContext::FromCertificates(authority.Sign("IP:127.0.0.1"), transport::TlsEnd::kServer);
    Start(options);
    transport::TlsOptions trusting;
    trusting.client = *transport::TlsContext::FromCertificates(
        {.certificate_pem = {}, .key_pem = {}, .ca_pem = authority.pem()}, transport::TlsEnd::kClient);
    clients_ = transport::CreateTlsTransport(transport::CreateTcpTransport(), trusting);
  }

  static base::TimePoint Soon() { return base::Clock::System().Now() + std::chrono::seconds(30); }

  std::unique_ptr<transport::Stream> Connect() {
    return *clients_->Connect(fmt::format("tcp://127.0.0.1:{}", port()), Soon());
  }

  // Sends `text` and reads until `bytes` have come back.
  static std::string Exchange(transport::Stream& stream, std::string_view text, size_t bytes) {
    const std::span<const std::byte> piece = std::as_bytes(std::span(text));
    const base::Status sent = stream.Write({&piece, 1}, Soon());
    EXPECT_TRUE(sent.ok()) << sent.ToString();
    std::string got(bytes, '\0');
    const base::Status read = stream.Read(std::as_writable_bytes(std::span(got)), Soon());
    EXPECT_TRUE(read.ok()) << read.ToString();
    return got;
  }

  static std::string Answer(std::string_view body) {
    return fmt::format("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: keep-alive\r\n\r\n{}",
                       body.size(), body);
  }

  std::unique_ptr<transport::Transport> clients_;
};
using HttpsServerUnit = HttpsServer;
using HttpsServerSafety = HttpsServer;

TEST_F(HttpsServerUnit, AnswersKeptPipelinedAndLargeRequests) {
  const auto client = Connect();
  const std::string ask = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
  const std::string answer = Answer("hello");
  EXPECT_EQ(Exchange(*client, ask, answer.size()), answer);
  EXPECT_EQ(Exchange(*client, ask + ask, 2 * answer.size()), answer + answer);
  const std::string large(1 << 20, 'y');
  const std::string large_answer = Answer(large);
  const std::string large_ask =
      fmt::format("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}", large.size(), large);
  EXPECT_EQ(Exchange(*client, large_ask, large_answer.size()), large_answer);
  const std::string big = Answer(std::string(3 << 20, 'x'));
  EXPECT_EQ(Exchange(*client, "GET /big HTTP/1.1\r\nHost: x\r\n\r\n", big.size()), big);
}

TEST_F(HttpsServerUnit, NoticesAClientThatLeaves) {
  auto client = Connect();
  const std::string_view ask = "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n";
  const std::span<const std::byte> piece = std::as_bytes(std::span(ask));
  ASSERT_TRUE(client->Write({&piece, 1}, Soon()).ok());
  ASSERT_NE(WaitForHeld(), nullptr);
  client.reset();
  EXPECT_TRUE(WaitForGone(1));
}

TEST_F(HttpsServerSafety, StrangersAreClosedAndOthersServed) {
  const auto plain = transport::CreateTcpTransport();
  const std::string endpoint = fmt::format("tcp://127.0.0.1:{}", port());
  const auto silent = *plain->Connect(endpoint, Soon());
  for (const std::string_view bytes :
       {"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01\xff\xff garbage", "\x80"}) {
    const auto stranger = *plain->Connect(endpoint, Soon());
    const std::span<const std::byte> piece = std::as_bytes(std::span(bytes));
    ASSERT_TRUE(stranger->Write({&piece, 1}, Soon()).ok());
    if (bytes.size() == 1) continue;  // half a record: waits for the rest, which never comes
    std::vector<std::byte> alert(4096);
    const base::Status status = stranger->Read(alert, Soon());  // at most an alert, then the end
    EXPECT_EQ(status.code(), base::StatusCode::kUnavailable) << status.ToString();
  }
  const std::string answer = Answer("");
  EXPECT_EQ(
      Exchange(*Connect(), "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", answer.size()),
      answer);
}

TEST(HttpServerUnitCreate, SaysWhyItCannotListen) {
  HttpServerHooks hooks;
  HttpServerOptions options;
  options.host = "localhost";
  const auto bad_host = HttpServer::Create(std::make_shared<IoLoop>(), options, hooks);
  EXPECT_EQ(bad_host.status().code(), base::StatusCode::kInvalidArgument);
  options.host = "127.0.0.1";
  const auto first = HttpServer::Create(std::make_shared<IoLoop>(), options, hooks);
  ASSERT_TRUE(first.ok());
  options.port = (*first)->port();
  const auto second = HttpServer::Create(std::make_shared<IoLoop>(), options, hooks);
  EXPECT_EQ(second.status().code(), base::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace kvplane::server
