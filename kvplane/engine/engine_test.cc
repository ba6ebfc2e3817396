// The engine's parts, and one engine with the real demo model.

#include "kvplane/engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/engine/inbox.h"
#include "kvplane/engine/kv_arena.h"
#include "kvplane/engine/request_pages.h"
#include "kvplane/engine/shared_state.h"
#include "kvplane/engine/testing/demo_model.h"
#include "kvplane/engine/testing/recorder.h"

namespace kvplane::engine {
namespace {

using base::StatusCode;
using std::chrono::milliseconds;
using std::chrono::seconds;

base::TimePoint Now() { return base::Clock::System().Now(); }

std::unique_ptr<Engine> MakeEngine(const EngineOptions& options = {}) {
  auto engine = Engine::Create(DemoModel(), options, nullptr, nullptr);
  EXPECT_TRUE(engine.ok()) << engine.status().ToString();
  return *std::move(engine);
}

std::shared_ptr<Recorder> Submit(Engine& engine, Request request, base::RequestId* id = nullptr) {
  auto recorder = std::make_shared<Recorder>();
  const auto submitted = engine.Submit(std::move(request), recorder);
  EXPECT_TRUE(submitted.ok()) << submitted.status().ToString();
  if (id != nullptr && submitted.ok()) *id = *submitted;
  return recorder;
}

std::vector<int32_t> RunAlone(const Request& request, const EngineOptions& options = {}) {
  const auto engine = MakeEngine(options);
  const auto recorder = Submit(*engine, request);
  EXPECT_TRUE(recorder->WaitForFinish());
  return recorder->tokens();
}

// Waits until everything has retired and expects nothing left behind.
void ExpectNothingLeft(Engine& engine) {
  engine.Drain(Now() + seconds(60));
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.blocks_used, 0u);
  EXPECT_EQ(stats.queued, 0u);
  EXPECT_EQ(stats.running, 0u);
  EXPECT_EQ(stats.transferring, 0u);
  EXPECT_EQ(stats.requests_submitted,
            stats.requests_finished + stats.requests_failed + stats.requests_cancelled);
}

uint64_t BytesFor(uint64_t blocks, uint32_t block_tokens) {
  return blocks * tensor::PageFormat::HeadMajor(DemoModel().kv_geometry(), block_tokens).page_bytes();
}

// ---- Parts

TEST(KvArenaUnit, PagesAreAlignedZeroAndApart) {
  const tensor::KvGeometry geometry{.layers = 1, .kv_heads = 1, .head_dim = 8};
  const auto format = tensor::PageFormat::HeadMajor(geometry, 3);  // 96 bytes: not a multiple of 64
  const auto arena = KvArena::Create(format, 1000, 2);
  ASSERT_TRUE(arena.ok());
  EXPECT_EQ((*arena)->pages(), 7u);
  for (uint32_t i = 0; i < 7; ++i) {
    uint16_t* page = (*arena)->page({i});
    EXPECT_EQ(reinterpret_cast<uintptr_t>(page) % KvArena::kAlignment, 0u);
    EXPECT_TRUE(std::all_of(page, page + format.page_elements, [](uint16_t x) { return x == 0; }));
    std::fill(page, page + format.page_elements, static_cast<uint16_t>(i + 1));
  }
  EXPECT_EQ((*arena)->page({0})[format.page_elements - 1], 1);
}

TEST(KvArenaUnit, TooSmallSaysHowMuchIsNeeded) {
  const tensor::KvGeometry geometry{.layers = 4, .kv_heads = 1, .head_dim = 8};
  const auto arena = KvArena::Create(tensor::PageFormat::HeadMajor(geometry, 4), 511, 4);
  ASSERT_FALSE(arena.ok());
  EXPECT_EQ(arena.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(arena.status().message().find("at least 512 bytes"), std::string::npos);
}

TEST(RequestPagesUnit, AddressesFollowTheTable) {
  const tensor::KvGeometry geometry{.layers = 2, .kv_heads = 1, .head_dim = 8};
  const auto arena = *KvArena::Create(tensor::PageFormat::HeadMajor(geometry, 4), 1 << 16, 2);
  cache::BlockPool pool(arena->pages());
  {
    RequestPages pages(pool, *arena, 2);
    pages.Grow(5);
    EXPECT_EQ(pages.blocks(), 4u);
    uint16_t* const first = pages.layers()[1].pages[0];
    pages.Grow(9);
    ASSERT_EQ(pages.layers()[1].pages.size(), 3u);
    EXPECT_EQ(pages.layers()[1].pages[0], first);
    EXPECT_EQ(pages.layers()[0].format.block_tokens, 4u);
    EXPECT_EQ(pool.used(), 6u);
  }
  EXPECT_EQ(pool.used(), 0u);
}

TEST(InboxUnit, KeepsOrderAndHonoursDeadlines) {
  Inbox inbox;
  EXPECT_TRUE(inbox.Take(base::TimePoint{}).empty());
  EXPECT_TRUE(inbox.Take(Now() + milliseconds(1)).empty());
  std::thread poster([&] {
    for (uint64_t i = 0; i < 100; ++i) inbox.Post(CancelMessage{{i}});
  });
  uint64_t next = 0;
  while (next < 100) {
    for (const Message& message : inbox.Take(base::kNoDeadline)) {
      EXPECT_EQ(std::get<CancelMessage>(message).id.value, next++);
    }
  }
  poster.join();
}

TEST(SharedStateUnit, BoundsTheQueueAndWaitsForRetirement) {
  SharedState shared(2);
  ASSERT_TRUE(shared.Register().ok());
  const auto second = shared.Register();
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->value, 2u);
  EXPECT_EQ(shared.Register().status().code(), StatusCode::kResourceExhausted);
  shared.LeaveQueue();
  EXPECT_TRUE(shared.Register().ok());
  EXPECT_EQ(shared.stats().queued, 2u);
  EXPECT_EQ(shared.stats().requests_submitted, 3u);
  shared.RefuseNew();
  EXPECT_EQ(shared.Register().status().code(), StatusCode::kUnavailable);
  EXPECT_FALSE(shared.WaitUntilIdle(Now() + milliseconds(1)));
  for (int i = 0; i < 3; ++i) shared.Retire();
  EXPECT_TRUE(shared.WaitUntilIdle(Now()));
}

// ---- Options and requests that are refused

TEST(EngineSafety, BadOptionsAreRefusedByName) {
  const auto message = [](const EngineOptions& options) {
    return Engine::Create(DemoModel(), options, nullptr, nullptr).status().message();
  };
  EXPECT_NE(message({.block_tokens = 0}).find("block_tokens"), std::string::npos);
  EXPECT_NE(message({.step_tokens = 127}).find("step_tokens"), std::string::npos);
  EXPECT_NE(message({.max_running = 0}).find("max_running"), std::string::npos);
  EXPECT_NE(message({.max_context = 1u << 30}).find("max_context"), std::string::npos);
  EXPECT_NE(message({.kv_bytes = 1000}).find("kv_bytes"), std::string::npos);
  EXPECT_NE(message({.eos_token_ids = {1 << 20}}).find("end-of-sequence"), std::string::npos);
}

TEST(EngineSafety, BadRequestsAreRefused) {
  const auto engine = MakeEngine({.kv_bytes = BytesFor(8 * 4, 64)});
  EXPECT_EQ(engine->options().max_context, DemoModel().config().max_context);
  const auto code = [&](const Request& request) {
    return engine->Submit(request, std::make_shared<Recorder>()).status().code();
  };
  EXPECT_EQ(code(GreedyRequest({}, 4)), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(GreedyRequest({-1}, 4)), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(GreedyRequest({4096}, 4)), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(GreedyRequest({5}, 0)), StatusCode::kInvalidArgument);
  Request request = GreedyRequest({5}, 4);
  request.min_tokens = 5;
  EXPECT_EQ(code(request), StatusCode::kInvalidArgument);
  request = GreedyRequest({5}, 4);
  request.sampling.top_p = 2.0f;
  EXPECT_EQ(code(request), StatusCode::kInvalidArgument);
  request = GreedyRequest({5}, 4);
  request.stop_token_ids = {-7};
  EXPECT_EQ(code(request), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(GreedyRequest(NoisePrompt(1, 2000), 100)), StatusCode::kResourceExhausted);  // context
  EXPECT_EQ(code(GreedyRequest(NoisePrompt(1, 200), 100)), StatusCode::kResourceExhausted);   // cache
  request = GreedyRequest({5}, 4);
  request.remote_decode = RemoteDecode{.transfer_id = "a", .strategy = {}};
  EXPECT_EQ(code(request), StatusCode::kFailedPrecondition);
  request.remote_prefill = RemotePrefill{.transfer_id = "a", .endpoint = "tcp://127.0.0.1:1"};
  EXPECT_EQ(code(request), StatusCode::kInvalidArgument);
  request.remote_decode.reset();
  EXPECT_EQ(code(request), StatusCode::kFailedPrecondition);
  EXPECT_EQ(engine->stats().requests_submitted, 0u);
}

// ---- One engine, real model

TEST(EngineUnit, GreedyEqualsTheGoldenTokens) {
  ASSERT_EQ(GoldenPrompts().size(), 9u);
  const auto engine = MakeEngine();
  std::vector<std::shared_ptr<Recorder>> recorders;
  for (const GoldenPrompt& golden : GoldenPrompts()) {
    recorders.push_back(Submit(*engine, GreedyRequest(golden.token_ids, 32)));
  }
  for (size_t i = 0; i < recorders.size(); ++i) {
    SCOPED_TRACE(i);
    ASSERT_TRUE(recorders[i]->WaitForFinish());
    const GoldenPrompt& golden = GoldenPrompts()[i];
    EXPECT_EQ(recorders[i]->tokens(), golden.greedy_32);
    EXPECT_TRUE(recorders[i]->in_order());
    const FinishEvent finish = recorders[i]->finish();
    EXPECT_EQ(finish.reason, FinishReason::kLength);
    EXPECT_EQ(finish.source, KvSource::kLocal);
    EXPECT_EQ(finish.prompt_tokens, golden.token_ids.size());
    EXPECT_EQ(finish.generated_tokens, 32u);
    EXPECT_LE(finish.queue + finish.prefill, finish.ttft + milliseconds(1));
    EXPECT_LE(finish.ttft, finish.total);
  }
  ExpectNothingLeft(*engine);
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.generated_tokens, 32u * GoldenPrompts().size());
  EXPECT_GT(stats.steps, 31u);
  EXPECT_GT(stats.step_seconds, 0.0);
}

