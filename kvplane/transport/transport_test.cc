#include <gtest/gtest.h>
#include <sys/resource.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kvplane/transport/create_transport.h"
#include "kvplane/transport/endpoint.h"
#include "kvplane/transport/file_descriptor.h"
#include "kvplane/transport/inproc_transport.h"
#include "kvplane/transport/shaped_transport.h"
#include "kvplane/transport/tcp_transport.h"
#include "kvplane/transport/testing/faulty_transport.h"

namespace kvplane::transport {
namespace {

using base::StatusCode;

base::TimePoint In(int milliseconds) {
  return base::Clock::System().Now() + std::chrono::milliseconds(milliseconds);
}
base::TimePoint Soon() { return In(30'000); }

struct Pair {
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Stream> client;
  std::unique_ptr<Stream> server;
};

Pair ConnectPair(Transport& transport, const char* endpoint) {
  Pair pair;
  pair.listener = *transport.Listen(endpoint);
  pair.client = *transport.Connect(pair.listener->endpoint(), Soon());
  pair.server = *pair.listener->Accept(Soon());
  return pair;
}

base::Status Send(Stream& stream, std::span<const std::byte> bytes, base::TimePoint deadline) {
  return stream.Write({&bytes, 1}, deadline);
}

TEST(CreateTransportUnit, ReadsSpecs) {
  EXPECT_EQ((*CreateTransport("tcp"))->name(), "tcp");
  EXPECT_EQ((*CreateTransport("inproc"))->name(), "inproc");
  EXPECT_EQ((*CreateTransport("shaped(tcp)"))->name(), "shaped(tcp)");
  auto nested =
      *CreateTransport("shaped(shaped(inproc,latency_us=5),rate=200Mbit/s,burst=64kB,latency_us=250)");
  EXPECT_EQ(nested->name(), "shaped(shaped(inproc))");
  EXPECT_EQ(dynamic_cast<ShapedTransport&>(*nested).rate(), 2e8);
}

TEST(CreateTransportSafety, RefusesUnknownSpecs) {
  for (const char* spec :
       {"", "rdma", "tcp ", "shaped", "shaped()", "shaped(tcp", "shaped(tcp,rate)", "shaped(tcp,rate=fast)",
        "shaped(tcp,colour=red)", "shaped(tcp,latency_us=-1)", "shaped(tcp,latency_us=99999999)",
        "shaped(tcp,)", "shaped(shaped(shaped(shaped(shaped(tcp)))))"}) {
    EXPECT_EQ(CreateTransport(spec).status().code(), StatusCode::kInvalidArgument) << spec;
  }
}

TEST(WakeupUnit, StaysRaised) {
  auto wakeup = *Wakeup::Create();
  EXPECT_EQ(wakeup.Wait(-1, 0, In(5)).code(), StatusCode::kDeadlineExceeded);
  wakeup.Raise();
  wakeup.Raise();
  EXPECT_EQ(wakeup.Wait(-1, 0, Soon()).code(), StatusCode::kCancelled);
  EXPECT_EQ(wakeup.Wait(-1, 0, Soon()).code(), StatusCode::kCancelled);
}

TEST(TcpUnit, ListensOnIpv6WhereTheHostHasIt) {
  auto transport = CreateTcpTransport();
  auto listener = transport->Listen("tcp://[::1]:0");
  if (!listener.ok()) GTEST_SKIP() << listener.status().ToString();
  EXPECT_TRUE((*listener)->endpoint().starts_with("tcp://[::1]:"));
  EXPECT_TRUE(transport->Connect((*listener)->endpoint(), Soon()).ok());
}

TEST(TcpSafety, AcceptSurvivesRunningOutOfDescriptors) {
  auto transport = CreateTcpTransport();
  auto listener = *transport->Listen("tcp://127.0.0.1:0");
  auto client = *transport->Connect(listener->endpoint(), Soon());
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 3;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const base::Status starved = listener->Accept(In(60)).status();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(starved.code(), StatusCode::kDeadlineExceeded) << starved.ToString();
  EXPECT_TRUE(listener->Accept(Soon()).ok());
}

TEST(TcpUnit, ANameThatDoesNotExistIsUnavailable) {
  auto transport = CreateTcpTransport();
  EXPECT_EQ(transport->Connect("tcp://no-such-host.invalid:1", In(2000)).status().code(),
            StatusCode::kUnavailable);
}

TEST(InprocUnit, ChoosesANameAndKeepsWorldsApart) {
  auto one = CreateInprocTransport();
  auto two = CreateInprocTransport();
  auto listener = *one->Listen("inproc://");
  EXPECT_TRUE(listener->endpoint().starts_with("inproc://auto-"));
  EXPECT_TRUE(one->Connect(listener->endpoint(), Soon()).ok());
  EXPECT_EQ(two->Connect(listener->endpoint(), Soon()).status().code(), StatusCode::kUnavailable);
}

// The link may be late on a busy machine but never early: an upper bound that holds under any load.
TEST(ShapedProperty, NeverFasterThanItsRate) {
  for (const double rate : {2e6, 4e7, 8e8}) {
    ShapedOptions options;
    options.bits_per_second = rate;
    options.burst_bytes = 10'000;
    auto transport = *ShapedTransport::Create(CreateInprocTransport({.pipe_bytes = 8 << 20}), options);
    Pair pair = ConnectPair(*transport, "inproc://a");
    const std::vector<std::byte> bytes(static_cast<size_t>(rate / 8 / 10));  // 100 ms of it
    const base::TimePoint start = base::Clock::System().Now();
    std::vector<std::byte> got(bytes.size());
    std::thread writer([&] { EXPECT_TRUE(Send(*pair.client, bytes, Soon()).ok()); });
    EXPECT_TRUE(pair.server->Read(got, Soon()).ok());
    writer.join();
    const double seconds = base::ToSeconds(base::Clock::System().Now() - start);
    // Before the last chunk (at most 64 KiB) leaves, all the others have been paid for.
    const double paid = static_cast<double>(bytes.size()) - 10'000 - 65'536;
    EXPECT_GE(seconds, paid * 8 / rate) << rate;
  }
}

TEST(ShapedProperty, AllStreamsShareOneLink) {
  ShapedOptions options;
  options.bits_per_second = 1.6e7;  // 2 MB/s
  options.burst_bytes = 1000;
  auto transport = *ShapedTransport::Create(CreateInprocTransport(), options);
  Pair a = ConnectPair(*transport, "inproc://a");
  Pair b = ConnectPair(*transport, "inproc://b");
  const std::vector<std::byte> bytes(100'000);
  const base::TimePoint start = base::Clock::System().Now();
  std::thread one([&] { EXPECT_TRUE(Send(*a.client, bytes, Soon()).ok()); });
  std::thread two([&] { EXPECT_TRUE(Send(*b.server, bytes, Soon()).ok()); });
  one.join();
  two.join();
  EXPECT_GE(base::ToSeconds(base::Clock::System().Now() - start), 0.097);
}

TEST(ShapedUnit, AStalledLinkWaitsForItsDeadlineForShutdownOrForARate) {
  ShapedOptions options;
  options.bits_per_second = 0;
  auto transport = *ShapedTransport::Create(CreateInprocTransport(), options);
  Pair pair = ConnectPair(*transport, "inproc://a");
  const std::vector<std::byte> bytes(50'000);
  // The first chunk leaves an empty bucket and puts it into debt; the second waits.
  EXPECT_EQ(Send(*pair.client, bytes, In(20)).code(), StatusCode::kDeadlineExceeded);
  base::Status woken;
  std::thread writer([&] { woken = Send(*pair.client, bytes, base::kNoDeadline); });
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  transport->SetRate(8e6);
  writer.join();
  EXPECT_TRUE(woken.ok()) << woken.ToString();
  transport->SetRate(1);
  std::thread stuck([&] { woken = Send(*pair.client, bytes, base::kNoDeadline); });
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  pair.client->Shutdown();
  stuck.join();
  EXPECT_EQ(woken.code(), StatusCode::kCancelled);
}

TEST(ShapedUnit, LatencyDelaysButDoesNotSlow) {
  ShapedOptions options;
  options.latency = std::chrono::milliseconds(30);
  auto transport = *ShapedTransport::Create(CreateInprocTransport(), options);
  Pair pair = ConnectPair(*transport, "inproc://a");
  const std::vector<std::byte> bytes(100);
  const base::TimePoint start = base::Clock::System().Now();
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(Send(*pair.client, bytes, Soon()).ok());
  std::vector<std::byte> got(100 * bytes.size());
  ASSERT_TRUE(pair.server->Read(got, Soon()).ok());
  const base::Duration took = base::Clock::System().Now() - start;
  EXPECT_GE(took, std::chrono::milliseconds(30));
  EXPECT_LT(took, std::chrono::milliseconds(1500));  // 100 writes in turn would take 3 s
}

TEST(ShapedUnit, RefusesNonsense) {
  ShapedOptions options;
  options.bits_per_second = -1;
  EXPECT_FALSE(ShapedTransport::Create(CreateInprocTransport(), options).ok());
  options = {};
  options.latency = std::chrono::hours(1);
  EXPECT_FALSE(ShapedTransport::Create(CreateInprocTransport(), options).ok());
}

TEST(FaultyUnit, FlipsOnlyLargePiecesReproducibly) {
  std::vector<std::byte> seen[2];
  for (auto& got : seen) {
    FaultPlan plan;
    plan.seed = 7;
    plan.flip_probability = 0.5;
    plan.flip_min_piece_bytes = 100;
    auto transport = FaultyTransport::Create(CreateInprocTransport(), plan);
    Pair pair = ConnectPair(*transport, "inproc://a");
    const std::vector<std::byte> small(99);
    const std::vector<std::byte> large(100);
    for (int i = 0; i < 50; ++i) {
      const std::span<const std::byte> pieces[] = {small, large};
      ASSERT_TRUE(pair.client->Write(pieces, Soon()).ok());
    }
    got.resize(50 * 199);
    ASSERT_TRUE(pair.server->Read(got, Soon()).ok());
    size_t changed = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      if (got[i] == std::byte{0}) continue;
      ++changed;
      EXPECT_GE(i % 199, 99u);
    }
    EXPECT_GT(changed, 10u);
    EXPECT_EQ(changed, transport->counts().bits_flipped);
  }
  EXPECT_EQ(seen[0], seen[1]);
}

TEST(FaultyUnit, DropsTruncatesAndStalls) {
  const std::vector<std::byte> bytes(100);
  std::vector<std::byte> got(150);
  FaultPlan plan;
  plan.drop_after_bytes = 150;
  auto dropping = FaultyTransport::Create(CreateInprocTransport(), plan);
  Pair pair = ConnectPair(*dropping, "inproc://a");
  EXPECT_TRUE(Send(*pair.client, bytes, Soon()).ok());
  EXPECT_EQ(Send(*pair.client, bytes, Soon()).code(), StatusCode::kUnavailable);
  EXPECT_TRUE(pair.server->Read(got, Soon()).ok());
  EXPECT_EQ(pair.server->Read(got, Soon()).code(), StatusCode::kUnavailable);

  plan = {};
  plan.truncate_after_bytes = 150;
  auto truncating = FaultyTransport::Create(CreateInprocTransport(), plan);
  pair = ConnectPair(*truncating, "inproc://a");
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Send(*pair.client, bytes, Soon()).ok());
  EXPECT_TRUE(pair.server->Read(got, Soon()).ok());
  EXPECT_EQ(pair.server->Read(got, In(20)).code(), StatusCode::kDeadlineExceeded);

  plan = {};
  plan.stall_after_bytes = 150;
  auto stalling = FaultyTransport::Create(CreateInprocTransport(), plan);
  pair = ConnectPair(*stalling, "inproc://a");
  EXPECT_TRUE(Send(*pair.client, bytes, Soon()).ok());
  EXPECT_EQ(Send(*pair.client, bytes, In(20)).code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(stalling->counts().stalls, 1u);
}

}  // namespace
}  // namespace kvplane::transport
