#include "kvplane/transfer/wire_frames.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/transfer/testing/kv_fixture.h"

namespace kvplane::transfer {
namespace {

using base::StatusCode;

std::span<const std::byte> HeadOf(const std::vector<std::byte>& frame) {
  return std::span(frame).subspan(kFrameHeaderBytes);
}

base::Result<FrameHeader> HeaderOf(const std::vector<std::byte>& frame) {
  return ParseFrameHeader(std::span(frame).first<kFrameHeaderBytes>());
}

codec::ProfileId Profile(uint8_t last_byte) {
  codec::ProfileId id;
  id.bytes[15] = std::byte{last_byte};
  return id;
}

PullFrame SamplePull() {
  PullFrame pull;
  pull.transfer_id = "request-17";
  pull.least_quality = 940;
  pull.patience_ms = 30'000;
  pull.descriptor = Describe(Geometry(4, 2, 64), 300);
  pull.descriptor.first_head = 4;
  pull.descriptor.model_kv_heads = 16;
  return pull;
}

OpenFrame SampleOpen() {
  OpenFrame open;
  open.tokens = 300;
  open.group_heads = 2;
  open.strategies = {{"store", "store"}, {"affine(bits=4) | pack", "store"}};
  open.profile = Profile(0x5a);
  return open;
}

// Every kind of frame with every field set.
std::vector<std::vector<std::byte>> SampleFrames() {
  HelloFrame hello;
  hello.role = kRoleReceiver;
  hello.max_body_bytes = 1 << 20;
  hello.credit_bytes = 99;
  hello.dtypes = {2};
  hello.stage_ids = {0x51, 0x61};
  hello.software = "test";
  hello.profiles = {Profile(1), Profile(2)};
  TileFrame tile;
  tile.layer = 3;
  tile.first_token = 128;
  tile.tokens = 44;
  tile.group = 1;
  tile.side = tensor::Side::kValue;
  tile.body_crc = 0xdeadbeef;
  NackFrame nack;
  nack.layer = 3;
  nack.reason = kNackDecode;
  return {EncodeFrame(0, hello),
          EncodeFrame(1, SamplePull()),
          EncodeFrame(1, SampleOpen()),
          EncodeFrame(1, tile, 1000),
          EncodeFrame(1, FirstTokenFrame{{5, -1.0f, {{5, -1.0f}, {6, -2.0f}}}}),
          EncodeFrame(0, CreditFrame{1 << 20}),
          EncodeFrame(1, DoneFrame{8, 1, base::Duration(5), base::Duration(6), base::Duration(7), 940}),
          EncodeFrame(1, AckFrame{12345, base::Duration(5), base::Duration(6), base::Duration(7)}),
          EncodeFrame(1, nack),
          EncodeFrame(1, AbortFrame{base::Cancelled("the client left")}),
          EncodeFrame(0, PingFrame{77}),
          EncodeFrame(0, PongFrame{77})};
}

base::Status ParseAny(FrameType type, std::span<const std::byte> head) {
  switch (type) {
    case FrameType::kHello:
      return ParseHello(head).status();
    case FrameType::kPull:
      return ParsePull(head).status();
    case FrameType::kOpen:
      return ParseOpen(head).status();
    case FrameType::kTile:
      return ParseTile(head).status();
    case FrameType::kFirstToken:
      return ParseFirstToken(head).status();
    case FrameType::kCredit:
      return ParseCredit(head).status();
    case FrameType::kDone:
      return ParseDone(head).status();
    case FrameType::kAck:
      return ParseAck(head).status();
    case FrameType::kNack:
      return ParseNack(head).status();
    case FrameType::kAbort:
      return ParseAbort(head).status();
    case FrameType::kPing:
      return ParsePing(head).status();
    case FrameType::kPong:
      return ParsePong(head).status();
  }
  return base::Internal("not a type");
}

TEST(WireFramesUnit, HeaderBytesAreAsSpecified) {
  const auto frame = EncodeFrame(0x01020304, PingFrame{0x1122334455667788});
  ASSERT_EQ(frame.size(), kFrameHeaderBytes + 8);
  const uint8_t expected[] = {'K', 'V', 'P', 'W', 1, 0, 11, 0, 4, 3, 2, 1, 8, 0, 0, 0, 0, 0, 0, 0};
  for (size_t i = 0; i < sizeof(expected); ++i) EXPECT_EQ(frame[i], std::byte{expected[i]}) << i;
  EXPECT_EQ(frame[kFrameHeaderBytes], std::byte{0x88});
  const auto header = HeaderOf(frame);
  ASSERT_TRUE(header.ok());
  EXPECT_EQ(header->stream, 0x01020304u);
  EXPECT_EQ(header->head_bytes, 8u);
}

TEST(WireFramesUnit, HelloCarriesItsProfiles) {
  const auto frame = SampleFrames()[0];
  const auto hello = ParseHello(HeadOf(frame));
  ASSERT_TRUE(hello.ok()) << hello.status().ToString();
  EXPECT_EQ(hello->minor, 3);
  EXPECT_EQ(hello->profiles, (std::vector{Profile(1), Profile(2)}));
  // A count, then 16 bytes each, at the end of the head.
  EXPECT_EQ(frame[frame.size() - 33], std::byte{2});
  EXPECT_EQ(frame.back(), std::byte{2});
  // The list is there or not: half an id is neither.
  EXPECT_EQ(ParseHello(HeadOf(frame).first(HeadOf(frame).size() - 1)).status().code(), StatusCode::kCorrupt);
}

// Peers of minor version 0 know nothing of profiles: their frames end before them.
TEST(WireFramesUnit, FramesWithoutProfilesAreUnderstood) {
  const auto hello_frame = SampleFrames()[0];
  const auto hello = ParseHello(HeadOf(hello_frame).first(HeadOf(hello_frame).size() - 33));
  ASSERT_TRUE(hello.ok()) << hello.status().ToString();
  EXPECT_EQ(hello->software, "test");
  EXPECT_TRUE(hello->profiles.empty());
  const auto open_frame = EncodeFrame(9, SampleOpen());
  const auto open = ParseOpen(HeadOf(open_frame).first(HeadOf(open_frame).size() - 16));
  ASSERT_TRUE(open.ok()) << open.status().ToString();
  EXPECT_EQ(open->strategies, SampleOpen().strategies);
  EXPECT_TRUE(open->profile.none());
}

TEST(WireFramesUnit, PullRoundTrip) {
  const auto pull = ParsePull(HeadOf(EncodeFrame(9, SamplePull())));
  ASSERT_TRUE(pull.ok()) << pull.status().ToString();
  EXPECT_EQ(pull->transfer_id, "request-17");
  EXPECT_TRUE(pull->accept_lossy);
  EXPECT_EQ(pull->least_quality, 940);
  EXPECT_EQ(pull->patience_ms, 30'000u);
  EXPECT_EQ(pull->descriptor.geometry, SamplePull().descriptor.geometry);
  EXPECT_EQ(pull->descriptor.tokens, 300u);
  EXPECT_EQ(pull->descriptor.first_head, 4u);
  EXPECT_EQ(pull->descriptor.model_kv_heads, 16u);
  EXPECT_EQ(pull->descriptor.token_hash, SamplePull().descriptor.token_hash);
  EXPECT_EQ(pull->descriptor.model_fingerprint, SamplePull().descriptor.model_fingerprint);
}

// The end of PULL's head, where a peer of minor version 2 stops, and what its flag means for the quality.
TEST(WireFramesUnit, WhoWelcomesNoLossyKvTakesOnlyExactKv) {
  PullFrame pull = SamplePull();
  for (const bool accept_lossy : {true, false}) {
    pull.accept_lossy = accept_lossy;
    const auto frame = EncodeFrame(9, pull);
    EXPECT_EQ(frame[frame.size() - 2], std::byte{940 & 0xff});
    EXPECT_EQ(frame[frame.size() - 1], std::byte{940 >> 8});
    const auto head = HeadOf(frame);
    EXPECT_EQ(ParsePull(head)->least_quality, accept_lossy ? 940 : tensor::kExactQuality);
    EXPECT_EQ(ParsePull(head.first(head.size() - 2))->least_quality,
              accept_lossy ? 0 : tensor::kExactQuality);
  }
  pull.accept_lossy = true;
  pull.least_quality = 0xffff;
  EXPECT_EQ(ParsePull(HeadOf(EncodeFrame(9, pull)))->least_quality, tensor::kExactQuality);
}

TEST(WireFramesUnit, OpenAndTileRoundTrip) {
  const auto open = ParseOpen(HeadOf(EncodeFrame(9, SampleOpen())));
  ASSERT_TRUE(open.ok());
  EXPECT_EQ(open->strategies, SampleOpen().strategies);
  EXPECT_EQ(open->profile, Profile(0x5a));
  EXPECT_EQ(open->group_heads, 2);
  EXPECT_EQ(open->tile_tokens, 64);
  const auto tile = ParseTile(HeadOf(SampleFrames()[3]));
  ASSERT_TRUE(tile.ok());
  EXPECT_EQ(tile->layer, 3u);
  EXPECT_EQ(tile->first_token, 128u);
  EXPECT_EQ(tile->tokens, 44);
  EXPECT_EQ(tile->group, 1);
  EXPECT_EQ(tile->side, tensor::Side::kValue);
  EXPECT_EQ(tile->body_crc, 0xdeadbeefu);
  EXPECT_EQ(HeaderOf(SampleFrames()[3])->body_bytes, 1000u);
}

TEST(WireFramesUnit, EndFramesRoundTrip) {
  const auto done = ParseDone(HeadOf(SampleFrames()[6]));
  ASSERT_TRUE(done.ok());
  EXPECT_EQ(done->tiles_sent, 8u);
  EXPECT_EQ(done->since_prefill, base::Duration(7));
  EXPECT_EQ(done->kv_quality, 940);
  EXPECT_EQ(ParseDone(HeadOf(SampleFrames()[6]).first(32))->kv_quality, tensor::kExactQuality)
      << "as version 1.1 wrote it";
  const auto ack = ParseAck(HeadOf(SampleFrames()[7]));
  ASSERT_TRUE(ack.ok());
  EXPECT_EQ(ack->bytes_wire, 12345u);
  EXPECT_EQ(ack->exposed, base::Duration(7));
  const auto abort = ParseAbort(HeadOf(SampleFrames()[9]));
  ASSERT_TRUE(abort.ok());
  EXPECT_EQ(abort->status, base::Cancelled("the client left"));
  const auto first = ParseFirstToken(HeadOf(SampleFrames()[4]));
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->token.top_logprobs[1], (std::pair<int32_t, float>(6, -2.0f)));
}

TEST(WireFramesUnit, LongReasonsAreCut) {
  const AbortFrame abort{base::Internal("{}", std::string(5000, 'x'))};
  EXPECT_EQ(ParseAbort(HeadOf(EncodeFrame(1, abort)))->status.message().size(), kMaxReasonBytes);
}

TEST(WireFramesUnit, DurationsOfAPeerAreBounded) {
  AckFrame ack;
  auto frame = EncodeFrame(1, ack);
  std::fill(frame.begin() + kFrameHeaderBytes + 8, frame.end(), std::byte{0xff});
  EXPECT_EQ(ParseAck(HeadOf(frame))->wall, std::chrono::hours(24 * 365));
}

TEST(WireFramesSafety, EveryTruncationIsAnErrorAndLaterFieldsAreNot) {
  for (const auto& frame : SampleFrames()) {
    const FrameHeader header = *HeaderOf(frame);
    const auto type = static_cast<FrameType>(header.type);
    const auto head = HeadOf(frame);
    // Frames of earlier minor versions end where the profiles, the head shard or the least quality begin.
    const size_t whole_too = type == FrameType::kHello  ? head.size() - 33
                             : type == FrameType::kOpen ? head.size() - 16
                             : type == FrameType::kPull ? head.size() - 2
                             : type == FrameType::kDone ? head.size() - 2
                                                        : head.size();
    for (size_t size = 0; size < head.size(); ++size) {
      if (size == whole_too || (type == FrameType::kPull && size == head.size() - 10)) continue;
      EXPECT_EQ(ParseAny(type, head.first(size)).code(), StatusCode::kCorrupt)
          << "type " << int{header.type} << " cut to " << size;
    }
    std::vector<std::byte> longer(head.begin(), head.end());
    longer.resize(head.size() + 9);
    EXPECT_TRUE(ParseAny(type, longer).ok()) << "type " << int{header.type};
  }
}

TEST(WireFramesSafety, EveryFlippedHeaderBitIsNoticed) {
  for (const auto& frame : SampleFrames()) {
    for (size_t bit = 0; bit < kFrameHeaderBytes * 8; ++bit) {
      auto broken = frame;
      broken[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
      EXPECT_FALSE(HeaderOf(broken).ok()) << bit;
    }
  }
}

TEST(WireFramesSafety, LengthsAreBoundedBeforeAnythingIsSizedByThem) {
  auto frame = EncodeFrame(1, PingFrame{});
  SealFrame(FrameType::kTile, 1, kMaxBodyBytes + 1, frame);
  EXPECT_EQ(HeaderOf(frame).status().code(), StatusCode::kCorrupt);
}

TEST(WireFramesSafety, BadEnumsAndCountsAreErrors) {
  auto pull = EncodeFrame(1, SamplePull());
  pull[kFrameHeaderBytes + 2 + 10 + 1 + 4 + 12] = std::byte{99};  // dtype
  EXPECT_FALSE(ParsePull(HeadOf(pull)).ok());
  auto tile = SampleFrames()[3];
  tile[kFrameHeaderBytes + 12] = std::byte{2};  // side
  EXPECT_FALSE(ParseTile(HeadOf(tile)).ok());
  OpenFrame open = SampleOpen();
  open.strategies.clear();
  EXPECT_FALSE(ParseOpen(HeadOf(EncodeFrame(1, open))).ok());
  open.strategies.assign(kMaxStrategiesPerOpen + 1, {"store", "store"});
  EXPECT_FALSE(ParseOpen(HeadOf(EncodeFrame(1, open))).ok());
  open.strategies.assign(1, {std::string(codec::kMaxStrategyTextBytes + 1, 'x'), "store"});
  EXPECT_FALSE(ParseOpen(HeadOf(EncodeFrame(1, open))).ok());
}

TEST(WireFramesSafety, RandomHeadsNeverCrash) {
  base::Rng rng(3);
  for (int i = 0; i < 20'000; ++i) {
    std::vector<std::byte> head(rng.Below(120));
    for (std::byte& byte : head)
      byte = static_cast<std::byte>(rng.Below(8) == 0 ? rng.Below(256) : rng.Below(3));
    const auto type = static_cast<FrameType>(1 + rng.Below(12));
    const base::Status status = ParseAny(type, head);
    EXPECT_TRUE(status.ok() || !status.message().empty());
  }
}

}  // namespace
}  // namespace kvplane::transfer
