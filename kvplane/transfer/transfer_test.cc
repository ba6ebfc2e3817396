// Whole transfers between a KvSender and a KvReceiver over real transports: what arrives, in which order, and
// what both ends say about it.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kvplane/codec/object.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/transfer/testing/kv_fixture.h"
#include "kvplane/transfer/tile_grid.h"
#include "kvplane/transfer/wire_frames.h"
#include "kvplane/transport/inproc_transport.h"
#include "kvplane/transport/shaped_transport.h"
#include "kvplane/transport/tcp_transport.h"

namespace kvplane::transfer {
namespace {

using base::StatusCode;

constexpr const char* kInproc = "inproc://prefill";
constexpr const char* kTcp = "tcp://127.0.0.1:0";

void ExpectAgreement(const TransferOutcome& sent, const TransferOutcome& received) {
  EXPECT_TRUE(sent.status.ok()) << sent.status.ToString();
  EXPECT_TRUE(received.status.ok()) << received.status.ToString();
  EXPECT_EQ(sent.strategy, received.strategy);
  EXPECT_EQ(sent.bytes_raw, received.bytes_raw);
  EXPECT_EQ(sent.bytes_wire, received.bytes_wire);
  EXPECT_EQ(sent.tiles, received.tiles);
  EXPECT_EQ(sent.tiles_retried, received.tiles_retried);
  EXPECT_EQ(sent.times.encode, received.times.encode);
  EXPECT_EQ(sent.times.send, received.times.send);
  EXPECT_EQ(sent.times.decode, received.times.decode);
  EXPECT_EQ(sent.times.exposed, received.times.exposed);
}

// Runs one transfer to its good end.
void RunTransfer(Ends& ends, TestTransfer& transfer, const std::string& id, std::string_view strategy = "off",
                 uint32_t chunk_tokens = 1u << 30) {
  auto session = *ends.sender->Offer(transfer.MakeOffer(id, strategy));
  auto pulled = *ends.receiver->Pull(transfer.MakePull(ends.sender->endpoint(), id));
  transfer.PostAll(*session, chunk_tokens);
  ExpectAgreement(transfer.sender_done.Wait(), transfer.receiver_done.Wait());
  EXPECT_EQ(pulled->layers_ready(), transfer.descriptor.geometry.layers);
}

TEST(TransferUnit, OneTransferAndItsFigures) {
  auto transport = transport::CreateTcpTransport();
  Ends ends(*transport, kTcp);
  TestTransfer transfer(Geometry(3, 2, 64), 200);
  RunTransfer(ends, transfer, "a");
  EXPECT_EQ(transfer.sent.CountDifferences(transfer.received), 0u);
  const TransferOutcome outcome = transfer.receiver_done.Wait();
  EXPECT_EQ(outcome.strategy, "k: store; v: store");
  EXPECT_EQ(outcome.tiles, 3u * 4 * 2);
  EXPECT_EQ(outcome.tiles_retried, 0u);
  EXPECT_EQ(outcome.bytes_raw, 3u * 200 * 2 * 64 * 2 * 2);
  // Raw bytes and a method byte, a header and a head per tile, and a handful of small frames.
  EXPECT_GT(outcome.bytes_wire, outcome.bytes_raw + outcome.tiles * (1 + 32 + 20));
  EXPECT_LT(outcome.bytes_wire, outcome.bytes_raw + outcome.tiles * (1 + 32 + 20) + 700);
  EXPECT_GT(outcome.times.encode.count(), 0);
  EXPECT_GT(outcome.times.send.count(), 0);
  EXPECT_GT(outcome.times.decode.count(), 0);
  EXPECT_GE(outcome.times.wall, outcome.times.exposed);
  ASSERT_TRUE(transfer.receiver_done.first_token().has_value());
  EXPECT_EQ(transfer.receiver_done.first_token()->id, 42);
  EXPECT_EQ(transfer.receiver_done.first_token()->top_logprobs.size(), 2u);
  EXPECT_EQ(ends.sender->backlog_bytes(), 0u);
}

TEST(TransferProperty, BitExactForAllShapes) {
  auto transport = transport::CreateInprocTransport();
  KvReceiverOptions inline_decode;
  inline_decode.codec_threads = 0;
  KvSenderOptions two_encoders;
  two_encoders.codec_threads = 2;
  Ends ends(*transport, kInproc, two_encoders, inline_decode);
  base::Rng rng(11);
  const uint32_t blocks[] = {16, 32, 64, 128};
  int number = 0;
  for (const uint32_t tokens :
       {1u, 2u, 15u, 16u, 17u, 63u, 64u, 65u, 127u, 128u, 129u, 200u, 256u, 299u, 300u}) {
    for (int repeat = 0; repeat < 6; ++repeat) {
      const auto geometry =
          Geometry(static_cast<uint32_t>(1 + rng.Below(4)), static_cast<uint32_t>(1 + rng.Below(20)),
                   static_cast<uint32_t>(8 * (1 + rng.Below(8))));
      TestTransfer transfer(geometry, tokens, blocks[rng.Below(4)], blocks[rng.Below(4)]);
      RunTransfer(ends, transfer, fmt::format("t{}", number++), "off",
                  static_cast<uint32_t>(1 + rng.Below(130)));
      ASSERT_EQ(transfer.sent.CountDifferences(transfer.received), 0u)
          << tokens << " tokens, " << geometry.kv_heads << " heads";
    }
  }
}

// What arrives is what encoding and decoding the same tiles here gives, bit for bit.
TEST(TransferDiff, LossyEqualsLocalCoding) {
  auto transport = transport::CreateInprocTransport();
  Ends ends(*transport, kInproc);
  for (const std::string_view strategy : {"int8", "kivi-4", "int2"}) {
    TestTransfer transfer(Geometry(2, 10, 64), 150, 32, 128);
    RunTransfer(ends, transfer, fmt::format("x-{}", strategy), strategy, 70);
    KvPages expected(transfer.descriptor.geometry, 150, 64);
    const codec::Strategy parsed = *codec::Strategy::Parse(strategy);
    const TileGrid grid = *TileGrid::Create(transfer.descriptor, kTileGroupHeads);
    codec::Workspace workspace;
    for (uint32_t layer = 0; layer < 2; ++layer) {
      for (uint32_t index = 0; index < grid.tiles_per_layer(); ++index) {
        const TileGrid::Tile tile = grid.At(layer, index);
        const auto codec = *codec::TileCodec::Create(parsed.side(tile.side), tile.side);
        std::vector<std::byte> coded(codec->MaxEncodedBytes(grid.ShapeOf(tile)));
        const auto from = grid.ViewOf(transfer.sent.layers()[layer], tile);
        const codec::TileContext place = grid.ContextOf(tile);
        coded.resize(*codec->Encode(tensor::AsConst(from), workspace, coded, place));
        const auto to = grid.ViewOf(expected.layers()[layer], tile);
        ASSERT_TRUE(codec->Decode(coded, workspace, to, place).ok());
      }
    }
    EXPECT_EQ(expected.CountDifferences(transfer.received), 0u) << strategy;
    EXPECT_GT(transfer.sent.CountDifferences(transfer.received), 0u) << strategy;
    EXPECT_LT(transfer.receiver_done.Wait().bytes_wire, transfer.receiver_done.Wait().bytes_raw);
  }
}

// Stages that treat places differently see the same places on both ends, and those that an object of the same
// KV has: what arrives is what such an object decodes to.
TEST(TransferDiff, TilesKnowTheirPlace) {
  constexpr uint32_t kTokens = 150;
  const auto geometry =
      Geometry(3, 10, 16);  // two groups of heads, but for strategies that code all together
  const auto profile = ProfileFor(geometry);
  auto transport = transport::CreateInprocTransport();
  KvReceiverOptions receive;
  receive.profiles.Add(profile);
  Ends ends(*transport, kInproc, {}, receive);
  for (const std::string_view strategy : {"protect(sinks=4,recent=30) | affine(bits=2,group=8) | pack",
                                          "layers(low=last,ratio=34) | levels(m=16,low=2) | pack",
                                          "heads(ratio=50) | levels(m=16,low=2) | pack",
                                          "k: unrope | centre(scope=static) | affine(bits=4,group=8) | pack; "
                                          "v: pca(scope=layer) | affine(bits=4,group=8) | pack"}) {
    TestTransfer transfer(geometry, kTokens, 32, kTokens);
    KvOffer offer = transfer.MakeOffer("a", strategy);
    offer.profile = profile;
    auto session = *ends.sender->Offer(std::move(offer));
    ASSERT_TRUE(ends.receiver->Pull(transfer.MakePull(kInproc, "a")).ok());
    transfer.PostAll(*session, 40);
    ExpectAgreement(transfer.sender_done.Wait(), transfer.receiver_done.Wait());
    const codec::Strategy parsed = *codec::Strategy::Parse(strategy);
    const uint32_t groups = parsed.needs_all_heads() ? 1 : 2;
    EXPECT_EQ(transfer.receiver_done.Wait().tiles, 3u * 2 * 3 * groups) << strategy;

    codec::ObjectInfo info;
    info.geometry = geometry;
    info.tokens = kTokens;
    info.strategy = parsed;
    codec::Workspace workspace;
    codec::ObjectWriter writer = *codec::ObjectWriter::Create(info, profile);
    for (const tensor::LayerPages& pages : transfer.sent.layers()) {
      ASSERT_TRUE(writer.AppendLayer(pages, workspace).ok());
    }
    const std::vector<std::byte> object = *writer.Finish();
    const auto reader = *codec::ObjectReader::Open(object, {.profiles = &receive.profiles});
    KvPages expected(geometry, kTokens, kTokens);
    ASSERT_TRUE(reader.DecodeAll(object, workspace, expected.layers()).ok());
    EXPECT_EQ(expected.CountDifferences(transfer.received), 0u) << strategy;
    EXPECT_GT(transfer.sent.CountDifferences(transfer.received), 0u) << strategy;
  }
}

TEST(TransferProperty, ManyConcurrentTransfersInRandomOrder) {
  auto transport = transport::CreateTcpTransport();
  KvSenderOptions send;
  send.codec_threads = 2;
  KvReceiverOptions receive;
  receive.codec_threads = 2;
  Ends ends(*transport, kTcp, send, receive);
  base::Rng rng(5);
  constexpr size_t kTransfers = 40;
  std::vector<std::unique_ptr<TestTransfer>> transfers;
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kTransfers; ++i) {
    transfers.push_back(std::make_unique<TestTransfer>(Geometry(2, 3, 16),
                                                       static_cast<uint32_t>(1 + rng.Below(300)), 32, 64));
  }
  for (size_t i = 0; i < kTransfers; ++i) {
    TestTransfer& transfer = *transfers[i];
    const std::string id = fmt::format("id-{}", i);
    const auto pause = [wait = rng.Below(20)] {
      std::this_thread::sleep_for(std::chrono::milliseconds(wait));
    };
    const uint32_t chunk = static_cast<uint32_t>(1 + rng.Below(100));
    threads.emplace_back([&transfer, &ends, id, pause, chunk] {
      pause();
      auto session = *ends.sender->Offer(transfer.MakeOffer(id));
      transfer.PostAll(*session, chunk);
    });
    threads.emplace_back([&transfer, &ends, id, late = rng.Below(20)] {
      std::this_thread::sleep_for(std::chrono::milliseconds(late));
      EXPECT_TRUE(ends.receiver->Pull(transfer.MakePull(ends.sender->endpoint(), id)).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& transfer : transfers) {
    ExpectAgreement(transfer->sender_done.Wait(), transfer->receiver_done.Wait());
    EXPECT_EQ(transfer->sent.CountDifferences(transfer->received), 0u);
    EXPECT_EQ(transfer->sender_done.count(), 1);
    EXPECT_EQ(transfer->receiver_done.count(), 1);
  }
  EXPECT_EQ(ends.sender->backlog_bytes(), 0u);
}

TEST(TransferUnit, TheKvWaitsForALatePullerAndThePullForALateOffer) {
  auto transport = transport::CreateInprocTransport();
  Ends ends(*transport, kInproc);
  TestTransfer offered_first(Geometry(1, 1, 8), 70);
  auto session = *ends.sender->Offer(offered_first.MakeOffer("first"));
  offered_first.PostAll(*session);
  EXPECT_EQ(ends.sender->backlog_bytes(), 70u * 8 * 2 * 2);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_EQ(offered_first.sender_done.count(), 0);
  ASSERT_TRUE(ends.receiver->Pull(offered_first.MakePull(kInproc, "first")).ok());
  ExpectAgreement(offered_first.sender_done.Wait(), offered_first.receiver_done.Wait());

  TestTransfer pulled_first(Geometry(1, 1, 8), 70);
  ASSERT_TRUE(ends.receiver->Pull(pulled_first.MakePull(kInproc, "second")).ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  session = *ends.sender->Offer(pulled_first.MakeOffer("second"));
  pulled_first.PostAll(*session);
  ExpectAgreement(pulled_first.sender_done.Wait(), pulled_first.receiver_done.Wait());
}

TEST(TransferUnit, TheFirstTokenOvertakesTilesAndCompletionWaitsForIt) {
  auto transport = transport::CreateInprocTransport();
  Ends ends(*transport, kInproc);
  TestTransfer transfer(Geometry(2, 1, 8), 70);
  auto session = *ends.sender->Offer(transfer.MakeOffer("a"));
  auto pulled = *ends.receiver->Pull(transfer.MakePull(kInproc, "a"));
  session->PostLayer(0, 0, 70);
  session->PostLayer(1, 0, 70);
  const base::TimePoint limit = After(kTestPatience);
  while (pulled->layers_ready() < 2 && base::Clock::System().Now() < limit) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(transfer.receiver_done.count(), 0);
  session->PostFirstToken({9, -0.25f, {}});
  ExpectAgreement(transfer.sender_done.Wait(), transfer.receiver_done.Wait());
  EXPECT_EQ(transfer.receiver_done.first_token()->id, 9);

  TestTransfer early(Geometry(2, 1, 8), 70);
  session = *ends.sender->Offer(early.MakeOffer("b"));
  session->PostFirstToken({10, -0.25f, {}});
  pulled = *ends.receiver->Pull(early.MakePull(kInproc, "b"));
  early.receiver_done.WaitForFirstToken();
  EXPECT_EQ(early.receiver_done.count(), 0);
  session->PostLayer(0, 0, 70);
  session->PostLayer(1, 0, 70);
  ExpectAgreement(early.sender_done.Wait(), early.receiver_done.Wait());

  TestTransfer without(Geometry(2, 1, 8), 70);
  KvOffer offer = without.MakeOffer("c");
  offer.expects_first_token = false;
  session = *ends.sender->Offer(std::move(offer));
  session->PostLayer(0, 0, 70);
  session->PostLayer(1, 0, 70);
  pulled = *ends.receiver->Pull(without.MakePull(kInproc, "c"));
  ExpectAgreement(without.sender_done.Wait(), without.receiver_done.Wait());
  EXPECT_FALSE(without.receiver_done.first_token().has_value());
}

TEST(TransferUnit, LayersBecomeReadyInOrderWhilePrefillGoesOn) {
  auto transport = transport::CreateInprocTransport();
  Ends ends(*transport, kInproc);
  TestTransfer transfer(Geometry(4, 2, 16), 100);
  auto session = *ends.sender->Offer(transfer.MakeOffer("a"));
  auto pulled = *ends.receiver->Pull(transfer.MakePull(kInproc, "a"));
  for (uint32_t layer = 0; layer < 4; ++layer) {
    EXPECT_EQ(pulled->layers_ready(), layer);
    session->PostLayer(layer, 0, 64);
    session->PostLayer(layer, 64, 36);
    const base::TimePoint limit = After(kTestPatience);
    while (pulled->layers_ready() == layer && base::Clock::System().Now() < limit) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  EXPECT_EQ(pulled->layers_ready(), 4u);
  session->PostFirstToken({});
  ExpectAgreement(transfer.sender_done.Wait(), transfer.receiver_done.Wait());
}

// With everything posted beforehand and a slow link, the short transfer finishes first although it was
// offered and pulled last and has the later deadline.
TEST(TransferUnit, AShortTransferOvertakesALongOneOnTheLink) {
  transport::ShapedOptions slow;
  slow.bits_per_second = 1e6;
  std::shared_ptr<transport::Transport> inner = transport::CreateInprocTransport();
  auto link = *transport::ShapedTransport::Create(inner, slow);
  KvSenderOptions send;
  send.staging_bytes = 1;  // a tile at a time: that much is ahead of what comes later
  Ends ends(*link, *inner, kInproc, send);
  TestTransfer large(Geometry(8, 4, 64), 256);  // 2 MB: 16 s, unless the rate is lifted
  TestTransfer small(Geometry(8, 1, 8), 64);
  auto first = *ends.sender->Offer(large.MakeOffer("large", "off", After(kTestPatience)));
  large.PostAll(*first);
  auto pulled_large = *ends.receiver->Pull(large.MakePull(kInproc, "large"));
  large.receiver_done.WaitForFirstToken();
  auto second = *ends.sender->Offer(small.MakeOffer("small", "off", After(kTestPatience * 2)));
  small.PostAll(*second);
  auto pulled_small = *ends.receiver->Pull(small.MakePull(kInproc, "small"));
  EXPECT_TRUE(small.receiver_done.Wait().status.ok());
  EXPECT_EQ(large.receiver_done.count(), 0);
  link->SetRate(transport::kUnlimitedRate);
  ExpectAgreement(large.sender_done.Wait(), large.receiver_done.Wait());
}

// The transfer before leaves more than half of the window and less than a tile of the next one.
TEST(TransferUnit, LargerTilesThanTheRestOfTheWindowDoNotDeadlock) {
  const auto small = Geometry(1, 1, 8);   // a tile of 64 tokens: 1,025 bytes coded
  const auto large = Geometry(1, 8, 32);  // the same: 32,769
  constexpr size_t kWindow = 40'000;
  for (const size_t decoders : {size_t{0}, size_t{1}}) {
    auto transport = transport::CreateInprocTransport();
    KvReceiverOptions receive;
    receive.credit_bytes = kWindow;
    receive.codec_threads = decoders;
    Ends ends(*transport, kInproc, {}, receive);
    TestTransfer first(small, 64 * 5);  // 10 tiles: 10,250 of 40,000 bytes, no reason to return credits
    RunTransfer(ends, first, "small");
    TestTransfer second(large, 64 * 3);
    RunTransfer(ends, second, "large");
    EXPECT_EQ(second.sent.CountDifferences(second.received), 0u);
  }
}

TEST(TransferProperty, TinyCreditsAndTinyStagingDoNotDeadlock) {
  for (const size_t credit : {size_t{0}, size_t{1}, size_t{5000}, size_t{40'000}}) {
    for (const size_t staging : {size_t{0}, size_t{3000}}) {
      for (const size_t decoders : {size_t{0}, size_t{2}}) {
        auto transport = transport::CreateInprocTransport({.pipe_bytes = 1000});
        KvSenderOptions send;
        send.staging_bytes = staging;
        send.codec_threads = 2;
        KvReceiverOptions receive;
        receive.credit_bytes = credit;
        receive.codec_threads = decoders;
        Ends ends(*transport, kInproc, send, receive);
        TestTransfer a(Geometry(3, 2, 16), 300);
        TestTransfer b(Geometry(2, 9, 32), 200);
        auto session_a = *ends.sender->Offer(a.MakeOffer("a"));
        auto session_b = *ends.sender->Offer(b.MakeOffer("b", "int4"));
        ASSERT_TRUE(ends.receiver->Pull(a.MakePull(kInproc, "a")).ok());
        ASSERT_TRUE(ends.receiver->Pull(b.MakePull(kInproc, "b")).ok());
        a.PostAll(*session_a, 50);
        b.PostAll(*session_b, 50);
        ExpectAgreement(a.sender_done.Wait(), a.receiver_done.Wait());
        ExpectAgreement(b.sender_done.Wait(), b.receiver_done.Wait());
        EXPECT_EQ(a.sent.CountDifferences(a.received), 0u);
      }
    }
  }
}

TEST(TransferUnit, OneReceiverPullsFromManySenders) {
  auto transport = transport::CreateInprocTransport();
  std::vector<std::unique_ptr<KvSender>> senders;
  auto receiver = *KvReceiver::Create(*transport, {});
  std::vector<std::unique_ptr<TestTransfer>> transfers;
  for (int i = 0; i < 4; ++i) {
    KvSenderOptions options;
    options.endpoint = fmt::format("inproc://prefill-{}", i);
    senders.push_back(*KvSender::Create(*transport, options));
    transfers.push_back(std::make_unique<TestTransfer>(Geometry(1, 1, 8), 100));
    auto session = *senders.back()->Offer(transfers.back()->MakeOffer("same id"));
    transfers.back()->PostAll(*session);
    ASSERT_TRUE(receiver->Pull(transfers.back()->MakePull(options.endpoint, "same id")).ok());
  }
  for (const auto& transfer : transfers) {
    ExpectAgreement(transfer->sender_done.Wait(), transfer->receiver_done.Wait());
  }
}

TEST(TransferUnit, OffersAreBoundedAndIdsUnique) {
  auto transport = transport::CreateInprocTransport();
  KvSenderOptions send;
  send.max_offers = 2;
  Ends ends(*transport, kInproc, send);
  TestTransfer a(Geometry(1, 1, 8), 10);
  TestTransfer b(Geometry(1, 1, 8), 10);
  EXPECT_EQ(ends.sender->Offer(a.MakeOffer("")).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ends.sender->Offer(a.MakeOffer(std::string(129, 'x'))).status().code(),
            StatusCode::kInvalidArgument);
  auto first = *ends.sender->Offer(a.MakeOffer("1"));
  EXPECT_EQ(ends.sender->Offer(b.MakeOffer("1")).status().code(), StatusCode::kInvalidArgument);
  auto second = *ends.sender->Offer(b.MakeOffer("2"));
  EXPECT_EQ(ends.sender->Offer(b.MakeOffer("3")).status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(a.sender_done.count() + b.sender_done.count(), 0);
  ends.sender.reset();
  EXPECT_EQ(a.sender_done.Wait().status.code(), StatusCode::kCancelled);
  EXPECT_EQ(b.sender_done.Wait().status.code(), StatusCode::kCancelled);
  first->PostLayer(0, 0, 10);  // a session may outlive its sender
  first->Cancel("late");
}

TEST(TransferUnit, PostingOutOfOrderFailsTheTransfer) {
  auto transport = transport::CreateInprocTransport();
  Ends ends(*transport, kInproc);
  const std::array<uint32_t, 3> wrong[] = {{0, 1, 5}, {0, 0, 11}, {9, 0, 5}, {0, 0, 0xffffffff}};
  for (const auto& [layer, first, tokens] : wrong) {
    TestTransfer transfer(Geometry(2, 1, 8), 10);
    auto session = *ends.sender->Offer(transfer.MakeOffer("a"));
    session->PostLayer(layer, first, tokens);
    EXPECT_EQ(transfer.sender_done.Wait().status.code(), StatusCode::kInvalidArgument);
  }
}

// The plan changes when half the layers are posted: what is coded later is coded with the other strategy, and
// both ends say so.
TEST(TransferUnit, ThePlanMayChangeInMidTransfer) {
  auto transport = transport::CreateInprocTransport();
  Ends ends(*transport, kInproc);
  TestTransfer transfer(Geometry(4, 2, 64), 128);
  KvOffer offer = transfer.MakeOffer("a", "off");
  offer.alternatives = {*codec::Strategy::Parse("int8"), *codec::Strategy::Parse("fp8")};
  auto session = *ends.sender->Offer(std::move(offer));
  auto pulled = *ends.receiver->Pull(transfer.MakePull(ends.sender->endpoint(), "a"));
  for (uint32_t layer = 0; layer < 2; ++layer) session->PostLayer(layer, 0, 128);
  const base::TimePoint limit = After(kTestPatience);
  while (pulled->layers_ready() < 2 && base::Clock::System().Now() < limit) std::this_thread::yield();
  EXPECT_EQ(session->UseStrategy(3).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(session->UseStrategy(2).ok());
  for (uint32_t layer = 2; layer < 4; ++layer) session->PostLayer(layer, 0, 128);
  session->PostFirstToken({42, -0.5f, {}});
  ExpectAgreement(transfer.sender_done.Wait(), transfer.receiver_done.Wait());
  EXPECT_EQ(transfer.receiver_done.Wait().strategy,
            codec::Strategy::Parse("off")->ToString() + " / " + codec::Strategy::Parse("fp8")->ToString());
  // The first two layers are exact, the others 8 bits a value.
  const uint64_t layer_bytes = transfer.descriptor.geometry.bytes_per_token_layer() * 128;
  EXPECT_LT(transfer.receiver_done.Wait().bytes_wire, 3 * layer_bytes + layer_bytes / 4);
  EXPECT_GT(transfer.receiver_done.Wait().bytes_wire, 3 * layer_bytes);
  for (uint32_t layer = 0; layer < 4; ++layer) {
    const uint16_t* sent = transfer.sent.at(layer, tensor::Side::kKey, 5, 1);
    const uint16_t* received = transfer.received.at(layer, tensor::Side::kKey, 5, 1);
    EXPECT_EQ(std::equal(sent, sent + 64, received), layer < 2) << layer;
  }
}

// KV that was lossy before the transfer stays so on the other side, whatever codes it on the way.
TEST(TransferUnit, TheReceiverHearsWhatTheKvHadLostBefore) {
  auto transport = transport::CreateInprocTransport();
  Ends ends(*transport, kInproc);
  TestTransfer transfer(Geometry(1, 2, 64), 64);
  auto session = *ends.sender->Offer(transfer.MakeOffer("a"));
  session->LowerQuality(0);
  session->LowerQuality(tensor::kExactQuality);
  auto pulled = *ends.receiver->Pull(transfer.MakePull(ends.sender->endpoint(), "a"));
  transfer.PostAll(*session);
  EXPECT_EQ(transfer.receiver_done.Wait().kv_quality, 0);
  EXPECT_EQ(transfer.sender_done.Wait().kv_quality, 0);
}

// A strict reader, and one with a floor, hear of lossy KV before a token of it is told, whenever it is
// loaded.
TEST(TransferSafety, KvBelowTheWantedQualityIsRefusedBeforeItsFirstToken) {
  struct Case {
    bool accept_lossy;
    uint16_t least_quality, quality;
    bool taken;
  };
  const Case cases[] = {{false, 0, 999, false},  {false, 0, tensor::kExactQuality, true},
                        {true, 960, 959, false}, {true, 960, 960, true},
                        {true, 1, 0, false},     {true, 0, 0, true}};
  for (const bool before_the_pull : {true, false}) {
    for (const Case& one : cases) {
      SCOPED_TRACE(fmt::format("{} {} {}", one.accept_lossy, one.least_quality, one.quality));
      auto transport = transport::CreateInprocTransport();
      Ends ends(*transport, kInproc);
      TestTransfer transfer(Geometry(2, 2, 64), 128);
      auto session = *ends.sender->Offer(transfer.MakeOffer("a"));
      if (before_the_pull) session->LowerQuality(one.quality);
      KvPull pull = transfer.MakePull(ends.sender->endpoint(), "a");
      pull.accept_lossy = one.accept_lossy;
      pull.least_quality = one.least_quality;
      auto pulled = *ends.receiver->Pull(std::move(pull));
      session->PostLayer(0, 0, 128);
      if (!before_the_pull) {
        // The transfer is under way when the rest turns out to come from a lossy store.
        const base::TimePoint limit = After(kTestPatience);
        while (pulled->layers_ready() == 0 && base::Clock::System().Now() < limit) {
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        session->LowerQuality(one.quality);
      }
      session->PostLayer(1, 0, 128);
      session->PostFirstToken({42, 0, {}});
      const TransferOutcome received = transfer.receiver_done.Wait();
      const TransferOutcome sent = transfer.sender_done.Wait();
      EXPECT_EQ(transfer.receiver_done.first_token().has_value(), one.taken);
      if (one.taken) {
        ExpectAgreement(sent, received);
        EXPECT_EQ(received.kv_quality, one.quality);
      } else {
        EXPECT_EQ(received.status.code(), StatusCode::kFailedPrecondition) << received.status.ToString();
        EXPECT_EQ(sent.status.code(), StatusCode::kFailedPrecondition) << sent.status.ToString();
      }
    }
  }
}

TEST(TransferSafety, EveryStrategyOfAnOfferMustBeWelcome) {
  auto transport = transport::CreateInprocTransport();
  Ends ends(*transport, kInproc);
  TestTransfer transfer(Geometry(2, 2, 64), 64);
  KvOffer offer = transfer.MakeOffer("a", "off");
  offer.alternatives = {*codec::Strategy::Parse("int8")};
  auto session = *ends.sender->Offer(std::move(offer));
  KvPull pull = transfer.MakePull(ends.sender->endpoint(), "a");
  pull.accept_lossy = false;
  auto pulled = *ends.receiver->Pull(std::move(pull));
  EXPECT_EQ(transfer.sender_done.Wait().status.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(transfer.receiver_done.Wait().status.code(), StatusCode::kFailedPrecondition);
  KvOffer many = TestTransfer(Geometry(2, 2, 64), 64).MakeOffer("b", "off");
  many.alternatives.assign(kMaxStrategiesPerOpen, *codec::Strategy::Parse("int8"));
  EXPECT_EQ(ends.sender->Offer(std::move(many)).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvplane::transfer
