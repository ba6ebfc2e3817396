// Transfers that do not go well: cancelled, cut, corrupted, refused, starved. Whatever happens, both ends
// complete exactly once, and no page is touched afterwards.
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kvplane/base/log.h"
#include "kvplane/transfer/peer_capabilities.h"
#include "kvplane/transfer/testing/kv_fixture.h"
#include "kvplane/transfer/wire_frames.h"
#include "kvplane/transport/inproc_transport.h"
#include "kvplane/transport/shaped_transport.h"
#include "kvplane/transport/tcp_transport.h"
#include "kvplane/transport/testing/faulty_transport.h"

namespace kvplane::transfer {
namespace {

using base::StatusCode;

constexpr const char* kInproc = "inproc://prefill";
constexpr uint16_t kPoison = 0x1234;
constexpr const char* kProfiled = "heads(ratio=50) | levels(m=16,low=2) | pack";

// Stall timeout of tests in which a peer that works must not look silent: it is taken for dead when it leaves
// a ping unanswered for half of this, so a loaded machine must not freeze it for that long.
constexpr base::Duration kPatientStall = std::chrono::seconds(1);

class TransferFaults : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { base::ConfigureLog({base::LogLevel::kOff, false, ""}); }
  static void TearDownTestSuite() { base::ConfigureLog({}); }
};
using TransferFaultsUnit = TransferFaults;
using TransferFaultsSafety = TransferFaults;

// After both completions: scribble over the pages and see that nobody writes there any more.
void ExpectFenced(TestTransfer& transfer) {
  transfer.sent.Fill(kPoison);
  transfer.received.Fill(kPoison);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  EXPECT_TRUE(transfer.received.AllEqual(kPoison));
  EXPECT_EQ(transfer.sender_done.count(), 1);
  EXPECT_EQ(transfer.receiver_done.count(), 1);
}

TEST_F(TransferFaultsSafety, CancelAtRandomPointsOnEitherSide) {
  auto transport = transport::CreateInprocTransport({.pipe_bytes = 20'000});
  KvSenderOptions send;
  send.codec_threads = 2;
  KvReceiverOptions receive;
  receive.codec_threads = 2;
  Ends ends(*transport, kInproc, send, receive);
  base::Rng rng(1);
  size_t completed = 0;
  constexpr int kRounds = 150;
  for (int round = 0; round < kRounds; ++round) {
    TestTransfer transfer(Geometry(3, 2, 32), 200, 32, 128);
    const std::string id = fmt::format("c{}", round);
    // The sender's own deadline counts where the receiver was cancelled before it could even ask.
    auto session = *ends.sender->Offer(transfer.MakeOffer(id, "off", AfterMs(500)));
    auto pulled = *ends.receiver->Pull(transfer.MakePull(kInproc, id));
    std::thread canceller([&, micros = rng.Below(900), at_sender = rng.Below(2) == 0] {
      std::this_thread::sleep_for(std::chrono::microseconds(micros));
      if (at_sender) {
        session->Cancel("changed my mind");
      } else {
        pulled->Cancel("the client left");
      }
    });
    transfer.PostAll(*session, 64);
    canceller.join();
    const TransferOutcome sent = transfer.sender_done.Wait();
    const TransferOutcome received = transfer.receiver_done.Wait();
    for (const TransferOutcome& outcome : {sent, received}) {
      EXPECT_TRUE(outcome.status.ok() || outcome.status.code() == StatusCode::kCancelled ||
                  outcome.status.code() == StatusCode::kDeadlineExceeded)
          << outcome.status.ToString();
    }
    completed += received.status.ok() ? 1u : 0u;
    if (received.status.ok()) {
      EXPECT_EQ(transfer.sent.CountDifferences(transfer.received), 0u);
    }
    ExpectFenced(transfer);
  }
  EXPECT_LT(completed, static_cast<size_t>(kRounds));
}

TEST_F(TransferFaultsSafety, EitherEndMayBeDestroyedInTheMiddle) {
  base::Rng rng(2);
  for (int round = 0; round < 40; ++round) {
    auto transport = transport::CreateInprocTransport({.pipe_bytes = 20'000});
    Ends ends(*transport, kInproc);
    TestTransfer a(Geometry(3, 2, 32), 300);
    TestTransfer b(Geometry(3, 2, 32), 200);
    auto session_a = *ends.sender->Offer(a.MakeOffer("a", "off", AfterMs(500)));
    auto session_b = *ends.sender->Offer(b.MakeOffer("b", "off", AfterMs(500)));
    auto pulled_a = *ends.receiver->Pull(a.MakePull(kInproc, "a"));
    auto pulled_b = *ends.receiver->Pull(b.MakePull(kInproc, "b"));
    a.PostAll(*session_a);
    b.PostAll(*session_b, 10);
    std::this_thread::sleep_for(std::chrono::microseconds(rng.Below(1500)));
    if (round % 2 == 0) {
      ends.sender.reset();
      EXPECT_EQ(a.sender_done.count() + b.sender_done.count(), 2);
      a.receiver_done.Wait();
      b.receiver_done.Wait();
    } else {
      ends.receiver.reset();
      EXPECT_EQ(a.receiver_done.count() + b.receiver_done.count(), 2);
      a.sender_done.Wait();
      b.sender_done.Wait();
    }
    ExpectFenced(a);
    ExpectFenced(b);
  }
}

TEST_F(TransferFaultsSafety, ACutConnectionFailsBothEndsWithTheReason) {
  base::Rng rng(3);
  for (int round = 0; round < 60; ++round) {
    std::shared_ptr<transport::Transport> inner = transport::CreateInprocTransport();
    transport::FaultPlan plan;
    plan.drop_after_bytes = 200 + rng.Below(100'000);
    auto cutting = transport::FaultyTransport::Create(inner, plan);
    const bool cut_sender = round % 4 != 0;
    if (!cut_sender) plan.drop_after_bytes = 50 + rng.Below(400);
    auto cutting_receiver = transport::FaultyTransport::Create(inner, plan);
    Ends ends(cut_sender ? static_cast<transport::Transport&>(*cutting) : *inner,
              cut_sender ? *inner : static_cast<transport::Transport&>(*cutting_receiver), kInproc);
    TestTransfer transfer(Geometry(3, 2, 32), 300);
    auto session =
        *ends.sender->Offer(transfer.MakeOffer("a", "off", cut_sender ? After(kTestPatience) : AfterMs(300)));
    auto pulled = *ends.receiver->Pull(transfer.MakePull(kInproc, "a"));
    transfer.PostAll(*session);
    const TransferOutcome received = transfer.receiver_done.Wait();
    transfer.sender_done.Wait();
    if (cut_sender) {
      EXPECT_EQ(received.status.code(), StatusCode::kUnavailable) << received.status.ToString();
    }
    if (received.status.ok()) {
      EXPECT_EQ(transfer.sent.CountDifferences(transfer.received), 0u);
    }
    ExpectFenced(transfer);
  }
}

TEST_F(TransferFaultsSafety, CorruptTilesAreAskedForAgain) {
  std::shared_ptr<transport::Transport> inner = transport::CreateInprocTransport();
  transport::FaultPlan plan;
  plan.flip_probability = 0.02;
  plan.flip_min_piece_bytes = 1000;  // coded tiles, never frame headers
  auto flipping = transport::FaultyTransport::Create(inner, plan);
  KvReceiverOptions receive;
  receive.tile_retries = 8;
  KvSenderOptions send;
  send.tile_retries = 8;
  Ends ends(*flipping, *inner, kInproc, send, receive);
  uint64_t retried = 0;
  for (int round = 0; round < 30; ++round) {
    TestTransfer transfer(Geometry(4, 2, 32), 300);
    const std::string id = fmt::format("f{}", round);
    auto session = *ends.sender->Offer(transfer.MakeOffer(id, round % 2 == 0 ? "off" : "int8"));
    auto pulled = *ends.receiver->Pull(transfer.MakePull(kInproc, id));
    transfer.PostAll(*session, 100);
    const TransferOutcome sent = transfer.sender_done.Wait();
    const TransferOutcome received = transfer.receiver_done.Wait();
    ASSERT_TRUE(received.status.ok()) << received.status.ToString();
    EXPECT_TRUE(sent.status.ok()) << sent.status.ToString();
    EXPECT_EQ(sent.tiles_retried, received.tiles_retried);
    EXPECT_EQ(sent.bytes_wire, received.bytes_wire);
    EXPECT_EQ(sent.tiles, 4u * 5 * 2);
    retried += received.tiles_retried;
    if (round % 2 == 0) {
      EXPECT_EQ(transfer.sent.CountDifferences(transfer.received), 0u);
    }
  }
  EXPECT_GT(retried, 0u);
  EXPECT_EQ(retried, flipping->counts().bits_flipped);
}

TEST_F(TransferFaultsSafety, AlwaysCorruptTilesFailBothEnds) {
  std::shared_ptr<transport::Transport> inner = transport::CreateInprocTransport();
  transport::FaultPlan plan;
  plan.flip_probability = 1;
  plan.flip_min_piece_bytes = 1000;
  auto flipping = transport::FaultyTransport::Create(inner, plan);
  Ends ends(*flipping, *inner, kInproc);
  TestTransfer transfer(Geometry(1, 2, 32), 64);
  auto session = *ends.sender->Offer(transfer.MakeOffer("a"));
  auto pulled = *ends.receiver->Pull(transfer.MakePull(kInproc, "a"));
  transfer.PostAll(*session);
  EXPECT_EQ(transfer.receiver_done.Wait().status.code(), StatusCode::kCorrupt);
  EXPECT_EQ(transfer.sender_done.Wait().status.code(), StatusCode::kCorrupt);
  EXPECT_EQ(transfer.receiver_done.Wait().tiles, 0u);
  transfer.sent.Fill(0x7fff);
  EXPECT_EQ(transfer.sent.CountDifferences(transfer.received), 0u) << "a corrupt tile reached a page";
}

TEST_F(TransferFaultsSafety, FlippedBitsAnywhereNeverBecomeWrongKv) {
  size_t good = 0;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    std::shared_ptr<transport::Transport> inner = transport::CreateInprocTransport();
    transport::FaultPlan plan;
    plan.seed = seed;
    plan.flip_probability = 0.03;
    auto flipping = transport::FaultyTransport::Create(inner, plan);
    Ends ends(*flipping, kInproc);
    TestTransfer transfer(Geometry(2, 2, 32), 200);
    auto session = *ends.sender->Offer(transfer.MakeOffer("a", "off", AfterMs(1000)));
    auto pulled = *ends.receiver->Pull(transfer.MakePull(kInproc, "a", AfterMs(1000)));
    transfer.PostAll(*session);
    const TransferOutcome received = transfer.receiver_done.Wait();
    transfer.sender_done.Wait();
    if (received.status.ok()) {
      ++good;
      EXPECT_EQ(transfer.sent.CountDifferences(transfer.received), 0u);
    }
    ExpectFenced(transfer);
  }
  EXPECT_GT(good, 0u);
}

TEST_F(TransferFaultsUnit, AStarvedLinkEndsAtTheDeadline) {
  std::shared_ptr<transport::Transport> inner = transport::CreateInprocTransport();
  transport::ShapedOptions crawling;
  crawling.bits_per_second = 100'000;
  crawling.burst_bytes = 0;
  auto link = *transport::ShapedTransport::Create(inner, crawling);
  Ends ends(*link, *inner, kInproc);
  TestTransfer transfer(Geometry(4, 2, 64), 300);
  auto session = *ends.sender->Offer(transfer.MakeOffer("a", "off", AfterMs(150)));
  auto pulled = *ends.receiver->Pull(transfer.MakePull(kInproc, "a", AfterMs(150)));
  transfer.PostAll(*session);
  EXPECT_EQ(transfer.sender_done.Wait().status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(transfer.receiver_done.Wait().status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ends.sender->backlog_bytes(), 0u);
  ExpectFenced(transfer);
}

TEST_F(TransferFaultsUnit, NobodyPullsAndNobodyOffers) {
  auto transport = transport::CreateInprocTransport();
  Ends ends(*transport, kInproc);
  TestTransfer lonely(Geometry(1, 1, 8), 10);
  auto session = *ends.sender->Offer(lonely.MakeOffer("lonely", "off", AfterMs(30)));
  lonely.PostAll(*session);
  EXPECT_EQ(lonely.sender_done.Wait().status.code(), StatusCode::kDeadlineExceeded);

  TestTransfer unknown(Geometry(1, 1, 8), 10);
  auto pulled = *ends.receiver->Pull(unknown.MakePull(kInproc, "unknown", AfterMs(30)));
  EXPECT_EQ(unknown.receiver_done.Wait().status.code(), StatusCode::kDeadlineExceeded);

  TestTransfer late(Geometry(1, 1, 8), 10);
  pulled = *ends.receiver->Pull(late.MakePull(kInproc, "lonely"));
  const base::Status status = late.receiver_done.Wait().status;
  EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_NE(status.message().find("the transfer has ended"), std::string::npos) << status.ToString();
}

TEST_F(TransferFaultsUnit, ACancelledOfferAnswersALatePullAtOnceAndTheIdMayBeUsedAgain) {
  auto transport = transport::CreateInprocTransport();
  Ends ends(*transport, kInproc);
  TestTransfer transfer(Geometry(1, 1, 8), 10);
  (*ends.sender->Offer(transfer.MakeOffer("a")))->Cancel("evicted");
  EXPECT_EQ(transfer.sender_done.Wait().status, base::Cancelled("evicted"));
  auto pulled = *ends.receiver->Pull(transfer.MakePull(kInproc, "a"));
  EXPECT_EQ(transfer.receiver_done.Wait().status.code(), StatusCode::kCancelled);

  TestTransfer again(Geometry(1, 1, 8), 10);
  auto session = *ends.sender->Offer(again.MakeOffer("a"));
  pulled = *ends.receiver->Pull(again.MakePull(kInproc, "a"));
  again.PostAll(*session);
  EXPECT_TRUE(again.sender_done.Wait().status.ok());
  EXPECT_TRUE(again.receiver_done.Wait().status.ok());
  TestTransfer third(Geometry(1, 1, 8), 10);
  pulled = *ends.receiver->Pull(third.MakePull(kInproc, "a"));
  EXPECT_EQ(third.receiver_done.Wait().status.code(), StatusCode::kNotFound);
}

TEST_F(TransferFaultsUnit, EveryDifferenceOfTheDescriptorsIsNamed) {
  struct Case {
    const char* field;
    std::function<void(KvDescriptor&)> change;
  };
  const Case cases[] = {
      {"layers", [](KvDescriptor& d) { d.geometry.layers = 1; }},
      {"kv_heads", [](KvDescriptor& d) { d.geometry.kv_heads = 1; }},
      {"head_dim", [](KvDescriptor& d) { d.geometry.head_dim = 4; }},
      {"tokens", [](KvDescriptor& d) { d.tokens = 9; }},
      {"model_fingerprint", [](KvDescriptor& d) { d.model_fingerprint[31] = std::byte{1}; }},
      {"token_hash", [](KvDescriptor& d) { d.token_hash[0] ^= std::byte{1}; }},
  };
  auto transport = transport::CreateInprocTransport();
  Ends ends(*transport, kInproc);
  for (const Case& tested : cases) {
    TestTransfer transfer(Geometry(2, 2, 8), 10);
    auto session = *ends.sender->Offer(transfer.MakeOffer(tested.field));
    KvPull pull = transfer.MakePull(kInproc, tested.field);
    tested.change(pull.descriptor);
    pull.layers = pull.layers.first(pull.descriptor.geometry.layers);
    auto pulled = *ends.receiver->Pull(std::move(pull));
    for (Completion* done : {&transfer.sender_done, &transfer.receiver_done}) {
      const base::Status status = done->Wait().status;
      EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition) << tested.field;
      EXPECT_NE(status.message().find(tested.field), std::string::npos) << status.ToString();
    }
  }
}

TEST_F(TransferFaultsUnit, AStrictReaderNeverGetsLossyKv) {
  auto transport = transport::CreateInprocTransport();
  Ends ends(*transport, kInproc);
  TestTransfer transfer(Geometry(2, 2, 64), 100);
  auto session = *ends.sender->Offer(transfer.MakeOffer("a", "int4"));
  KvPull pull = transfer.MakePull(kInproc, "a");
  pull.accept_lossy = false;
  auto pulled = *ends.receiver->Pull(std::move(pull));
  EXPECT_EQ(transfer.receiver_done.Wait().status.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(transfer.sender_done.Wait().status.code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(transfer.received.AllEqual(0x7fff));
}

// The prefill node refuses before a tile is coded, and says what is missing.
TEST_F(TransferFaultsUnit, AProfileTheReceiverLacksIsNamed) {
  const auto geometry = Geometry(2, 2, 16);
  const auto needed = ProfileFor(geometry, 1);
  const auto loaded = ProfileFor(geometry, 2);
  auto transport = transport::CreateInprocTransport();
  KvReceiverOptions receive;
  receive.profiles.Add(loaded);
  Ends ends(*transport, kInproc, {}, receive);
  TestTransfer transfer(geometry, 100);
  KvOffer offer = transfer.MakeOffer("a", kProfiled);
  offer.profile = needed;
  auto session = *ends.sender->Offer(std::move(offer));
  transfer.PostAll(*session);
  auto pulled = *ends.receiver->Pull(transfer.MakePull(kInproc, "a"));
  for (Completion* done : {&transfer.sender_done, &transfer.receiver_done}) {
    const TransferOutcome outcome = done->Wait();
    EXPECT_EQ(outcome.status.code(), StatusCode::kFailedPrecondition);
    EXPECT_NE(outcome.status.message().find(needed->id().ToHex()), std::string::npos)
        << outcome.status.ToString();
    EXPECT_EQ(outcome.tiles, 0u);
  }
  EXPECT_TRUE(transfer.received.AllEqual(0x7fff));
}

TEST_F(TransferFaultsUnit, AnOfferWithoutItsProfileOrWithAForeignOneIsRefused) {
  const auto geometry = Geometry(2, 2, 16);
  auto transport = transport::CreateInprocTransport();
  Ends ends(*transport, kInproc);
  TestTransfer transfer(geometry, 100);
  const base::Status without = ends.sender->Offer(transfer.MakeOffer("a", kProfiled)).status();
  EXPECT_EQ(without.code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(without.message().find("L4"), std::string::npos) << without.ToString();
  KvOffer foreign = transfer.MakeOffer("a", kProfiled);
  foreign.profile = ProfileFor(Geometry(3, 2, 16));
  EXPECT_EQ(ends.sender->Offer(std::move(foreign)).status().code(), StatusCode::kFailedPrecondition);
  // Where nothing needs it, it does no harm.
  KvOffer idle = transfer.MakeOffer("a", "int4");
  idle.profile = ProfileFor(geometry);
  auto session = *ends.sender->Offer(std::move(idle));
  transfer.PostAll(*session);
  auto pulled = *ends.receiver->Pull(transfer.MakePull(kInproc, "a"));
  EXPECT_TRUE(transfer.receiver_done.Wait().status.ok());
}

TEST_F(TransferFaultsUnit, AReceiverTakesNoMoreProfilesThanItCanAnnounce) {
  auto transport = transport::CreateInprocTransport();
  KvReceiverOptions receive;
  for (uint64_t seed = 0; seed <= kMaxHelloProfiles; ++seed) {
    receive.profiles.Add(ProfileFor(Geometry(1, 1, 2), seed));
  }
  EXPECT_EQ(KvReceiver::Create(*transport, receive).status().code(), StatusCode::kInvalidArgument);
}

TEST_F(TransferFaultsUnit, AnAcceptedTransferThatGoesSilentIsFailed) {
  auto transport = transport::CreateInprocTransport();
  KvReceiverOptions receive;
  receive.stall_timeout = kPatientStall;
  Ends ends(*transport, kInproc, {}, receive);
  TestTransfer transfer(Geometry(2, 2, 8), 100);
  auto session = *ends.sender->Offer(transfer.MakeOffer("a"));
  auto pulled = *ends.receiver->Pull(transfer.MakePull(kInproc, "a"));
  session->PostLayer(0, 0, 100);
  EXPECT_EQ(transfer.receiver_done.Wait().status.code(), StatusCode::kUnavailable);
  EXPECT_EQ(transfer.sender_done.Wait().status.code(), StatusCode::kUnavailable);
}

// The link is busy with a more urgent transfer for much longer than the stall timeout.
TEST_F(TransferFaultsUnit, WaitingForTheTurnOnTheLinkIsNotAStall) {
  transport::ShapedOptions slow;
  slow.bits_per_second = 2e6;
  std::shared_ptr<transport::Transport> inner = transport::CreateInprocTransport();
  auto link = *transport::ShapedTransport::Create(inner, slow);
  KvSenderOptions send;
  send.staging_bytes = 1;  // a tile at a time: that much is ahead of what comes later
  KvReceiverOptions receive;
  receive.stall_timeout = kPatientStall;
  Ends ends(*link, *inner, kInproc, send, receive);
  TestTransfer urgent(Geometry(8, 4, 64), 512);  // 4 MB: 16 s, unless the rate is lifted
  TestTransfer patient(Geometry(8, 4, 64), 768);
  auto first = *ends.sender->Offer(urgent.MakeOffer("urgent", "off", After(kTestPatience)));
  auto second = *ends.sender->Offer(patient.MakeOffer("patient", "off", After(kTestPatience * 2)));
  urgent.PostAll(*first);
  auto pulled_urgent = *ends.receiver->Pull(urgent.MakePull(kInproc, "urgent"));
  urgent.receiver_done.WaitForFirstToken();
  auto pulled_patient = *ends.receiver->Pull(patient.MakePull(kInproc, "patient"));
  second->PostFirstToken({1, 0, {}});
  patient.receiver_done.WaitForFirstToken();
  for (uint32_t layer = 0; layer < 8; ++layer) second->PostLayer(layer, 0, 768);
  std::this_thread::sleep_for(kPatientStall * 2);
  EXPECT_EQ(urgent.receiver_done.count(), 0);
  EXPECT_EQ(patient.receiver_done.count(), 0);
  link->SetRate(transport::kUnlimitedRate);
  const base::Status status = patient.receiver_done.Wait().status;
  EXPECT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(urgent.receiver_done.count(), 1);  // it went first
  EXPECT_TRUE(urgent.receiver_done.Wait().status.ok());
}

TEST_F(TransferFaultsUnit, WaitingForAnOfferIsNotAStallButASilentPeerIs) {
  std::shared_ptr<transport::Transport> inner = transport::CreateInprocTransport();
  KvReceiverOptions receive;
  receive.stall_timeout = kPatientStall;
  {
    Ends ends(*inner, kInproc, {}, receive);
    TestTransfer transfer(Geometry(2, 2, 8), 100);
    auto pulled = *ends.receiver->Pull(transfer.MakePull(kInproc, "a"));
    std::this_thread::sleep_for(kPatientStall * 2);
    EXPECT_EQ(transfer.receiver_done.count(), 0) << transfer.receiver_done.Wait().status.ToString();
    auto session = *ends.sender->Offer(transfer.MakeOffer("a"));
    transfer.PostAll(*session);
    EXPECT_TRUE(transfer.receiver_done.Wait().status.ok());
  }
  transport::FaultPlan plan;
  plan.truncate_after_bytes = EncodeFrame(0, MakeHello(kRoleSender, 0)).size();  // PONGs are swallowed
  auto mute = transport::FaultyTransport::Create(inner, plan);
  receive.stall_timeout = std::chrono::milliseconds(60);
  Ends ends(*mute, *inner, kInproc, {}, receive);
  TestTransfer transfer(Geometry(2, 2, 8), 100);
  auto pulled = *ends.receiver->Pull(transfer.MakePull(kInproc, "a"));
  EXPECT_EQ(transfer.receiver_done.Wait().status.code(), StatusCode::kUnavailable);
}

TEST_F(TransferFaultsUnit, HalfAHelloEndsWithTheConnectTimeout) {
  std::shared_ptr<transport::Transport> inner = transport::CreateInprocTransport();
  transport::FaultPlan plan;
  plan.truncate_after_bytes = kFrameHeaderBytes + 4;
  auto mute = transport::FaultyTransport::Create(inner, plan);
  KvReceiverOptions receive;
  receive.connect_timeout = std::chrono::milliseconds(50);
  Ends ends(*mute, *inner, kInproc, {}, receive);
  TestTransfer transfer(Geometry(1, 1, 8), 10);
  auto pulled = *ends.receiver->Pull(transfer.MakePull(kInproc, "a"));
  const base::Status status = transfer.receiver_done.Wait().status;
  EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_NE(status.message().find("connection to"), std::string::npos) << status.ToString();
}

TEST_F(TransferFaultsUnit, NobodyListens) {
  auto transport = transport::CreateTcpTransport();
  auto receiver = *KvReceiver::Create(*transport, {});
  TestTransfer transfer(Geometry(1, 1, 8), 10);
  auto pulled = *receiver->Pull(transfer.MakePull("tcp://127.0.0.1:1", "a"));
  EXPECT_EQ(transfer.receiver_done.Wait().status.code(), StatusCode::kUnavailable);
  TestTransfer malformed(Geometry(1, 1, 8), 10);
  pulled = *receiver->Pull(malformed.MakePull("nonsense", "a"));
  EXPECT_EQ(malformed.receiver_done.Wait().status.code(), StatusCode::kInvalidArgument);
}

TEST_F(TransferFaultsUnit, ARestartedPrefillNodeIsFoundAgain) {
  auto transport = transport::CreateInprocTransport();
  auto receiver = *KvReceiver::Create(*transport, {});
  KvSenderOptions options;
  options.endpoint = kInproc;
  for (int life = 0; life < 5; ++life) {
    auto sender = *KvSender::Create(*transport, options);
    TestTransfer transfer(Geometry(1, 1, 8), 10);
    auto session = *sender->Offer(transfer.MakeOffer("a"));
    transfer.PostAll(*session);
    auto pulled = *receiver->Pull(transfer.MakePull(kInproc, "a"));
    EXPECT_TRUE(transfer.receiver_done.Wait().status.ok()) << transfer.receiver_done.Wait().status.ToString();
    EXPECT_TRUE(transfer.sender_done.Wait().status.ok());
  }
}

TEST_F(TransferFaultsUnit, ASecondPullOfTheSameTransferIsRefused) {
  auto transport = transport::CreateInprocTransport();
  Ends ends(*transport, kInproc);
  auto other = *KvReceiver::Create(*transport, {});
  TestTransfer transfer(Geometry(2, 1, 8), 10);
  TestTransfer second(Geometry(2, 1, 8), 10);
  auto session = *ends.sender->Offer(transfer.MakeOffer("a"));
  session->PostFirstToken({1, 0, {}});
  auto pulled = *ends.receiver->Pull(transfer.MakePull(kInproc, "a"));
  transfer.receiver_done.WaitForFirstToken();
  auto stolen = *other->Pull(second.MakePull(kInproc, "a"));
  EXPECT_EQ(second.receiver_done.Wait().status.code(), StatusCode::kFailedPrecondition);
  session->PostLayer(0, 0, 10);
  session->PostLayer(1, 0, 10);
  EXPECT_TRUE(transfer.receiver_done.Wait().status.ok());
}

}  // namespace
}  // namespace kvplane::transfer