TEST(EngineProperty, CompanyDoesNotChangeTokens) {
  base::Rng rng(3);
  std::vector<Request> requests;
  for (uint64_t i = 0; i < 16; ++i) {
    const uint64_t length = 1 + rng.Below(i % 4 == 0 ? 600 : 90);
    requests.push_back(GreedyRequest(NoisePrompt(i, length), static_cast<uint32_t>(1 + rng.Below(20))));
  }
  std::vector<std::vector<int32_t>> alone;
  for (const Request& request : requests) alone.push_back(RunAlone(request));
  const auto engine = MakeEngine({.block_tokens = 16, .step_tokens = 160, .max_running = 12});
  std::vector<std::shared_ptr<Recorder>> together;
  for (const Request& request : requests) together.push_back(Submit(*engine, request));
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_TRUE(together[i]->WaitForFinish());
    EXPECT_EQ(together[i]->tokens(), alone[i]) << "request " << i;
  }
  ExpectNothingLeft(*engine);
}

TEST(EngineProperty, ChunkAndBlockSizesDoNotChangeTokens) {
  const Request request = GreedyRequest(NoisePrompt(77, 777), 12);
  const auto expected = RunAlone(request, {.step_tokens = 1024});
  for (uint32_t step_tokens : {65u, 130u, 300u}) {
    for (uint32_t block_tokens : {16u, 64u, 100u}) {
      EXPECT_EQ(
          RunAlone(request, {.block_tokens = block_tokens, .step_tokens = step_tokens, .max_running = 1}),
          expected)
          << step_tokens << " " << block_tokens;
    }
  }
}

