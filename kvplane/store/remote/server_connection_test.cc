// A connection of a store server step by step: what it holds of the room for objects must be given back
// whenever the connection closes.
#include "kvplane/store/remote/server_connection.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/store/dram_store.h"
#include "kvplane/store/testing/store_wire_peer.h"
#include "kvplane/transport/inproc_transport.h"

namespace kvplane::store {
namespace {

constexpr uint64_t kObject = 64;
constexpr size_t kPipe = 4096;  // all that either end sends; small, as there are many connections

// A connection with the two ends of its stream, in which everything lies that a client sends of one object.
class OneConnection {
 public:
  explicit OneConnection(Store& store) : shared_(store, {}) {
    auto listener = transport_->Listen("inproc://one");
    KVPLANE_CHECK(listener.ok());
    auto client = transport_->Connect("inproc://one", WirePeer::Soon());
    KVPLANE_CHECK(client.ok());
    auto server = (*listener)->Accept(WirePeer::Soon());
    KVPLANE_CHECK(server.ok());
    peer_ = std::make_unique<WirePeer>(*std::move(client));
    connection_ = std::make_shared<ServerConnection>(shared_, *std::move(server), 1);
    PutFrame put;
    put.remaining_ms = 60'000;
    put.bytes = kObject;
    put.meta.quality = kLossless;
    const std::vector<std::byte> half(kObject / 2);
    KVPLANE_CHECK(peer_->SendHello(kStoreRoleClient).ok());
    KVPLANE_CHECK(peer_->Send(1, put).ok());
    KVPLANE_CHECK(peer_->SendPiece(1, 0, half).ok());
    KVPLANE_CHECK(peer_->SendPiece(1, kObject / 2, half).ok());
  }

  // HELLO, PUT, a piece, the last piece, what the worker does.
  static constexpr int kSteps = 5;
  bool Step(int step) {
    return step + 1 < kSteps ? connection_->ReadOne() : connection_->WorkOne(/*wait=*/false);
  }
  ServerConnection& connection() { return *connection_; }
  uint64_t bytes_in() const { return shared_.bytes_in; }
  uint64_t reserved_bytes() const { return shared_.budget.reserved_bytes(); }

 private:
  const std::unique_ptr<transport::Transport> transport_ =
      transport::CreateInprocTransport({.pipe_bytes = kPipe});
  ServerShared shared_;
  std::unique_ptr<WirePeer> peer_;
  std::shared_ptr<ServerConnection> connection_;
};

std::unique_ptr<DramStore> Memory() {
  auto dram = DramStore::Create({.capacity_bytes = 1 << 20});
  KVPLANE_CHECK(dram.ok());
  return *std::move(dram);
}

TEST(ServerConnectionSafety, RoomIsGivenBackWhateverIsUnderWayWhenItCloses) {
  const auto dram = Memory();
  for (int steps = 0; steps <= OneConnection::kSteps; ++steps) {
    OneConnection one(*dram);
    for (int step = 0; step < steps; ++step) ASSERT_TRUE(one.Step(step)) << step << " of " << steps;
    const bool held = steps >= 2 && steps < OneConnection::kSteps;
    EXPECT_EQ(one.reserved_bytes(), held ? kObject : 0) << steps;
    one.connection().Close();
    EXPECT_EQ(one.reserved_bytes(), 0u) << "closed after " << steps << " steps";
    EXPECT_EQ(dram->stats().puts, steps == OneConnection::kSteps ? 1u : 0u);
  }
}

// Closed by another thread while the last piece is taken in.
TEST(ServerConnectionSafety, RoomIsGivenBackWhenItClosesWithTheLastPiece) {
  constexpr int kRounds = 3000;
  constexpr int kLongestWait = 400;  // turns of a loop: longer than a piece takes
  const auto dram = Memory();
  for (int round = 0; round < kRounds; ++round) {
    OneConnection one(*dram);
    for (int step = 0; step < 3; ++step) ASSERT_TRUE(one.Step(step));
    const uint64_t before = one.bytes_in();
    std::thread closer([&one, before, round] {
      while (one.bytes_in() == before) {
      }
      std::atomic<int> turns{0};
      while (turns.fetch_add(1) < round % kLongestWait) {
      }
      one.connection().Close();
    });
    (void)one.Step(3);
    closer.join();
    ASSERT_EQ(one.reserved_bytes(), 0u) << "round " << round;
  }
}

}  // namespace
}  // namespace kvplane::store
