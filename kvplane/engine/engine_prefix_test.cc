// Prefixes from a store: one engine with the real demo model beside one without a store.

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/engine/engine.h"
#include "kvplane/engine/run_object.h"
#include "kvplane/engine/testing/demo_model.h"
#include "kvplane/engine/testing/hooked_store.h"
#include "kvplane/engine/testing/prefix_fixture.h"
#include "kvplane/store/key_chain.h"

namespace kvplane::engine {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

base::TimePoint Now() { return base::Clock::System().Now(); }

// ---- The same tokens

TEST(EnginePrefixUnit, WarmEqualsColdAndSaysWhatWasCached) {
  const auto store = MemoryStore();
  const Request request = GreedyRequest(NoisePrompt(1, 5 * kRun + 17), 24);
  const auto expected = Expected(request);
  const auto engine = MakeEngine(WithStore(*store));
  const Ran cold = Serve(*engine, request);
  EXPECT_EQ(cold.tokens, expected);
  EXPECT_EQ(cold.finish.cached_tokens, 0u);
  ASSERT_TRUE(cold.finish.prefix.has_value());
  EXPECT_EQ(cold.finish.prefix->found_tokens, 0u);
  ASSERT_TRUE(WaitUntil([&] { return store->stats().entries == 5; }));

  const Ran warm = Serve(*engine, request);
  EXPECT_EQ(warm.tokens, expected);
  EXPECT_EQ(warm.finish.cached_tokens, 5 * kRun);
  EXPECT_EQ(warm.finish.prefix->found_tokens, 5 * kRun);
  EXPECT_EQ(warm.finish.prefix->tier, "dram");
  EXPECT_TRUE(warm.finish.prefix->error.empty()) << warm.finish.prefix->error;
  ExpectNothingLeft(*engine);
  const PrefixStats stats = engine->stats().prefix;
  EXPECT_EQ(stats.lookups, 2u);
  EXPECT_EQ(stats.lookup_tokens, 2u * 5 * kRun);
  EXPECT_EQ(stats.hit_tokens, 5u * kRun);
  EXPECT_EQ(stats.loads, 1u);
  EXPECT_EQ(stats.loaded_tokens, 5u * kRun);
  EXPECT_GT(stats.loaded_bytes, 0u);
  EXPECT_EQ(stats.pushed_runs, 5u);
  EXPECT_EQ(stats.pushed_bytes, store->stats().put_bytes);
  EXPECT_LT(stats.pushed_bytes, 5 * kRun * DemoModel().kv_geometry().bytes_per_token());
}

// Lengths around multiples of the run: the last prompt token is always computed.
TEST(EnginePrefixProperty, EveryLengthGivesTheSameTokens) {
  const std::vector<int32_t> prompt = NoisePrompt(2, 4 * kRun + 1);
  const auto store = MemoryStore();
  Fill(*store, GreedyRequest(prompt, 1));
  const auto engine = MakeEngine(WithStore(*store));
  for (const uint32_t length :
       {1u, kRun - 1, kRun, kRun + 1, 2 * kRun, 3 * kRun - 1, 4 * kRun, 4 * kRun + 1}) {
    SCOPED_TRACE(length);
    const Request request = GreedyRequest(std::vector<int32_t>(prompt.begin(), prompt.begin() + length), 12);
    const Ran ran = Serve(*engine, request);
    EXPECT_EQ(ran.tokens, Expected(request));
    EXPECT_EQ(ran.finish.cached_tokens, (length - 1) / kRun * kRun);
  }
  ExpectNothingLeft(*engine);
}

TEST(EnginePrefixProperty, ChunksBlocksAndRunsDoNotChangeTokens) {
  const std::vector<int32_t> prompt = NoisePrompt(3, 700);
  const Request request = GreedyRequest(prompt, 10);
  const auto expected = Expected(request);
  for (const uint32_t run_tokens : {64u, 192u, 256u}) {
    for (const uint32_t block_tokens : {16u, 64u, 100u}) {
      SCOPED_TRACE(testing::Message() << run_tokens << " " << block_tokens);
      const auto store = MemoryStore();
      EngineOptions options = WithStore(*store);
      options.prefix.run_tokens = run_tokens;
      options.block_tokens = block_tokens;
      options.step_tokens = 130;
      options.max_running = 2;
      const auto engine = MakeEngine(options);
      EXPECT_EQ(Serve(*engine, request).tokens, expected);
      ASSERT_TRUE(WaitUntil([&] { return store->stats().entries == 709 / run_tokens; }));
      const Ran warm = Serve(*engine, request);
      EXPECT_EQ(warm.tokens, expected);
      EXPECT_EQ(warm.finish.cached_tokens, 699 / run_tokens * run_tokens);
      ExpectNothingLeft(*engine);
    }
  }
}

TEST(EnginePrefixUnit, GeneratedTokensAreCachedForTheNextTurn) {
  const auto store = MemoryStore();
  const auto engine = MakeEngine(WithStore(*store));
  const Request first = GreedyRequest(NoisePrompt(4, kRun + 40), 2 * kRun);
  const Ran ran = Serve(*engine, first);
  Request second = first;
  second.prompt.insert(second.prompt.end(), ran.tokens.begin(), ran.tokens.end());
  second.prompt.push_back(77);
  second.max_tokens = 8;
  // 168 + 256 tokens, of which the last generated was not fed back: three whole runs.
  ASSERT_TRUE(WaitUntil([&] { return store->stats().entries == 3; }));
  const Ran next = Serve(*engine, second);
  EXPECT_EQ(next.finish.cached_tokens, 3 * kRun);
  EXPECT_EQ(next.tokens, Expected(second));
  ExpectNothingLeft(*engine);
}

TEST(EnginePrefixProperty, CompanyChangesNothing) {
  base::Rng rng(5);
  const std::vector<int32_t> shared = NoisePrompt(6, 6 * kRun);
  std::vector<Request> requests;
  std::vector<std::vector<int32_t>> expected;
  for (uint64_t i = 0; i < 12; ++i) {
    std::vector<int32_t> prompt(shared.begin(),
                                shared.begin() + static_cast<std::ptrdiff_t>(rng.Below(shared.size())));
    for (const int32_t id : NoisePrompt(100 + i, 1 + rng.Below(150))) prompt.push_back(id);
    requests.push_back(GreedyRequest(std::move(prompt), static_cast<uint32_t>(1 + rng.Below(20))));
    expected.push_back(Expected(requests.back()));
  }
  for (const LoadPolicy policy : {LoadPolicy::kAlways, LoadPolicy::kAdaptive}) {
    const auto store = MemoryStore();
    EngineOptions options = WithStore(*store, policy);
    options.block_tokens = 16;
    options.step_tokens = 200;
    options.max_running = 6;
    const auto engine = MakeEngine(options);
    for (int round = 0; round < 2; ++round) {
      std::vector<std::shared_ptr<Recorder>> recorders;
      for (const Request& request : requests) recorders.push_back(Submit(*engine, request));
      for (size_t i = 0; i < requests.size(); ++i) {
        ASSERT_TRUE(recorders[i]->WaitForFinish());
        EXPECT_EQ(recorders[i]->tokens(), expected[i]) << "request " << i << " of round " << round;
      }
    }
    EXPECT_GT(engine->stats().prefix.hit_tokens, 0u);
    ExpectNothingLeft(*engine);
  }
}

// ---- Meeting in the middle

TEST(EnginePrefixUnit, AHaltingLoadIsComputedFromTheFront) {
  const Request request = GreedyRequest(NoisePrompt(7, 8 * kRun + 3), 16);
  const auto expected = Expected(request);
  const auto memory = MemoryStore();
  Fill(*memory, request);
  HookedStore store(memory);
  Gate gate;
  store.before_read = [&](auto requests, base::TimePoint deadline) {
    return ReadsPrefixes(requests) ? base::Status::Ok() : gate.Wait(deadline);
  };
  const auto engine = MakeEngine(WithStore(store, LoadPolicy::kAdaptive));
  // A prefill rate, so that the engine knows what it is giving up by waiting.
  EXPECT_EQ(Serve(*engine, GreedyRequest(NoisePrompt(8, 100), 1)).finish.reason, FinishReason::kLength);
  const auto recorder = Submit(*engine, request);
  ASSERT_TRUE(WaitUntil([&] { return engine->stats().prefix.taken_runs >= 2; }));
  gate.open = true;
  ASSERT_TRUE(recorder->WaitForFinish());
  EXPECT_EQ(recorder->tokens(), expected);
  const FinishEvent finish = recorder->finish();
  const uint64_t taken = engine->stats().prefix.taken_runs;
  EXPECT_EQ(finish.cached_tokens + taken * kRun, 8 * kRun);  // every run once: loaded, or computed
  ExpectNothingLeft(*engine);
}

// Whatever order loader and engine come in, each run is loaded or computed, and the tokens are the same.
TEST(EnginePrefixProperty, MeetingAnywhereGivesTheSameTokens) {
  const Request request = GreedyRequest(NoisePrompt(9, 10 * kRun + 1), 6);
  const auto expected = Expected(request);
  const auto memory = MemoryStore();
  Fill(*memory, request);
  base::Rng rng(17);
  for (int round = 0; round < 12; ++round) {
    HookedStore store(memory);
    base::Mutex mutex;
    store.before_read = [&](auto, base::TimePoint) {
      base::Duration pause{};
      {
        base::MutexLock lock(mutex);
        pause = std::chrono::microseconds(rng.Below(round % 3 == 0 ? 500 : 20'000));
      }
      base::Clock::System().SleepUntil(Now() + pause);
      return base::Status::Ok();
    };
    EngineOptions options = WithStore(store, LoadPolicy::kAdaptive);
    options.step_tokens = round % 2 == 0 ? 192 : 512;
    const auto engine = MakeEngine(options);
    Serve(*engine, GreedyRequest(NoisePrompt(8, 100), 1));
    for (int repeat = 0; repeat < 2; ++repeat) {  // the second with measured speeds
      const Ran ran = Serve(*engine, request);
      EXPECT_EQ(ran.tokens, expected) << round;
      EXPECT_LE(ran.finish.cached_tokens, 10 * kRun);
    }
    ExpectNothingLeft(*engine);
  }
}

// ---- Lossy KV

TEST(EnginePrefixUnit, StrictRequestsNeverGetLossyKv) {
  const auto store = MemoryStore();
  EngineOptions options = WithStore(*store);
  options.prefix.strategy = Parsed("int8");
  options.prefix.quality = 900;
  const Request request = GreedyRequest(NoisePrompt(20, 3 * kRun + 1), 8);
  auto engine = MakeEngine(options);
  EXPECT_EQ(Serve(*engine, request).tokens, Expected(request));
  ASSERT_TRUE(WaitUntil([&] { return store->stats().entries == 3; }));
  EXPECT_EQ(Serve(*engine, request).finish.cached_tokens, 3 * kRun);
  Request strict = request;
  strict.accept_lossy = false;
  const Ran ran = Serve(*engine, strict);
  EXPECT_EQ(ran.finish.cached_tokens, 0u);
  EXPECT_EQ(ran.tokens, Expected(request));
  ExpectNothingLeft(*engine);

  engine.reset();
  options.prefix.min_quality = 901;
  const auto demanding = MakeEngine(options);
  EXPECT_EQ(Serve(*demanding, request).finish.cached_tokens, 0u);
}

TEST(EnginePrefixUnit, WhatStandsOnLossyKvIsNotSoldAsLossless) {
  const auto store = MemoryStore();
  const Request request = GreedyRequest(NoisePrompt(21, 2 * kRun + 1), 1);
  {
    EngineOptions options = WithStore(*store);
    options.prefix.strategy = Parsed("int8");
    options.prefix.quality = 900;
    const auto engine = MakeEngine(options);
    Serve(*engine, request);
    engine->Drain(Now() + seconds(60));
  }
  Request longer = request;
  for (const int32_t id : NoisePrompt(22, 2 * kRun)) longer.prompt.push_back(id);
  const auto engine = MakeEngine(WithStore(*store));  // lossless-max
  EXPECT_EQ(Serve(*engine, longer).finish.cached_tokens, 2 * kRun);
  engine->Drain(Now() + seconds(60));
  EXPECT_EQ(engine->stats().prefix.pushed_runs, 2u);  // the two new runs; what was loaded is not coded again
  const store::KeySpace keys{.model_fingerprint = DemoModel().fingerprint(),
                             .rope = RopeHash(DemoModel().config().rope),
                             .run_tokens = kRun,
                             .tenant = {},
                             .salt = {}};
  const auto chain = store::KeyChain(keys, longer.prompt);
  const auto found = store->Lookup(chain, 0, Now() + seconds(1));
  ASSERT_TRUE(found.ok());
  ASSERT_EQ(found->size(), 4u);
  for (const store::EntryInfo& entry : *found) EXPECT_EQ(entry.quality, 900);
}

// ---- Options

TEST(EnginePrefixUnit, TenantsAndSaltsShareNothing) {
  const auto store = MemoryStore();
  const Request request = GreedyRequest(NoisePrompt(23, 2 * kRun + 1), 1);
  Fill(*store, request);
  EngineOptions options = WithStore(*store);
  options.prefix.salt = "pepper";
  auto salted = MakeEngine(options);
  EXPECT_EQ(Serve(*salted, request).finish.cached_tokens, 0u);
  salted.reset();
  options.prefix.salt.clear();
  options.prefix.tenant = "other";
  const auto other = MakeEngine(options);
  EXPECT_EQ(Serve(*other, request).finish.cached_tokens, 0u);
}

TEST(EnginePrefixSafety, BadOptionsAreRefusedByName) {
  const auto store = MemoryStore();
  const auto refusal = [&](auto change) {
    EngineOptions options = WithStore(*store);
    change(options.prefix);
    const auto engine = Engine::Create(DemoModel(), options, nullptr, nullptr);
    return engine.ok() ? std::string() : engine.status().message();
  };
  EXPECT_NE(refusal([](PrefixOptions& o) { o.run_tokens = 100; }).find("block run"), std::string::npos);
  EXPECT_NE(refusal([](PrefixOptions& o) { o.timeout = {}; }).find("timeout"), std::string::npos);
  EXPECT_NE(refusal([](PrefixOptions& o) { o.quality = 1001; }).find("thousandths"), std::string::npos);
  EXPECT_NE(refusal([](PrefixOptions& o) { o.strategy = Parsed("c11"); }).find("store strategy"),
            std::string::npos);
}

}  // namespace
}  // namespace kvplane::engine
