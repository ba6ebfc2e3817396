// RemoteStore and StoreServer together: the conformance suite, and what only a store behind a wire does.
#include "kvplane/store/remote/remote_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/base/endian.h"
#include "kvplane/base/rng.h"
#include "kvplane/store/dram_store.h"
#include "kvplane/store/remote/store_server.h"
#include "kvplane/store/testing/gate_store.h"
#include "kvplane/store/testing/store_conformance.h"
#include "kvplane/store/testing/store_wire_peer.h"
#include "kvplane/transport/create_transport.h"
#include "kvplane/transport/testing/faulty_transport.h"

namespace kvplane::store {
namespace {

using base::StatusCode;

base::TimePoint In(int milliseconds) {
  return base::Clock::System().Now() + std::chrono::milliseconds(milliseconds);
}
// For calls that must succeed: only a hang reaches it.
base::TimePoint Soon() { return In(60'000); }

std::shared_ptr<transport::Transport> NewTransport(std::string_view spec) {
  auto created = transport::CreateTransport(spec);
  KVPLANE_CHECK(created.ok());
  return std::shared_ptr<transport::Transport>(*std::move(created));
}

std::string_view AnyEndpoint(std::string_view spec) {
  return spec == "inproc" ? "inproc://store" : "tcp://127.0.0.1:0";
}

std::unique_ptr<DramStore> NewDram(uint64_t bytes, base::Clock* clock = nullptr) {
  DramOptions options;
  options.capacity_bytes = bytes;
  options.clock = clock;
  auto created = DramStore::Create(options);
  KVPLANE_CHECK(created.ok());
  return *std::move(created);
}

std::unique_ptr<StoreServer> NewServer(transport::Transport& transport, Store& store,
                                       StoreServerOptions options) {
  auto created = StoreServer::Create(transport, store, std::move(options));
  KVPLANE_CHECK(created.ok());
  return *std::move(created);
}

std::unique_ptr<RemoteStore> NewClient(std::shared_ptr<transport::Transport> transport,
                                       const std::string& endpoint, LinkOptions link = {}) {
  RemoteStoreOptions options;
  options.link = std::move(link);
  options.link.endpoint = endpoint;
  auto created = RemoteStore::Create(std::move(transport), options);
  KVPLANE_CHECK(created.ok());
  return *std::move(created);
}

class RemoteHarness final : public StoreHarness {
 public:
  RemoteHarness(uint64_t capacity, const char* spec)
      : backend_(NewDram(capacity, &clock_)), transport_(NewTransport(spec)) {
    StoreServerOptions options;
    options.endpoint = AnyEndpoint(spec);
    server_ = NewServer(*transport_, *backend_, std::move(options));
    client_ = NewClient(transport_, server_->endpoint());
  }
  Store& store() override { return *client_; }
  void Advance(base::Duration by) override { clock_.Advance(by); }

 private:
  base::ManualClock clock_;
  std::unique_ptr<DramStore> backend_;
  std::shared_ptr<transport::Transport> transport_;
  std::unique_ptr<StoreServer> server_;
  std::unique_ptr<RemoteStore> client_;
};

StoreCase RemoteCase(const char* name, const char* spec) {
  StoreCase out;
  out.name = name;
  out.create = [spec](uint64_t capacity) { return std::make_unique<RemoteHarness>(capacity, spec); };
  out.bounded = false;         // the server's matter
  out.counts_entries = false;  // the client does not know
  out.random_operations = 1000;
  return out;
}

INSTANTIATE_TEST_SUITE_P(Remote, StoreConformance,
                         ::testing::Values(RemoteCase("Inproc", "inproc"), RemoteCase("Tcp", "tcp")),
                         StoreCaseName);

StoreKey Key(uint64_t number) {
  StoreKey key{.tenant = 5};
  base::Rng rng(number);
  for (size_t at = 0; at < key.chain.size(); at += 8) base::StoreLe(&key.chain[at], rng.Next());
  return key;
}

std::vector<std::byte> Content(uint64_t number, size_t bytes) {
  std::vector<std::byte> out(bytes);
  base::Rng rng(number ^ 0x5eed);
  for (size_t at = 0; at + 8 <= bytes; at += 8) base::StoreLe(&out[at], rng.Next());
  return out;
}

base::Status PutOne(Store& store, uint64_t number, size_t bytes, const PutOptions& options = {},
                    base::TimePoint deadline = Soon()) {
  return store.Put(Key(number), {.prefix_bytes = 0, .quality = kLossless, .ttl = {}},
                   Slice::Own(Content(number, bytes)), options, deadline);
}

base::Result<Slice> ReadOne(Store& store, uint64_t number, base::TimePoint deadline = Soon()) {
  const ReadRequest request{.key = Key(number), .offset = 0, .bytes = 0};
  return std::move(store.Read(std::span(&request, 1), deadline)[0]);
}

bool Holds(const base::Result<Slice>& read, uint64_t number, size_t bytes) {
  return read.ok() && std::ranges::equal(read->bytes(), Content(number, bytes));
}

// A server on an in-process transport with a memory behind it.
class RemoteStoreTest : public ::testing::Test {
 protected:
  void Serve(Store& store, StoreServerOptions options = {}) {
    options.endpoint = "inproc://store";
    server_ = NewServer(*transport_, store, std::move(options));
  }
  std::unique_ptr<RemoteStore> Client(LinkOptions link = {}) {
    return NewClient(transport_, "inproc://store", std::move(link));
  }
  WirePeer Peer() {
    auto stream = transport_->Connect("inproc://store", Soon());
    KVPLANE_CHECK(stream.ok());
    WirePeer peer(*std::move(stream));
    KVPLANE_CHECK(peer.SendHello(kStoreRoleClient).ok());
    return peer;
  }
  void AwaitConnections(uint64_t count) {
    while (server_->counters().connections != count) std::this_thread::yield();
  }

  std::unique_ptr<DramStore> dram_ = NewDram(256 << 20);
  std::shared_ptr<transport::Transport> transport_ = NewTransport("inproc");
  std::unique_ptr<StoreServer> server_;
};

TEST_F(RemoteStoreTest, LargeObjectsGoInPiecesUnit) {
  constexpr size_t kBytes = (40 << 20) + 12'345;
  GateStore disk(*dram_, TierKind::kDisk);
  disk.Permit(GateStore::kOpen);
  Serve(disk);
  const auto client = Client();
  ASSERT_TRUE(PutOne(*client, 1, kBytes).ok());
  EXPECT_TRUE(Holds(ReadOne(*client, 1), 1, kBytes));
  EXPECT_EQ(disk.largest_range(), uint64_t{4} << 20) << "a slow medium is read in units";
}

TEST_F(RemoteStoreTest, TheFirstLayerArrivesBeforeTheSecondIsReadUnit) {
  constexpr size_t kLayer = 5 << 20;  // more than a unit
  GateStore disk(*dram_, TierKind::kDisk);
  Serve(disk);
  ASSERT_TRUE(PutOne(*dram_, 1, 2 * kLayer).ok());
  WirePeer peer = Peer();
  ReadFrame first{60'000, {Key(1), 0, kLayer}};
  ReadFrame second{60'000, {Key(1), kLayer, kLayer}};
  ASSERT_TRUE(peer.Send(1, first).ok());
  ASSERT_TRUE(peer.Send(2, second).ok());
  disk.Permit(1);
  // One unit of 4 MiB and no byte more has left the medium; all of it comes.
  uint64_t got = 0;
  while (got < (4 << 20)) {
    const auto frame = peer.NextReply();
    ASSERT_TRUE(frame.ok()) << frame.status().ToString();
    ASSERT_EQ(frame->type(), StoreFrameType::kData);
    EXPECT_EQ(frame->header.stream, 1u);
    EXPECT_EQ(ParseData(frame->head)->at, got);
    EXPECT_EQ(ParseData(frame->head)->total, kLayer);
    got += frame->body.size();
  }
  disk.AwaitBlockedRead();
  disk.Permit(1);  // the rest of the first layer, none of the second
  while (got < kLayer) got += peer.NextReply()->body.size();
  disk.AwaitBlockedRead();
  disk.Permit(GateStore::kOpen);
  const auto frame = peer.NextReply();
  ASSERT_TRUE(frame.ok());
  EXPECT_EQ(frame->header.stream, 2u);
}

TEST_F(RemoteStoreTest, WhatTheWriterSaysArrivesUnit) {
  GateStore gate(*dram_, TierKind::kDram);
  gate.Permit(GateStore::kOpen);
  Serve(gate);
  const auto client = Client();
  const EntryMeta meta{.prefix_bytes = 33, .quality = 970, .ttl = std::chrono::seconds(100)};
  ASSERT_TRUE(client->Put(Key(1), meta, Slice::Own(Content(1, 500)), {.durable = true}, Soon()).ok());
  EXPECT_TRUE(gate.last_put_options().durable);
  EXPECT_EQ(gate.last_put_meta().prefix_bytes, 33u);
  EXPECT_EQ(gate.last_put_meta().quality, 970);
  EXPECT_EQ(gate.last_put_meta().ttl, std::chrono::seconds(100));
  const StoreKey key = Key(1);
  const auto found = client->Lookup(std::span(&key, 1), 0, Soon());
  ASSERT_TRUE(found.ok() && found->size() == 1);
  EXPECT_EQ((*found)[0].tier, TierKind::kRemote);
  EXPECT_GT((*found)[0].ttl_left, std::chrono::seconds(30));
  EXPECT_LE((*found)[0].ttl_left, std::chrono::seconds(100));
}

TEST_F(RemoteStoreTest, WhatTheServerHasIsNotSentAgainUnit) {
  constexpr size_t kBytes = 4 << 20;
  Serve(*dram_);
  const auto client = Client();
  ASSERT_TRUE(PutOne(*client, 1, kBytes).ok());
  const uint64_t before = server_->counters().bytes_in;
  EXPECT_GT(before, kBytes);
  ASSERT_TRUE(PutOne(*client, 1, kBytes).ok());
  EXPECT_LT(server_->counters().bytes_in - before, 1000u);
  ASSERT_TRUE(PutOne(*client, 1, kBytes, {.durable = true}).ok());
  EXPECT_GT(server_->counters().bytes_in - before, kBytes) << "what lies in memory is not durable";
}

TEST_F(RemoteStoreTest, RefusalsComeBeforeTheObjectUnit) {
  StoreServerOptions options;
  options.total_put_bytes = 8 << 20;
  options.admit = [](const StoreKey& key, uint64_t bytes) {
    if (key == Key(13)) return base::ResourceExhausted("the tenant's quota of {} bytes", bytes);
    return base::Status::Ok();
  };
  Serve(*dram_, std::move(options));
  const auto client = Client();
  EXPECT_EQ(PutOne(*client, 1, 9 << 20).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(PutOne(*client, 13, 5 << 20).code(), StatusCode::kResourceExhausted);
  EXPECT_LT(server_->counters().bytes_in, 10'000u);
  EXPECT_EQ(client->stats().puts_refused, 2u);
  EXPECT_EQ(client->stats().errors, 0u);
  EXPECT_TRUE(PutOne(*client, 2, 7 << 20).ok());
  EXPECT_EQ(server_->counters().put_bytes_reserved, 0u);
}

TEST_F(RemoteStoreTest, ManyClientsShareTheRoomForPutsProperty) {
  StoreServerOptions options;
  options.total_put_bytes = 3 << 20;
  options.connection_put_bytes = 2 << 20;
  Serve(*dram_, std::move(options));
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (uint64_t c = 0; c < 6; ++c) {
    threads.emplace_back([&, c] {
      const auto client = Client();
      std::vector<std::thread> writers;
      for (uint64_t w = 0; w < 3; ++w) {
        writers.emplace_back([&, w] {
          for (uint64_t i = 0; i < 4; ++i) {
            const uint64_t number = c * 100 + w * 10 + i;
            const size_t bytes = (1 << 20) + number;
            if (!PutOne(*client, number, bytes).ok()) ++wrong;
            if (!Holds(ReadOne(*client, number), number, bytes)) ++wrong;
          }
        });
      }
      for (std::thread& writer : writers) writer.join();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_EQ(server_->counters().put_bytes_reserved, 0u);
  EXPECT_EQ(server_->counters().protocol_errors, 0u);
}

TEST_F(RemoteStoreTest, MoreRequestsThanTheServerKeepsUnit) {
  StoreServerOptions options;
  options.max_requests = 4;
  Serve(*dram_, std::move(options));
  const auto client = Client();
  ASSERT_TRUE(PutOne(*client, 1, 1000).ok());
  const std::vector<ReadRequest> requests(300, ReadRequest{.key = Key(1), .offset = 8, .bytes = 16});
  for (const auto& read : client->Read(requests, Soon())) {
    ASSERT_TRUE(read.ok()) << read.status().ToString();
    EXPECT_EQ(read->size(), 16u);
  }
}

TEST_F(RemoteStoreTest, AConnectionTooManyUnit) {
  StoreServerOptions options;
  options.max_connections = 1;
  Serve(*dram_, std::move(options));
  const auto first = Client();
  ASSERT_TRUE(PutOne(*first, 1, 10).ok());  // its connection for slow calls
  const auto second = Client();
  EXPECT_EQ(PutOne(*second, 2, 10).code(), StatusCode::kUnavailable);
  EXPECT_TRUE(PutOne(*first, 3, 10).ok());
  EXPECT_GE(server_->counters().connections_refused, 1u);
}

TEST_F(RemoteStoreTest, CountersTellTiersApartUnit) {
  StoreServerOptions options;
  options.tiers = [this] {
    return std::vector<TierCounters>{{TierKind::kDram, "memory", dram_->stats()},
                                     {TierKind::kDisk, "disk /x", {.entries = 12}}};
  };
  Serve(*dram_, std::move(options));
  const auto client = Client();
  ASSERT_TRUE(PutOne(*client, 1, 100).ok());
  const auto counters = client->Counters(Soon());
  ASSERT_TRUE(counters.ok()) << counters.status().ToString();
  ASSERT_EQ(counters->size(), 3u);
  EXPECT_EQ((*counters)[0].stats.entries, 1u);
  EXPECT_EQ((*counters)[1].name, "memory");
  EXPECT_EQ((*counters)[1].stats.puts, 1u);
  EXPECT_EQ((*counters)[2].kind, TierKind::kDisk);
  EXPECT_EQ((*counters)[2].stats.entries, 12u);
}

TEST_F(RemoteStoreTest, ASlowMediumCostsTheDeadlineAndNothingElseUnit) {
  GateStore gate(*dram_, TierKind::kDisk);
  Serve(gate);
  ASSERT_TRUE(PutOne(*dram_, 1, 1000).ok());
  const auto client = Client();
  EXPECT_EQ(ReadOne(*client, 1, In(50)).status().code(), StatusCode::kDeadlineExceeded);
  // The server answers PINGs all the while, so it is soon trusted again.
  gate.Permit(GateStore::kOpen);
  while (true) {
    const auto read = ReadOne(*client, 1);
    if (read.ok()) break;
    ASSERT_EQ(read.status().code(), StatusCode::kUnavailable) << read.status().ToString();
  }
  EXPECT_EQ(server_->counters().connections_total, 1u) << "the connection lives on";
}

TEST_F(RemoteStoreTest, ADeadServerCostsOneDeadlineSafety) {
  // Says HELLO and then nothing for ever.
  auto listener = transport_->Listen("inproc://store");
  ASSERT_TRUE(listener.ok());
  std::vector<std::unique_ptr<WirePeer>> peers;
  std::thread server([&] {
    while (true) {
      auto stream = (*listener)->Accept(base::kNoDeadline);
      if (!stream.ok()) return;
      peers.push_back(std::make_unique<WirePeer>(*std::move(stream)));
      (void)peers.back()->SendHello(kStoreRoleServer);
    }
  });
  LinkOptions link;
  link.probe_timeout = std::chrono::hours(1);  // only the suspicion can make the next calls fail at once
  const auto client = Client(link);
  EXPECT_EQ(ReadOne(*client, 1, In(50)).status().code(), StatusCode::kDeadlineExceeded);
  const base::TimePoint far = base::Clock::System().Now() + std::chrono::minutes(9);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(ReadOne(*client, 1, far).status().code(), StatusCode::kUnavailable);
    EXPECT_EQ(PutOne(*client, 1, 10, {}, far).code(), StatusCode::kUnavailable);
  }
  EXPECT_EQ(client->stats().errors, 201u);
  (*listener)->Shutdown();
  server.join();
}

TEST_F(RemoteStoreTest, AServerThatDoesNotGreetCostsOneDeadlineSafety) {
  auto listener = transport_->Listen("inproc://store");
  ASSERT_TRUE(listener.ok());
  LinkOptions link;
  link.connect_timeout = std::chrono::minutes(5);
  const auto client = Client(link);
  EXPECT_EQ(ReadOne(*client, 1, In(50)).status().code(), StatusCode::kDeadlineExceeded);
  const base::TimePoint far = base::Clock::System().Now() + std::chrono::minutes(9);
  EXPECT_EQ(ReadOne(*client, 1, far).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(PutOne(*client, 1, 10, {}, far).code(), StatusCode::kUnavailable);
  client->Shutdown();
}

TEST_F(RemoteStoreTest, BackOffAndReconnectUnit) {
  LinkOptions patient;
  patient.first_backoff = patient.max_backoff = std::chrono::hours(1);
  const auto hopeless = Client(patient);
  const auto client = Client();
  EXPECT_EQ(ReadOne(*client, 1).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(ReadOne(*hopeless, 1).status().code(), StatusCode::kUnavailable);
  Serve(*dram_);
  ASSERT_TRUE(PutOne(*dram_, 1, 1000).ok());
  EXPECT_EQ(ReadOne(*hopeless, 1).status().code(), StatusCode::kUnavailable) << "still backing off";
  while (!Holds(ReadOne(*client, 1), 1, 1000)) std::this_thread::yield();
  for (int restart = 0; restart < 3; ++restart) {
    server_.reset();
    EXPECT_EQ(ReadOne(*client, 1).status().code(), StatusCode::kUnavailable);
    Serve(*dram_);
    while (!Holds(ReadOne(*client, 1), 1, 1000)) std::this_thread::yield();
  }
}

TEST_F(RemoteStoreTest, AServerThatDiesInMidReadSafety) {
  GateStore gate(*dram_, TierKind::kDisk);
  Serve(gate);
  ASSERT_TRUE(PutOne(*dram_, 1, 20 << 20).ok());
  const auto client = Client();
  base::Result<Slice> read = base::Internal("not run");
  std::thread reader([&] { read = ReadOne(*client, 1); });
  gate.Permit(2);
  gate.AwaitBlockedRead();
  std::thread killer([&] { server_.reset(); });
  reader.join();
  EXPECT_EQ(read.status().code(), StatusCode::kUnavailable) << read.status().ToString();
  gate.Permit(GateStore::kOpen);
  killer.join();
}

TEST_F(RemoteStoreTest, AConnectionThatBreaksInMidPutLeavesNothingSafety) {
  Serve(*dram_);
  transport::FaultPlan plan;
  plan.drop_after_bytes = 1 << 20;
  const std::shared_ptr<transport::Transport> faulty = transport::FaultyTransport::Create(transport_, plan);
  const auto client = NewClient(faulty, "inproc://store");
  EXPECT_EQ(PutOne(*client, 1, 5 << 20).code(), StatusCode::kUnavailable);
  AwaitConnections(0);
  EXPECT_EQ(server_->counters().put_bytes_reserved, 0u);
  EXPECT_EQ(dram_->stats().entries, 0u);
  EXPECT_EQ(server_->counters().protocol_errors, 0u);
}

TEST_F(RemoteStoreTest, DamagedBytesAreNeverDeliveredSafety) {
  transport::FaultPlan plan;
  plan.flip_probability = 0.1;
  plan.flip_min_piece_bytes = 1000;  // bodies
  const std::shared_ptr<transport::Transport> faulty = transport::FaultyTransport::Create(transport_, plan);
  StoreServerOptions options;
  options.endpoint = "inproc://store";
  server_ = NewServer(*faulty, *dram_, std::move(options));  // what it sends is damaged
  const auto writer = NewClient(faulty, "inproc://store");   // and what this one sends
  const auto reader = NewClient(transport_, "inproc://store");
  int damaged_reads = 0;
  int damaged_puts = 0;
  for (uint64_t i = 0; i < 60; ++i) {
    const size_t bytes = 1'000'000 + i;
    const base::Status put = PutOne(*writer, i, bytes);
    if (!put.ok()) {
      EXPECT_EQ(put.code(), StatusCode::kUnavailable) << put.ToString();
      EXPECT_EQ(ReadOne(*dram_, i).status().code(), StatusCode::kNotFound);
      ++damaged_puts;
      continue;
    }
    EXPECT_TRUE(Holds(ReadOne(*dram_, i), i, bytes));
    const auto read = ReadOne(*reader, i);
    if (!read.ok()) {
      EXPECT_EQ(read.status().code(), StatusCode::kUnavailable) << read.status().ToString();
      ++damaged_reads;
    } else {
      EXPECT_TRUE(Holds(read, i, bytes));
    }
  }
  EXPECT_GT(damaged_puts, 5);
  EXPECT_GT(damaged_reads, 3);
  EXPECT_EQ(server_->counters().protocol_errors, 0u) << "bodies only: the connections live on";
}

TEST_F(RemoteStoreTest, DamageAnywhereSafety) {
  transport::FaultPlan plan;
  plan.flip_probability = 0.01;
  const std::shared_ptr<transport::Transport> faulty = transport::FaultyTransport::Create(transport_, plan);
  StoreServerOptions options;
  options.endpoint = "inproc://store";
  server_ = NewServer(*faulty, *dram_, std::move(options));
  LinkOptions link;
  link.first_backoff = std::chrono::microseconds(1);
  link.max_backoff = std::chrono::milliseconds(1);
  const auto client = NewClient(faulty, "inproc://store", link);
  int good = 0;
  for (uint64_t i = 0; i < 300; ++i) {
    const size_t bytes = 10'000 + i;
    if (!PutOne(*client, i, bytes, {}, In(500)).ok()) continue;
    EXPECT_TRUE(Holds(ReadOne(*dram_, i), i, bytes));
    const auto read = ReadOne(*client, i, In(500));
    if (!read.ok()) continue;
    EXPECT_TRUE(Holds(read, i, bytes));
    ++good;
  }
  EXPECT_GT(good, 30);
}

TEST_F(RemoteStoreTest, DrainAnswersWhatWasAskedUnit) {
  GateStore gate(*dram_, TierKind::kDisk);
  Serve(gate);
  ASSERT_TRUE(PutOne(*dram_, 1, 1000).ok());
  const auto client = Client();
  base::Result<Slice> read = base::Internal("not run");
  std::thread reader([&] { read = ReadOne(*client, 1); });
  gate.AwaitBlockedRead();
  std::thread drainer([&] { server_->Drain(Soon()); });
  // The drain has begun when nobody is accepted any more.
  while (transport_->Connect("inproc://store", Soon()).ok()) std::this_thread::yield();
  gate.Permit(GateStore::kOpen);
  reader.join();
  drainer.join();
  EXPECT_TRUE(Holds(read, 1, 1000)) << read.status().ToString();
  EXPECT_EQ(server_->counters().connections, 0u);
  EXPECT_EQ(ReadOne(*client, 1).status().code(), StatusCode::kUnavailable);
}

TEST_F(RemoteStoreTest, OrdersAreKeptOverTcpProperty) {
  const auto tcp = NewTransport("tcp");
  StoreServerOptions options;
  options.endpoint = "tcp://127.0.0.1:0";
  server_ = NewServer(*tcp, *dram_, std::move(options));
  const auto client = NewClient(tcp, server_->endpoint());
  EXPECT_EQ(client->name(), server_->endpoint());
  constexpr size_t kBytes = 3'000'000;
  ASSERT_TRUE(PutOne(*client, 1, kBytes).ok());
  const std::vector<std::byte> content = Content(1, kBytes);
  base::Rng rng(4);
  std::vector<ReadRequest> requests;
  for (int i = 0; i < 500; ++i) {
    const uint64_t offset = rng.Below(kBytes);
    requests.push_back({Key(1), offset, 1 + rng.Below(std::min<uint64_t>(kBytes - offset, 50'000))});
  }
  const auto results = client->Read(requests, Soon());
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_TRUE(results[i].ok()) << results[i].status().ToString();
    ASSERT_TRUE(std::ranges::equal(results[i]->bytes(),
                                   std::span(content).subspan(requests[i].offset, requests[i].bytes)));
  }
}

TEST(RemoteStoreOptionsUnit, ImpossibleOnesAreRefused) {
  const auto transport = NewTransport("inproc");
  RemoteStoreOptions options;
  EXPECT_EQ(RemoteStore::Create(transport, options).status().code(), StatusCode::kInvalidArgument);
  options.link.endpoint = "inproc://x";
  options.read_connections = 0;
  EXPECT_EQ(RemoteStore::Create(transport, options).status().code(), StatusCode::kInvalidArgument);
  const auto dram = NewDram(1 << 20);
  StoreServerOptions server;
  server.endpoint = "inproc://x";
  server.max_connections = 0;
  EXPECT_EQ(StoreServer::Create(*transport, *dram, server).status().code(), StatusCode::kInvalidArgument);
  server.max_connections = 1;
  server.endpoint = "pigeon://x";
  EXPECT_EQ(StoreServer::Create(*transport, *dram, server).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvplane::store
