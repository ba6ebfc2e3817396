// What the conformance suite does not cover: peers that break the protocol, and a peer that is killed.
#include "kvplane/transport/ucx_transport.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "kvplane/transport/ucx_channel.h"

namespace kvplane::transport {
namespace {

using base::StatusCode;

base::TimePoint Soon() { return base::Clock::System().Now() + std::chrono::seconds(30); }

std::vector<std::byte> Bytes(size_t count) { return std::vector<std::byte>(count, std::byte{7}); }

TEST(UcxChannelSafety, RefusesBytesOutOfOrderOrBeyondTheWindow) {
  UcxChannel channel("peer");
  EXPECT_TRUE(channel.Arrived(0, Bytes(10)).ok());
  EXPECT_EQ(channel.Arrived(0, Bytes(10)).code(), StatusCode::kUnavailable);
  EXPECT_EQ(channel.Arrived(11, Bytes(10)).code(), StatusCode::kUnavailable);
  EXPECT_EQ(channel.Arrived(10, {}).code(), StatusCode::kUnavailable);
  EXPECT_EQ(channel.Arrived(10, Bytes(kUcxWindowBytes - 9)).code(), StatusCode::kUnavailable);
  EXPECT_TRUE(channel.Arrived(10, Bytes(kUcxWindowBytes - 10)).ok());
  EXPECT_EQ(channel.Arrived(kUcxWindowBytes, Bytes(1)).code(), StatusCode::kUnavailable);
}

TEST(UcxChannelSafety, RefusesGrantsThatShrinkOrExceedTheWindow) {
  UcxChannel channel("peer");
  EXPECT_EQ(channel.Granted(kUcxWindowBytes + 1).code(), StatusCode::kUnavailable);
  EXPECT_TRUE(channel.Granted(100).ok());
  EXPECT_EQ(channel.Granted(99).code(), StatusCode::kUnavailable);
  const auto room = channel.TakeCredit(1000, Soon());
  ASSERT_TRUE(room.ok());
  EXPECT_EQ(room->offset, 0u);
  EXPECT_EQ(room->bytes, 100u);
  EXPECT_EQ(channel.TakeCredit(1, base::Clock::System().Now()).status().code(),
            StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(channel.Granted(100 + kUcxWindowBytes).ok());
}

TEST(UcxChannelSafety, AnEndThatDoesNotMatchTheBytesIsRefused) {
  UcxChannel channel("peer");
  EXPECT_TRUE(channel.Arrived(0, Bytes(10)).ok());
  EXPECT_EQ(channel.PeerEnded(11).code(), StatusCode::kUnavailable);
  EXPECT_TRUE(channel.PeerEnded(10).ok());
  std::array<std::byte, 64> into;
  const auto taken = channel.TakeArrived(into, Soon());
  ASSERT_TRUE(taken.ok());
  EXPECT_EQ(taken->bytes, 10u);
  EXPECT_EQ(channel.TakeArrived(into, Soon()).status().code(), StatusCode::kUnavailable);
}

TEST(UcxChannelUnit, GrantsAgainAfterAQuarterOfTheWindow) {
  UcxChannel channel("peer");
  ASSERT_TRUE(channel.Arrived(0, Bytes(kUcxWindowBytes)).ok());
  std::vector<std::byte> into(kUcxWindowBytes / 4 - 1);
  EXPECT_FALSE(channel.TakeArrived(into, Soon())->grant.has_value());
  const auto taken = channel.TakeArrived(std::span(into).first(1), Soon());
  EXPECT_EQ(taken->grant, kUcxWindowBytes + kUcxWindowBytes / 4);
}

TEST(UcxTransportUnit, NamesAnImpossibleChoiceOfTransports) {
  EXPECT_EQ(CreateUcxTransport({.tls = "no_such_transport"}).status().code(), StatusCode::kUnavailable);
}

// A child that listens, tells its endpoint, sends one byte and then only waits to be killed.
[[noreturn]] void ServeOneByteForever(int report) {
  auto transport = CreateUcxTransport();
  if (!transport.ok()) ::_exit(1);
  auto listener = (*transport)->Listen("ucx://127.0.0.1:0");
  if (!listener.ok()) ::_exit(2);
  char text[64] = {};
  (*listener)->endpoint().copy(text, sizeof(text) - 1);
  if (::write(report, text, sizeof(text)) != sizeof(text)) ::_exit(3);
  auto stream = (*listener)->Accept(Soon());
  if (!stream.ok()) ::_exit(4);
  const std::byte one{1};
  const std::span<const std::byte> piece(&one, 1);
  if (!(*stream)->Write({&piece, 1}, Soon()).ok()) ::_exit(5);
  while (true) ::pause();
}

TEST(UcxTransportSafety, AKilledPeerEndsItsStreams) {
  int pipe_ends[2];
  ASSERT_EQ(::pipe(pipe_ends), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ServeOneByteForever(pipe_ends[1]);
  char endpoint[64] = {};
  ASSERT_EQ(::read(pipe_ends[0], endpoint, sizeof(endpoint)), static_cast<ssize_t>(sizeof(endpoint)));
  {
    auto transport = CreateUcxTransport();
    ASSERT_TRUE(transport.ok()) << transport.status().ToString();
    auto stream = (*transport)->Connect(endpoint, Soon());
    ASSERT_TRUE(stream.ok()) << stream.status().ToString();
    std::byte byte{};
    EXPECT_TRUE((*stream)->Read({&byte, 1}, Soon()).ok());
    EXPECT_EQ(byte, std::byte{1});
    ::kill(child, SIGKILL);
    EXPECT_EQ((*stream)->Read({&byte, 1}, Soon()).code(), StatusCode::kUnavailable);
    const std::span<const std::byte> piece(&byte, 1);
    EXPECT_EQ((*stream)->Write({&piece, 1}, Soon()).code(), StatusCode::kUnavailable);
  }
  ::waitpid(child, nullptr, 0);
  ::close(pipe_ends[0]);
  ::close(pipe_ends[1]);
}

}  // namespace
}  // namespace kvplane::transport
