// Prefill and decode apart: two engines of one process, real sender and receiver over loopback.

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/cache/block_pool.h"
#include "kvplane/engine/engine.h"
#include "kvplane/engine/kv_arena.h"
#include "kvplane/engine/request_pages.h"
#include "kvplane/engine/testing/demo_model.h"
#include "kvplane/engine/testing/recorder.h"
#include "kvplane/store/dram_store.h"
#include "kvplane/transport/create_transport.h"
#include "kvplane/transport/testing/faulty_transport.h"

namespace kvplane::engine {
namespace {

using base::StatusCode;
using std::chrono::milliseconds;
using std::chrono::seconds;

base::TimePoint Now() { return base::Clock::System().Now(); }

codec::Strategy Parsed(std::string_view text) { return *codec::Strategy::Parse(text); }

// A prefill and a decode node. Destruction order is that of a process: engine, sender or receiver, transport.
struct Nodes {
  std::shared_ptr<transport::Transport> prefill_link;
  std::shared_ptr<transport::Transport> decode_link;
  std::unique_ptr<transfer::KvSender> sender;
  std::unique_ptr<transfer::KvReceiver> receiver;
  std::unique_ptr<Engine> prefill;
  std::unique_ptr<Engine> decode;

  Nodes(std::shared_ptr<transport::Transport> link, const EngineOptions& options = {},
        const transfer::KvReceiverOptions& receiver_options = {})
      : prefill_link(std::move(link)), decode_link(*transport::CreateTransport("tcp")) {
    sender = *transfer::KvSender::Create(*prefill_link, {});
    receiver = *transfer::KvReceiver::Create(*decode_link, receiver_options);
    prefill = *Engine::Create(DemoModel(0), options, sender.get(), nullptr);
    decode = *Engine::Create(DemoModel(1), options, nullptr, receiver.get());
  }
  explicit Nodes(const EngineOptions& options = {}) : Nodes(*transport::CreateTransport("tcp"), options) {}

