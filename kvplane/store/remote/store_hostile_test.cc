// Store server and client against peers that break the protocol, by accident or on purpose.
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/base/endian.h"
#include "kvplane/base/rng.h"
#include "kvplane/store/dram_store.h"
#include "kvplane/store/remote/remote_store.h"
#include "kvplane/store/remote/store_server.h"
#include "kvplane/store/testing/gate_store.h"
#include "kvplane/store/testing/store_wire_peer.h"
#include "kvplane/transport/inproc_transport.h"

namespace kvplane::store {
namespace {

using base::StatusCode;
using Bytes = std::vector<std::byte>;

base::TimePoint Soon() { return WirePeer::Soon(); }

StoreKey Key(uint64_t number) {
  StoreKey key{.tenant = 5};
  base::StoreLe(key.chain.data(), number);
  return key;
}

PutFrame PutOf(uint64_t number, uint64_t bytes) {
  PutFrame put;
  put.remaining_ms = 60'000;
  put.key = Key(number);
  put.bytes = bytes;
  put.meta.quality = kLossless;
  return put;
}

ReadFrame ReadOf(uint64_t number) {
  ReadFrame read;
  read.remaining_ms = 60'000;
  read.range.key = Key(number);
  return read;
}

template <typename Frame>
Bytes Encoded(uint32_t stream, const Frame& frame, std::span<const std::byte> body = {}) {
  Bytes bytes = EncodeStoreFrame(stream, frame, body.size());
  bytes.insert(bytes.end(), body.begin(), body.end());
  return bytes;
}

Bytes HelloBytes(uint8_t role = kStoreRoleClient) {
  StoreHello hello;
  hello.role = role;
  return Encoded(0, hello);
}

// Of a frame that must have come; no type otherwise.
StoreFrameType TypeOf(const base::Result<WireFrame>& frame) {
  EXPECT_TRUE(frame.ok()) << frame.status().ToString();
  return frame.ok() ? frame->type() : StoreFrameType{};
}

class HostileClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto dram = DramStore::Create({.capacity_bytes = 64 << 20});
    ASSERT_TRUE(dram.ok());
    dram_ = *std::move(dram);
    Serve({});
  }
  void Serve(StoreServerOptions options) { ServeFrom(*dram_, std::move(options)); }
  void ServeFrom(Store& store, StoreServerOptions options) {
    server_.reset();
    options.endpoint = "inproc://store";
    auto server = StoreServer::Create(*transport_, store, std::move(options));
    ASSERT_TRUE(server.ok()) << server.status().ToString();
    server_ = *std::move(server);
  }
  WirePeer Peer() {
    auto stream = transport_->Connect("inproc://store", Soon());
    KVPLANE_CHECK(stream.ok());
    return WirePeer(*std::move(stream));
  }
  WirePeer Greeted() {
    WirePeer peer = Peer();
    EXPECT_TRUE(peer.SendHello(kStoreRoleClient).ok());
    return peer;
  }
  base::Status PutWhole(WirePeer& peer, uint32_t stream, uint64_t number, const Bytes& object) {
    KVPLANE_RETURN_IF_ERROR(peer.Send(stream, PutOf(number, object.size())));
    KVPLANE_ASSIGN_OR_RETURN(const WireFrame go, peer.NextReply());
    if (go.type() != StoreFrameType::kGo) return base::Internal("no GO but {}", go.header.type);
    KVPLANE_RETURN_IF_ERROR(peer.SendPiece(stream, 0, object));
    KVPLANE_ASSIGN_OR_RETURN(const WireFrame reply, peer.NextReply());
    KVPLANE_ASSIGN_OR_RETURN(const StatusFrame status, ParseStatus(reply.head));
    return status.status;
  }
  base::StatusCode StatusCodeOf(const base::Result<WireFrame>& frame) {
    if (TypeOf(frame) != StoreFrameType::kStatus) {
      ADD_FAILURE() << "no STATUS";
      return StatusCode::kInternal;
    }
    const auto status = ParseStatus(frame->head);
    EXPECT_TRUE(status.ok()) << status.status().ToString();
    return status.ok() ? status->status.code() : StatusCode::kInternal;
  }
  // Sends the bytes; the server must say why it ends the connection, and end it.
  void ExpectAbort(const Bytes& bytes, StatusCode code) {
    WirePeer peer = Peer();
    ASSERT_TRUE(peer.Write(bytes).ok());
    while (true) {
      const auto frame = peer.NextReply();
      ASSERT_TRUE(frame.ok()) << "closed without a reason: " << frame.status().ToString();
      if (frame->type() != StoreFrameType::kAbort) continue;
      const auto abort = ParseStoreAbort(frame->head);
      ASSERT_TRUE(abort.ok()) << abort.status().ToString();
      EXPECT_EQ(abort->status.code(), code);
      break;
    }
    EXPECT_EQ(peer.Next().status().code(), StatusCode::kUnavailable);
  }
  // Nothing is left of those who were connected.
  void ExpectIdle() {
    while (server_->counters().connections > 0) std::this_thread::yield();
    EXPECT_EQ(server_->counters().put_bytes_reserved, 0u);
  }
  // The server is as it should be: idle, without reservations, at everybody's service.
  void ExpectHealthy() {
    ExpectIdle();
    WirePeer peer = Greeted();
    EXPECT_TRUE(PutWhole(peer, 1, 4711, Bytes(1000, std::byte{7})).ok());
    ASSERT_TRUE(peer.Send(2, ReadOf(4711)).ok());
    const auto data = peer.NextReply();
    ASSERT_TRUE(data.ok());
    EXPECT_EQ(data->body, Bytes(1000, std::byte{7}));
  }

