// A peer that speaks nonsense, lies or stops in the middle: no crash, no hang, no page written by a frame
// that does not belong there, and every transfer completes exactly once. Also: peers of other versions.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kvplane/base/log.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/transfer/frame_reader.h"
#include "kvplane/transfer/peer_capabilities.h"
#include "kvplane/transfer/testing/kv_fixture.h"
#include "kvplane/transfer/tile_grid.h"
#include "kvplane/transport/inproc_transport.h"

namespace kvplane::transfer {
namespace {

using base::StatusCode;
using Bytes = std::vector<std::byte>;
using Frames = std::vector<Bytes>;

constexpr const char* kInproc = "inproc://prefill";
constexpr uint32_t kTokens = 130;
constexpr uint32_t kStream = 1;  // the receiver's first stream

tensor::KvGeometry SmallGeometry() { return Geometry(2, 2, 8); }

Bytes Join(const Frames& frames) {
  Bytes out;
  for (const Bytes& frame : frames) out.insert(out.end(), frame.begin(), frame.end());
  return out;
}

// A listener that is behind refuses, as a kernel with a full backlog does: whoever connects faster than it
// accepts tries again.
std::unique_ptr<transport::Stream> ConnectPatiently(transport::Transport& transport) {
  const base::TimePoint limit = After(kTestPatience);
  while (true) {
    auto stream = transport.Connect(kInproc, limit);
    if (stream.ok()) return *std::move(stream);
    if (base::Clock::System().Now() >= limit) {
      ADD_FAILURE() << stream.status().ToString();
      return nullptr;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void WriteAll(transport::Stream& stream, const Bytes& bytes) {
  const std::span<const std::byte> piece(bytes);
  // The other end may hang up in the middle: that is its right.
  const base::Status ignored = stream.Write({&piece, 1}, After(kTestPatience));
  static_cast<void>(ignored.ok());
}

Bytes TileBytes(TestTransfer& transfer, const TileGrid& grid, const TileGrid::Tile& tile) {
  codec::Workspace workspace;
  const auto codec = *codec::TileCodec::Create(codec::SideStrategy(), tensor::Side::kKey);
  Bytes body(codec->MaxEncodedBytes(grid.ShapeOf(tile)));
  const auto view = grid.ViewOf(transfer.sent.layers()[tile.layer], tile);
  body.resize(*codec->Encode(tensor::AsConst(view), workspace, body));
  TileFrame frame;
  frame.layer = tile.layer;
  frame.first_token = tile.first_token;
  frame.tokens = static_cast<uint16_t>(tile.tokens);
  frame.group = static_cast<uint16_t>(tile.group);
  frame.side = tile.side;
  frame.body_crc = codec::TileCrc(body);
  Bytes out = EncodeFrame(kStream, frame, static_cast<uint32_t>(body.size()));
  out.insert(out.end(), body.begin(), body.end());
  return out;
}

// Everything a well-behaved prefill node sends for `transfer`, frame by frame.
Frames SenderSession(TestTransfer& transfer) {
  const TileGrid grid = *TileGrid::Create(transfer.descriptor, 2);
  Frames frames{EncodeFrame(0, MakeHello(kRoleSender, 0))};
  OpenFrame open;
  open.tokens = kTokens;
  open.group_heads = 2;
  open.strategies = {{"store", "store"}};
  frames.push_back(EncodeFrame(kStream, open));
  DoneFrame done;
  for (uint32_t layer = 0; layer < transfer.descriptor.geometry.layers; ++layer) {
    for (uint32_t index = 0; index < grid.tiles_per_layer(); ++index) {
      frames.push_back(TileBytes(transfer, grid, grid.At(layer, index)));
      ++done.tiles_sent;
    }
  }
  frames.push_back(EncodeFrame(kStream, FirstTokenFrame{{3, -1, {}}}));
  frames.push_back(EncodeFrame(kStream, done));
  return frames;
}

// What a FakeSender plays to one connection, and how long it stays for the answer.
struct Scene {
  Bytes bytes;
  base::Duration patience;
};

// A listener that plays a scene to every connection and hangs up: at the ACK, or when its patience is over.
class FakeSender {
 public:
  FakeSender(transport::Transport& transport, std::function<Scene()> next)
      : listener_(*transport.Listen(kInproc)), next_(std::move(next)), thread_([this] { Run(); }) {}
  ~FakeSender() {
    listener_->Shutdown();
    thread_.join();
  }

 private:
  void Run() {
    while (true) {
      auto stream = listener_->Accept(base::kNoDeadline);
      if (!stream.ok()) return;
      const Scene scene = next_();
      WriteAll(**stream, scene.bytes);
      const base::TimePoint limit = After(scene.patience);
      FrameReader reader(**stream);
      while (reader.Next(limit, limit).ok() && reader.type() != FrameType::kAck) {
      }
    }
  }

  std::unique_ptr<transport::Listener> listener_;
  std::function<Scene()> next_;
  std::thread thread_;
};

class HostilePeer : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { base::ConfigureLog({base::LogLevel::kOff, false, ""}); }
  static void TearDownTestSuite() { base::ConfigureLog({}); }

  HostilePeer() : transport_(transport::CreateInprocTransport({.pipe_bytes = 1 << 18})) {}

  // What the receiver makes of `frames`, after which the sender stays for `patience`.
  TransferOutcome Receive(TestTransfer& transfer, const Frames& frames,
                          base::Duration patience = std::chrono::milliseconds(5),
                          KvReceiverOptions options = {}) {
    FakeSender sender(*transport_, [scene = Scene{Join(frames), patience}] { return scene; });
    options.codec_threads = 0;
    auto receiver = *KvReceiver::Create(*transport_, options);
    auto session = *receiver->Pull(transfer.MakePull(kInproc, "a"));
    const TransferOutcome outcome = transfer.receiver_done.Wait();
    receiver.reset();
    EXPECT_EQ(transfer.receiver_done.count(), 1);
    return outcome;
  }

  // Connects to a KvSender, plays `frames`, returns the frames that come back until it hangs up or `last`
  // has come.
  std::vector<std::pair<FrameType, Bytes>> Talk(const Frames& frames, FrameType last) {
    std::vector<std::pair<FrameType, Bytes>> heard;
    auto stream = ConnectPatiently(*transport_);
    if (stream == nullptr) return heard;
    WriteAll(*stream, Join(frames));
    FrameReader reader(*stream);
    while (reader.Next(After(kTestPatience)).ok()) {
      heard.emplace_back(reader.type(), Bytes(reader.head().begin(), reader.head().end()));
      if (!reader.SkipBody().ok() || reader.type() == last) break;
    }
    return heard;
  }

  std::unique_ptr<transport::Transport> transport_;
};
using HostilePeerSafety = HostilePeer;
using VersionSkewUnit = HostilePeer;

Frames ReceiverSession(const TestTransfer& transfer) {
  PullFrame pull;
  pull.transfer_id = "a";
  pull.patience_ms = 1000;
  pull.descriptor = transfer.descriptor;
  return {EncodeFrame(0, MakeHello(kRoleReceiver, 1 << 20)), EncodeFrame(kStream, pull)};
}

void SetFlag(Bytes& frame, uint8_t type, uint8_t flags) {
  frame[6] = std::byte{type};
  frame[7] = std::byte{flags};
  // Seal again by hand: the header CRC is over the first 28 bytes.
  base::StoreLe(frame.data() + 28, codec::TileCrc(std::span(frame).first(28)));
}

TEST_F(HostilePeerSafety, TheRecordedSessionItselfIsValid) {
  TestTransfer transfer(SmallGeometry(), kTokens);
  const TransferOutcome outcome = Receive(transfer, SenderSession(transfer), kTestPatience);
  EXPECT_TRUE(outcome.status.ok()) << outcome.status.ToString();
  EXPECT_EQ(transfer.sent.CountDifferences(transfer.received), 0u);
}

TEST_F(HostilePeerSafety, FramesThatDoNotBelongFailTheTransfer) {
  TestTransfer model(SmallGeometry(), kTokens);
  const Frames valid = SenderSession(model);
  const Bytes hello = valid[0];
  const Bytes open = valid[1];
  const Bytes tile = valid[2];
  const Bytes done = valid.back();
  TileFrame foreign;
  foreign.layer = 7;
  foreign.tokens = 64;
  TileFrame oversize;
  oversize.tokens = 64;
  Bytes oversize_frame = EncodeFrame(kStream, oversize, 100'000);
  oversize_frame.resize(oversize_frame.size() + 100'000);
  TileFrame wrong_strategy = oversize;
  wrong_strategy.strategy = 1;
  OpenFrame lies;
  lies.tokens = kTokens + 1;
  lies.group_heads = 2;
  lies.strategies = {{"store", "store"}};
  OpenFrame no_groups = lies;
  no_groups.tokens = kTokens;
  no_groups.group_heads = 0;
  OpenFrame wide_groups = no_groups;
  wide_groups.group_heads = 3;
  OpenFrame unknown_stage = no_groups;
  unknown_stage.group_heads = 2;
  unknown_stage.strategies = {{"teleport", "store"}};
  const std::pair<const char*, Frames> cases[] = {
      {"nothing", {}},
      {"no hello", {open}},
      {"pull instead of hello", {EncodeFrame(0, PullFrame{})}},
      {"wrong role", {EncodeFrame(0, MakeHello(kRoleReceiver, 0))}},
      {"hello twice", {hello, hello}},
      {"tile before open", {hello, tile}},
      {"done before open", {hello, done}},
      {"first token before open", {hello, EncodeFrame(kStream, FirstTokenFrame{})}},
      {"open twice", {hello, open, open}},
      {"open lies about tokens", {hello, EncodeFrame(kStream, lies)}},
      {"open without groups", {hello, EncodeFrame(kStream, no_groups)}},
      {"open with too wide groups", {hello, EncodeFrame(kStream, wide_groups)}},
      {"open with unknown stage", {hello, EncodeFrame(kStream, unknown_stage)}},
      {"tile twice", {hello, open, tile, tile}},
      {"tile never asked for", {hello, open, EncodeFrame(kStream, foreign)}},
      {"tile too large", {hello, open, oversize_frame}},
      {"tile of unknown strategy", {hello, open, EncodeFrame(kStream, wrong_strategy)}},
      {"done without tiles", {hello, open, done}},
      {"a frame of the other role", {hello, open, EncodeFrame(kStream, AckFrame{})}},
      {"abort", {hello, EncodeFrame(kStream, AbortFrame{base::NotFound("x")})}},
      {"connection abort", {hello, open, EncodeFrame(0, AbortFrame{base::Internal("x")})}},
  };
  for (const auto& [name, frames] : cases) {
    TestTransfer transfer(SmallGeometry(), kTokens);
    EXPECT_FALSE(Receive(transfer, frames).status.ok()) << name;
  }
}

TEST_F(HostilePeerSafety, ProfilesAndStrategiesMustBelongTogether) {
  const auto ours = ProfileFor(SmallGeometry());
  const auto foreign = ProfileFor(Geometry(2, 1, 8));
  constexpr const char* kProfiled = "heads(ratio=50) | levels(m=16,low=2) | pack";
  const auto canonical = [](const char* text, tensor::Side side) {
    return codec::SideStrategy::Parse(text, side)->ToString();
  };
  codec::ProfileId unknown;
  unknown.bytes.fill(std::byte{0xee});
  struct Case {
    const char* name;
    const char* strategy;
    codec::ProfileId profile;
    uint16_t group_heads;
    StatusCode code;
  };
  const Case cases[] = {
      {"unknown id", kProfiled, unknown, 2, StatusCode::kFailedPrecondition},
      {"id of another model", kProfiled, foreign->id(), 2, StatusCode::kFailedPrecondition},
      {"missing id", kProfiled, {}, 2, StatusCode::kCorrupt},
      {"id that nothing takes", "store", ours->id(), 2, StatusCode::kCorrupt},
      {"unknown id that nothing takes", "store", unknown, 2, StatusCode::kCorrupt},
      {"heads apart that belong together", "pca(scope=layer) | affine(bits=4,group=8) | pack", ours->id(), 1,
       StatusCode::kCorrupt},
  };
  for (const Case& tested : cases) {
    TestTransfer transfer(SmallGeometry(), kTokens);
    OpenFrame open;
    open.tokens = kTokens;
    open.group_heads = tested.group_heads;
    open.strategies = {
        {canonical(tested.strategy, tensor::Side::kKey), canonical(tested.strategy, tensor::Side::kValue)}};
    open.profile = tested.profile;
    Frames frames = SenderSession(transfer);
    frames[1] = EncodeFrame(kStream, open);
    KvReceiverOptions options;
    options.profiles.Add(ours);
    options.profiles.Add(foreign);
    const base::Status status = Receive(transfer, frames, kTestPatience, options).status;
    EXPECT_EQ(status.code(), tested.code) << tested.name << ": " << status.ToString();
    EXPECT_TRUE(transfer.received.AllEqual(0x7fff)) << tested.name;
  }
}

TEST_F(HostilePeerSafety, TilesBeyondTheCreditsEndTheConnection) {
  TestTransfer transfer(SmallGeometry(), kTokens);
  Frames frames = SenderSession(transfer);
  frames.resize(2);
  // Bodies for a stream nobody knows still count; 16 MiB are granted and returned only as they are read, so
  // announce more at once than the window and the first tile allow.
  TileFrame tile;
  for (int i = 0; i < 6; ++i) {
    frames.push_back(EncodeFrame(99, tile, kMaxBodyBytes));
    frames.back().resize(frames.back().size() + kMaxBodyBytes);
  }
  EXPECT_FALSE(Receive(transfer, frames).status.ok());
}

TEST_F(HostilePeerSafety, MutatedSenderSessions) {
  TestTransfer transfer(SmallGeometry(), kTokens);
  const Frames frames = SenderSession(transfer);
  const Bytes valid = Join(frames);
  base::Rng rng(17);  // of the fake sender's thread
  const auto mutate = [&] {
    if (rng.Below(4) == 0) {
      // Whole frames repeated, dropped or swapped.
      Frames shuffled = frames;
      for (uint64_t n = 1 + rng.Below(3); n > 0; --n) {
        const size_t at = rng.Below(shuffled.size());
        const size_t other = rng.Below(shuffled.size());
        if (rng.Below(2) == 0) std::swap(shuffled[at], shuffled[other]);
        if (rng.Below(3) == 0) shuffled[at] = shuffled[other];
      }
      return Join(shuffled);
    }
    Bytes bytes = valid;
    for (uint64_t n = 1 + rng.Below(4); n > 0; --n) {
      // Mostly among the small frames at both ends, where the structure is.
      const size_t at = rng.Below(3) == 0 ? rng.Below(bytes.size()) : rng.Below(400);
      switch (rng.Below(5)) {
        case 0:
          bytes[at] ^= static_cast<std::byte>(1u << rng.Below(8));
          break;
        case 1:
          bytes[at] = static_cast<std::byte>(rng.Below(256));
          break;
        case 2:
          bytes.resize(std::max<size_t>(at, 1));
          n = 1;
          break;
        case 3:
          bytes.insert(bytes.begin() + static_cast<ptrdiff_t>(at), static_cast<std::byte>(rng.Below(256)));
          break;
        default:
          bytes.erase(bytes.begin() + static_cast<ptrdiff_t>(at));
          break;
      }
      if (bytes.size() < 400) break;
    }
    return bytes;
  };
  // Every hundredth session is whole and played to its end: in between, the receiver still works.
  constexpr int kWholeEvery = 100;
  std::atomic<int> connections{0};
  FakeSender sender(*transport_, [&]() -> Scene {
    if (connections++ % kWholeEvery == 0) return {valid, kTestPatience};
    return {mutate(), std::chrono::milliseconds(1)};
  });
  KvReceiverOptions options;
  options.codec_threads = 0;
  auto receiver = *KvReceiver::Create(*transport_, options);
  int good = 0;
  for (int i = 0; i < 5000; ++i) {
    TestTransfer victim(SmallGeometry(), kTokens);
    auto session = *receiver->Pull(victim.MakePull(kInproc, "a"));
    const TransferOutcome outcome = victim.receiver_done.Wait();
    if (outcome.status.ok()) {
      ++good;
      ASSERT_EQ(transfer.sent.CountDifferences(victim.received), 0u) << "mutation " << i;
    }
    ASSERT_EQ(victim.receiver_done.count(), 1);
  }
  EXPECT_GE(good, (connections + kWholeEvery - 1) / kWholeEvery);
  EXPECT_LT(good, 2500);
}

TEST_F(HostilePeerSafety, MutatedReceiverSessions) {
  KvSenderOptions options;
  options.endpoint = kInproc;
  auto sender = *KvSender::Create(*transport_, options);
  TestTransfer model(SmallGeometry(), kTokens);
  Frames frames = ReceiverSession(model);
  frames.push_back(EncodeFrame(0, CreditFrame{2 << 20}));
  frames.push_back(EncodeFrame(kStream, NackFrame{}));
  frames.push_back(EncodeFrame(0, PingFrame{1}));
  frames.push_back(EncodeFrame(kStream, AckFrame{}));
  const Bytes valid = Join(frames);
  base::Rng rng(23);
  for (int i = 0; i < 5000; ++i) {
    TestTransfer transfer(SmallGeometry(), kTokens);
    auto session = *sender->Offer(transfer.MakeOffer("a"));
    transfer.PostAll(*session);
    Bytes bytes = valid;
    for (uint64_t n = rng.Below(4); n > 0; --n) {
      bytes[rng.Below(bytes.size())] ^= static_cast<std::byte>(1 + rng.Below(255));
    }
    if (rng.Below(4) == 0) bytes.resize(rng.Below(bytes.size()));
    {
      auto stream = ConnectPatiently(*transport_);
      ASSERT_NE(stream, nullptr);
      WriteAll(*stream, bytes);
    }
    session->Cancel("next");
    transfer.sender_done.Wait();
    ASSERT_EQ(transfer.sender_done.count(), 1);
    transfer.sent.Fill(kTokens);  // the pages are ours again
  }
}

TEST_F(HostilePeerSafety, RandomBytesToTheSender) {
  KvSenderOptions options;
  options.endpoint = kInproc;
  auto sender = *KvSender::Create(*transport_, options);
  base::Rng rng(29);
  for (int i = 0; i < 300; ++i) {
    auto stream = ConnectPatiently(*transport_);
    ASSERT_NE(stream, nullptr);
    Bytes bytes(rng.Below(500));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng.Below(256));
    WriteAll(*stream, bytes);
  }
  // Still serving.
  KvReceiverOptions patient;
  patient.connect_timeout = kTestPatience;  // 300 threads come first
  auto receiver = *KvReceiver::Create(*transport_, patient);
  TestTransfer transfer(SmallGeometry(), kTokens);
  auto session = *sender->Offer(transfer.MakeOffer("a"));
  transfer.PostAll(*session);
  auto pulled = *receiver->Pull(transfer.MakePull(kInproc, "a"));
  EXPECT_TRUE(transfer.receiver_done.Wait().status.ok());
}

TEST_F(HostilePeerSafety, LyingReceiversAreCutOffOrFailTheTransfer) {
  TestTransfer model(SmallGeometry(), kTokens);
  const Frames start = ReceiverSession(model);
  NackFrame foreign;
  foreign.layer = 9;
  const std::pair<const char*, Bytes> cases[] = {
      {"credits taken back", EncodeFrame(0, CreditFrame{5})},
      {"stream used twice", start[1]},
      {"ack before anything was sent", EncodeFrame(kStream, AckFrame{})},
      {"nack of a tile that does not exist", EncodeFrame(kStream, foreign)},
      {"nack of a tile not sent yet", EncodeFrame(kStream, NackFrame{})},
      {"a frame of the other role", EncodeFrame(kStream, OpenFrame{})},
      {"hello twice", start[0]},
      {"abort", EncodeFrame(kStream, AbortFrame{base::Cancelled("x")})},
  };
  for (const auto& [name, frame] : cases) {
    KvSenderOptions options;
    options.endpoint = kInproc;
    auto sender = *KvSender::Create(*transport_, options);
    TestTransfer transfer(SmallGeometry(), kTokens);
    auto session = *sender->Offer(transfer.MakeOffer("a"));  // nothing posted
    Frames frames = start;
    frames.push_back(frame);
    Talk(frames, frame == cases[std::size(cases) - 1].second ? FrameType::kOpen : FrameType::kAbort);
    EXPECT_FALSE(transfer.sender_done.Wait().status.ok()) << name;
  }
}

// Bytes that trickle in keep a reader no longer than silence does: the time is for the whole frame.
TEST_F(HostilePeerSafety, ATricklingFrameRunsOutOfTime) {
  auto listener = *transport_->Listen(kInproc);
  auto near = *transport_->Connect(kInproc, After(kTestPatience));
  auto far = *listener->Accept(After(kTestPatience));
  std::atomic<bool> over{false};
  std::thread trickle([&] {
    WriteAll(*far, EncodeFrame(kStream, PingFrame{}, kMaxBodyBytes));
    // A few seconds in all, many pieces within each frame timeout.
    for (uint32_t sent = 0; sent < kMaxBodyBytes && !over; sent += 64 << 10) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      WriteAll(*far, Bytes(64 << 10));
    }
  });
  FrameReader reader(*near, std::chrono::milliseconds(500));
  ASSERT_TRUE(reader.Next(After(kTestPatience)).ok());
  EXPECT_EQ(reader.SkipBody().code(), StatusCode::kDeadlineExceeded);
  over = true;
  near->Shutdown();
  trickle.join();
}

TEST_F(VersionSkewUnit, AnotherMajorVersionIsRefusedByName) {
  KvSenderOptions options;
  options.endpoint = kInproc;
  auto sender = *KvSender::Create(*transport_, options);
  Bytes hello = EncodeFrame(0, MakeHello(kRoleReceiver, 0));
  hello[4] = std::byte{2};
  SetFlag(hello, static_cast<uint8_t>(FrameType::kHello), 0);
  const auto heard = Talk({hello}, FrameType::kAbort);
  ASSERT_EQ(heard.size(), 2u);
  EXPECT_EQ(heard[1].first, FrameType::kAbort);
  const base::Status status = ParseAbort(heard[1].second)->status;
  EXPECT_EQ(status.code(), StatusCode::kUnimplemented);
  EXPECT_NE(status.message().find("version 2"), std::string::npos) << status.ToString();
}

TEST_F(VersionSkewUnit, ALaterMinorVersionIsUnderstood) {
  TestTransfer transfer(SmallGeometry(), kTokens);
  Frames frames = SenderSession(transfer);
  HelloFrame hello = MakeHello(kRoleSender, 0);
  hello.minor = 9;
  hello.stage_ids.push_back(0xfe);
  Bytes later(kFrameHeaderBytes);
  base::ByteWriter out(later);
  Append(hello, out);
  out.Put(uint64_t{123});  // a field of that later version
  SealFrame(FrameType::kHello, 0, 0, later);
  frames[0] = later;
  // A frame type of that version which may be skipped, with a body.
  Bytes unknown = EncodeFrame(kStream, PingFrame{}, 3);
  SetFlag(unknown, 200, kFlagSkippable);
  unknown.resize(unknown.size() + 3);
  frames.insert(frames.begin() + 2, unknown);
  const TransferOutcome outcome = Receive(transfer, frames, kTestPatience);
  EXPECT_TRUE(outcome.status.ok()) << outcome.status.ToString();
}

// `frame` as minor version 0 wrote it: without the last `bytes` of its head.
template <typename Frame>
Bytes WithoutTheLast(size_t bytes, uint32_t stream, const Frame& message) {
  Bytes frame(kFrameHeaderBytes);
  base::ByteWriter out(frame);
  Append(message, out);
  frame.resize(frame.size() - bytes);
  SealFrame(Frame::kType, stream, 0, frame);
  return frame;
}

TEST_F(VersionSkewUnit, PeersOfMinorVersion0AreUnderstoodAndGetNoProfiles) {
  HelloFrame old_hello = MakeHello(kRoleSender, 0);
  old_hello.minor = 0;
  OpenFrame open;
  open.tokens = kTokens;
  open.group_heads = 2;
  open.strategies = {{"store", "store"}};
  TestTransfer received(SmallGeometry(), kTokens);
  Frames frames = SenderSession(received);
  frames[0] = WithoutTheLast(1, 0, old_hello);
  frames[1] = WithoutTheLast(16, kStream, open);
  const TransferOutcome outcome = Receive(received, frames, kTestPatience);
  EXPECT_TRUE(outcome.status.ok()) << outcome.status.ToString();

  KvSenderOptions options;
  options.endpoint = kInproc;
  auto sender = *KvSender::Create(*transport_, options);
  TestTransfer sent(SmallGeometry(), kTokens);
  KvOffer offer = sent.MakeOffer("a", "heads(ratio=50) | levels(m=16,low=2) | pack");
  offer.profile = ProfileFor(SmallGeometry());
  auto session = *sender->Offer(std::move(offer));
  old_hello = MakeHello(kRoleReceiver, 1 << 20);
  old_hello.minor = 0;
  const auto heard = Talk({WithoutTheLast(1, 0, old_hello), ReceiverSession(sent)[1]}, FrameType::kAbort);
  ASSERT_FALSE(heard.empty());
  ASSERT_EQ(heard.back().first, FrameType::kAbort);
  EXPECT_EQ(ParseAbort(heard.back().second)->status.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(sent.sender_done.Wait().status.code(), StatusCode::kFailedPrecondition);
}

// A prefill node of an earlier version would take the shard for a whole model of that many heads.
TEST_F(VersionSkewUnit, HeadShardsAreNotPulledFromEarlierVersions) {
  TestTransfer transfer(SmallGeometry(), kTokens);
  transfer.descriptor.model_kv_heads = 2 * SmallGeometry().kv_heads;
  HelloFrame old_hello = MakeHello(kRoleSender, 0);
  old_hello.minor = 1;
  Frames frames = SenderSession(transfer);
  frames[0] = EncodeFrame(0, old_hello);
  EXPECT_EQ(Receive(transfer, frames, kTestPatience).status.code(), StatusCode::kUnimplemented);
}

// A prefill node of an earlier version does not look at the least quality of a PULL, and a later one may lie:
// DONE is the last word, and a first token that nobody vouches for waits for it.
TEST_F(VersionSkewUnit, TheQualityThatDoneSaysIsCheckedAndTheFirstTokenOfEarlierVersionsWaitsForIt) {
  struct Case {
    uint16_t minor, least_quality, quality;
    bool told, taken;
  };
  const Case cases[] = {{2, 950, 949, false, false},
                        {2, 950, 950, true, true},
                        {2, 0, 0, true, true},
                        {3, 950, 949, true, false},
                        {3, 950, 950, true, true}};
  for (const Case& one : cases) {
    SCOPED_TRACE(fmt::format("1.{}, {} of {}", one.minor, one.quality, one.least_quality));
    TestTransfer transfer(SmallGeometry(), kTokens);
    Frames frames = SenderSession(transfer);
    HelloFrame hello = MakeHello(kRoleSender, 0);
    hello.minor = one.minor;
    frames.front() = EncodeFrame(0, hello);
    DoneFrame done;
    done.tiles_sent = static_cast<uint32_t>(frames.size() - 4);  // all but HELLO, OPEN, FIRST_TOKEN and DONE
    done.kv_quality = one.quality;
    frames.back() = EncodeFrame(kStream, done);
    FakeSender sender(*transport_, [scene = Scene{Join(frames), kTestPatience}] { return scene; });
    auto receiver = *KvReceiver::Create(*transport_, {});
    KvPull pull = transfer.MakePull(kInproc, "a");
    pull.least_quality = one.least_quality;
    auto session = *receiver->Pull(std::move(pull));
    const base::Status status = transfer.receiver_done.Wait().status;
    EXPECT_EQ(status.code(), one.taken ? StatusCode::kOk : StatusCode::kFailedPrecondition)
        << status.ToString();
    EXPECT_EQ(transfer.receiver_done.first_token().has_value(), one.told);
  }
}

TEST_F(VersionSkewUnit, AnUnknownFrameThatMustNotBeSkippedEndsTheConnection) {
  TestTransfer transfer(SmallGeometry(), kTokens);
  Frames frames = SenderSession(transfer);
  Bytes unknown = EncodeFrame(kStream, PingFrame{});
  SetFlag(unknown, 200, 0);
  frames.insert(frames.begin() + 2, unknown);
  EXPECT_FALSE(Receive(transfer, frames).status.ok());

  KvSenderOptions options;
  options.endpoint = kInproc;
  auto sender = *KvSender::Create(*transport_, options);
  const auto heard = Talk({ReceiverSession(transfer)[0], unknown}, FrameType::kAbort);
  ASSERT_FALSE(heard.empty());
  EXPECT_EQ(heard.back().first, FrameType::kAbort);
}

TEST_F(VersionSkewUnit, AReceiverWithoutTheStageOrWithSmallFramesIsRefused) {
  for (const bool small_frames : {false, true}) {
    KvSenderOptions options;
    options.endpoint = kInproc;
    auto sender = *KvSender::Create(*transport_, options);
    TestTransfer transfer(SmallGeometry(), kTokens);
    auto session = *sender->Offer(transfer.MakeOffer("a"));
    HelloFrame hello = MakeHello(kRoleReceiver, 1 << 20);
    if (small_frames) {
      hello.max_body_bytes = 1000;
    } else {
      hello.stage_ids = {0xfe};
    }
    Talk({EncodeFrame(0, hello), ReceiverSession(transfer)[1]}, FrameType::kAbort);
    EXPECT_EQ(transfer.sender_done.Wait().status.code(), StatusCode::kUnimplemented);
  }
}

}  // namespace
}  // namespace kvplane::transfer