TEST(EngineUnit, SeededSamplingRepeatsAndGivesLogprobs) {
  Request request = GreedyRequest(GoldenPrompts()[0].token_ids, 16);
  request.sampling.temperature = 1.0f;
  request.sampling.seed = 42;
  request.sampling.logprobs = 3;
  const auto first = RunAlone(request);
  EXPECT_EQ(RunAlone(request), first);
  request.sampling.seed = 43;
  EXPECT_NE(RunAlone(request), first);
  const auto engine = MakeEngine();
  const auto recorder = Submit(*engine, request);
  ASSERT_TRUE(recorder->WaitForFinish());
  for (const TokenEvent& event : recorder->events()) {
    EXPECT_LT(event.logprob, 0.0f);
    ASSERT_EQ(event.top_logprobs.size(), 3u);
    EXPECT_GE(event.top_logprobs[0].second, event.logprob);
  }
}

TEST(EngineUnit, StopIdsEndTheRequestAfterMinTokens) {
  const GoldenPrompt& golden = GoldenPrompts()[3];  // wide margins
  const std::vector<int32_t> free_run = RunAlone(GreedyRequest(golden.token_ids, 32));
  const int32_t stop = free_run[2];
  const auto at = std::find(free_run.begin(), free_run.end(), stop) - free_run.begin();
  Request request = GreedyRequest(golden.token_ids, 32);
  request.stop_token_ids = {stop};
  const auto engine = MakeEngine();
  auto recorder = Submit(*engine, request);
  ASSERT_TRUE(recorder->WaitForFinish());
  EXPECT_EQ(recorder->finish().reason, FinishReason::kStop);
  ASSERT_EQ(recorder->events().size(), static_cast<size_t>(at) + 1);
  EXPECT_TRUE(recorder->events().back().stop);
  EXPECT_EQ(recorder->tokens().back(), stop);

  request.min_tokens = 10;
  recorder = Submit(*engine, request);
  ASSERT_TRUE(recorder->WaitForFinish());
  const auto tokens = recorder->tokens();
  ASSERT_GE(tokens.size(), 10u);
  EXPECT_EQ(std::count(tokens.begin(), tokens.begin() + 10, stop), 0);
}