  std::unique_ptr<transport::Transport> transport_ = transport::CreateInprocTransport();
  std::unique_ptr<DramStore> dram_;
  std::unique_ptr<StoreServer> server_;
};

Bytes Joined(std::initializer_list<Bytes> parts) {
  Bytes all;
  for (const Bytes& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

TEST_F(HostileClientTest, WhatBreaksTheRulesEndsTheConnectionSafety) {
  const Bytes hello = HelloBytes();
  const Bytes ping = Encoded(0, StorePing{1});
  ExpectAbort(ping, StatusCode::kCorrupt);                    // no HELLO
  ExpectAbort(Joined({hello, hello}), StatusCode::kCorrupt);  // two
  ExpectAbort(HelloBytes(kStoreRoleServer), StatusCode::kCorrupt);
  ExpectAbort(Joined({hello, Encoded(0, ReadOf(1))}), StatusCode::kCorrupt);   // on stream 0
  ExpectAbort(Joined({hello, Encoded(1, GoFrame{1})}), StatusCode::kCorrupt);  // a server's frame
  ExpectAbort(Joined({hello, Encoded(1, PutOf(1, 10)), Encoded(1, ReadOf(1))}), StatusCode::kCorrupt);
  const Bytes piece(8, std::byte{1});
  ExpectAbort(
      Joined({hello, Encoded(1, PutOf(1, 10)), Encoded(1, PutDataFrame{4, kernel::Crc32c(piece)}, piece)}),
      StatusCode::kCorrupt);  // a hole
  ExpectAbort(
      Joined({hello, Encoded(1, PutOf(1, 4)), Encoded(1, PutDataFrame{0, kernel::Crc32c(piece)}, piece)}),
      StatusCode::kCorrupt);  // more than was said
  ExpectAbort(Joined({hello, Encoded(1, PutOf(1, 4)), Encoded(1, PutDataFrame{0, 0})}), StatusCode::kCorrupt);
  LookupFrame lookup;
  lookup.count = 3;  // in a body of none
  ExpectAbort(Joined({hello, Encoded(1, lookup)}), StatusCode::kCorrupt);
  Bytes unknown(transport::kFrameHeaderBytes);
  transport::SealFrame(kStoreProtocol, 200, 0, 0, unknown);
  ExpectAbort(Joined({hello, unknown}), StatusCode::kUnimplemented);
  Bytes future(transport::kFrameHeaderBytes);
  transport::SealFrame({kStoreProtocol.magic, 2}, 1, 0, 0, future);
  ExpectAbort(future, StatusCode::kUnimplemented);
  Bytes large(transport::kFrameHeaderBytes);
  transport::SealFrame(kStoreProtocol, 5, 1, transport::kMaxBodyBytes + 1, large);
  ExpectAbort(Joined({hello, large}), StatusCode::kCorrupt);
  EXPECT_EQ(server_->counters().protocol_errors, 13u);
  ExpectHealthy();
}

TEST_F(HostileClientTest, SkippableFramesAndAppendedFieldsAreTakenUnit) {
  WirePeer peer = Peer();
  Bytes hello = HelloBytes();
  hello.resize(hello.size() + 20, std::byte{0xee});
  transport::SealFrame(kStoreProtocol, 1, 0, 0, hello);
  ASSERT_TRUE(peer.Write(hello).ok());
  Bytes skippable(transport::kFrameHeaderBytes + 3);
  transport::SealFrame(kStoreProtocol, 77, 5, 4, skippable);
  skippable[7] = std::byte{transport::kFlagSkippable};
  base::StoreLe(skippable.data() + 28, kernel::Crc32c(std::span(skippable).first(28)));
  skippable.resize(skippable.size() + 4);  // its body
  ASSERT_TRUE(peer.Write(skippable).ok());
  ASSERT_TRUE(peer.Send(0, StorePing{99}).ok());
  const auto pong = peer.NextReply();
  ASSERT_TRUE(pong.ok()) << pong.status().ToString();
  EXPECT_EQ(pong->type(), StoreFrameType::kPong);
  const auto parsed = ParseStorePong(pong->head);
  ASSERT_TRUE(parsed.ok()) << parsed.status().ToString();
  EXPECT_EQ(parsed->cookie, 99u);
}

TEST_F(HostileClientTest, DamagedPiecesCostOnePutSafety) {
  WirePeer peer = Greeted();
  ASSERT_TRUE(peer.Send(1, PutOf(1, 100)).ok());
  ASSERT_EQ(TypeOf(peer.NextReply()), StoreFrameType::kGo);
  const Bytes object(100, std::byte{3});
  ASSERT_TRUE(peer.Send(1, PutDataFrame{0, kernel::Crc32c(object) ^ 1}, object).ok());
  EXPECT_EQ(StatusCodeOf(peer.NextReply()), StatusCode::kUnavailable);
  ASSERT_TRUE(peer.SendPiece(1, 0, object).ok());  // of a put that is no more: ignored
  EXPECT_TRUE(PutWhole(peer, 2, 1, object).ok());
  EXPECT_EQ(server_->counters().protocol_errors, 0u);
}

TEST_F(HostileClientTest, AnnouncedBytesThatNeverComeSafety) {
  StoreServerOptions options;
  options.put_timeout = std::chrono::milliseconds(50);
  options.total_put_bytes = 1 << 20;
  Serve(std::move(options));
  WirePeer idle = Greeted();
  ASSERT_TRUE(idle.Send(1, PutOf(1, 1 << 20)).ok());
  ASSERT_EQ(TypeOf(idle.NextReply()), StoreFrameType::kGo);
  // All room is taken; another client's put waits for it and gets it. The time-out is its own as well, which
  // a busy machine may need more than once.
  WirePeer other = Greeted();
  base::Status put;
  uint32_t stream = 0;
  do {
    put = PutWhole(other, ++stream, 2, Bytes(1000));
  } while (put.code() == StatusCode::kDeadlineExceeded && stream < 100);
  EXPECT_TRUE(put.ok()) << put.ToString();
  EXPECT_EQ(StatusCodeOf(idle.NextReply()), StatusCode::kDeadlineExceeded);
}

TEST_F(HostileClientTest, APutThatWaitsForRoomRunsOutOfItsOwnTimeSafety) {
  StoreServerOptions options;
  options.total_put_bytes = 1 << 20;
  Serve(std::move(options));
  WirePeer idle = Greeted();
  ASSERT_TRUE(idle.Send(2, PutOf(1, 1 << 20)).ok());
  ASSERT_EQ(TypeOf(idle.NextReply()), StoreFrameType::kGo);
  WirePeer other = Greeted();
  PutFrame hasty = PutOf(3, 1000);
  hasty.remaining_ms = 5;
  ASSERT_TRUE(other.Send(2, hasty).ok());
  EXPECT_EQ(StatusCodeOf(other.NextReply()), StatusCode::kDeadlineExceeded);
}

// Memory that has put an object out keeps it while it is sent: not for longer than the client said it waits.
TEST_F(HostileClientTest, ASlowReaderDoesNotKeepWhatMemoryHasPutOutSafety) {
  constexpr size_t kObject = 32 << 20;  // more than lies on the way
  ASSERT_TRUE(dram_->Put(Key(1), {}, Slice::Own(Bytes(kObject)), {}, Soon()).ok());
  WirePeer slow = Greeted();
  ReadFrame read = ReadOf(1);
  read.remaining_ms = 100;
  ASSERT_TRUE(slow.Send(1, read).ok());
  auto frame = slow.NextReply();  // so the server's deadline is not later than this one
  const base::TimePoint late = base::Clock::System().Now() + std::chrono::milliseconds(read.remaining_ms);
  ASSERT_TRUE(dram_->Erase(Key(1), Soon()).ok());
  base::Clock::System().SleepUntil(late);
  size_t received = 0;
  while (TypeOf(frame) == StoreFrameType::kData && (received += frame->body.size()) < kObject) {
    frame = slow.NextReply();
  }
  EXPECT_LT(received, kObject);
  EXPECT_EQ(StatusCodeOf(frame), StatusCode::kDeadlineExceeded);
  while (dram_->detached_bytes() > 0) std::this_thread::yield();
  ASSERT_TRUE(slow.Send(2, ReadOf(1)).ok()) << "the connection goes on";
  EXPECT_EQ(StatusCodeOf(slow.NextReply()), StatusCode::kNotFound);
}

TEST_F(HostileClientTest, SlowLorisSafety) {
  StoreServerOptions silence;
  silence.hello_timeout = std::chrono::milliseconds(50);
  Serve(std::move(silence));
  WirePeer silent = Peer();
  ASSERT_EQ(TypeOf(silent.Next()), StoreFrameType::kHello);
  EXPECT_EQ(silent.Next().status().code(), StatusCode::kUnavailable) << "closed by the server";
  ExpectIdle();
  // The limit of frames is that of the peer's HELLO too: on a busy machine the connection may end with that.
  StoreServerOptions slowness;
  slowness.frame_timeout = std::chrono::milliseconds(50);
  Serve(std::move(slowness));
  WirePeer slow = Peer();
  const Bytes read = Encoded(1, ReadOf(1));
  (void)slow.SendHello(kStoreRoleClient);
  (void)slow.Write(std::span(read).first(transport::kFrameHeaderBytes + 1));
  EXPECT_EQ(slow.NextReply().status().code(), StatusCode::kUnavailable);
  ExpectIdle();
}

TEST_F(HostileClientTest, ManyRequestsAtOnceAreRefusedOneByOneSafety) {
  StoreServerOptions options;
  options.max_requests = 2;
  options.total_put_bytes = 1000;
  Serve(std::move(options));
  WirePeer peer = Greeted();
  ASSERT_TRUE(peer.Send(1, PutOf(1, 900)).ok());
  ASSERT_EQ(TypeOf(peer.NextReply()), StoreFrameType::kGo);
  ASSERT_TRUE(peer.Send(2, PutOf(2, 900)).ok());  // waits for room
  ASSERT_TRUE(peer.Send(3, PutOf(3, 900)).ok());
  const auto refused = peer.NextReply();
  ASSERT_TRUE(refused.ok()) << refused.status().ToString();
  EXPECT_EQ(refused->header.stream, 3u);
  EXPECT_EQ(StatusCodeOf(refused), StatusCode::kResourceExhausted);
  ASSERT_TRUE(peer.Send(1, CancelFrame{}).ok());  // gives its room to the second
  const auto go = peer.NextReply();
  ASSERT_EQ(TypeOf(go), StoreFrameType::kGo);
  EXPECT_EQ(go->header.stream, 2u);
  ASSERT_TRUE(peer.Send(77, CancelFrame{}).ok());  // of nothing: ignored
  EXPECT_EQ(server_->counters().put_bytes_reserved, 900u);
}

// Room is granted to a put whose stream is another put's by the time the client can be told.
TEST_F(HostileClientTest, AGrantOfACancelledPutIsNotTheNextOnesSafety) {
  GateStore gate(*dram_, TierKind::kDram);
  StoreServerOptions options;
  options.total_put_bytes = 1000;
  ServeFrom(gate, std::move(options));
  WirePeer peer = Greeted();
  ASSERT_TRUE(PutWhole(peer, 10, 5, Bytes(64, std::byte{5})).ok());
  ASSERT_TRUE(peer.Send(11, ReadOf(5)).ok());  // keeps the worker busy
  gate.AwaitBlockedRead();
  ASSERT_TRUE(peer.Send(1, PutOf(1, 900)).ok());
  ASSERT_EQ(TypeOf(peer.NextReply()), StoreFrameType::kGo);
  ASSERT_TRUE(peer.Send(2, PutOf(2, 900)).ok());  // waits for room
  ASSERT_TRUE(peer.Send(1, CancelFrame{}).ok());  // which it gets,
  ASSERT_TRUE(peer.Send(2, CancelFrame{}).ok());  // and does not want any more
  const Bytes object(500, std::byte{7});
  ASSERT_TRUE(peer.Send(2, PutOf(2, object.size())).ok());
  const auto go = peer.NextReply();
  ASSERT_EQ(TypeOf(go), StoreFrameType::kGo);
  ASSERT_EQ(go->header.stream, 2u);
  const std::span<const std::byte> all(object);
  ASSERT_TRUE(peer.SendPiece(2, 0, all.first(250)).ok());
  ASSERT_TRUE(peer.Send(0, StorePing{}).ok());  // answered once the piece has been taken
  ASSERT_EQ(TypeOf(peer.NextReply()), StoreFrameType::kPong);
  gate.Permit(GateStore::kOpen);
  ASSERT_TRUE(peer.SendPiece(2, 250, all.subspan(250)).ok());
  while (true) {
    const auto reply = peer.NextReply();
    ASSERT_TRUE(reply.ok()) << reply.status().ToString();
    if (reply->header.stream != 2) continue;
    ASSERT_EQ(StatusCodeOf(reply), StatusCode::kOk);
    break;
  }
  const ReadRequest request{.key = Key(2)};
  const auto stored = dram_->Read({&request, 1}, WirePeer::Soon());
  ASSERT_TRUE(stored[0].ok()) << stored[0].status().ToString();
  EXPECT_TRUE(std::ranges::equal(stored[0]->bytes(), object));
}

// A good session, kept to be damaged.
Bytes Session() {
  const std::vector<StoreKey> keys = {Key(1), Key(2)};
  const Bytes body = EncodeKeys(keys);
  const Bytes object(3000, std::byte{9});
  LookupFrame lookup;
  lookup.remaining_ms = 1000;
  lookup.count = 2;
  lookup.body_crc = kernel::Crc32c(body);
  TouchFrame touch;
  touch.remaining_ms = 1000;
  touch.count = 2;
  touch.body_crc = lookup.body_crc;
  const std::span<const std::byte> all(object);
  return Joined({HelloBytes(), Encoded(1, PutOf(1, 3000)),
                 Encoded(1, PutDataFrame{0, kernel::Crc32c(all.first(2000))}, all.first(2000)),
                 Encoded(1, PutDataFrame{2000, kernel::Crc32c(all.subspan(2000))}, all.subspan(2000)),
                 Encoded(2, lookup, body), Encoded(3, ReadOf(1)), Encoded(4, touch, body),
                 Encoded(0, StorePing{}), Encoded(5, StatsFrame{1000}), Encoded(6, FlushFrame{1000}),
                 Encoded(7, EraseFrame{1000, Key(1)}), Encoded(7, CancelFrame{}),
                 Encoded(8, PinFrame{1000, Key(2), std::chrono::seconds(1)}),
                 Encoded(9, EraseTenantFrame{1000, 5}), Encoded(10, QuarantineFrame{1000, Key(2)})});
}

void Damage(Bytes& bytes, base::Rng& rng) {
  const uint64_t kind = rng.Below(5);
  const size_t at = rng.Below(bytes.size());
  const size_t length = 1 + rng.Below(std::min<size_t>(bytes.size() - at, 100));
  const auto from = bytes.begin() + static_cast<std::ptrdiff_t>(at);
  const auto to = from + static_cast<std::ptrdiff_t>(length);
  if (kind == 0) bytes[at] ^= std::byte{static_cast<uint8_t>(1u << rng.Below(8))};
  if (kind == 1) bytes.resize(at);
  if (kind == 2) bytes.erase(from, to);
  if (kind == 3) {
    const Bytes part(from, to);
    bytes.insert(from, part.begin(), part.end());
  }
  if (kind == 4) std::fill(from, to, std::byte{static_cast<uint8_t>(rng.Below(256))});
}

TEST_F(HostileClientTest, DamagedSessionsSafety) {
  const Bytes session = Session();
  base::Rng rng(11);
  for (int round = 0; round < 400; ++round) {
    Bytes bytes = session;
    for (uint64_t i = 0; i <= rng.Below(3); ++i) {
      if (!bytes.empty()) Damage(bytes, rng);
    }
    WirePeer peer = Peer();
    (void)peer.Write(bytes);
    peer.stream().Shutdown();
  }
  ExpectHealthy();
}

TEST_F(HostileClientTest, RandomBytesSafety) {
  base::Rng rng(12);
  for (int round = 0; round < 200; ++round) {
    Bytes bytes(rng.Below(5000));
    for (std::byte& b : bytes) b = static_cast<std::byte>(rng.Next());
    WirePeer peer = round % 2 == 0 ? Peer() : Greeted();
    (void)peer.Write(bytes);
    peer.stream().Shutdown();
  }
  ExpectHealthy();
}

// A server that answers as the test says; one connection after the other.
class HostileServerTest : public ::testing::Test {
 protected:
  using Script = std::function<void(WirePeer&)>;

  // What a client's call comes to when the server does this after its HELLO.
  base::Status Run(const Script& script, const std::function<base::Status(RemoteStore&)>& call) {
    const std::unique_ptr<transport::Listener> listener = *transport_->Listen("inproc://hostile");
    std::thread server([&] {
      auto stream = listener->Accept(Soon());
      if (!stream.ok()) return;
      WirePeer peer(*std::move(stream));
      (void)peer.Next();  // HELLO
      (void)peer.SendHello(kStoreRoleServer);
      if (peer.Next().ok()) script(peer);  // the request came
      (void)peer.Next(Soon());             // until the client leaves
    });
    RemoteStoreOptions options;
    options.link.endpoint = "inproc://hostile";
    options.read_connections = 1;
    base::Status status;
    {
      const auto client = RemoteStore::Create(transport_, options);
      status = call(**client);
    }
    server.join();
    return status;
  }
  base::Status Reading(const Script& script, uint64_t bytes = 100) {
    return Run(script, [bytes](RemoteStore& store) {
      const ReadRequest request{.key = Key(1), .offset = 0, .bytes = bytes};
      return store.Read(std::span(&request, 1), Soon())[0].status();
    });
  }
  base::Status LookingUp(const Script& script) {
    return Run(script, [](RemoteStore& store) {
      const StoreKey key = Key(1);
      return store.Lookup(std::span(&key, 1), 0, Soon()).status();
    });
  }
  base::Status Putting(const Script& script) {
    return Run(script,
               [](RemoteStore& store) { return store.Put(Key(1), {}, Slice::Own(Bytes(100)), {}, Soon()); });
  }
  static base::Status SendData(WirePeer& peer, uint64_t total, uint64_t at, const Bytes& body) {
    return peer.Send(1, DataFrame{total, at, kernel::Crc32c(body)}, body);
  }

  std::shared_ptr<transport::Transport> transport_ = transport::CreateInprocTransport();
};

TEST_F(HostileServerTest, GoodAnswersAreTakenUnit) {
  EXPECT_TRUE(Reading([](WirePeer& peer) { (void)SendData(peer, 100, 0, Bytes(100)); }).ok());
  EXPECT_TRUE(Reading([](WirePeer& peer) { (void)SendData(peer, 0, 0, {}); }, 0).ok());
  EXPECT_TRUE(Putting([](WirePeer& peer) { (void)peer.Send(1, StatusFrame{}); }).ok());
  EXPECT_EQ(Putting([](WirePeer& peer) { (void)peer.Send(1, StatusFrame{base::NotFound("x"), 0}); }).code(),
            StatusCode::kNotFound);
}

TEST_F(HostileServerTest, ObjectsAreSentAsFarAsTheServerAllowsUnit) {
  std::vector<std::pair<uint64_t, size_t>> pieces;
  const auto take = [&pieces](WirePeer& peer) {
    const auto frame = peer.Next();
    if (TypeOf(frame) != StoreFrameType::kPutData) return;
    const auto data = ParsePutData(frame->head);
    EXPECT_TRUE(data.ok());
    if (data.ok()) pieces.emplace_back(data->at, frame->body.size());
  };
  EXPECT_TRUE(Putting([&](WirePeer& peer) {
                (void)peer.Send(1, GoFrame{40});
                take(peer);
                (void)peer.Send(1, GoFrame{20});  // a limit never shrinks
                (void)peer.Send(1, GoFrame{100});
                take(peer);
                (void)peer.Send(1, StatusFrame{});
              }).ok());
  EXPECT_EQ(pieces, (std::vector<std::pair<uint64_t, size_t>>{{0, 40}, {40, 60}}));
}

TEST_F(HostileServerTest, WrongAnswersAreErrorsSafety) {
  const std::vector<Script> to_reads = {
      [](WirePeer& peer) { (void)SendData(peer, 99, 0, Bytes(99)); },
      [](WirePeer& peer) { (void)SendData(peer, 100, 1, Bytes(99)); },
      [](WirePeer& peer) { (void)SendData(peer, 100, 0, Bytes(101)); },
      [](WirePeer& peer) { (void)SendData(peer, 100, 0, {}); },
      [](WirePeer& peer) {
        (void)SendData(peer, 100, 0, Bytes(50));
        (void)SendData(peer, 100, 0, Bytes(50));
      },
      [](WirePeer& peer) { (void)peer.Send(1, StatusFrame{}); },
      [](WirePeer& peer) { (void)peer.Send(1, FoundFrame{}); },
      [](WirePeer& peer) { (void)peer.Send(1, GoFrame{100}); },
      [](WirePeer& peer) { (void)peer.Send(1, CountersFrame{{{TierKind::kDram, "x", {}}}}); },
      [](WirePeer& peer) { (void)peer.Send(1, ReadOf(1)); },
      [](WirePeer& peer) { (void)peer.SendHello(kStoreRoleServer); },
      [](WirePeer& peer) { (void)peer.Write(Bytes(64, std::byte{0xff})); },
      [](WirePeer& peer) { (void)peer.Send(0, StoreAbort{base::Internal("tired")}); },
      [](WirePeer& peer) { peer.stream().Shutdown(); },
  };
  for (size_t i = 0; i < to_reads.size(); ++i) {
    const base::Status status = Reading(to_reads[i]);
    EXPECT_TRUE(status.code() == StatusCode::kUnavailable) << i << ": " << status.ToString();
  }
  // As much as a client can be made to believe in is bounded.
  EXPECT_EQ(Reading([](WirePeer& peer) { (void)SendData(peer, ~uint64_t{0}, 0, Bytes(10)); }, 0).code(),
            StatusCode::kUnavailable);
  EXPECT_EQ(LookingUp([](WirePeer& peer) {
              const Bytes body = EncodeEntries(std::vector<EntryInfo>(2));
              (void)peer.Send(1, FoundFrame{2, kernel::Crc32c(body)}, body);
            }).code(),
            StatusCode::kUnavailable);
  EXPECT_EQ(LookingUp([](WirePeer& peer) { (void)SendData(peer, 10, 0, Bytes(10)); }).code(),
            StatusCode::kUnavailable);
}

TEST_F(HostileServerTest, DamagedAnswersAreErrorsSafety) {
  EXPECT_EQ(Reading([](WirePeer& peer) { (void)peer.Send(1, DataFrame{100, 0, 1}, Bytes(100)); }).code(),
            StatusCode::kUnavailable);
  EXPECT_EQ(LookingUp([](WirePeer& peer) {
              (void)peer.Send(1, FoundFrame{1, 1}, EncodeEntries(std::vector<EntryInfo>(1)));
            }).code(),
            StatusCode::kUnavailable);
}

TEST_F(HostileServerTest, AnswersToOthersAreIgnoredUnit) {
  EXPECT_TRUE(Reading([](WirePeer& peer) {
                (void)peer.Send(55, StatusFrame{base::NotFound("x"), 0});
                (void)peer.Send(55, DataFrame{10, 0, 0}, Bytes(10));
                (void)peer.Send(0, StorePing{3});
                (void)SendData(peer, 100, 0, Bytes(100));
              }).ok());
}

TEST_F(HostileServerTest, RandomAnswersSafety) {
  base::Rng rng(13);
  for (int round = 0; round < 100; ++round) {
    const base::Status status = Reading([&rng](WirePeer& peer) {
      Bytes bytes = Joined({Encoded(1, DataFrame{100, 0, kernel::Crc32c(Bytes(60))}, Bytes(60)),
                            Encoded(1, DataFrame{100, 60, kernel::Crc32c(Bytes(40))}, Bytes(40))});
      Damage(bytes, rng);
      (void)peer.Write(bytes);
      peer.stream().Shutdown();
    });
    EXPECT_TRUE(status.ok() || status.code() == StatusCode::kUnavailable) << status.ToString();
  }
}

}  // namespace
}  // namespace kvplane::store