  void KillPrefill() {
    prefill.reset();
    sender.reset();
  }
};

struct Pair {
  std::shared_ptr<Recorder> prefill = std::make_shared<Recorder>();
  std::shared_ptr<Recorder> decode = std::make_shared<Recorder>();
  base::RequestId prefill_id, decode_id;
};

void SubmitPrefill(Nodes& nodes, Request request, const std::string& id, codec::Strategy strategy,
                   Pair& pair) {
  request.remote_decode = RemoteDecode{.transfer_id = id, .strategy = std::move(strategy)};
  const auto submitted = nodes.prefill->Submit(std::move(request), pair.prefill);
  ASSERT_TRUE(submitted.ok()) << submitted.status().ToString();
  pair.prefill_id = *submitted;
}

void SubmitDecode(Nodes& nodes, Request request, const std::string& id, Pair& pair) {
  request.remote_prefill = RemotePrefill{.transfer_id = id, .endpoint = nodes.sender->endpoint()};
  const auto submitted = nodes.decode->Submit(std::move(request), pair.decode);
  ASSERT_TRUE(submitted.ok()) << submitted.status().ToString();
  pair.decode_id = *submitted;
}

Pair SubmitBoth(Nodes& nodes, const Request& request, const std::string& id,
                const codec::Strategy& strategy) {
  Pair pair;
  SubmitDecode(nodes, request, id, pair);
  SubmitPrefill(nodes, request, id, strategy, pair);
  return pair;
}

std::vector<int32_t> RunUnified(const Request& request) {
  const auto engine = *Engine::Create(DemoModel(0), {}, nullptr, nullptr);
  const auto recorder = std::make_shared<Recorder>();
  EXPECT_TRUE(engine->Submit(request, recorder).ok());
  EXPECT_TRUE(recorder->WaitForFinish());
  return recorder->tokens();
}

void ExpectNothingLeft(Engine& engine) {
  engine.Drain(Now() + seconds(60));
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.blocks_used, 0u);
  EXPECT_EQ(stats.running, 0u);
  EXPECT_EQ(stats.transferring, 0u);
  EXPECT_EQ(stats.requests_submitted,
            stats.requests_finished + stats.requests_failed + stats.requests_cancelled);
}

void ExpectRecomputed(const Recorder& decode, const std::vector<int32_t>& expected) {
  const FinishEvent finish = decode.finish();
  EXPECT_EQ(finish.reason, FinishReason::kLength) << finish.status.ToString();
  EXPECT_EQ(finish.source, KvSource::kRecompute);
  EXPECT_FALSE(finish.recompute_reason.empty());
  EXPECT_EQ(decode.tokens(), expected);
  EXPECT_TRUE(decode.in_order());
}

TEST(EngineTransferUnit, OffGivesTheTokensOfOneProcess) {
  base::Rng rng(21);
  std::vector<Request> requests;
  std::vector<std::vector<int32_t>> expected;
  for (uint64_t i = 0; i < 10; ++i) {
    requests.push_back(GreedyRequest(NoisePrompt(i, i == 0 ? 1 : 1 + rng.Below(500)),
                                     static_cast<uint32_t>(1 + rng.Below(16))));
    expected.push_back(RunUnified(requests.back()));
  }
  Nodes nodes({.step_tokens = 256});
  std::vector<Pair> pairs;
  for (size_t i = 0; i < requests.size(); ++i) {
    pairs.push_back(SubmitBoth(nodes, requests[i], "off-" + std::to_string(i), Parsed("off")));
  }
  for (size_t i = 0; i < pairs.size(); ++i) {
    SCOPED_TRACE(i);
    ASSERT_TRUE(pairs[i].prefill->WaitForFinish());
    ASSERT_TRUE(pairs[i].decode->WaitForFinish());
    EXPECT_EQ(pairs[i].decode->tokens(), expected[i]);
    EXPECT_EQ(pairs[i].prefill->tokens(), std::vector<int32_t>{expected[i][0]});
    const FinishEvent finish = pairs[i].decode->finish();
    EXPECT_EQ(finish.source, KvSource::kTransfer) << finish.recompute_reason;
    if (requests[i].max_tokens == 1) continue;  // ended by its first token, before its KV came
    ASSERT_TRUE(finish.transfer.has_value());
    EXPECT_TRUE(finish.transfer->status.ok());
    EXPECT_EQ(finish.transfer->bytes_raw,
              requests[i].prompt.size() * DemoModel().kv_geometry().bytes_per_token());
    EXPECT_GT(finish.transfer->bytes_wire, finish.transfer->bytes_raw);
  }
  ExpectNothingLeft(*nodes.prefill);
  ExpectNothingLeft(*nodes.decode);
  EXPECT_EQ(nodes.decode->stats().recomputes, 0u);
}

TEST(EngineTransferUnit, DecodeMayComeAfterPrefillHasFinished) {
  const Request request = GreedyRequest(NoisePrompt(5, 150), 8);
  const auto expected = RunUnified(request);
  Nodes nodes;
  Pair pair;
  SubmitPrefill(nodes, request, "late", Parsed("off"), pair);
  ASSERT_TRUE(pair.prefill->WaitForFinish());
  EXPECT_GT(nodes.prefill->stats().blocks_used, 0u);  // the KV waits
  SubmitDecode(nodes, request, "late", pair);
  ASSERT_TRUE(pair.decode->WaitForFinish());
  EXPECT_EQ(pair.decode->finish().source, KvSource::kTransfer) << pair.decode->finish().recompute_reason;
  EXPECT_EQ(pair.decode->tokens(), expected);
  ExpectNothingLeft(*nodes.prefill);
  ExpectNothingLeft(*nodes.decode);
  EXPECT_EQ(nodes.prefill->stats().transfers_sent, 1u);
  EXPECT_EQ(nodes.decode->stats().transfers_received, 1u);
}

TEST(EngineTransferUnit, SeededSamplingGoesOnWhereThePrefillNodeStopped) {
  Request request = GreedyRequest(NoisePrompt(6, 90), 20);
  request.sampling.temperature = 1.0f;
  request.sampling.seed = 7;
  const auto expected = RunUnified(request);
  Nodes nodes;
  const Pair pair = SubmitBoth(nodes, request, "seeded", Parsed("off"));
  ASSERT_TRUE(pair.decode->WaitForFinish());
  EXPECT_EQ(pair.decode->tokens(), expected);
}

class EngineTransferLossy : public testing::TestWithParam<std::pair<std::string_view, double>> {};

TEST_P(EngineTransferLossy, FinishesWithTheRatioItPromises) {
  const auto [strategy, least_ratio] = GetParam();
  const Request request = GreedyRequest(GoldenPrompts().back().token_ids, 16);
  Nodes nodes;
  const Pair pair = SubmitBoth(nodes, request, "lossy", Parsed(strategy));
  ASSERT_TRUE(pair.decode->WaitForFinish());
  const FinishEvent finish = pair.decode->finish();
  EXPECT_EQ(finish.reason, FinishReason::kLength);
  EXPECT_EQ(finish.source, KvSource::kTransfer) << finish.recompute_reason;
  EXPECT_EQ(pair.decode->tokens().size(), 16u);
  ASSERT_TRUE(finish.transfer.has_value());
  EXPECT_EQ(finish.transfer->strategy, Parsed(strategy).ToString());
  const double ratio =
      static_cast<double>(finish.transfer->bytes_raw) / static_cast<double>(finish.transfer->bytes_wire);
  EXPECT_GT(ratio, least_ratio);
  EXPECT_LT(ratio, least_ratio + 0.5);
  ExpectNothingLeft(*nodes.prefill);
  ExpectNothingLeft(*nodes.decode);
  EXPECT_EQ(nodes.decode->stats().kv_bytes_wire, finish.transfer->bytes_wire);
}

INSTANTIATE_TEST_SUITE_P(Unit, EngineTransferLossy,
                         testing::Values(std::pair<std::string_view, double>("int8", 1.7),
                                         std::pair<std::string_view, double>("int4", 3.2)));

TEST(EngineTransferSafety, StrictReaderRecomputesInsteadOfTakingLoss) {
  const Request request = GreedyRequest(NoisePrompt(8, 130), 6);
  const auto expected = RunUnified(request);
  Nodes nodes;
  Pair pair;
  SubmitPrefill(nodes, request, "strict", Parsed("int8"), pair);
  Request strict = request;
  strict.remote_prefill =
      RemotePrefill{.transfer_id = "strict", .endpoint = nodes.sender->endpoint(), .accept_lossy = false};
  ASSERT_TRUE(nodes.decode->Submit(strict, pair.decode).ok());
  ASSERT_TRUE(pair.decode->WaitForFinish());
  ExpectRecomputed(*pair.decode, expected);
}

// What the prefill node loads with loss and sends without is lossy all the same.
TEST(EngineTransferSafety, LossyKvFromThePrefillNodesStoreIsTakenOnlyByWhoTakesThatQuality) {
  const Request request = GreedyRequest(NoisePrompt(12, 2 * 128 + 40), 6);
  const auto expected = RunUnified(request);
  const auto store = *store::DramStore::Create({.capacity_bytes = 64 << 20});
  EngineOptions lossy;
  lossy.prefix.store = store.get();
  lossy.prefix.run_tokens = 128;
  lossy.prefix.strategy = Parsed("int2");
  lossy.prefix.quality = 950;
  lossy.prefix.load = LoadPolicy::kAlways;
  lossy.prefix.timeout = seconds(60);
  {
    const auto filling = *Engine::Create(DemoModel(0), lossy, nullptr, nullptr);
    const auto recorder = std::make_shared<Recorder>();
    ASSERT_TRUE(filling->Submit(request, recorder).ok());
    ASSERT_TRUE(recorder->WaitForFinish());
    filling->Drain(Now() + seconds(60));
  }
  ASSERT_EQ(store->stats().entries, 2u);
  struct Case {
    const char* id;
    bool decode_accepts;
    uint16_t least_quality;
    bool taken;
  };
  for (const Case& one : {Case{"strict", false, 0, false}, Case{"demanding", true, 951, false},
                          Case{"content", true, 950, true}}) {
    SCOPED_TRACE(one.id);
    Nodes nodes(lossy);
    nodes.decode.reset();
    nodes.decode = *Engine::Create(DemoModel(1), {.prefix = {.min_quality = one.least_quality}}, nullptr,
                                   nodes.receiver.get());
    Pair pair;
    SubmitPrefill(nodes, request, one.id, Parsed("off"), pair);
    ASSERT_TRUE(pair.prefill->WaitForFinish());
    EXPECT_EQ(pair.prefill->finish().cached_tokens, 256u);
    Request pulling = request;
    pulling.remote_prefill = RemotePrefill{
        .transfer_id = one.id, .endpoint = nodes.sender->endpoint(), .accept_lossy = one.decode_accepts};
    ASSERT_TRUE(nodes.decode->Submit(pulling, pair.decode).ok());
    ASSERT_TRUE(pair.decode->WaitForFinish());
    if (!one.taken) {
      ExpectRecomputed(*pair.decode, expected);
      continue;
    }
    const FinishEvent finish = pair.decode->finish();
    EXPECT_EQ(finish.source, KvSource::kTransfer) << finish.recompute_reason;
    ASSERT_TRUE(finish.transfer.has_value());
    EXPECT_EQ(finish.transfer->kv_quality, 950);
  }
}

TEST(EngineTransferSafety, LossForbiddenOnThePrefillNode) {
  Nodes nodes({.default_strategy = Parsed("int4")});
  Request request = GreedyRequest(NoisePrompt(8, 20), 1);
  request.remote_decode = RemoteDecode{.transfer_id = "x", .strategy = Parsed("int8"), .accept_lossy = false};
  const auto refused = nodes.prefill->Submit(request, std::make_shared<Recorder>());
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
  // Without a wish of its own it gets `off`, which a strict reader takes.
  request.remote_decode->strategy.reset();
  const auto prefill = std::make_shared<Recorder>();
  ASSERT_TRUE(nodes.prefill->Submit(request, prefill).ok());
  Request strict = GreedyRequest(NoisePrompt(8, 20), 4);
  strict.remote_prefill =
      RemotePrefill{.transfer_id = "x", .endpoint = nodes.sender->endpoint(), .accept_lossy = false};
  const auto decode = std::make_shared<Recorder>();
  ASSERT_TRUE(nodes.decode->Submit(strict, decode).ok());
  ASSERT_TRUE(decode->WaitForFinish());
  EXPECT_EQ(decode->finish().source, KvSource::kTransfer) << decode->finish().recompute_reason;
}

TEST(EngineTransferSafety, WrongPromptIsRefusedAndRecomputed) {
  const Request request = GreedyRequest(NoisePrompt(9, 130), 6);
  const Request other = GreedyRequest(NoisePrompt(10, 130), 6);
  const auto expected = RunUnified(other);
  Nodes nodes;
  Pair pair;
  SubmitPrefill(nodes, request, "same id", Parsed("off"), pair);
  SubmitDecode(nodes, other, "same id", pair);
  ASSERT_TRUE(pair.decode->WaitForFinish());
  ExpectRecomputed(*pair.decode, expected);
  EXPECT_EQ(nodes.decode->stats().recomputes, 1u);
  EXPECT_EQ(nodes.decode->stats().transfers_failed, 1u);
}

TEST(EngineTransferSafety, NobodyThereMeansRecompute) {
  const Request request = GreedyRequest(NoisePrompt(11, 70), 6);
  const auto expected = RunUnified(request);
  Nodes nodes;
  for (const std::string_view endpoint : {"tcp://127.0.0.1:1", "nonsense"}) {
    Request copy = request;
    copy.remote_prefill = RemotePrefill{.transfer_id = "gone", .endpoint = std::string(endpoint)};
    const auto decode = std::make_shared<Recorder>();
    ASSERT_TRUE(nodes.decode->Submit(copy, decode).ok());
    ASSERT_TRUE(decode->WaitForFinish());
    ExpectRecomputed(*decode, expected);
  }
  ExpectNothingLeft(*nodes.decode);
}

TEST(EngineTransferSafety, OffersAndPullsTimeOut) {
  const Request request = GreedyRequest(NoisePrompt(12, 70), 6);
  const auto expected = RunUnified(request);
  Nodes nodes({.transfer_timeout = milliseconds(300)});
  Pair pair;
  SubmitPrefill(nodes, request, "offered", Parsed("off"), pair);  // nobody pulls it
  SubmitDecode(nodes, request, "never offered", pair);
  ASSERT_TRUE(pair.prefill->WaitForFinish());
  EXPECT_EQ(pair.prefill->finish().reason, FinishReason::kLength);
  ASSERT_TRUE(pair.decode->WaitForFinish());
  ExpectRecomputed(*pair.decode, expected);
  ExpectNothingLeft(*nodes.prefill);
  ExpectNothingLeft(*nodes.decode);
  EXPECT_EQ(nodes.prefill->stats().transfers_failed, 1u);
}

TEST(EngineTransferSafety, PrefillNodeKilledInMidTransferKeepsTheFirstToken) {
  const Request request = GreedyRequest(NoisePrompt(13, 700), 8);
  const auto expected = RunUnified(request);
  // 2.9 MB at 4 Mbit/s: about six seconds of transfer.
  Nodes nodes(*transport::CreateTransport("shaped(tcp,rate=4Mbit/s)"));
  const Pair pair = SubmitBoth(nodes, request, "killed", Parsed("off"));
  ASSERT_TRUE(pair.decode->WaitForTokens(1));
  nodes.KillPrefill();
  ASSERT_TRUE(pair.decode->WaitForFinish());
  ExpectRecomputed(*pair.decode, expected);
  ExpectNothingLeft(*nodes.decode);
}

TEST(EngineTransferSafety, FlippedBitsNeverReachTheTokens) {
  const Request request = GreedyRequest(NoisePrompt(14, 400), 8);
  const auto expected = RunUnified(request);
  const transport::FaultPlan plan{.seed = 3, .flip_probability = 0.05, .flip_min_piece_bytes = 1024};
  const std::shared_ptr<transport::Transport> tcp = *transport::CreateTransport("tcp");
  const std::shared_ptr<transport::FaultyTransport> faulty = transport::FaultyTransport::Create(tcp, plan);
  Nodes nodes(faulty);
  for (int i = 0; i < 4; ++i) {
    const Pair pair = SubmitBoth(nodes, request, "flips-" + std::to_string(i), Parsed("off"));
    ASSERT_TRUE(pair.decode->WaitForFinish());
    EXPECT_EQ(pair.decode->tokens(), expected);
  }
  EXPECT_GT(faulty->counts().bits_flipped, 0u);
  const EngineStats stats = nodes.decode->stats();
  EXPECT_GT(stats.tiles_retried + stats.recomputes, 0u);
  ExpectNothingLeft(*nodes.prefill);
  ExpectNothingLeft(*nodes.decode);
}

TEST(EngineTransferSafety, LostAndStalledConnectionsMeanRecompute) {
  const Request request = GreedyRequest(NoisePrompt(16, 400), 8);  // 1.6 MB
  const auto expected = RunUnified(request);
  const std::shared_ptr<transport::Transport> tcp = *transport::CreateTransport("tcp");
  for (const transport::FaultPlan& plan : {transport::FaultPlan{.drop_after_bytes = 500'000},
                                           transport::FaultPlan{.stall_after_bytes = 500'000}}) {
    Nodes nodes(transport::FaultyTransport::Create(tcp, plan), {}, {.stall_timeout = milliseconds(300)});
    const Pair pair = SubmitBoth(nodes, request, "broken", Parsed("off"));
    ASSERT_TRUE(pair.decode->WaitForFinish());
    ExpectRecomputed(*pair.decode, expected);
    ExpectNothingLeft(*nodes.decode);
    nodes.KillPrefill();
  }
}

// A prefill node that is not an engine: the KV is right, what comes with it is up to the test.
class BarePrefill {
 public:
  explicit BarePrefill(const std::vector<int32_t>& prompt) : prompt_(prompt) {
    model::Model& model = DemoModel(0);
    const tensor::KvGeometry geometry = model.kv_geometry();
    arena_ = *KvArena::Create(tensor::PageFormat::HeadMajor(geometry, 64), 8 << 20, geometry.layers);
    pool_.emplace(arena_->pages());
    pages_.emplace(*pool_, *arena_, geometry.layers);
    pages_->Grow(static_cast<uint32_t>(prompt.size()));
    model::SequenceInput input;
    input.tokens = prompt_;
    input.layers = pages_->layers();
    std::vector<float> logits;
    EXPECT_TRUE(model.Forward({&input, 1}, nullptr, logits).ok());
  }

  void Send(transfer::KvSender& sender, const std::string& id,
            std::optional<transfer::FirstToken> first_token) {
    const tensor::KvGeometry geometry = DemoModel(0).kv_geometry();
    const auto tokens = static_cast<uint32_t>(prompt_.size());
    const auto session = *sender.Offer({.transfer_id = id,
                                        .descriptor = {.geometry = geometry,
                                                       .model_fingerprint = DemoModel(0).fingerprint(),
                                                       .token_hash = transfer::HashTokens(prompt_),
                                                       .tokens = tokens},
                                        .strategy = {},
                                        .layers = pages_->layers(),
                                        .deadline = Now() + seconds(30),
                                        .on_complete = [](const transfer::TransferOutcome&) {}});
    if (first_token) session->PostFirstToken(*first_token);
    for (uint32_t layer = 0; layer < geometry.layers; ++layer) session->PostLayer(layer, 0, tokens);
  }

 private:
  std::vector<int32_t> prompt_;
  std::shared_ptr<KvArena> arena_;
  std::optional<cache::BlockPool> pool_;
  std::optional<RequestPages> pages_;
};

TEST(EngineTransferSafety, KvWithoutItsFirstTokenMeansRecompute) {
  const Request request = GreedyRequest(NoisePrompt(22, 192), 6);
  const auto expected = RunUnified(request);
  BarePrefill bare(request.prompt);
  Nodes nodes(*transport::CreateTransport("tcp"), {}, {.stall_timeout = milliseconds(300)});
  Pair pair;
  SubmitDecode(nodes, request, "tokenless", pair);
  bare.Send(*nodes.sender, "tokenless", std::nullopt);
  ASSERT_TRUE(pair.decode->WaitForFinish());
  ExpectRecomputed(*pair.decode, expected);
  nodes.KillPrefill();  // before the pages go
}

TEST(EngineTransferSafety, FirstTokenOutsideTheVocabularyIsRefused) {
  const Request request = GreedyRequest(NoisePrompt(23, 192), 6);
  const auto expected = RunUnified(request);
  BarePrefill bare(request.prompt);
  Nodes nodes;
  Pair pair;
  SubmitDecode(nodes, request, "liar", pair);
  bare.Send(*nodes.sender, "liar", transfer::FirstToken{.id = 1 << 30, .logprob = 0, .top_logprobs = {}});
  ASSERT_TRUE(pair.decode->WaitForFinish());
  ExpectRecomputed(*pair.decode, expected);
  EXPECT_NE(pair.decode->finish().recompute_reason.find("vocabulary"), std::string::npos);
  nodes.KillPrefill();
}

// The token is in the vocabulary, but its biased logit over the tiny penalty is beyond all floats. The
// request fails as it would have on one node; the node does not.
TEST(EngineTransferSafety, FirstTokenThatTheSamplerCannotGiveFailsOnlyItsRequest) {
  Request request = GreedyRequest(NoisePrompt(24, 64), 6);
  BarePrefill bare(request.prompt);
  const int32_t token = request.prompt.front();
  request.sampling.temperature = 1.0f;
  request.sampling.repetition_penalty = 1e-37f;
  request.sampling.logit_bias = {{token, 100.0f}};
  Nodes nodes;
  Pair pair;
  SubmitDecode(nodes, request, "beyond", pair);
  bare.Send(*nodes.sender, "beyond", transfer::FirstToken{.id = token, .logprob = 0, .top_logprobs = {}});
  ASSERT_TRUE(pair.decode->WaitForFinish());
  EXPECT_EQ(pair.decode->finish().reason, FinishReason::kFailed);
  EXPECT_TRUE(pair.decode->tokens().empty());
  ExpectNothingLeft(*nodes.decode);
  nodes.KillPrefill();
}

TEST(EngineTransferSafety, DuplicateTransferIdFailsTheSecondOffer) {
  Nodes nodes;
  const Request request = GreedyRequest(NoisePrompt(15, 20), 2);
  Pair first, second;
  SubmitPrefill(nodes, request, "twice", Parsed("off"), first);
  ASSERT_TRUE(first.prefill->WaitForFinish());
  SubmitPrefill(nodes, request, "twice", Parsed("off"), second);
  ASSERT_TRUE(second.prefill->WaitForFinish());
  EXPECT_EQ(second.prefill->finish().reason, FinishReason::kFailed);
  EXPECT_EQ(second.prefill->finish().status.code(), StatusCode::kInvalidArgument);
}

TEST(EngineTransferSafety, CancelStormsLeakNothing) {
  Nodes nodes(*transport::CreateTransport("shaped(tcp,rate=100Mbit/s)"),
              {.step_tokens = 128, .max_running = 8, .transfer_timeout = seconds(1)});
  base::Rng rng(17);
  std::vector<Pair> pairs;
  for (uint64_t i = 0; i < 40; ++i) {
    const Request request =
        GreedyRequest(NoisePrompt(i, 1 + rng.Below(300)), static_cast<uint32_t>(1 + rng.Below(10)));
    pairs.push_back(SubmitBoth(nodes, request, "storm-" + std::to_string(i), Parsed("off")));
    if (rng.Below(4) == 0) pairs.back().decode->WaitForTokens(1);
    if (rng.Below(3) == 0) nodes.prefill->Cancel(pairs.back().prefill_id);
    if (rng.Below(3) == 0) nodes.decode->Cancel(pairs.back().decode_id);
  }
  for (const Pair& pair : pairs) {
    ASSERT_TRUE(pair.prefill->WaitForFinish());
    ASSERT_TRUE(pair.decode->WaitForFinish());
    EXPECT_TRUE(pair.decode->in_order());
  }
  ExpectNothingLeft(*nodes.prefill);
  ExpectNothingLeft(*nodes.decode);
}

TEST(EngineTransferSafety, DestructionInMidTransferEndsBothSides) {
  const Request request = GreedyRequest(NoisePrompt(18, 700), 8);
  Nodes nodes(*transport::CreateTransport("shaped(tcp,rate=4Mbit/s)"));
  const Pair pair = SubmitBoth(nodes, request, "destroyed", Parsed("off"));
  ASSERT_TRUE(pair.decode->WaitForTokens(1));
  nodes.decode.reset();
  ASSERT_TRUE(pair.decode->WaitForFinish());
  EXPECT_EQ(pair.decode->finish().reason, FinishReason::kCancelled);
  ExpectNothingLeft(*nodes.prefill);
}

}  // namespace
}  // namespace kvplane::engine
