// Room for objects on their way into a store server, against clients that reserve it and let it lie: over
// real sockets, from several addresses.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/base/endian.h"
#include "kvplane/store/dram_store.h"
#include "kvplane/store/remote/put_budget.h"
#include "kvplane/store/remote/remote_store.h"
#include "kvplane/store/remote/store_server.h"
#include "kvplane/store/testing/gate_store.h"
#include "kvplane/store/testing/store_wire_peer.h"
#include "kvplane/transport/endpoint.h"
#include "kvplane/transport/file_descriptor.h"
#include "kvplane/transport/tcp_transport.h"

namespace kvplane::store {
namespace {

using base::StatusCode;
using ::testing::HasSubstr;
using Bytes = std::vector<std::byte>;

base::TimePoint Soon() { return WirePeer::Soon(); }

// A socket with a source address of the test's choice, which a transport does not offer.
class SocketStream final : public transport::Stream {
 public:
  SocketStream(const std::string& source, uint16_t port)
      : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in from = Address(source, 0);
    sockaddr_in to = Address("127.0.0.1", port);
    KVPLANE_CHECK(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&from), sizeof(from)) == 0);
    KVPLANE_CHECK(::connect(socket_.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0);
  }

  base::Status Write(std::span<const std::span<const std::byte>> pieces, base::TimePoint) override {
    for (std::span<const std::byte> piece : pieces) {
      while (!piece.empty()) {
        const ssize_t sent = ::send(socket_.get(), piece.data(), piece.size(), MSG_NOSIGNAL);
        if (sent <= 0) return base::Unavailable("send: {}", errno);
        piece = piece.subspan(static_cast<size_t>(sent));
      }
    }
    return base::Status::Ok();
  }
  base::Status Read(std::span<std::byte> into, base::TimePoint deadline) override {
    while (!into.empty()) {
      pollfd wait{.fd = socket_.get(), .events = POLLIN, .revents = 0};
      const base::Duration left = deadline - base::Clock::System().Now();
      const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(left).count();
      if (::poll(&wait, 1, static_cast<int>(std::max<int64_t>(ms, 0))) == 0) {
        return base::DeadlineExceeded("nothing came");
      }
      const ssize_t got = ::recv(socket_.get(), into.data(), into.size(), 0);
      if (got <= 0) return base::Unavailable("recv: {}", errno);
      into = into.subspan(static_cast<size_t>(got));
    }
    return base::Status::Ok();
  }
  void Shutdown() override { ::shutdown(socket_.get(), SHUT_RDWR); }
  std::string peer() const override { return "the server"; }

 private:
  static sockaddr_in Address(const std::string& host, uint16_t port) {
    sockaddr_in out{};
    out.sin_family = AF_INET;
    out.sin_port = htons(port);
    KVPLANE_CHECK(::inet_pton(AF_INET, host.c_str(), &out.sin_addr) == 1);
    return out;
  }

  const transport::FileDescriptor socket_;
};

StoreKey Key(uint64_t number) {
  StoreKey key{.tenant = 5};
  base::StoreLe(key.chain.data(), number);
  return key;
}

PutFrame PutOf(uint64_t number, uint64_t bytes, uint32_t ms = 600'000) {
  PutFrame put;
  put.remaining_ms = ms;
  put.key = Key(number);
  put.bytes = bytes;
  put.meta.quality = kLossless;
  return put;
}

constexpr uint64_t kRoom = 8 << 20;  // a quarter for each address, an eighth for each connection

class SlowPutsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto dram = DramStore::Create({.capacity_bytes = 64 << 20});
    ASSERT_TRUE(dram.ok());
    dram_ = *std::move(dram);
  }
  void ServeFrom(Store& store, StoreServerOptions options) {
    options.total_put_bytes = kRoom;
    auto server = StoreServer::Create(*transport_, store, std::move(options));
    ASSERT_TRUE(server.ok()) << server.status().ToString();
    server_ = *std::move(server);
  }
  WirePeer From(const std::string& address) {
    const auto endpoint = transport::ParseTcpEndpoint(server_->endpoint());
    KVPLANE_CHECK(endpoint.ok());
    WirePeer peer(std::make_unique<SocketStream>(address, endpoint->port));
    EXPECT_TRUE(peer.SendHello(kStoreRoleClient).ok());
    return peer;
  }
  std::unique_ptr<RemoteStore> HonestClient() {
    RemoteStoreOptions options;
    options.link.endpoint = server_->endpoint();
    auto client = RemoteStore::Create(transport_, options);
    KVPLANE_CHECK(client.ok());
    return *std::move(client);
  }
  // Returns when the server has judged everything that was sent before; GOs on the way are counted.
  static size_t GosUntilPong(WirePeer& peer) {
    EXPECT_TRUE(peer.Send(0, StorePing{1}).ok());
    for (size_t gos = 0;;) {
      const auto frame = peer.NextReply();
      if (!frame.ok() || frame->type() == StoreFrameType::kPong) return gos;
      gos += frame->type() == StoreFrameType::kGo;
    }
  }

  std::shared_ptr<transport::Transport> transport_ = transport::CreateTcpTransport();
  std::unique_ptr<DramStore> dram_;
  std::unique_ptr<StoreServer> server_;
};

