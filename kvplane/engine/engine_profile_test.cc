// Strategies that need a profile of the model: coded and decoded with it, refused where it is missing or
// of another model, recomputed where only the other node has it.

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "kvplane/codec/testing/synthetic_profile.h"
#include "kvplane/engine/engine.h"
#include "kvplane/engine/testing/demo_model.h"
#include "kvplane/engine/testing/recorder.h"
#include "kvplane/transport/inproc_transport.h"

namespace kvplane::engine {
namespace {

using base::StatusCode;

constexpr const char* kProfiled = "heads(ratio=25) | levels(m=256,low=64,group=8) | pack";
constexpr const char* kEndpoint = "inproc://prefill";

std::shared_ptr<const codec::ModelProfile> ProfileOfTheDemo(uint64_t seed = 1) {
  codec::ModelProfileData data =
      codec::testing::SyntheticProfile(
          {.geometry = DemoModel().kv_geometry(), .seed = seed, .head_rank = 1, .layer_rank = 1})
          ->data();
  data.model_fingerprint = DemoModel().fingerprint();
  return *codec::ModelProfile::Create(std::move(data));
}

codec::ProfileSet SetOf(std::shared_ptr<const codec::ModelProfile> profile) {
  codec::ProfileSet set;
  set.Add(std::move(profile));
  return set;
}

// One request, prefilled and decoded apart by nodes with these profiles.
FinishEvent RunApart(const codec::ProfileSet& at_prefill, const codec::ProfileSet& at_decode,
                     const Request& request, std::vector<int32_t>& tokens) {
  const auto transport = transport::CreateInprocTransport();
  const auto sender = *transfer::KvSender::Create(*transport, {.endpoint = kEndpoint});
  transfer::KvReceiverOptions receive;
  receive.profiles = at_decode;
  const auto receiver = *transfer::KvReceiver::Create(*transport, receive);
  const auto prefill = *Engine::Create(DemoModel(0), {.profiles = at_prefill}, sender.get(), nullptr);
  const auto decode = *Engine::Create(DemoModel(1), {.profiles = at_decode}, nullptr, receiver.get());
  Request sent = request;
  sent.remote_decode = RemoteDecode{.transfer_id = "a", .strategy = *codec::Strategy::Parse(kProfiled)};
  Request received = request;
  received.remote_prefill = RemotePrefill{.transfer_id = "a", .endpoint = kEndpoint};
  const auto prefilled = std::make_shared<Recorder>();
  const auto decoded = std::make_shared<Recorder>();
  const auto submitted = prefill->Submit(std::move(sent), prefilled);
  EXPECT_TRUE(submitted.ok()) << submitted.status().ToString();
  EXPECT_TRUE(decode->Submit(std::move(received), decoded).ok());
  EXPECT_TRUE(prefilled->WaitForFinish());
  EXPECT_TRUE(decoded->WaitForFinish());
  tokens = decoded->tokens();
  return decoded->finish();
}

TEST(EngineProfileUnit, BothNodesCodeWithIt) {
  const codec::ProfileSet profiles = SetOf(ProfileOfTheDemo());
  std::vector<int32_t> tokens;
  const FinishEvent finish =
      RunApart(profiles, profiles, GreedyRequest(GoldenPrompts().back().token_ids, 8), tokens);
  EXPECT_EQ(finish.reason, FinishReason::kLength) << finish.status.ToString();
  EXPECT_EQ(finish.source, KvSource::kTransfer) << finish.recompute_reason;
  EXPECT_EQ(tokens.size(), 8u);
  ASSERT_TRUE(finish.transfer.has_value());
  EXPECT_EQ(finish.transfer->strategy, codec::Strategy::Parse(kProfiled)->ToString());
  EXPECT_LT(finish.transfer->bytes_wire, finish.transfer->bytes_raw);
}

TEST(EngineProfileUnit, ADecodeNodeWithoutItRecomputesAndSaysWhy) {
  const auto needed = ProfileOfTheDemo(1);
  const Request request = GreedyRequest(GoldenPrompts().back().token_ids, 8);
  for (const codec::ProfileSet& at_decode : {codec::ProfileSet(), SetOf(ProfileOfTheDemo(2))}) {
    std::vector<int32_t> tokens;
    const FinishEvent finish = RunApart(SetOf(needed), at_decode, request, tokens);
    EXPECT_EQ(finish.source, KvSource::kRecompute);
    EXPECT_NE(finish.recompute_reason.find(needed->id().ToHex()), std::string::npos)
        << finish.recompute_reason;
    const std::vector<int32_t>& golden = GoldenPrompts().back().greedy_32;
    EXPECT_EQ(tokens, std::vector<int32_t>(golden.begin(), golden.begin() + 8));
  }
}

TEST(EngineProfileUnit, AStrategyWithoutItsProfileIsRefusedByRule) {
  EngineOptions options;
  options.default_strategy = *codec::Strategy::Parse(kProfiled);
  const base::Status at_start = Engine::Create(DemoModel(), options, nullptr, nullptr).status();
  EXPECT_EQ(at_start.code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(at_start.message().find("L4"), std::string::npos) << at_start.ToString();

  const auto transport = transport::CreateInprocTransport();
  const auto sender = *transfer::KvSender::Create(*transport, {.endpoint = kEndpoint});
  const auto engine = *Engine::Create(DemoModel(), {}, sender.get(), nullptr);
  Request request = GreedyRequest(NoisePrompt(1, 20), 4);
  request.remote_decode = RemoteDecode{.transfer_id = "a", .strategy = *codec::Strategy::Parse(kProfiled)};
  const base::Status status = engine->Submit(std::move(request), std::make_shared<Recorder>()).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("L4"), std::string::npos) << status.ToString();
}

TEST(EngineProfileUnit, AProfileOfAnotherModelIsRefused) {
  const tensor::KvGeometry geometry = DemoModel().kv_geometry();
  const auto refused = [](std::shared_ptr<const codec::ModelProfile> profile) {
    const base::Status status =
        Engine::Create(DemoModel(), {.profiles = SetOf(std::move(profile))}, nullptr, nullptr).status();
    EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
    return status.message();
  };
  tensor::KvGeometry other = geometry;
  ++other.layers;
  EXPECT_NE(refused(codec::testing::SyntheticProfile({.geometry = other, .head_rank = 1, .layer_rank = 1}))
                .find("another model"),
            std::string::npos);
  // The same shape, fitted on other weights.
  EXPECT_NE(refused(codec::testing::SyntheticProfile({.geometry = geometry, .head_rank = 1, .layer_rank = 1}))
                .find("fingerprint"),
            std::string::npos);
}

}  // namespace
}  // namespace kvplane::engine
