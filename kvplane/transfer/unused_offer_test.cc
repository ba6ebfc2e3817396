// KV that nobody fetches: withdrawn before, while and after a decode node asks for it, or dropped when its
// lease ends. The pages come back every time, and only then.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kvplane/base/log.h"
#include "kvplane/transfer/testing/kv_fixture.h"
#include "kvplane/transport/inproc_transport.h"

namespace kvplane::transfer {
namespace {

using base::StatusCode;

constexpr const char* kInproc = "inproc://prefill";
constexpr uint16_t kPoison = 0x1234;

class UnusedOffer : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { base::ConfigureLog({base::LogLevel::kOff, false, ""}); }
  static void TearDownTestSuite() { base::ConfigureLog({}); }

  std::unique_ptr<transport::Transport> transport_ = transport::CreateInprocTransport({.pipe_bytes = 20'000});
  Ends ends_{*transport_, kInproc};
};
using UnusedOfferUnit = UnusedOffer;
using UnusedOfferSafety = UnusedOffer;

// Until here a wrong lease would have ended; a right one has not begun, or no longer runs.
void OutliveTheLease() { std::this_thread::sleep_for(std::chrono::milliseconds(30)); }

TEST_F(UnusedOfferUnit, WithdrawnKvIsGivenBackAndNeverDelivered) {
  TestTransfer transfer(Geometry(2, 2, 32), 130);
  auto session = *ends_.sender->Offer(transfer.MakeOffer("a"));
  transfer.PostAll(*session);
  EXPECT_GT(ends_.sender->backlog_bytes(), 0u);
  EXPECT_EQ(*ends_.sender->Withdraw("a"), Withdrawal::kWithdrawn);
  const TransferOutcome outcome = transfer.sender_done.Wait();
  EXPECT_EQ(outcome.status.code(), StatusCode::kCancelled);
  EXPECT_EQ(outcome.offer_end, OfferEnd::kWithdrawn);
  EXPECT_EQ(ends_.sender->backlog_bytes(), 0u);

  EXPECT_EQ(*ends_.sender->Withdraw("a"), Withdrawal::kEnded) << "twice is once";
  auto late = ends_.receiver->Pull(transfer.MakePull(kInproc, "a"));
  ASSERT_TRUE(late.ok());
  EXPECT_EQ(transfer.receiver_done.Wait().status.code(), StatusCode::kCancelled);
  TestTransfer again(Geometry(2, 2, 32), 130);
  EXPECT_EQ(ends_.sender->Offer(again.MakeOffer("a")).status().code(), StatusCode::kCancelled);
  EXPECT_EQ(again.sender_done.count(), 0);
  EXPECT_EQ(transfer.sender_done.count(), 1);
}

TEST_F(UnusedOfferUnit, AnIdWithdrawnBeforeItsOfferIsRefusedAndItsPullAnsweredAtOnce) {
  TestTransfer transfer(Geometry(2, 2, 32), 130);
  auto pulled = ends_.receiver->Pull(transfer.MakePull(kInproc, "a"));  // whether it arrives before or after
  ASSERT_TRUE(pulled.ok());
  EXPECT_EQ(*ends_.sender->Withdraw("a"), Withdrawal::kUnknown);
  EXPECT_EQ(transfer.receiver_done.Wait().status.code(), StatusCode::kCancelled);
  EXPECT_EQ(ends_.sender->Offer(transfer.MakeOffer("a")).status().code(), StatusCode::kCancelled);
  EXPECT_EQ(*ends_.sender->Withdraw("a"), Withdrawal::kEnded);
  EXPECT_EQ(transfer.sender_done.count(), 0);
}

TEST_F(UnusedOfferUnit, AFetchUnderWayIsAborted) {
  TestTransfer transfer(Geometry(2, 2, 32), 130);
  auto session = *ends_.sender->Offer(transfer.MakeOffer("a"));
  auto pulled = *ends_.receiver->Pull(transfer.MakePull(kInproc, "a"));
  session->PostFirstToken({42, -0.5f, {}});
  transfer.receiver_done.WaitForFirstToken();  // so the fetch has begun
  EXPECT_EQ(*ends_.sender->Withdraw("a"), Withdrawal::kAborted);
  EXPECT_EQ(transfer.sender_done.Wait().offer_end, OfferEnd::kWithdrawn);
  const TransferOutcome received = transfer.receiver_done.Wait();
  EXPECT_EQ(received.status.code(), StatusCode::kCancelled);
  EXPECT_NE(received.status.message().find("withdrawn"), std::string::npos) << received.status.message();
  session->PostLayer(0, 0, 130);  // the engine may not have heard yet
}

TEST_F(UnusedOfferUnit, WhatIsDeliveredCannotBeWithdrawnAndItsIdMayBeUsedAgain) {
  for (int round = 0; round < 2; ++round) {
    TestTransfer transfer(Geometry(2, 2, 32), 130);
    auto session = *ends_.sender->Offer(transfer.MakeOffer("a"));
    auto pulled = *ends_.receiver->Pull(transfer.MakePull(kInproc, "a"));
    transfer.PostAll(*session);
    EXPECT_TRUE(transfer.receiver_done.Wait().status.ok());
    const TransferOutcome sent = transfer.sender_done.Wait();
    EXPECT_TRUE(sent.status.ok());
    EXPECT_EQ(sent.offer_end, OfferEnd::kOther);
    EXPECT_EQ(*ends_.sender->Withdraw("a"), Withdrawal::kEnded);
  }
}

TEST_F(UnusedOfferUnit, OnlyTransferIdsAreTaken) {
  EXPECT_EQ(ends_.sender->Withdraw("").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ends_.sender->Withdraw(std::string(kMaxTransferIdBytes + 1, 'x')).status().code(),
            StatusCode::kInvalidArgument);
}

TEST_F(UnusedOfferUnit, CompleteKvIsDroppedWhenItsLeaseEnds) {
  TestTransfer transfer(Geometry(2, 2, 32), 130);
  KvOffer offer = transfer.MakeOffer("a");
  offer.lease = std::chrono::milliseconds(1);
  auto session = *ends_.sender->Offer(std::move(offer));
  session->PostLayer(0, 0, 130);
  OutliveTheLease();
  session->PostLayer(1, 0, 130);
  OutliveTheLease();
  EXPECT_EQ(transfer.sender_done.count(), 0) << "the first token is still to come";
  session->PostFirstToken({42, -0.5f, {}});
  const TransferOutcome outcome = transfer.sender_done.Wait();
  EXPECT_EQ(outcome.status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(outcome.offer_end, OfferEnd::kLeaseExpired);
  EXPECT_EQ(*ends_.sender->Withdraw("a"), Withdrawal::kEnded);
  auto late = ends_.receiver->Pull(transfer.MakePull(kInproc, "a"));
  ASSERT_TRUE(late.ok());
  EXPECT_EQ(transfer.receiver_done.Wait().status.code(), StatusCode::kDeadlineExceeded);
}

TEST_F(UnusedOfferUnit, WithoutAFirstTokenTheLastLayerBeginsTheLease) {
  TestTransfer transfer(Geometry(2, 2, 32), 130);
  KvOffer offer = transfer.MakeOffer("a");
  offer.lease = std::chrono::milliseconds(1);
  offer.expects_first_token = false;
  auto session = *ends_.sender->Offer(std::move(offer));
  session->PostLayer(0, 0, 130);
  session->PostLayer(1, 0, 130);
  EXPECT_EQ(transfer.sender_done.Wait().offer_end, OfferEnd::kLeaseExpired);
}

TEST_F(UnusedOfferUnit, KvThatWasAskedForHasNoLease) {
  TestTransfer transfer(Geometry(2, 2, 32), 130);
  KvOffer offer = transfer.MakeOffer("a");
  offer.lease = std::chrono::milliseconds(1);
  auto session = *ends_.sender->Offer(std::move(offer));
  auto pulled = *ends_.receiver->Pull(transfer.MakePull(kInproc, "a"));
  session->PostFirstToken({42, -0.5f, {}});
  transfer.receiver_done.WaitForFirstToken();
  OutliveTheLease();
  session->PostLayer(0, 0, 130);
  session->PostLayer(1, 0, 130);
  EXPECT_TRUE(transfer.receiver_done.Wait().status.ok());
  EXPECT_TRUE(transfer.sender_done.Wait().status.ok());
  EXPECT_EQ(transfer.sent.CountDifferences(transfer.received), 0u);
}

// Withdrawal, lease, pull and prefill in any order: both ends end once, nothing is touched afterwards, and
// what was received in spite of it is right.
TEST_F(UnusedOfferSafety, WithdrawalsAndLeasesRaceWithFetches) {
  base::Rng rng(5);
  constexpr int kRounds = 150;
  int unfetched = 0;
  for (int round = 0; round < kRounds; ++round) {
    TestTransfer transfer(Geometry(3, 2, 32), 200, 32, 128);
    const std::string id = fmt::format("r{}", round);
    const bool by_lease = rng.Below(3) == 0;
    KvOffer offer = transfer.MakeOffer(id);
    if (by_lease) offer.lease = std::chrono::microseconds(rng.Below(400));
    auto session = *ends_.sender->Offer(std::move(offer));
    std::thread other([&, micros = rng.Below(900)] {
      if (by_lease) return;
      std::this_thread::sleep_for(std::chrono::microseconds(micros));
      EXPECT_TRUE(ends_.sender->Withdraw(id).ok());
      EXPECT_EQ(*ends_.sender->Withdraw(id), Withdrawal::kEnded);
    });
    std::thread decode([&, micros = rng.Below(600)] {
      std::this_thread::sleep_for(std::chrono::microseconds(micros));
      EXPECT_TRUE(ends_.receiver->Pull(transfer.MakePull(kInproc, id)).ok());
    });
    transfer.PostAll(*session, 64);
    other.join();
    decode.join();
    const TransferOutcome sent = transfer.sender_done.Wait();
    const TransferOutcome received = transfer.receiver_done.Wait();
    EXPECT_EQ(sent.status.ok(), sent.offer_end == OfferEnd::kOther);
    const StatusCode expected = by_lease ? StatusCode::kDeadlineExceeded : StatusCode::kCancelled;
    for (const base::Status& status : {sent.status, received.status}) {
      EXPECT_TRUE(status.ok() || status.code() == expected) << status.ToString();
    }
    if (received.status.ok()) {
      EXPECT_EQ(transfer.sent.CountDifferences(transfer.received), 0u);
    } else {
      ++unfetched;
    }
    transfer.sent.Fill(kPoison);
    transfer.received.Fill(kPoison);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(transfer.received.AllEqual(kPoison));
    EXPECT_EQ(transfer.sender_done.count(), 1);
    EXPECT_EQ(transfer.receiver_done.count(), 1);
  }
  EXPECT_GT(unfetched, 0);
}

// Whoever may withdraw can withdraw ids that never were: what is remembered of them stays bounded, and the
// offers of others are not touched.
TEST_F(UnusedOfferSafety, WithdrawalsOfIdsThatNeverWereLeaveOffersAlone) {
  TestTransfer transfer(Geometry(2, 2, 32), 130);
  auto session = *ends_.sender->Offer(transfer.MakeOffer("mine"));
  for (int i = 0; i < 5000; ++i) {
    EXPECT_EQ(*ends_.sender->Withdraw(fmt::format("never-{}", i)), Withdrawal::kUnknown);
  }
  EXPECT_EQ(*ends_.sender->Withdraw("never-0"), Withdrawal::kUnknown) << "forgotten: only so many are kept";
  auto pulled = *ends_.receiver->Pull(transfer.MakePull(kInproc, "mine"));
  transfer.PostAll(*session);
  EXPECT_TRUE(transfer.receiver_done.Wait().status.ok());
  EXPECT_TRUE(transfer.sender_done.Wait().status.ok());
}

}  // namespace
}  // namespace kvplane::transfer