TEST_F(SlowPutsTest, TwoAddressesThatLetTheirRoomLieStopNobodySafety) {
  ServeFrom(*dram_, {});
  std::vector<WirePeer> hostile;
  size_t granted = 0;
  for (const char* address : {"127.0.0.2", "127.0.0.3"}) {
    for (uint64_t connection = 0; connection < 6; ++connection) {
      WirePeer& peer = hostile.emplace_back(From(address));
      for (uint32_t put = 1; put <= 4; ++put) {
        ASSERT_TRUE(peer.Send(put, PutOf(100 * hostile.size() + put, kRoom / 16)).ok());
      }
      granted += GosUntilPong(peer);
    }
  }
  EXPECT_EQ(granted, 8u) << "a quarter of the room for each of two addresses";
  EXPECT_EQ(server_->counters().put_bytes_reserved, kRoom / 2);
  // Larger than a share: the one such object that may be on its way.
  WirePeer& large = hostile.emplace_back(From("127.0.0.4"));
  ASSERT_TRUE(large.Send(1, PutOf(1, kRoom / 4 + 1)).ok());
  EXPECT_EQ(GosUntilPong(large), 1u);
  WirePeer& second_large = hostile.emplace_back(From("127.0.0.5"));
  ASSERT_TRUE(second_large.Send(1, PutOf(2, kRoom / 4 + 1)).ok());
  EXPECT_EQ(GosUntilPong(second_large), 0u);

  const auto honest = HonestClient();
  for (uint64_t number = 0; number < 20; ++number) {
    ASSERT_TRUE(honest->Put(Key(number), {}, Slice::Own(Bytes(kRoom / 16)), {}, Soon()).ok());
  }
  EXPECT_EQ(honest->stats().puts, 20u);
  EXPECT_EQ(server_->counters().slow_puts, 0u);
  for (WirePeer& peer : hostile) peer.stream().Shutdown();
  while (server_->counters().put_bytes_reserved > 0) std::this_thread::yield();
}

TEST_F(SlowPutsTest, WhoSendsTooSlowlyIsEndedWithAReasonSafety) {
  StoreServerOptions options;
  options.put_timeout = std::chrono::milliseconds(200);
  options.min_put_rate = 1'000'000'000;
  ServeFrom(*dram_, std::move(options));
  WirePeer peer = From("127.0.0.2");
  ASSERT_TRUE(peer.Send(1, PutOf(1, kRoom / 8)).ok());
  ASSERT_EQ(GosUntilPong(peer), 1u);
  // One byte at a time: something comes all the time, and the object would take for ever.
  const Bytes piece(1);
  uint64_t at = 0;
  base::Status ended;
  while (ended.ok() && at < kRoom / 8) {
    (void)peer.SendPiece(1, at++, piece);
    (void)peer.Send(0, StorePing{1});
    const auto frame = peer.NextReply();
    ASSERT_TRUE(frame.ok()) << "closed without a reason: " << frame.status().ToString();
    if (frame->type() == StoreFrameType::kAbort) ended = ParseStoreAbort(frame->head)->status;
  }
  EXPECT_EQ(ended.code(), StatusCode::kDeadlineExceeded) << ended.ToString();
  EXPECT_THAT(ended.message(), HasSubstr("slower than 1000000000 bytes/s"));
  // The thread that ended it gives its room back; nothing of the connection waits for that.
  while (server_->counters().connections > 0 || server_->counters().put_bytes_reserved > 0) {
    std::this_thread::yield();
  }
  EXPECT_EQ(server_->counters().slow_puts, 1u);
  EXPECT_EQ(server_->counters().protocol_errors, 0u);
}