TEST(EngineUnit, EndOfSequenceComesFromTheOptionsUnlessIgnored) {
  const std::vector<int32_t> prompt = GoldenPrompts()[3].token_ids;
  const auto free_run = RunAlone(GreedyRequest(prompt, 8));
  const EngineOptions options{.eos_token_ids = {free_run[0]}};
  EXPECT_EQ(RunAlone(GreedyRequest(prompt, 8), options), free_run);  // ignore_eos
  Request request = GreedyRequest(prompt, 8);
  request.ignore_eos = false;
  EXPECT_EQ(RunAlone(request, options), std::vector<int32_t>{free_run[0]});
}

TEST(EngineSafety, FullQueueRefusesAndRecovers) {
  const auto engine = MakeEngine({.step_tokens = 65, .max_running = 1, .max_queued = 3});
  std::vector<std::shared_ptr<Recorder>> recorders;
  recorders.push_back(Submit(*engine, GreedyRequest(NoisePrompt(1, 100), 1500)));
  ASSERT_TRUE(recorders[0]->WaitForTokens(1));  // admitted, and busy for a long while
  for (uint64_t i = 0; i < 3; ++i) recorders.push_back(Submit(*engine, GreedyRequest(NoisePrompt(i, 5), 2)));
  const auto refused = engine->Submit(GreedyRequest({5}, 1), std::make_shared<Recorder>());
  EXPECT_EQ(refused.status().code(), StatusCode::kResourceExhausted);
  EXPECT_NE(refused.status().message().find("queue is full"), std::string::npos);
  engine->Cancel({1});
  for (const auto& recorder : recorders) EXPECT_TRUE(recorder->WaitForFinish());
  EXPECT_EQ(recorders[0]->finish().reason, FinishReason::kCancelled);
  EXPECT_EQ(recorders[3]->finish().reason, FinishReason::kLength);
  EXPECT_TRUE(Submit(*engine, GreedyRequest({5}, 1))->WaitForFinish());
  ExpectNothingLeft(*engine);
}

TEST(EngineProperty, ScarceBlocksDelayButNeverDeadlock) {
  base::Rng rng(5);
  std::vector<Request> requests;
  std::vector<std::vector<int32_t>> alone;
  for (uint64_t i = 0; i < 12; ++i) {
    const auto prompt = 1 + rng.Below(60);
    requests.push_back(GreedyRequest(NoisePrompt(i, prompt), static_cast<uint32_t>(1 + rng.Below(30))));
    alone.push_back(RunAlone(requests.back()));
  }
  // 6 blocks per layer: two or three requests at a time out of twelve.
  const auto engine = MakeEngine({.kv_bytes = BytesFor(8 * 6, 16), .block_tokens = 16});
  ASSERT_EQ(engine->stats().blocks_total, 48u);
  std::vector<std::shared_ptr<Recorder>> recorders;
  for (const Request& request : requests) recorders.push_back(Submit(*engine, request));
  for (size_t i = 0; i < recorders.size(); ++i) {
    ASSERT_TRUE(recorders[i]->WaitForFinish());
    EXPECT_EQ(recorders[i]->finish().reason, FinishReason::kLength);
    EXPECT_EQ(recorders[i]->tokens(), alone[i]);
  }
  ExpectNothingLeft(*engine);
}

