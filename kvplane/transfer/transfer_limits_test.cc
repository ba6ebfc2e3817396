// What the ends do when the machine, or a peer, leaves them nothing: no threads, no connections.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kvplane/base/log.h"
#include "kvplane/transfer/frame_reader.h"
#include "kvplane/transfer/peer_capabilities.h"
#include "kvplane/transfer/testing/kv_fixture.h"
#include "kvplane/transfer/testing/no_more_threads.h"
#include "kvplane/transfer/wire_frames.h"
#include "kvplane/transport/inproc_transport.h"
#include "kvplane/transport/tcp_transport.h"

namespace kvplane::transfer {
namespace {

using base::StatusCode;

constexpr const char* kInproc = "inproc://prefill";

base::TimePoint Now() { return base::Clock::System().Now(); }

void WriteFrame(transport::Stream& stream, const std::vector<std::byte>& frame) {
  const std::span<const std::byte> piece(frame);
  EXPECT_TRUE(stream.Write({&piece, 1}, After(kTestPatience)).ok());
}

class TransferLimitsSafety : public ::testing::Test {
 protected:
  TransferLimitsSafety() : transport_(transport::CreateInprocTransport()) {
    base::ConfigureLog({base::LogLevel::kOff, false, ""});
  }
  ~TransferLimitsSafety() override { base::ConfigureLog({}); }

  std::unique_ptr<transport::Transport> transport_;
  TestTransfer transfer_{Geometry(1, 1, 8), 64};
};

TEST_F(TransferLimitsSafety, NoEndStartsWithoutThreads) {
  NoMoreThreads limit;
  KvSenderOptions send;
  send.endpoint = kInproc;
  EXPECT_EQ(KvSender::Create(*transport_, send).status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(KvReceiver::Create(*transport_, {}).status().code(), StatusCode::kResourceExhausted);
}

TEST_F(TransferLimitsSafety, APullThatNeedsAThreadTooManyIsRefusedAndALaterOneGoesThrough) {
  Ends ends(*transport_, kInproc);
  {
    NoMoreThreads limit;
    const auto refused = ends.receiver->Pull(transfer_.MakePull(kInproc, "a"));
    EXPECT_EQ(refused.status().code(), StatusCode::kResourceExhausted);
  }
  EXPECT_EQ(transfer_.receiver_done.count(), 0);
  auto session = *ends.sender->Offer(transfer_.MakeOffer("a"));
  transfer_.PostAll(*session);
  auto pulled = *ends.receiver->Pull(transfer_.MakePull(kInproc, "a"));
  EXPECT_TRUE(transfer_.receiver_done.Wait().status.ok());
}

// The second thread of a connection is started when the prefill node has said HELLO.
TEST_F(TransferLimitsSafety, AConnectionWithoutItsSecondThreadEndsItsTransfers) {
  auto receiver = *KvReceiver::Create(*transport_, {.connect_timeout = kTestPatience});
  auto listener = *transport_->Listen(kInproc);
  auto pulled = *receiver->Pull(transfer_.MakePull(kInproc, "a"));
  auto stream = *listener->Accept(After(kTestPatience));
  NoMoreThreads limit;
  WriteFrame(*stream, EncodeFrame(0, MakeHello(kRoleSender, 0)));
  EXPECT_EQ(transfer_.receiver_done.Wait().status.code(), StatusCode::kResourceExhausted);
}

// A transfer that was not answered asks once more, over a connection for which there is no thread now.
TEST_F(TransferLimitsSafety, AskingAgainWithoutAThreadEndsTheTransfer) {
  auto receiver = *KvReceiver::Create(*transport_, {.connect_timeout = kTestPatience});
  auto listener = *transport_->Listen(kInproc);
  auto pulled = *receiver->Pull(transfer_.MakePull(kInproc, "a"));
  auto stream = *listener->Accept(After(kTestPatience));
  WriteFrame(*stream, EncodeFrame(0, MakeHello(kRoleSender, 0)));
  FrameReader reader(*stream);
  do {
    ASSERT_TRUE(reader.Next(After(kTestPatience)).ok());
  } while (reader.type() != FrameType::kPull);
  NoMoreThreads limit;
  stream->Shutdown();
  EXPECT_EQ(transfer_.receiver_done.Wait().status.code(), StatusCode::kResourceExhausted);
}

// One address may hold 128 connections; what it opens beyond them costs at most a log line a second.
TEST_F(TransferLimitsSafety, AFloodOfConnectionsFromOneAddressIsRefusedQuietly) {
  base::ConfigureLog({base::LogLevel::kWarn, false, ""});
  const auto tcp = transport::CreateTcpTransport();
  KvSenderOptions options;
  options.endpoint = "tcp://127.0.0.1:0";
  auto sender = *KvSender::Create(*tcp, options);
  std::vector<std::unique_ptr<transport::Stream>> taken;
  int refused = 0;
  testing::internal::CaptureStderr();
  const base::TimePoint start = Now();
  for (int i = 0; i < 128 + 60; ++i) {
    auto stream = *tcp->Connect(sender->endpoint(), After(kTestPatience));
    // Says HELLO at once: a silent connection would be closed and make room.
    const std::vector<std::byte> hello = EncodeFrame(0, MakeHello(kRoleReceiver, 1 << 20));
    const std::span<const std::byte> piece(hello);
    const bool written = stream->Write({&piece, 1}, After(kTestPatience)).ok();
    FrameReader reader(*stream);
    if (written && reader.Next(After(kTestPatience)).ok()) {
      taken.push_back(std::move(stream));
    } else {
      ++refused;
    }
  }
  const double seconds = base::ToSeconds(Now() - start);
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(taken.size(), 128u);
  EXPECT_EQ(refused, 60);
  const auto lines = std::count(log.begin(), log.end(), '\n');
  EXPECT_GE(lines, 1) << log;
  EXPECT_LE(static_cast<double>(lines), seconds + 2) << log;
  EXPECT_NE(log.find("limits: 1024, 128 from one address"), std::string::npos) << log;
}

}  // namespace
}  // namespace kvplane::transfer