// Nothing of an object comes at all: that put ends, the connection stays.
TEST_F(SlowPutsTest, AnObjectThatDoesNotComeCostsItsPutSafety) {
  StoreServerOptions options;
  options.put_timeout = std::chrono::milliseconds(50);
  ServeFrom(*dram_, std::move(options));
  WirePeer peer = From("127.0.0.2");
  ASSERT_TRUE(peer.Send(1, PutOf(1, 1000)).ok());
  ASSERT_EQ(peer.NextReply()->type(), StoreFrameType::kGo);
  const auto refused = peer.NextReply();
  ASSERT_TRUE(refused.ok() && refused->type() == StoreFrameType::kStatus);
  EXPECT_EQ(ParseStatus(refused->head)->status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(GosUntilPong(peer), 0u);
  EXPECT_EQ(server_->counters().slow_puts, 0u);
}

// A client that keeps the connection's worker waiting must not keep its room by that.
TEST_F(SlowPutsTest, RoomIsGivenBackWhileTheWorkerIsBusySafety) {
  ASSERT_TRUE(dram_->Put(Key(7), {}, Slice::Own(Bytes(64)), {}, Soon()).ok());
  GateStore gate(*dram_, TierKind::kDram);
  ServeFrom(gate, {});
  WirePeer peer = From("127.0.0.2");
  ReadFrame read;
  read.remaining_ms = 600'000;
  read.range.key = Key(7);
  ASSERT_TRUE(peer.Send(1, read).ok());
  gate.AwaitBlockedRead();
  ASSERT_TRUE(peer.Send(2, PutOf(2, kRoom / 8, /*ms=*/300)).ok());
  ASSERT_EQ(peer.NextReply()->type(), StoreFrameType::kGo);
  while (server_->counters().put_bytes_reserved > 0) std::this_thread::yield();
  gate.Permit(GateStore::kOpen);
  bool refused = false;
  while (!refused) {
    const auto frame = peer.NextReply();
    ASSERT_TRUE(frame.ok()) << frame.status().ToString();
    if (frame->header.stream != 2) continue;
    ASSERT_EQ(frame->type(), StoreFrameType::kStatus);
    EXPECT_EQ(ParseStatus(frame->head)->status.code(), StatusCode::kDeadlineExceeded);
    refused = true;
  }
}

// Strangers who only connect: they get their address's part of the connections, not everybody's.
TEST_F(SlowPutsTest, AnAddressHasItsPartOfTheConnectionsSafety) {
  StoreServerOptions options;
  options.max_connections = kMinAddressConnections + 2;
  ServeFrom(*dram_, std::move(options));
  const uint16_t port = transport::ParseTcpEndpoint(server_->endpoint())->port;
  const auto connected = [port](const char* address) {
    return std::make_unique<WirePeer>(std::make_unique<SocketStream>(address, port));
  };
  std::vector<std::unique_ptr<WirePeer>> silent;
  for (size_t i = 0; i < kMinAddressConnections; ++i) {
    silent.push_back(connected("127.0.0.2"));
    ASSERT_TRUE(silent.back()->Next().ok()) << "the server's HELLO to connection " << i;
  }
  EXPECT_FALSE(connected("127.0.0.2")->Next().ok());
  for (size_t i = 0; i < 2; ++i) {
    silent.push_back(connected("127.0.0.3"));
    ASSERT_TRUE(silent.back()->Next().ok());
  }
  EXPECT_FALSE(connected("127.0.0.4")->Next().ok()) << "all are taken";
  EXPECT_EQ(server_->counters().connections_refused, 2u);
  silent.erase(silent.begin());
  while (server_->counters().connections > kMinAddressConnections + 1) std::this_thread::yield();
  EXPECT_TRUE(connected("127.0.0.2")->Next().ok());
}

class Deaf final : public PutBudget::Receiver {
 public:
  void OnPutGranted(const std::shared_ptr<PutBudget::Ticket>& ticket) override { granted.push_back(ticket); }
  std::vector<std::shared_ptr<PutBudget::Ticket>> granted;
};

TEST(PutBudgetUnit, SharesBoundConnectionsAndAddresses) {
  PutBudget budget({.total = 1000, .of_address = 400, .of_connection = 200});
  const auto receiver = std::make_shared<Deaf>();
  const auto ticket = [&](const char* address, uint64_t connection, uint64_t bytes) {
    auto out = std::make_shared<PutBudget::Ticket>();
    out->receiver = receiver;
    out->address = address;
    out->connection = connection;
    out->bytes = bytes;
    return out;
  };
  EXPECT_EQ(budget.largest(), 1000u);
  const auto a1 = ticket("a", 1, 150);
  const auto a1_more = ticket("a", 1, 100);
  const auto a2 = ticket("a", 2, 200);
  const auto a3 = ticket("a", 3, 60);
  EXPECT_TRUE(budget.Acquire(a1));
  EXPECT_FALSE(budget.Acquire(a1_more)) << "250 of one connection";
  EXPECT_TRUE(budget.Acquire(a2));
  EXPECT_FALSE(budget.Acquire(a3)) << "410 of one address";
  const auto b4 = ticket("b", 4, 300);
  const auto b4_more = ticket("b", 4, 1);
  EXPECT_TRUE(budget.Acquire(b4)) << "beyond its connection's share, alone";
  EXPECT_FALSE(budget.Acquire(b4_more));
  const auto c5 = ticket("c", 5, 360);
  const auto d6 = ticket("d", 6, 10);
  EXPECT_FALSE(budget.Acquire(c5)) << "1010 of all";
  EXPECT_TRUE(budget.Acquire(d6)) << "what waits is in nobody's way";
  EXPECT_EQ(budget.reserved_bytes(), 660u);
  budget.Release(a1);
  EXPECT_EQ(receiver->granted, (std::vector{a1_more})) << "with a3 its address had 360 and left 330";
  EXPECT_EQ(budget.reserved_bytes(), 610u);
  budget.Release(a2);
  EXPECT_EQ(receiver->granted, (std::vector{a1_more, a3}));
  EXPECT_EQ(budget.reserved_bytes(), 470u);
  budget.Release(b4);
  EXPECT_EQ(receiver->granted, (std::vector{a1_more, a3, b4_more, c5}));
  EXPECT_EQ(budget.reserved_bytes(), 531u);
  for (const auto& one : {a1_more, a3, b4_more, c5, d6}) budget.Release(one);
  EXPECT_EQ(budget.reserved_bytes(), 0u);
}

// As a server shares its room out: addresses that take all they can get and let it lie, and one that does
// not.
TEST(PutBudgetSafety, GreedyAddressesLeaveRoomForTheNext) {
  const auto receiver = std::make_shared<Deaf>();
  uint64_t connections = 0;
  const auto ticket = [&](const char* address, uint64_t bytes) {
    auto out = std::make_shared<PutBudget::Ticket>();
    out->receiver = receiver;
    out->address = address;
    out->connection = ++connections;
    out->bytes = bytes;
    return out;
  };
  const auto take_all = [&](PutBudget& budget, const char* address) {
    uint64_t bytes = 0;
    while (budget.Acquire(ticket(address, 8))) bytes += 8;
    return bytes;
  };
  const PutBudget::Shares shares{.total = 2048, .of_address = 512, .of_connection = 256};
  PutBudget budget(shares);
  EXPECT_TRUE(budget.Acquire(ticket("large", 1024)));
  EXPECT_EQ(take_all(budget, "b"), 512u);
  EXPECT_EQ(take_all(budget, "c"), 256u);
  EXPECT_TRUE(budget.Acquire(ticket("honest", 84)));
  PutBudget other_order(shares);
  EXPECT_EQ(take_all(other_order, "b"), 512u);
  EXPECT_EQ(take_all(other_order, "c"), 512u);
  EXPECT_FALSE(other_order.Acquire(ticket("large", 1024))) << "would leave nothing";
  EXPECT_TRUE(other_order.Acquire(ticket("large", 768)));
  EXPECT_TRUE(other_order.Acquire(ticket("honest", 84)));
}

TEST(PutBudgetUnit, OneObjectBeyondAnAddressesShareAtATime) {
  PutBudget budget({.total = 1000, .of_address = 250, .of_connection = 125});
  const auto receiver = std::make_shared<Deaf>();
  const auto ticket = [&](const char* address, uint64_t connection, uint64_t bytes) {
    auto out = std::make_shared<PutBudget::Ticket>();
    out->receiver = receiver;
    out->address = address;
    out->connection = connection;
    out->bytes = bytes;
    return out;
  };
  const auto first = ticket("a", 1, 500);
  const auto second = ticket("b", 2, 300);
  const auto small = ticket("c", 3, 100);
  EXPECT_TRUE(budget.Acquire(first));
  EXPECT_FALSE(budget.Acquire(second));
  EXPECT_TRUE(budget.Acquire(small)) << "the waiting large one is in nobody's way";
  budget.Release(first);
  EXPECT_EQ(receiver->granted, (std::vector{second}));
  budget.Release(second);
  budget.Release(small);
  EXPECT_EQ(budget.reserved_bytes(), 0u);
}

}  // namespace
}  // namespace kvplane::store