TEST(EngineSafety, CancelStormsLeakNothing) {
  const auto engine = MakeEngine({.step_tokens = 128, .max_running = 8});
  base::Rng rng(9);
  std::vector<std::shared_ptr<Recorder>> recorders;
  for (uint64_t i = 0; i < 60; ++i) {
    base::RequestId id;
    recorders.push_back(Submit(
        *engine, GreedyRequest(NoisePrompt(i, 1 + rng.Below(300)), static_cast<uint32_t>(1 + rng.Below(40))),
        &id));
    if (rng.Below(4) == 0) recorders.back()->WaitForTokens(1);
    if (rng.Below(3) != 0) engine->Cancel(id);
    if (rng.Below(5) == 0) engine->Cancel({1 + rng.Below(id.value)});  // an old one, perhaps finished
    engine->Cancel({1u << 30});                                        // nobody
  }
  for (const auto& recorder : recorders) {
    ASSERT_TRUE(recorder->WaitForFinish());
    EXPECT_TRUE(recorder->in_order());
  }
  ExpectNothingLeft(*engine);
  EXPECT_GT(engine->stats().requests_cancelled, 0u);
}

TEST(EngineSafety, DeadlineEndsQueuedAndRunningRequests) {
  const auto engine = MakeEngine({.step_tokens = 65, .max_running = 1});
  Request request = GreedyRequest(NoisePrompt(1, 30), 2000);
  request.deadline = Now() + milliseconds(60);
  const auto running = Submit(*engine, request);
  const auto queued = Submit(*engine, request);
  for (const auto& recorder : {running, queued}) {
    ASSERT_TRUE(recorder->WaitForFinish());
    EXPECT_EQ(recorder->finish().reason, FinishReason::kFailed);
    EXPECT_EQ(recorder->finish().status.code(), StatusCode::kDeadlineExceeded);
  }
  EXPECT_TRUE(queued->tokens().empty());
  ExpectNothingLeft(*engine);
}

TEST(EngineSafety, DrainFinishesWhatRunsAndRefusesTheRest) {
  const auto engine = MakeEngine();
  const auto first = Submit(*engine, GreedyRequest(NoisePrompt(1, 50), 20));
  engine->Drain(Now() + seconds(60));
  ASSERT_TRUE(first->WaitForFinish());
  EXPECT_EQ(first->finish().reason, FinishReason::kLength);
  EXPECT_EQ(engine->Submit(GreedyRequest({5}, 1), first).status().code(), StatusCode::kUnavailable);
}

TEST(EngineSafety, DrainCancelsAtItsDeadline) {
  const auto engine = MakeEngine();
  const auto recorder = Submit(*engine, GreedyRequest(NoisePrompt(1, 50), 1900));
  ASSERT_TRUE(recorder->WaitForTokens(1));
  engine->Drain(Now());
  ASSERT_TRUE(recorder->WaitForFinish());
  EXPECT_EQ(recorder->finish().reason, FinishReason::kCancelled);
  EXPECT_EQ(engine->stats().blocks_used, 0u);
}

TEST(EngineSafety, DestructionCancelsEverything) {
  std::vector<std::shared_ptr<Recorder>> recorders;
  {
    const auto engine = MakeEngine({.step_tokens = 65, .max_running = 1});
    for (uint64_t i = 0; i < 5; ++i)
      recorders.push_back(Submit(*engine, GreedyRequest(NoisePrompt(i, 200), 1000)));
  }
  for (const auto& recorder : recorders) {
    ASSERT_TRUE(recorder->WaitForFinish());
    EXPECT_EQ(recorder->finish().reason, FinishReason::kCancelled);
    EXPECT_TRUE(recorder->in_order());
  }
}

}  // namespace
}  // namespace kvplane::engine
